//! Frames: a length of four bytes (little endian), then a message or a tensor's header; a tensor's raw bytes follow its
//! header.

use asyncdiff_common::codec;
use asyncdiff_common::wire::{TENSOR_LIMIT_BYTES, TensorHeader};
use bytes::{BufMut, Bytes, BytesMut};

use super::{LinkError, Misbehaviour, Refusal};

/// Bytes of a frame's length.
pub(crate) const LENGTH_BYTES: usize = 4;

/// The most bytes of an encoded tensor header. The longest honest one (six axes, a condition's name) is below 200.
pub const HEADER_LIMIT_BYTES: usize = 4 << 10;

/// A tensor on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFrame {
    /// What it is.
    pub header: TensorHeader,
    /// Its elements in row-major order, little endian; as many bytes as the header says.
    pub payload: Bytes,
}

/// A tensor that was checked and whose header is encoded: what a carrier takes from the queue.
pub(crate) struct OutgoingTensor {
    pub(crate) frame: TensorFrame,
    /// The header's length and the header.
    pub(crate) header_frame: Bytes,
}

impl OutgoingTensor {
    /// Checks a frame on the sending side, where the mistake would have been made.
    pub(crate) fn new(frame: TensorFrame) -> Result<Self, LinkError> {
        let expected_bytes = frame.header.payload_bytes().ok_or_else(|| LinkError::TensorTooLarge {
            shape: frame.header.shape.clone(),
            limit_bytes: TENSOR_LIMIT_BYTES,
        })?;
        if expected_bytes != frame.payload.len() as u64 {
            return Err(LinkError::PayloadLength { expected_bytes, found_bytes: frame.payload.len() as u64 });
        }
        let header = codec::encode(&frame.header)?;
        let Some(length) = u32::try_from(header.len()).ok().filter(|_| header.len() <= HEADER_LIMIT_BYTES) else {
            return Err(LinkError::HeaderTooLong { found_bytes: header.len() });
        };
        let mut header_frame = BytesMut::with_capacity(LENGTH_BYTES + header.len());
        header_frame.put_u32_le(length);
        header_frame.put_slice(&header);
        Ok(Self { frame, header_frame: header_frame.freeze() })
    }
}

/// Decodes a header and checks what every tensor must satisfy. Returns it with the payload's length.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<(TensorHeader, u64), Misbehaviour> {
    let header: TensorHeader =
        codec::decode(bytes).map_err(|error| Misbehaviour::malformed("tensor header", &error.to_string()))?;
    match header.payload_bytes() {
        Some(payload_bytes) => Ok((header, payload_bytes)),
        None => {
            let elements = header.shape.iter().fold(1u64, |product, &axis| product.saturating_mul(u64::from(axis)));
            let found_bytes = elements.saturating_mul(header.dtype.bytes());
            let refusal = Refusal::TooLarge { found_bytes, limit_bytes: TENSOR_LIMIT_BYTES };
            Err(Misbehaviour::refused(&describe(&header), refusal))
        }
    }
}

/// A tensor as error messages name it.
pub(crate) fn describe(header: &TensorHeader) -> String {
    format!("{:?} of {} {}", header.name, header.job, header.epoch)
}

#[cfg(test)]
mod tests {
    use asyncdiff_common::wire::{DType, TensorName};
    use asyncdiff_plan::{Delta, DeltaBits, Epoch, Instance, JobId, Lane, StepIndex, ValueId};
    use proptest::prelude::*;

    use super::*;

    fn hidden_state() -> TensorHeader {
        let instance = Instance { value: ValueId(17), step: StepIndex(300), lane: Lane::Whole };
        TensorHeader {
            job: JobId(7),
            epoch: Epoch(2),
            name: TensorName::HiddenState(instance),
            shape: vec![2, 3],
            dtype: DType::F32,
            delta: None,
            part: None,
        }
    }

    #[test]
    fn the_header_frame_has_golden_bytes() {
        let tensor = OutgoingTensor::new(TensorFrame { header: hidden_state(), payload: vec![0; 24].into() }).unwrap();
        let golden = [14, 0, 0, 0, 7, 2, 2, 17, 251, 44, 1, 2, 2, 2, 3, 2, 0, 0];
        assert_eq!(&tensor.header_frame[..], golden, "a change of these bytes needs a new wire version");
    }

    #[test]
    fn the_header_frame_of_differences_has_golden_bytes_and_their_length() {
        let delta = Some(Delta { bits: DeltaBits::Eight, base: StepIndex(299) });
        let header = TensorHeader { delta, ..hidden_state() };
        // Six differences and a scale.
        let tensor = OutgoingTensor::new(TensorFrame { header, payload: vec![0; 8].into() }).unwrap();
        let golden = [18, 0, 0, 0, 7, 2, 2, 17, 251, 44, 1, 2, 2, 2, 3, 2, 1, 1, 251, 43, 1, 0];
        assert_eq!(&tensor.header_frame[..], golden, "a change of these bytes needs a new wire version");
    }

    #[test]
    fn a_payload_of_another_length_than_its_header_is_not_sent() {
        let found = OutgoingTensor::new(TensorFrame { header: hidden_state(), payload: vec![0; 23].into() });
        assert!(matches!(found, Err(LinkError::PayloadLength { expected_bytes: 24, found_bytes: 23 })));
    }

    #[test]
    fn a_header_that_is_too_long_is_not_sent() {
        let header = TensorHeader { name: TensorName::Condition("x".repeat(5000)), ..hidden_state() };
        let found = OutgoingTensor::new(TensorFrame { header, payload: vec![0; 24].into() });
        assert!(matches!(found, Err(LinkError::HeaderTooLong { .. })));
    }

    #[test]
    fn a_shape_whose_product_overflows_is_refused() {
        let header = TensorHeader { shape: vec![u32::MAX; 6], ..hidden_state() };
        let bytes = codec::encode(&header).unwrap();
        assert!(matches!(decode_header(&bytes), Err(Misbehaviour::Refused { refusal: Refusal::TooLarge { .. }, .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok((header, payload_bytes)) = decode_header(&bytes) {
                prop_assert_eq!(header.payload_bytes(), Some(payload_bytes));
            }
        }
    }
}
