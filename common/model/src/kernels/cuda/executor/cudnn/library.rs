//! cuDNN's functions, as far as we call them.
//!
//! They are looked up here and not called through the bindings of `cudarc`: a function that an older library lacks is no panic, and a status that
//! a newer one has is a number like every other. Names of attributes, kinds and types are the bindings'.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use cudarc::cudnn::sys;

use crate::kernels::cuda::error::{CudaError, CudaLibrary};

/// The oldest whose graphs are made as here, as it counts its versions.
const VERSION_MIN: usize = 90_000;

/// More than the library says of an error.
const REASON_BYTES: usize = 512;

type Status = c_int;

/// A context of the library.
pub(super) type Handle = *mut c_void;

/// Functions of a library that stays open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Functions {
    pub(super) version: usize,
    // SAFETY: of all of these: whoever calls one keeps to what the library's header says of it.
    pub(super) create: unsafe extern "C" fn(c_int, *mut *mut c_void) -> Status,
    pub(super) destroy: unsafe extern "C" fn(*mut c_void) -> Status,
    pub(super) finalize: unsafe extern "C" fn(*mut c_void) -> Status,
    pub(super) set: unsafe extern "C" fn(*mut c_void, c_int, c_int, i64, *const c_void) -> Status,
    pub(super) get: unsafe extern "C" fn(*mut c_void, c_int, c_int, i64, *mut i64, *mut c_void) -> Status,
    pub(super) execute: unsafe extern "C" fn(Handle, *mut c_void, *mut c_void) -> Status,
    pub(super) create_handle: unsafe extern "C" fn(*mut Handle) -> Status,
    pub(super) destroy_handle: unsafe extern "C" fn(Handle) -> Status,
    pub(super) set_stream: unsafe extern "C" fn(Handle, *mut c_void) -> Status,
    last_error: unsafe extern "C" fn(*mut c_char, usize),
}

/// A call that failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    status: Status,
    reason: String,
}

impl Functions {
    /// `None` without the library, or with one that is too old. Opened once in a process.
    pub(super) fn find() -> Option<&'static Self> {
        static FUNCTIONS: OnceLock<Option<Functions>> = OnceLock::new();
        FUNCTIONS.get_or_init(Self::open).as_ref()
    }

    /// What a call returned, as a result.
    pub(super) fn check(&self, status: Status) -> Result<(), Failure> {
        if status == 0 {
            return Ok(());
        }
        let mut text = [0; REASON_BYTES];
        // SAFETY: writes a text of at most so many bytes, the zero behind it included, about the calling thread's last error.
        unsafe { (self.last_error)(text.as_mut_ptr(), REASON_BYTES) };
        text[REASON_BYTES - 1] = 0;
        // SAFETY: there is a zero in it.
        let reason = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
        Err(Failure { status, reason })
    }

    fn open() -> Option<Self> {
        // SAFETY: opens the library, which runs its initialisers. They are NVIDIA's and made to be opened in any process.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        // SAFETY: it is there, or this would panic.
        let library = unsafe { sys::culib() };
        /// The function of a name.
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the library's header declares it with the signature that it is kept with.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }.ok()?
            };
        }
        let version: unsafe extern "C" fn() -> usize = function!("cudnnGetVersion");
        // SAFETY: it takes nothing and touches no GPU.
        let version = unsafe { version() };
        if version < VERSION_MIN {
            return None;
        }
        Some(Self {
            version,
            create: function!("cudnnBackendCreateDescriptor"),
            destroy: function!("cudnnBackendDestroyDescriptor"),
            finalize: function!("cudnnBackendFinalize"),
            set: function!("cudnnBackendSetAttribute"),
            get: function!("cudnnBackendGetAttribute"),
            execute: function!("cudnnBackendExecute"),
            create_handle: function!("cudnnCreate"),
            destroy_handle: function!("cudnnDestroy"),
            set_stream: function!("cudnnSetStream"),
            last_error: function!("cudnnGetLastErrorString"),
        })
    }
}

impl Failure {
    /// The error that says that the GPU failed to do this.
    pub(super) fn to(&self, what: String) -> CudaError {
        let Self { status, reason } = self;
        let name = CudaLibrary::Cudnn.name();
        CudaError::Call {
            what,
            reason: format!("{name} has status {status}, {reason}; ASYNCDIFF_CUDNN=off goes without it"),
        }
    }

    /// For a line of the log.
    pub(super) fn text(&self) -> String {
        format!("{} ({})", self.reason, self.status)
    }
}
