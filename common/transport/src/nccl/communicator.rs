//! One direction between two GPUs.

use std::ffi::c_int;
use std::fmt;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use asyncdiff_common::device_span::DeviceSpan;

use super::failure::{NcclError, NcclOperation};
use super::library::{Library, RawCommunicator, RawId, UINT8, UNIQUE_ID_BYTES, library};

/// GPUs of a communicator.
const PAIR: c_int = 2;

/// How long giving up waits for a call that is going on. Handing a transfer over takes microseconds; a call that takes longer hangs, and giving up is what
/// ends it.
const CALL_DEADLINE: Duration = Duration::from_millis(500);

/// Between two looks at whether a call has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The name of a communicator, which one side makes and both join by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId([u8; UNIQUE_ID_BYTES]);

/// Which end of the direction somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What the other end sends arrives here.
    Receives,
    /// Its rank is 0, and it names the communicator.
    Sends,
}

/// One direction between two GPUs: transfers happen in the order in which both ends hand them over.
pub struct Communicator {
    library: &'static Library,
    /// Null once it was given up.
    raw: AtomicPtr<std::ffi::c_void>,
    /// Held by whoever calls into it.
    calling: Mutex<()>,
    role: Role,
}

impl UniqueId {
    /// A name that nobody else has. NCCL listens for whoever joins by it.
    pub fn make() -> Result<Self, NcclError> {
        let library = library()?;
        let mut id = RawId([0; UNIQUE_ID_BYTES]);
        // SAFETY: writes the name to the place that it is given.
        library.check(unsafe { (library.unique_id)(&raw mut id) }, NcclOperation::Name, null_mut())?;
        Ok(Self(id.0))
    }

    /// As it travelled.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NcclError> {
        bytes.try_into().map(Self).map_err(|_| NcclError::BadUniqueId { found: bytes.len() })
    }

    /// As it travels.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Communicator {
    /// Waits for the other end and for the connection between the two, with the GPU that is the calling thread's: hundreds of milliseconds, and for as long as the
    /// other end does not come. So it has a thread of its own, which nobody waits for.
    ///
    /// `first`: bytes of the GPU that a first transfer is made with. NCCL connects when something is first sent, and both ends wait for each other
    /// then; afterwards handing over a transfer waits for nobody, so that two devices that send to each other cannot wait for each other.
    pub fn join(id: &UniqueId, role: Role, first: &DeviceSpan) -> Result<Self, NcclError> {
        let library = library()?;
        let mut raw: RawCommunicator = null_mut();
        // SAFETY: writes the communicator to the place that it is given.
        let code = unsafe { (library.init_rank)(&raw mut raw, PAIR, RawId(id.0), role.rank()) };
        library.check(code, NcclOperation::Join, null_mut())?;
        let joined = Self { library, raw: AtomicPtr::new(raw), calling: Mutex::new(()), role };
        match role {
            Role::Receives => joined.receive(first)?,
            Role::Sends => joined.send(first)?,
        }
        Ok(joined)
    }

    /// Hands over a transfer to the other end; it happens in the order of the span's stream.
    pub fn send(&self, span: &DeviceSpan) -> Result<(), NcclError> {
        self.call(NcclOperation::Send, |library, raw| {
            // SAFETY: whoever made the span says that its bytes may be read in its stream's order.
            unsafe { (library.send)(span.address() as *const _, span.bytes(), UINT8, self.peer(), raw, span.stream()) }
        })
    }

    /// Hands over a transfer from the other end, of the same bytes as it sends.
    pub fn receive(&self, span: &DeviceSpan) -> Result<(), NcclError> {
        self.call(NcclOperation::Receive, |library, raw| {
            // SAFETY: whoever made the span says that its bytes may be written in its stream's order.
            unsafe { (library.receive)(span.address() as *mut _, span.bytes(), UINT8, self.peer(), raw, span.stream()) }
        })
    }

    /// Whether something went wrong since: what the GPUs do is not waited for when it is handed over.
    pub fn check(&self) -> Result<(), NcclError> {
        let mut code: c_int = 0;
        self.call(NcclOperation::GoOn, |library, raw| {
            // SAFETY: writes one number to the place that it is given.
            unsafe { (library.asynchronous_error)(raw, &raw mut code) }
        })?;
        self.library.check(code, NcclOperation::GoOn, self.raw.load(Ordering::Acquire))
    }

    /// Gives up what was handed over and did not happen: streams go on, over whatever bytes are there. From any thread, once.
    pub fn abort(&self) {
        let raw = self.raw.swap(null_mut(), Ordering::AcqRel);
        if raw.is_null() {
            return;
        }
        let deadline = Instant::now() + CALL_DEADLINE;
        let _calling = loop {
            match self.calling.try_lock() {
                Ok(calling) => break Some(calling),
                Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
                // NCCL's way to end a call that hangs is this one.
                Err(TryLockError::WouldBlock) => break None,
            }
        };
        // SAFETY: it was joined and nobody else gives it up; no call begins any more, and one that is going on is ended by this.
        let code = unsafe { (self.library.abort)(raw) };
        if let Err(error) = self.library.check(code, NcclOperation::GoOn, null_mut()) {
            tracing::debug!(%error, "a communicator could not be given up cleanly");
        }
    }

    fn call(
        &self,
        operation: NcclOperation,
        call: impl FnOnce(&Library, RawCommunicator) -> c_int,
    ) -> Result<(), NcclError> {
        let _calling = self.calling.lock().unwrap_or_else(PoisonError::into_inner);
        let raw = self.raw.load(Ordering::Acquire);
        if raw.is_null() {
            return Err(NcclError::Aborted);
        }
        self.library.check(call(self.library, raw), operation, raw)
    }

    fn peer(&self) -> c_int {
        1 - self.role.rank()
    }
}

impl Role {
    fn rank(self) -> c_int {
        match self {
            Self::Sends => 0,
            Self::Receives => 1,
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.abort();
    }
}

impl fmt::Debug for Communicator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Communicator({:?})", self.role)
    }
}

impl fmt::Debug for UniqueId {
    /// Not its bytes: who knows them may join.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("UniqueId")
    }
}
