//! Bytes in a device's memory and the stream that orders what happens to them, as libraries that move them want them: between the crate that owns
//! the memory and the one that owns the library, neither of which knows the other.

use std::ffi::c_void;

/// Bytes of a GPU that a library may read or write in the order of a stream.
#[derive(Debug)]
pub struct DeviceSpan {
    address: u64,
    bytes: usize,
    stream: *mut c_void,
}

impl DeviceSpan {
    /// # Safety
    /// The bytes are a GPU's, and the stream is of the same context. Whatever is handed to the stream may read and write the bytes, so that they stay what they are
    /// until the stream has come past it.
    #[must_use]
    #[allow(unsafe_code)]
    pub unsafe fn new(address: u64, bytes: usize, stream: *mut c_void) -> Self {
        Self { address, bytes, stream }
    }

    /// Where they begin.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many there are.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The stream, as CUDA's libraries know it.
    #[must_use]
    pub fn stream(&self) -> *mut c_void {
        self.stream
    }
}
