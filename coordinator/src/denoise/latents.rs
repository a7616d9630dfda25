//! Latents between floats and the bytes that travel.

use bytes::Bytes;

/// Axes of a job's latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentsShape {
    /// Pictures that are made at once.
    pub images: u32,
    /// Channels of the latents.
    pub channels: u32,
    /// Height of the latents.
    pub height: u32,
    /// Width of the latents.
    pub width: u32,
}

impl LatentsShape {
    /// Elements of one row of the batch.
    #[must_use]
    pub fn row_elements(&self) -> usize {
        self.channels as usize * self.height as usize * self.width as usize
    }

    /// Elements of all pictures.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.images as usize * self.row_elements()
    }

    /// The axes of a batch of `rows`, batch axis first.
    #[must_use]
    pub fn axes(&self, rows: u32) -> Vec<u32> {
        vec![rows, self.channels, self.height, self.width]
    }
}

/// Little-endian floats from the bytes of a tensor; an incomplete float at the end is left out.
#[must_use]
pub fn floats_from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()
}

/// Writes little-endian floats into a slice of the length that the tensor's header announced.
pub(super) fn read_floats(bytes: &[u8], values: &mut [f32]) {
    debug_assert_eq!(bytes.len(), 4 * values.len(), "admission compared the shape with the plan's");
    for (value, &chunk) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_le_bytes(chunk);
    }
}

/// The bytes of `values`, repeated: guidance gives both halves of the batch the same latents.
pub(super) fn repeated_bytes(values: &[f32], times: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(4 * values.len() * times);
    for _copy in 0..times {
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_survive_the_bytes() {
        let values = [1.5f32, -0.0, f32::MIN_POSITIVE, 3.0e38];
        let bytes = repeated_bytes(&values, 2);
        let found = floats_from_bytes(&bytes);
        assert_eq!(found, [values, values].concat());
        let mut read = [0.0; 4];
        read_floats(&bytes[16..], &mut read);
        assert_eq!(read, values);
    }
}
