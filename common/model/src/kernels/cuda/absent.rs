//! What is made of a GPU alone, in programs that are built without: nobody has any.

use std::time::{Duration, Instant};

use asyncdiff_common::device_span::DeviceSpan;

use super::error::CudaError;
use crate::ModelError;
use crate::kernels::{Format, Value};

/// A place in a device's work.
#[derive(Debug)]
pub enum Mark {}

/// A stream beside the one that computes.
#[derive(Debug)]
pub enum SideStream {}

impl Mark {
    /// Whether the device has come past it.
    #[must_use]
    pub fn is_past(&self) -> bool {
        match *self {}
    }

    /// How much later the device came to it than to an earlier one.
    pub fn since(&self, _earlier: &Self) -> Result<Duration, CudaError> {
        match *self {}
    }
}

impl SideStream {
    /// Waits until something is done that may write so many bytes.
    pub fn with_scratch<T, E: From<ModelError>>(
        &self,
        _bytes: usize,
        _hand_over: impl FnOnce(&DeviceSpan) -> Result<T, E>,
    ) -> Result<T, E> {
        match *self {}
    }

    /// Sends a value.
    pub fn send<E: From<ModelError>>(
        &self,
        _value: &Value,
        _hand_over: impl FnOnce(&DeviceSpan) -> Result<(), E>,
    ) -> Result<usize, E> {
        match *self {}
    }

    /// Receives a value.
    pub fn receive<E: From<ModelError>>(
        &self,
        _shape: &[usize],
        _format: Format,
        _hand_over: impl FnOnce(&DeviceSpan) -> Result<(), E>,
    ) -> Result<Value, E> {
        match *self {}
    }

    /// Since when the oldest transfer is not done.
    #[must_use]
    pub fn waits_since(&self) -> Option<Instant> {
        match *self {}
    }
}
