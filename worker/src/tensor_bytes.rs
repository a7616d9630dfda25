//! Between values and the bytes that travel: little-endian and row-major. What goes from worker to worker is channels last, as it is computed;
//! what comes from and goes to the coordinator has channels before pixels, as files and noise schedulers have it.

use asyncdiff_model::ModelError;
use asyncdiff_model::kernels::{Kernels, Value};
use bytes::Bytes;

/// The elements of a value in the coordinator's order.
pub(crate) fn to_bytes(value: &Value) -> Result<Bytes, ModelError> {
    Ok(bytes_of(&value.to_elements()?))
}

/// A value on a device from bytes in the coordinator's order, whose number was compared with `shape` when they were admitted.
///
/// # Shapes
/// - returns: `shape`
pub(crate) fn from_bytes(payload: &[u8], shape: &[u32], kernels: &Kernels) -> Result<Value, ModelError> {
    let shape: Vec<usize> = shape.iter().map(|&axis| axis as usize).collect();
    kernels.value(&shape, &floats_from_bytes(payload))
}

/// Floats from their bytes.
pub(crate) fn floats_from_bytes(payload: &[u8]) -> Vec<f32> {
    payload.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()
}

/// The bytes of floats.
pub(crate) fn bytes_of(values: &[f32]) -> Bytes {
    let mut bytes = vec![0; size_of_val(values)];
    for (chunk, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *chunk = value.to_le_bytes();
    }
    bytes.into()
}

/// Axes as headers have them.
pub(crate) fn shape_of(shape: &[usize]) -> Vec<u32> {
    // An axis beyond u32 would be a tensor beyond the wire's limit, which the link refuses.
    shape.iter().map(|&axis| u32::try_from(axis).unwrap_or(u32::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_part_of_a_value_survives_the_journey() {
        let elements: Vec<f32> = (0..48).map(|index| index as f32).collect();
        for kernels in [Kernels::for_device(&Device::Cpu), Kernels::reference(&Device::Cpu)] {
            for shape in [vec![2, 3, 2, 4], vec![2, 4, 6], vec![2, 24], vec![48]] {
                let half = shape[0] / 2;
                let part = kernels.value(&shape, &elements).unwrap().narrow(half..shape[0]);
                let travelled = to_bytes(&part).unwrap();
                assert_eq!(floats_from_bytes(&travelled), elements[24..]);
                let back = from_bytes(&travelled, &shape_of(&part.shape()), &kernels).unwrap();
                assert_eq!(back.shape(), part.shape());
                assert_eq!(back.to_elements().unwrap(), part.to_elements().unwrap());
                let peer = kernels.value_from_bytes(&part.shape(), &part.to_bytes().unwrap()).unwrap();
                assert_eq!(peer.to_elements().unwrap(), part.to_elements().unwrap());
            }
        }
    }

    #[test]
    fn what_a_peer_sent_is_used_where_it_is_if_it_is_aligned() {
        let kernels = Kernels::for_device(&Device::Cpu);
        let sent = kernels.value(&[2, 3, 2, 4], &(0..48).map(|index| index as f32).collect::<Vec<_>>()).unwrap();
        let bytes = sent.to_bytes().unwrap();
        let shifted = Bytes::from([&[0], &bytes[..]].concat()).slice(1..);
        for (bytes, in_place) in [(&bytes, true), (&shifted, shifted.as_ptr().addr() % 4 == 0)] {
            let received = kernels.value_from_bytes(&[2, 3, 2, 4], bytes).unwrap();
            assert_eq!(received.to_elements().unwrap(), sent.to_elements().unwrap());
            let part = received.narrow(1..2);
            assert_eq!(part.to_bytes().unwrap(), bytes[96..]);
            assert_eq!(part.to_bytes().unwrap().as_ptr() == bytes[96..].as_ptr(), in_place);
            let joined = Value::concatenate(&[part, received.narrow(0..1)]).unwrap();
            assert_eq!(joined.to_bytes().unwrap(), [&bytes[96..], &bytes[..96]].concat());
        }
    }
}
