//! The timestep as sinusoids (arXiv 1706.03762, section 3.5) through two linear layers.

use candle_core::Tensor;

use super::operation::{Operation, Source, expect};
use crate::ModelError;
use crate::families::TimeEmbeddingOp;
use crate::kernels::{Activation, Bias, Kernels, Linear, LinearSpec};

/// Period of the slowest sinusoid, in timesteps, over 2π.
const MAX_PERIOD: f32 = 10_000.0;

/// A time embedding with its weights.
pub(super) struct TimeEmbedding {
    kernels: Kernels,
    /// `[1, sinusoids / 2]`
    frequencies: Tensor,
    flip_sin_to_cos: bool,
    linear_1: Linear,
    linear_2: Linear,
}

impl TimeEmbedding {
    pub(super) fn load(op: &TimeEmbeddingOp, source: Source<'_>) -> Result<Self, ModelError> {
        let linear = |name: &str, in_features: u32| {
            let (in_features, out_features) = (in_features as usize, op.width as usize);
            let spec = LinearSpec { in_features, out_features, bias: Bias::Present };
            source.kernels.linear(spec, source.weights, &source.path(name))
        };
        let frequencies = frequencies(op);
        let count = frequencies.len();
        Ok(Self {
            kernels: source.kernels.clone(),
            frequencies: Tensor::from_vec(frequencies, (1, count), source.kernels.device())?,
            flip_sin_to_cos: op.flip_sin_to_cos,
            linear_1: linear("linear_1", op.sinusoids)?,
            linear_2: linear("linear_2", op.width)?,
        })
    }
}

/// In f32 throughout, as diffusers does: the last digits of a frequency times a timestep of 1000 matter.
fn frequencies(op: &TimeEmbeddingOp) -> Vec<f32> {
    let count = op.sinusoids / 2;
    let divisor = count as f32 - op.freq_shift;
    (0..count).map(|index| (-MAX_PERIOD.ln() * index as f32 / divisor).exp()).collect()
}

impl Operation for TimeEmbedding {
    /// # Shapes
    /// - `operands`: the timestep `[rows]`
    /// - returns: `[rows, width]`
    fn forward(&self, operands: &[&Tensor]) -> Result<Tensor, ModelError> {
        let [timestep] = expect(operands)?;
        let rows = timestep.dims1()?;
        let angles = timestep.reshape((rows, 1))?.broadcast_mul(&self.frequencies)?;
        let (sines, cosines) = (angles.sin()?, angles.cos()?);
        let sinusoids = if self.flip_sin_to_cos { [cosines, sines] } else { [sines, cosines] };
        let hidden = self.linear_1.forward(&Tensor::cat(&sinusoids, 1)?)?;
        self.linear_2.forward(&self.kernels.activate(Activation::Silu, &hidden)?)
    }

    fn resident_bytes(&self) -> u64 {
        self.linear_1.resident_bytes() + self.linear_2.resident_bytes()
    }
}
