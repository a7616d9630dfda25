//! Between tensors and the bytes that travel: little-endian, row-major, as computed.

use asyncdiff_common::wire::DType;
use bytes::Bytes;
use candle_core::{CpuStorage, Device, Error, Storage, Tensor};

/// The elements of an F32 tensor.
///
/// # Shapes
/// - `tensor`: any, F32
pub(crate) fn to_bytes(tensor: &Tensor) -> Result<Bytes, Error> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
        return Ok(bytes_of(&values[start..end]));
    }
    drop(storage);
    Ok(bytes_of(&tensor.flatten_all()?.to_vec1::<f32>()?))
}

/// A tensor on a device from bytes whose number was compared with `shape` when they were admitted.
///
/// # Shapes
/// - returns: `shape`, F32
pub(crate) fn from_bytes(payload: &[u8], shape: &[u32], device: &Device) -> Result<Tensor, Error> {
    let values: Vec<f32> = payload.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect();
    let shape: Vec<usize> = shape.iter().map(|&axis| axis as usize).collect();
    Tensor::from_vec(values, shape, device)
}

/// A tensor's axes as headers have them.
pub(crate) fn shape_of(tensor: &Tensor) -> Vec<u32> {
    // An axis beyond u32 would be a tensor beyond the wire's limit, which the link refuses.
    tensor.dims().iter().map(|&axis| u32::try_from(axis).unwrap_or(u32::MAX)).collect()
}

/// Bytes that a tensor of this shape has; `None` if it overflows.
pub(crate) fn byte_count(shape: &[u32], dtype: DType) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |product, &axis| product.checked_mul(u64::from(axis)))?;
    elements.checked_mul(dtype.bytes())
}

fn bytes_of(values: &[f32]) -> Bytes {
    let mut bytes = vec![0; size_of_val(values)];
    for (chunk, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *chunk = value.to_le_bytes();
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_tensor_survives_the_journey() {
        let whole = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap().reshape((2, 3, 4)).unwrap();
        for tensor in [whole.narrow(0, 1, 1).unwrap(), whole.transpose(1, 2).unwrap()] {
            let back = from_bytes(&to_bytes(&tensor).unwrap(), &shape_of(&tensor), &Device::Cpu).unwrap();
            assert_eq!(back.dims(), tensor.dims());
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&back), values(&tensor));
        }
    }

    #[test]
    fn a_shape_that_overflows_has_no_byte_count() {
        assert_eq!(byte_count(&[u32::MAX; 3], DType::F32), None);
        assert_eq!(byte_count(&[2, 3], DType::F16), Some(12));
    }
}
