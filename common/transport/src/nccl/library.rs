//! NVIDIA's library, opened when it is first asked for. A table of our own, because cudarc looks for `libnccl.so` and installations for running
//! have `libnccl.so.2` alone.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use super::failure::{NcclError, NcclOperation};

/// As installed for running, and as installed for building.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// Bytes of the name of a communicator to be: `NCCL_UNIQUE_ID_BYTES` of NCCL's header.
pub const UNIQUE_ID_BYTES: usize = 128;

/// `ncclSuccess`.
const SUCCESS: c_int = 0;

/// `ncclUint8`: what is moved is bytes, whatever they mean.
pub(super) const UINT8: c_int = 1;

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RawId(pub(super) [u8; UNIQUE_ID_BYTES]);

/// `ncclComm_t`.
pub(super) type RawCommunicator = *mut c_void;

/// The functions that we use.
// SAFETY: each has the type that NCCL's header declares for it; whoever calls one says why its arguments are right.
pub(super) struct Library {
    version: unsafe extern "C" fn(*mut c_int) -> c_int,
    pub(super) unique_id: unsafe extern "C" fn(*mut RawId) -> c_int,
    pub(super) init_rank: unsafe extern "C" fn(*mut RawCommunicator, c_int, RawId, c_int) -> c_int,
    pub(super) send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, RawCommunicator, *mut c_void) -> c_int,
    pub(super) receive: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, RawCommunicator, *mut c_void) -> c_int,
    pub(super) asynchronous_error: unsafe extern "C" fn(RawCommunicator, *mut c_int) -> c_int,
    pub(super) abort: unsafe extern "C" fn(RawCommunicator) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(RawCommunicator) -> *const c_char,
    /// The functions are of it.
    _opened: libloading::Library,
}

/// The library, if there is one.
pub(super) fn library() -> Result<&'static Library, NcclError> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    let opened = LIBRARY.get_or_init(|| open().map_err(|error| error.to_string()));
    opened.as_ref().map_err(|reason| NcclError::MissingLibrary { reason: reason.clone() })
}

/// NCCL's version: major, minor, patch.
pub fn version() -> Result<[u32; 3], NcclError> {
    let library = library()?;
    let mut code: c_int = 0;
    // SAFETY: writes one number to the place that it is given.
    library.check(unsafe { (library.version)(&raw mut code) }, NcclOperation::Version, std::ptr::null_mut())?;
    Ok(decode_version(code.unsigned_abs()))
}

impl Library {
    /// What a call returned, as a result.
    pub(super) fn check(
        &self,
        code: c_int,
        operation: NcclOperation,
        communicator: RawCommunicator,
    ) -> Result<(), NcclError> {
        if code == SUCCESS {
            return Ok(());
        }
        // SAFETY: both return text that the library keeps; the second takes a communicator or none.
        let [what, detail] = unsafe { [text((self.error_string)(code)), text((self.last_error)(communicator))] };
        Err(NcclError::Call { operation, code, what, detail })
    }
}

fn open() -> Result<Library, libloading::Error> {
    // SAFETY: opening runs the library's initialisers, which are NVIDIA's and made to be run in any process.
    let open = |name| unsafe { libloading::Library::new(name) };
    let opened = NAMES[1..].iter().fold(open(NAMES[0]), |found, name| found.or_else(|_| open(*name)))?;
    // SAFETY: each name has the type that NCCL's header declares for it, and the library stays open as long as the table.
    unsafe {
        Ok(Library {
            version: *opened.get(c"ncclGetVersion")?,
            unique_id: *opened.get(c"ncclGetUniqueId")?,
            init_rank: *opened.get(c"ncclCommInitRank")?,
            send: *opened.get(c"ncclSend")?,
            receive: *opened.get(c"ncclRecv")?,
            asynchronous_error: *opened.get(c"ncclCommGetAsyncError")?,
            abort: *opened.get(c"ncclCommAbort")?,
            error_string: *opened.get(c"ncclGetErrorString")?,
            last_error: *opened.get(c"ncclGetLastError")?,
            _opened: opened,
        })
    }
}

/// # Safety
/// `text` is null or a text of the library's.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
}

/// NCCL writes 22809 for 2.28.9, and wrote 2804 for 2.8.4.
fn decode_version(code: u32) -> [u32; 3] {
    if code < 10_000 {
        [code / 1000, code % 1000 / 100, code % 100]
    } else {
        [code / 10_000, code % 10_000 / 100, code % 100]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_in_both_ways_of_writing_them() {
        assert_eq!(decode_version(22_809), [2, 28, 9]);
        assert_eq!(decode_version(23_007), [2, 30, 7]);
        assert_eq!(decode_version(2_804), [2, 8, 4]);
    }

    #[test]
    fn a_library_that_is_missing_is_an_error_with_what_to_do() {
        match version() {
            Ok(version) => assert!(version >= [2, 0, 0], "{version:?}"),
            Err(error) => assert!(error.to_string().contains("hint: "), "{error}"),
        }
    }
}
