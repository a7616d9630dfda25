//! One direction between two GPUs: NCCL's communicator and the stream that it works in.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use asyncdiff_model::ModelError;
use asyncdiff_model::kernels::{Format, Kernels, SideStream, Value};
use asyncdiff_transport::WorkerName;
use asyncdiff_transport::nccl::{Communicator, NcclError, Role, UniqueId};
use thiserror::Error;
use tokio::sync::watch;

/// Bytes of the transfer that both ends connect by.
const FIRST_BYTES: usize = 64;

/// A transfer that takes longer hangs. It begins when the sender's device has been given the layer that makes it, and ends when that is computed: a part of a
/// step of the largest networks takes a second or two, and a device that does not get on is noticed by the coordinator long before.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(20);

/// A way from a GPU to another one.
pub(crate) struct NcclPath {
    peer: WorkerName,
    role: Role,
    /// Before the stream, which waits for its end when it is dropped.
    communicator: Communicator,
    stream: SideStream,
    /// Held while a transfer is handed over.
    state: Mutex<State>,
    ended: watch::Sender<Option<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    GivenUp,
    Open,
}

/// Why there is no such way, or not any more.
#[derive(Debug, Error)]
pub(crate) enum PathError {
    #[error("the way from GPU to GPU was given up: {reason}")]
    GivenUp { reason: String },
    #[error("a transfer of it took longer than {TRANSFER_DEADLINE:?}")]
    Hangs,
    #[error("{0}")]
    Model(#[from] ModelError),
    #[error("{0}")]
    Nccl(#[from] NcclError),
    #[error("the worker computes on no GPU")]
    NoGpu,
}

impl NcclPath {
    /// Waits for the other end: on a thread of its own.
    pub(crate) fn join(kernels: &Kernels, peer: WorkerName, id: &UniqueId, role: Role) -> Result<Self, PathError> {
        let stream = kernels.side_stream()?.ok_or(PathError::NoGpu)?;
        let communicator =
            stream.with_scratch(FIRST_BYTES, |span| Communicator::join(id, role, span).map_err(PathError::from))?;
        let (state, ended) = (Mutex::new(State::Open), watch::Sender::new(None));
        Ok(Self { peer, role, communicator, stream, state, ended })
    }

    pub(crate) fn peer(&self) -> &WorkerName {
        &self.peer
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// Hands over the sending of a value. Returns its bytes.
    pub(crate) fn send(&self, value: &Value) -> Result<usize, PathError> {
        let _open = self.open()?;
        self.stream.send(value, |span| Ok(self.communicator.send(span)?))
    }

    /// Hands over the receiving of a value, which may be computed with at once.
    ///
    /// # Shapes
    /// - `shape`: all axes, the batch axis first
    pub(crate) fn receive(&self, shape: &[usize], format: Format) -> Result<Value, PathError> {
        let _open = self.open()?;
        self.stream.receive(shape, format, |span| Ok(self.communicator.receive(span)?))
    }

    /// Whether all is well.
    pub(super) fn check(&self) -> Result<(), PathError> {
        self.communicator.check()?;
        match self.stream.waits_since() {
            Some(since) if since.elapsed() > TRANSFER_DEADLINE => Err(PathError::Hangs),
            _ => Ok(()),
        }
    }

    /// Whether something is on its way.
    pub(super) fn is_busy(&self) -> bool {
        self.stream.waits_since().is_some()
    }

    /// Hands over nothing from now on. Whether that is new.
    pub(super) fn close(&self, reason: &str) -> bool {
        let mut state = self.state();
        let is_new = std::mem::replace(&mut *state, State::GivenUp) == State::Open;
        if is_new {
            self.ended.send_replace(Some(reason.to_owned()));
        }
        is_new
    }

    /// Gives up what is on its way, after [`close`](Self::close).
    pub(super) fn abort(&self) {
        self.communicator.abort();
    }

    /// Why it was given up, once it is.
    pub(super) async fn ended(&self) -> String {
        let mut ended = self.ended.subscribe();
        // The sender lives as long as this.
        ended.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone()).unwrap_or_default()
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, PathError> {
        let state = self.state();
        match *state {
            State::Open => Ok(state),
            State::GivenUp => Err(PathError::GivenUp { reason: self.ended.borrow().clone().unwrap_or_default() }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves what was handed over handed over.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for NcclPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NcclPath({:?}, {})", self.role, self.peer)
    }
}
