//! Buffers for encoded bytes, used again when a link has sent what is in them.

use std::sync::Arc;

use bytes::Bytes;

/// Buffers of one length. As many as are on their way at a time, which the link's queue bounds.
#[derive(Debug, Default)]
pub(super) struct Buffers(Vec<Arc<Vec<u8>>>);

/// A buffer for as long as somebody reads it.
struct Lent(Arc<Vec<u8>>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Buffers {
    /// Fills a buffer that nobody reads any more, or a new one.
    pub(super) fn filled<E>(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        let free = self.0.iter().position(|buffer| Arc::strong_count(buffer) == 1);
        let mut buffer = match free {
            Some(free) => self.0.swap_remove(free),
            None => Arc::default(),
        };
        // A buffer that was just taken has no other holder.
        if let Some(bytes) = Arc::get_mut(&mut buffer) {
            bytes.resize(length, 0);
            fill(bytes)?;
        }
        self.0.push(Arc::clone(&buffer));
        Ok(Bytes::from_owner(Lent(buffer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_nobody_reads_it() {
        let mut buffers = Buffers::default();
        let fill = |bytes: &mut [u8], byte| -> Result<(), ()> {
            bytes.fill(byte);
            Ok(())
        };
        let mut filled = |byte| buffers.filled(4, |bytes| fill(bytes, byte)).unwrap();
        let (first, second) = (filled(1), filled(2));
        assert_eq!((&first[..], &second[..]), (&[1; 4][..], &[2; 4][..]));
        let place = first.as_ptr();
        drop(first);
        assert_eq!(filled(3).as_ptr(), place);
        assert_eq!(second[..], [2; 4]);
        assert_eq!(buffers.0.len(), 2);
    }
}
