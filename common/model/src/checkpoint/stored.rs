//! A tensor as it is stored: bytes in the file's own element type, so that it can be hashed and sent without conversion.

use asyncdiff_common::wire::DType;
use bytes::Bytes;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::WeightsError;

/// A parameter's stored form: little-endian, row-major elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Element type.
    pub dtype: DType,
    /// Axes.
    pub shape: Vec<u32>,
    /// The elements; a view into the file where there is one, so cloning is cheap.
    pub bytes: Bytes,
}

impl StoredTensor {
    /// A tensor of 4-byte floats.
    #[must_use]
    pub fn from_f32(shape: Vec<u32>, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: DType::F32, shape, bytes: Bytes::from(bytes) }
    }

    /// BLAKE3 digest of the stored bytes: the name that the tensor has on the wire and in caches.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }

    /// Bytes that shape and element type say, or `None` where they overflow.
    #[must_use]
    pub fn expected_bytes(&self) -> Option<u64> {
        let elements = self.shape.iter().try_fold(1u64, |product, &axis| product.checked_mul(u64::from(axis)))?;
        elements.checked_mul(self.dtype.bytes())
    }

    /// One index of the first axis, or `None` where there are not so many.
    #[must_use]
    pub fn row(&self, index: usize) -> Option<Self> {
        let (&rows, axes) = self.shape.split_first()?;
        let row_bytes = self.bytes.len().checked_div(rows as usize)?;
        let end = index.checked_add(1)?.checked_mul(row_bytes)?;
        (end <= self.bytes.len()).then(|| Self {
            dtype: self.dtype,
            shape: axes.to_vec(),
            bytes: self.bytes.slice(end - row_bytes..end),
        })
    }

    /// The elements as 4-byte floats, or `None` for integers.
    #[must_use]
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        match self.dtype {
            DType::F32 => Some(four_byte_floats(&self.bytes)),
            DType::F64 => Some(eight_byte_floats(&self.bytes)),
            DType::F16 => Some(half_floats(&self.bytes, f16::from_bits)),
            DType::Bf16 => Some(half_floats(&self.bytes, bf16::from_bits)),
            DType::I64 | DType::U8 => None,
        }
    }

    /// The tensor in the shape that the model has, if it is of that shape and has as many bytes as it needs.
    ///
    /// Axes of length 1 at the end do not count: old checkpoints hold some linear layers as 1×1 convolutions.
    pub(super) fn checked(mut self, name: &str, source: &str, shape: &[usize]) -> Result<Self, WeightsError> {
        let found: Vec<usize> = self.shape.iter().map(|&axis| axis as usize).collect();
        if without_last_ones(&found) != without_last_ones(shape) {
            return Err(WeightsError::ShapeMismatch {
                source_name: source.to_owned(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                found,
            });
        }
        let expected = self.expected_bytes();
        if expected != Some(self.bytes.len() as u64) {
            return Err(WeightsError::WrongLength {
                source_name: source.to_owned(),
                name: name.to_owned(),
                expected,
                found: self.bytes.len() as u64,
            });
        }
        self.shape = shape.iter().map(|&axis| axis as u32).collect();
        Ok(self)
    }
}

fn without_last_ones(shape: &[usize]) -> &[usize] {
    let used = shape.iter().rposition(|&axis| axis != 1).map_or(0, |last| last + 1);
    &shape[..used]
}

fn four_byte_floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()
}

fn eight_byte_floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&chunk| f64::from_le_bytes(chunk) as f32).collect()
}

/// Converts in blocks, because the conversion of a whole slice uses the CPU's instructions for it (F16C, NEON) and that of
/// single values asks for them each time; and because the bytes of a file need not be aligned to two.
fn half_floats<H: Copy>(bytes: &[u8], from_bits: fn(u16) -> H) -> Vec<f32>
where
    [H]: HalfFloatSliceExt,
{
    const BLOCK: usize = 1024;
    let mut values = vec![0.0; bytes.len() / 2];
    let mut block = [from_bits(0); BLOCK];
    for (source, target) in bytes.chunks(2 * BLOCK).zip(values.chunks_mut(BLOCK)) {
        for (element, &bits) in block.iter_mut().zip(source.as_chunks().0) {
            *element = from_bits(u16::from_le_bytes(bits));
        }
        block[..target.len()].convert_to_f32_slice(target);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_read_at_every_alignment_and_length() {
        let values: Vec<f32> = (0..2500).map(|index| index as f32 / 8.0 - 100.0).collect();
        let f16_bytes: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
        let shifted = [&[0u8][..], &f16_bytes].concat();
        assert_eq!(half_floats(&shifted[1..], f16::from_bits), values);
        let bf16_bytes: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
        let expected: Vec<f32> = values.iter().map(|&value| bf16::from_f32(value).to_f32()).collect();
        assert_eq!(half_floats(&bf16_bytes, bf16::from_bits), expected);
    }

    #[test]
    fn double_precision_is_rounded_to_single() {
        let bytes: Vec<u8> = [0.1f64, -3.5].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(eight_byte_floats(&bytes), [0.1f32, -3.5]);
    }
}
