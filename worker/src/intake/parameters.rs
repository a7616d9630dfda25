//! Parameters that were asked for, by the digest of their stored bytes.

use std::collections::HashMap;
use std::sync::Arc;

use asyncdiff_common::wire::{DType, TensorHeader, WeightEntry};
use asyncdiff_transport::link::Refusal;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::Intake;
use super::recent::Recent;
use crate::tensor_bytes::byte_count;

/// BLAKE3 of a parameter's stored bytes.
pub(crate) type Digest = [u8; 32];

/// Digests that are remembered after they came or were given up, so that a copy still on its way is late and not a misdeed. Several
/// times the parameters of the largest denoiser.
const RECENT_DIGESTS: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Parameters {
    next_ticket: u64,
    awaited: HashMap<Digest, Vec<Waiter>>,
    recent: Recent<Digest>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    shape: Vec<u32>,
    dtype: DType,
    arrived: mpsc::Sender<(Digest, Bytes)>,
}

/// Parameters on their way to one request; they are not expected any more when this is dropped.
#[must_use]
pub(crate) struct AwaitedParameters {
    intake: Arc<Intake>,
    ticket: u64,
    arrived: mpsc::Receiver<(Digest, Bytes)>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { next_ticket: 0, awaited: HashMap::new(), recent: Recent::new(RECENT_DIGESTS) }
    }
}

impl Parameters {
    pub(super) fn ask(&mut self, entries: &[WeightEntry]) -> (u64, mpsc::Receiver<(Digest, Bytes)>) {
        self.next_ticket += 1;
        // Each entry takes at most one place, so that delivering never waits.
        let (sender, arrived) = mpsc::channel(entries.len().max(1));
        for entry in entries {
            self.awaited.entry(entry.digest).or_default().push(Waiter {
                ticket: self.next_ticket,
                shape: entry.shape.clone(),
                dtype: entry.dtype,
                arrived: sender.clone(),
            });
        }
        (self.next_ticket, arrived)
    }

    /// Equal bytes have one digest whatever their axes, so only their number is compared.
    pub(super) fn admit(&self, digest: &Digest, header: &TensorHeader) -> Result<(), Refusal> {
        let Some(waiter) = self.awaited.get(digest).and_then(|waiters| waiters.first()) else {
            let known = self.recent.contains(digest);
            return Err(if known { Refusal::EndedJob { job: header.job } } else { Refusal::Unexpected });
        };
        if header.dtype != waiter.dtype {
            return Err(Refusal::WrongDType { expected: waiter.dtype, found: header.dtype });
        }
        if header.delta.is_some() {
            return Err(Refusal::WrongDelta { expected: None, found: header.delta });
        }
        if byte_count(&header.shape, header.dtype) != byte_count(&waiter.shape, waiter.dtype) {
            return Err(Refusal::WrongShape { expected: waiter.shape.clone(), found: header.shape.clone() });
        }
        Ok(())
    }

    pub(super) fn deliver(&mut self, digest: &Digest, payload: &Bytes) {
        for waiter in self.awaited.remove(digest).into_iter().flatten() {
            // Fails only if the request was dropped meanwhile.
            drop(waiter.arrived.try_send((*digest, payload.clone())));
        }
        self.recent.add(*digest);
    }

    fn give_up(&mut self, ticket: u64) {
        let recent = &mut self.recent;
        self.awaited.retain(|digest, waiters| {
            let before = waiters.len();
            waiters.retain(|waiter| waiter.ticket != ticket);
            if waiters.len() < before {
                recent.add(*digest);
            }
            !waiters.is_empty()
        });
    }
}

impl AwaitedParameters {
    pub(super) fn new(intake: Arc<Intake>, ticket: u64, arrived: mpsc::Receiver<(Digest, Bytes)>) -> Self {
        Self { intake, ticket, arrived }
    }

    /// The next one that arrives; `None` when all have arrived.
    pub(crate) async fn next(&mut self) -> Option<(Digest, Bytes)> {
        self.arrived.recv().await
    }
}

impl Drop for AwaitedParameters {
    fn drop(&mut self) {
        self.intake.state().parameters.give_up(self.ticket);
    }
}
