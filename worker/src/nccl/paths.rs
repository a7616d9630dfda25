//! All ways from and to this worker's GPU, and what becomes of the others when one is given up.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use asyncdiff_common::wire::WorkerFailure;
use asyncdiff_model::kernels::Kernels;
use asyncdiff_transport::nccl::{self, NcclError, Role};

use super::path::NcclPath;
use crate::config::Nccl;

/// Threads that join communicators at a time: those of 16 GPUs in a node, there and back, and some that wait for a peer that will never come. Beyond them
/// no more is tried.
const JOINING_MAX: usize = 48;

/// The ways of one worker.
#[derive(Debug)]
pub(crate) struct NcclPaths {
    kernels: Kernels,
    setting: Nccl,
    open: Mutex<Vec<Weak<NcclPath>>>,
    /// How often something was given up that a value was to be received by.
    losses: AtomicU64,
    last_loss: Mutex<(String, String)>,
    joining: AtomicUsize,
}

/// That whatever a job computes with has arrived, as far as is known.
#[derive(Clone, Debug)]
pub(crate) struct Soundness {
    paths: Arc<NcclPaths>,
    losses: u64,
}

/// A thread that joins; it counts until this is dropped.
pub(super) struct Joining(Arc<NcclPaths>);

impl NcclPaths {
    pub(crate) fn new(kernels: Kernels, setting: Nccl) -> Arc<Self> {
        Arc::new(Self {
            kernels,
            setting,
            open: Mutex::default(),
            losses: AtomicU64::new(0),
            last_loss: Mutex::default(),
            joining: AtomicUsize::new(0),
        })
    }

    pub(super) fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Why there can be no way here; nothing where there can be one.
    pub(super) fn check_usable(&self) -> Result<(), String> {
        if self.kernels.gpu().is_none() {
            return Err("the worker computes on no GPU".to_owned());
        }
        match self.setting {
            Nccl::Off => Err("NCCL was turned off".to_owned()),
            Nccl::On => nccl::version().map(drop).map_err(|error: NcclError| error.to_string()),
        }
    }

    /// A place among the threads that join.
    pub(super) fn begin_joining(self: &Arc<Self>) -> Option<Joining> {
        let joining = Joining(Arc::clone(self));
        (self.joining.fetch_add(1, Ordering::Relaxed) < JOINING_MAX).then_some(joining)
    }

    pub(super) fn add(&self, path: &Arc<NcclPath>) {
        let mut open = self.open();
        open.retain(|known| known.strong_count() > 0);
        open.push(Arc::downgrade(path));
    }

    /// Ends a way, which may be because the link has ended or because something went wrong with it. Waits for NCCL.
    ///
    /// If something was still to be received, then the GPU goes on as if it had been. So that nobody takes what it makes of that for a result, this worker first
    /// stops sending to other GPUs, and [`Soundness`] is lost: what goes to others by other ways is checked last thing before it goes.
    pub(super) fn give_up(&self, path: &NcclPath, reason: &str) {
        if !path.close(reason) {
            return;
        }
        if path.role() == Role::Receives && path.is_busy() {
            *self.last_loss.lock().unwrap_or_else(PoisonError::into_inner) =
                (path.peer().to_string(), reason.to_owned());
            self.losses.fetch_add(1, Ordering::SeqCst);
            let others: Vec<Arc<NcclPath>> = self.open().iter().filter_map(Weak::upgrade).collect();
            for other in others.iter().filter(|other| other.role() == Role::Sends) {
                if other.close(&format!("what came from {} is lost: {reason}", path.peer())) {
                    other.abort();
                }
            }
        }
        path.abort();
    }

    /// Whether something is still to be received.
    pub(crate) fn is_receiving(&self) -> bool {
        let open: Vec<Arc<NcclPath>> = self.open().iter().filter_map(Weak::upgrade).collect();
        open.iter().any(|path| path.role() == Role::Receives && path.is_busy())
    }

    /// For what begins now.
    pub(crate) fn soundness(self: &Arc<Self>) -> Soundness {
        Soundness { paths: Arc::clone(self), losses: self.losses.load(Ordering::SeqCst) }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Weak<NcclPath>>> {
        // Every change is one push; none leaves it half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Soundness {
    /// An error if something was lost since.
    pub(crate) fn check(&self) -> Result<(), WorkerFailure> {
        if self.paths.losses.load(Ordering::SeqCst) == self.losses {
            return Ok(());
        }
        let (peer, reason) = self.paths.last_loss.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Err(WorkerFailure::PeerFailed { peer, reason })
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        self.0.joining.fetch_sub(1, Ordering::Relaxed);
    }
}
