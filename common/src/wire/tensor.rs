//! The header that precedes every tensor's raw bytes.

use asyncdiff_plan::{Delta, Epoch, JobId};
use serde::{Deserialize, Serialize};

/// The most axes a tensor may have: `[batch, frames, channels, height, width]` and one to spare.
pub const MAX_AXES: usize = 6;

/// The most bytes one tensor may have. A 2048² image's largest skip connection at batch 2 in f32 is 0.3 GiB;
/// a single parameter of the largest supported text encoder (T5-XXL's embedding in f32) is 0.5 GiB.
pub const TENSOR_LIMIT_BYTES: u64 = 1 << 30;

/// What a data link carries before the raw bytes: what the tensor is, its shape and its encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorHeader {
    /// The job that it belongs to; job 0 for what belongs to none (weights).
    pub job: JobId,
    /// The epoch of the job's placement that the sender works in.
    pub epoch: Epoch,
    /// Which tensor of the job it is.
    pub name: TensorName,
    /// All axes, the batch axis first.
    pub shape: Vec<u32>,
    /// What the elements are, or what they become when differences are added to their base.
    pub dtype: DType,
    /// The bytes are differences from an earlier version of a hidden state, and not the elements themselves.
    pub delta: Option<Delta>,
    /// The bytes are some of the elements; the others come by themselves.
    pub part: Option<TensorPart>,
}

/// Some elements of a hidden state, so that copying them out of a GPU's memory and into another's overlaps the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorPart {
    /// The first of them, channels last.
    pub first: u32,
    /// How many.
    pub elements: u32,
}

/// Which tensor it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TensorName {
    /// Scaled latents of a step (or, for VAE decoding, final latents), coordinator to worker.
    Latents(asyncdiff_plan::StepIndex),
    /// A graph input that is constant during the job, coordinator to worker.
    Condition(String),
    /// A hidden state, worker to worker. Its elements are channels last, whatever the order of the header's axes: as kernels on both
    /// sides have them.
    HiddenState(asyncdiff_plan::Instance),
    /// The noise prediction of a step for one lane, worker to coordinator.
    NoisePrediction(asyncdiff_plan::StepIndex, asyncdiff_plan::Lane),
    /// A request's result that is a tensor: encoder hidden states, pixels, encoded latents. Worker to coordinator.
    Reply {
        /// The request's number on its control connection.
        request: u64,
        /// Its place among the request's tensors.
        index: u16,
    },
    /// A parameter, addressed by the BLAKE3 digest of its stored bytes.
    Weight([u8; 32]),
    /// Bytes that only have to arrive, worker to worker: they measure the link. At most [`PROBE_LIMIT_BYTES`](super::PROBE_LIMIT_BYTES), and
    /// of no job. The number counts up within a link.
    Probe(u64),
}

/// What a denoiser's weights are held in and multiplied as; on GPUs activations too. Sums, norms, softmax and what passes between workers are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ComputeType {
    /// bfloat16: 8 bits of mantissa.
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE half precision: 11 bits of mantissa, up to 65504. On GPUs; a CPU takes f32 for it.
    F16,
}

/// Element types that travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DType {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision (only parameters as stored).
    F64,
    /// 64-bit integers (token ids, position ids).
    I64,
    /// Bytes (pixels).
    U8,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

/// Bytes that the elements of a tensor take as they are; `None` if they overflow.
#[must_use]
pub fn byte_count(shape: &[u32], dtype: DType) -> Option<u64> {
    element_count(shape)?.checked_mul(dtype.bytes())
}

fn element_count(shape: &[u32]) -> Option<u64> {
    shape.iter().try_fold(1u64, |product, &axis| product.checked_mul(u64::from(axis)))
}

impl TensorHeader {
    /// Bytes that follow the header, or `None` if the shape has too many axes or its elements take more than [`TENSOR_LIMIT_BYTES`].
    #[must_use]
    pub fn payload_bytes(&self) -> Option<u64> {
        if self.shape.len() > MAX_AXES {
            return None;
        }
        let elements = element_count(&self.shape)?;
        let whole = byte_count(&self.shape, self.dtype).filter(|&bytes| bytes <= TENSOR_LIMIT_BYTES)?;
        match (self.delta, self.part) {
            (None, None) => Some(whole),
            (Some(delta), None) => Some(delta.bits.bytes(elements)),
            (None, Some(TensorPart { first, elements: count })) => {
                let is_inside = u64::from(first) + u64::from(count) <= elements;
                is_inside.then(|| u64::from(count) * self.dtype.bytes())
            }
            // Differences are of all elements.
            (Some(_), Some(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_its_own_bytes_and_lies_inside() {
        let header = |first, elements| TensorHeader {
            job: JobId(1),
            epoch: Epoch(1),
            name: TensorName::Probe(0),
            shape: vec![2, 6],
            dtype: DType::Bf16,
            delta: None,
            part: Some(TensorPart { first, elements }),
        };
        assert_eq!(header(4, 8).payload_bytes(), Some(16));
        assert_eq!(header(5, 8).payload_bytes(), None);
        assert_eq!(header(u32::MAX, u32::MAX).payload_bytes(), None);
    }

    #[test]
    fn a_shape_that_overflows_has_no_byte_count() {
        assert_eq!(byte_count(&[u32::MAX; 3], DType::F32), None);
        assert_eq!(byte_count(&[2, 3], DType::F16), Some(12));
    }
}
