//! The one place that maps a file into memory, and the only `unsafe` of this module.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use super::WeightsError;

/// The file's bytes, read by the operating system when they are touched and dropped by it when memory is short.
#[allow(unsafe_code)]
pub(super) fn map_file(path: &Path) -> Result<Bytes, WeightsError> {
    let io_error = |error| WeightsError::Io { file: path.display().to_string(), error };
    let file = File::open(path).map_err(io_error)?;
    let length = file.metadata().map_err(io_error)?.len();
    if length == 0 {
        // A mapping of no bytes is an error of the operating system; the parser's message is the better one.
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is read-only and private to this process. Bytes handed out as `&[u8]` would change, or reading
    // them would raise SIGBUS, only if somebody rewrote or truncated the checkpoint's file while it is loaded. Checkpoints
    // are replaced by rename (the hub's cache and this project's own writers do), which leaves the mapped file as it was.
    // Nothing of this crate's memory safety rests on the content: every offset is checked against the mapped length.
    let mapping = unsafe { memmap2::Mmap::map(&file) }.map_err(io_error)?;
    Ok(Bytes::from_owner(mapping))
}
