//! How long a layer takes, also on a device that computes in the background.

use std::time::Duration;

use asyncdiff_common::wire::WorkerFailure;
use asyncdiff_model::kernels::{Kernels, Mark};
use tokio::time::Instant;

use crate::failure::model_failure;

/// A layer that was begun.
pub(super) struct Stopwatch {
    started: Instant,
    mark: Option<Mark>,
}

/// A layer that was computed, or that a device was given to compute.
pub(super) enum Lap {
    /// Between two marks of the device.
    Device { begin: Mark, end: Mark },
    /// It is computed, and this is when it began.
    Host { started: Instant },
}

impl Stopwatch {
    pub(super) fn start(kernels: &Kernels) -> Result<Self, WorkerFailure> {
        Ok(Self { mark: kernels.mark().map_err(model_failure)?, started: Instant::now() })
    }

    pub(super) fn stop(self, kernels: &Kernels) -> Result<Lap, WorkerFailure> {
        let end = kernels.mark().map_err(model_failure)?;
        Ok(match self.mark.zip(end) {
            Some((begin, end)) => Lap::Device { begin, end },
            None => Lap::Host { started: self.started },
        })
    }
}

/// A device's time as the host's.
pub(super) struct DeviceClock {
    origin: Mark,
    at: Instant,
}

impl DeviceClock {
    /// As exact as the device is idle now: its time of this mark is taken for the host's of making it.
    pub(super) fn start(kernels: &Kernels) -> Result<Option<Self>, WorkerFailure> {
        let origin = kernels.mark().map_err(model_failure)?;
        Ok(origin.map(|origin| Self { origin, at: Instant::now() }))
    }

    /// When the device came past a mark, which it has.
    pub(super) fn instant(&self, mark: &Mark) -> Option<Instant> {
        let later: Duration = mark.since(&self.origin).ok()?;
        Some(self.at + later)
    }
}
