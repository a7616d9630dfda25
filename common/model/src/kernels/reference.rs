//! Candle's own operations: what every other kernel is tested against, and what runs where there is no other.

use candle_core::{D, Device, Tensor};

use crate::ModelError;
use crate::checkpoint::Weights;
use crate::graph::{
    Activation, AttentionMask, AttentionOp, ConvolutionOp, Extent, GroupNormOp, LayerNormOp, Node, Op, Parameter,
    SinusoidsOp, Store,
};

/// An operation with its weights on a device.
#[derive(Debug)]
pub(super) struct Step {
    op: Op,
    writes: Extent,
    /// The weights in the operation's order: `[weight, bias]` or `[scale, shift]`.
    weights: Vec<Tensor>,
}

impl Step {
    pub(super) fn load(node: &Node, weights: &dyn Weights, device: &Device) -> Result<Self, ModelError> {
        let load = |parameter: &Parameter| weights.tensor(&parameter.name, &parameter.shape, device);
        let stacked = |parameters: &[Parameter]| -> Result<Tensor, ModelError> {
            let tensors: Vec<Tensor> = parameters.iter().map(load).collect::<Result<_, _>>()?;
            Ok(Tensor::cat(&tensors, 0)?)
        };
        let weights = match &node.op {
            Op::Activate(_) | Op::Add | Op::Attention(_) | Op::Concatenate => Vec::new(),
            Op::Convolution(op) => {
                let weight = stacked(&op.weights)?.reshape((op.out_channels, (), op.kernel, op.kernel))?;
                if op.biases.is_empty() { vec![weight] } else { vec![weight, stacked(&op.biases)?] }
            }
            Op::GroupNorm(GroupNormOp { scale, shift, .. }) | Op::LayerNorm(LayerNormOp { scale, shift, .. }) => {
                vec![load(scale)?, load(shift)?]
            }
            Op::Sinusoids(op) => vec![Tensor::new(op.frequencies.as_slice(), device)?],
        };
        Ok(Self { op: node.op.clone(), writes: node.writes, weights })
    }

    /// # Shapes
    /// - `operands`: each `[rows, height, width, channels]`
    /// - returns: the same
    pub(super) fn run(&self, operands: &[Tensor]) -> Result<Tensor, ModelError> {
        let first = &operands[0];
        let output = match &self.op {
            Op::Activate(activation) => activate(*activation, first)?,
            Op::Add => first.broadcast_add(&operands[1])?,
            Op::Attention(op) => attention(op, operands)?,
            Op::Concatenate => Tensor::cat(operands, D::Minus1)?,
            Op::Convolution(op) => self.convolution(op, operands)?,
            Op::GroupNorm(op) => self.group_norm(op, operands)?,
            Op::LayerNorm(op) => self.layer_norm(op, first)?,
            Op::Sinusoids(op) => self.sinusoids(op, first)?,
        };
        let (rows, ..) = output.dims4()?;
        Ok(output.contiguous()?.reshape((rows, self.writes.height, self.writes.width, self.writes.channels))?)
    }

    pub(super) fn resident_bytes(&self) -> u64 {
        // Frequencies are no parameters.
        let parameters = if matches!(self.op, Op::Sinusoids(_)) { &[][..] } else { &self.weights };
        parameters.iter().map(|weight| 4 * weight.elem_count() as u64).sum()
    }

    fn convolution(&self, op: &ConvolutionOp, operands: &[Tensor]) -> Result<Tensor, ModelError> {
        let (_rows, height, width, _channels) = operands[0].dims4()?;
        let mut image = Tensor::cat(&operands[..op.sources], D::Minus1)?.permute((0, 3, 1, 2))?.contiguous()?;
        if op.size != [height, width] {
            image = image.upsample_nearest2d(op.size[0], op.size[1])?;
        }
        let [before, after] = op.padding;
        let image = image.pad_with_zeros(D::Minus1, before, after)?.pad_with_zeros(D::Minus2, before, after)?;
        let mut sums = image.conv2d(&self.weights[0], 0, op.stride, 1, 1)?.permute((0, 2, 3, 1))?;
        if let Some(bias) = self.weights.get(1) {
            sums = sums.broadcast_add(bias)?;
        }
        if let Some(index) = op.row_bias_index() {
            sums = sums.broadcast_add(&operands[index])?;
        }
        let stored = match op.store {
            Store::Geglu => {
                let width = op.out_channels / 2;
                let gate = sums.narrow(D::Minus1, width, width)?.gelu_erf()?;
                (sums.narrow(D::Minus1, 0, width)? * gate)?
            }
            Store::Plain(activation) => activate(activation, &sums)?,
        };
        match op.residual_index() {
            Some(index) => Ok((stored.contiguous()? + operands[index].reshape(stored.shape())?)?),
            None => Ok(stored),
        }
    }

