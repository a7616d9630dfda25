//! Memory for f32 elements: whole pages of their own, so that vectors never cross a line and large ones get huge pages.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::ModelError;

/// From this size on huge pages are asked for: one huge page of the usual size, below which none can be given.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Elements in pages of their own, zero at first.
#[derive(Debug)]
pub(crate) struct Floats {
    map: MmapMut,
    len: usize,
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
        Ok(Self { map, len })
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
        &bytemuck::cast_slice(&self.map[..self.len * size_of::<f32>()])[..self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        let bytes = self.len * size_of::<f32>();
        bytemuck::cast_slice_mut(&mut self.map[..bytes])
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
