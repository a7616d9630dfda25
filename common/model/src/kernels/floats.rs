//! Memory for f32 elements: whole pages of their own, so that vectors never cross a line and large ones get huge pages.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::MmapMut;

use crate::ModelError;

/// From this size on huge pages are asked for: one huge page of the usual size, below which none can be given.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What memory starts at: a line of the cache.
const LINE_BYTES: usize = 64;

/// Memory of somebody else for one value, such as a link's, from which the value is then sent without a copy. It is given back when the
/// value and all that was made of it are dropped.
pub type LentMemory = Box<dyn Lent>;

/// Bytes that may be written until they are dropped.
pub trait Lent: DerefMut<Target = [u8]> + Send + Sync {}

impl<T: DerefMut<Target = [u8]> + Send + Sync> Lent for T {}

/// Elements in pages of their own, zero at first, or in lent memory.
#[derive(Debug)]
pub(crate) struct Floats {
    memory: Memory,
    len: usize,
}

enum Memory {
    Lent(LentMemory),
    Own(MmapMut),
}

impl Floats {
    /// `len` zeros. The memory is taken when it is first written.
    pub(crate) fn zeros(len: usize) -> Result<Self, ModelError> {
        let bytes = len.saturating_mul(size_of::<f32>()).max(1);
        let no_memory = |error: std::io::Error| ModelError::NoMemory { bytes: bytes as u64, reason: error.to_string() };
        let map = MmapMut::map_anon(bytes).map_err(no_memory)?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_PAGE_BYTES {
            // A kernel without them says no, and small pages serve as well.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { memory: Memory::Own(map), len })
    }

    /// As many elements as the memory has room for, with whatever is in there. `None` where it does not start at a line.
    pub(crate) fn lent(memory: LentMemory) -> Option<Self> {
        let len = memory.len() / size_of::<f32>();
        memory.as_ptr().addr().is_multiple_of(LINE_BYTES).then_some(Self { memory: Memory::Lent(memory), len })
    }

    /// Takes what was lent, if it has this length.
    pub(crate) fn claim(lent: &mut Option<Self>, len: usize) -> Option<Arc<Self>> {
        lent.take_if(|lent| lent.len == len).map(Arc::new)
    }

    /// Whether the memory is somebody else's.
    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.memory, Memory::Lent(_))
    }

    /// Makes room for `len` elements; what was in there is lost if there was less.
    pub(crate) fn grow(&mut self, len: usize) -> Result<(), ModelError> {
        if self.len < len {
            *self = Self::zeros(len)?;
        }
        Ok(())
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let bytes: &[u8] = match &self.memory {
            Memory::Lent(lent) => lent,
            Memory::Own(map) => map,
        };
        bytemuck::cast_slice(&bytes[..self.len * size_of::<f32>()])
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        let bytes: &mut [u8] = match &mut self.memory {
            Memory::Lent(lent) => lent,
            Memory::Own(map) => map,
        };
        bytemuck::cast_slice_mut(&mut bytes[..self.len * size_of::<f32>()])
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Lent(_) => "Lent",
            Self::Own(_) => "Own",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_starts_at_a_line_and_is_zero() {
        for len in [0, 1, 1000, 1 << 20] {
            let mut floats = Floats::zeros(len).unwrap();
            assert_eq!(floats.as_ptr() as usize % 64, 0);
            assert!(floats.len() == len && floats.iter().all(|&element| element == 0.0));
            floats.fill(1.0);
            floats.grow(len + 1).unwrap();
            assert_eq!(floats.len(), len + 1);
        }
    }
}