    fn group_norm(&self, op: &GroupNormOp, operands: &[Tensor]) -> Result<Tensor, ModelError> {
        let input = Tensor::cat(operands, D::Minus1)?;
        let (rows, height, width, channels) = input.dims4()?;
        let grouped = input.reshape((rows, height * width, op.groups, channels / op.groups))?.transpose(1, 2)?;
        let grouped = grouped.contiguous()?.flatten_from(2)?;
        let normed = normalise(&grouped, op.epsilon)?;
        let normed = normed.reshape((rows, op.groups, height * width, channels / op.groups))?.transpose(1, 2)?;
        let normed = normed.contiguous()?.reshape((rows, height, width, channels))?;
        activate(op.activation, &normed.broadcast_mul(&self.weights[0])?.broadcast_add(&self.weights[1])?)
    }

    fn layer_norm(&self, op: &LayerNormOp, input: &Tensor) -> Result<Tensor, ModelError> {
        let normed = normalise(input, op.epsilon)?;
        Ok(normed.broadcast_mul(&self.weights[0])?.broadcast_add(&self.weights[1])?)
    }

    /// # Shapes
    /// - `numbers`: `[rows, 1, 1, numbers]`
    /// - returns: `[rows, 1, numbers, 2 * frequencies]`
    fn sinusoids(&self, op: &SinusoidsOp, numbers: &Tensor) -> Result<Tensor, ModelError> {
        let angles = numbers.transpose(D::Minus1, D::Minus2)?.broadcast_mul(&self.weights[0])?;
        let (sines, cosines) = (angles.sin()?, angles.cos()?);
        let sinusoids = if op.flip_sin_to_cos { [cosines, sines] } else { [sines, cosines] };
        Ok(Tensor::cat(&sinusoids, D::Minus1)?)
    }
}

/// To mean 0 and variance 1 along the last axis.
fn normalise(input: &Tensor, epsilon: f32) -> Result<Tensor, ModelError> {
    let centred = input.broadcast_sub(&input.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(centred.broadcast_div(&(variance + f64::from(epsilon))?.sqrt()?)?)
}

fn activate(activation: Activation, input: &Tensor) -> Result<Tensor, ModelError> {
    Ok(match activation {
        Activation::Gelu => input.contiguous()?.gelu_erf()?,
        Activation::None => input.clone(),
        Activation::QuickGelu => (input * sigmoid(&(input * 1.702)?)?)?,
        Activation::Silu => input.contiguous()?.silu()?,
    })
}

fn sigmoid(input: &Tensor) -> candle_core::Result<Tensor> {
    (input.neg()?.exp()? + 1.0)?.recip()
}

fn attention(op: &AttentionOp, operands: &[Tensor]) -> Result<Tensor, ModelError> {
    let split = |index: usize| -> candle_core::Result<Tensor> {
        let (rows, height, width, _channels) = operands[index].dims4()?;
        let heads = operands[index].narrow(D::Minus1, op.offsets[index], op.heads.channels())?.contiguous()?;
        heads.reshape((rows, height * width, op.heads.count, op.heads.width))?.transpose(1, 2)?.contiguous()
    };
    let (query, key, value) = (split(0)?, split(1)?, split(2)?);
    let (rows, _heads, queries, _width) = query.dims4()?;
    let mut scores = (query.matmul(&key.t()?.contiguous()?)? * (1.0 / (op.heads.width as f64).sqrt()))?;
    if op.mask == AttentionMask::Causal {
        let hidden = |index| if index % queries > index / queries { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> = (0..queries * queries).map(hidden).collect();
        scores = scores.broadcast_add(&Tensor::from_vec(mask, (queries, queries), query.device())?)?;
    }
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let attended = weights.matmul(&value)?.transpose(1, 2)?.contiguous()?;
    Ok(attended.reshape((rows, 1, queries, op.heads.channels()))?)
}
