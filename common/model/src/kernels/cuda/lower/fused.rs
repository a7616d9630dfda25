//! Convolutions and attention as one step each, where there is a library for them.
//!
//! ```text
//!   one source of the size that is convolved ───────────────────────────────► convolution (with its epilogue) ──► target
//!   several sources, or others ──gather: pixels side by side, upsampled──► scratch ──┘
//! ```
//!
//! A library reads one tensor. What the windows would be is nine times as much as what is copied here, and a nearest neighbour is no arithmetic.
//! A linear layer with a bias or a residual is a convolution too: `finish` would read and write as much again as the product does. GEGLU is two.

use super::super::fused::{Attention, AttentionShape, Convolution, ConvolutionShape, Epilogue, Offers};
use super::super::launch::{Place, Step};
use super::super::pack::{Parameters, element_bytes};
use super::convolution::{Band, PixelsOf, SCRATCH_BYTES};
use super::node::{NodeLowering, Operand};
use crate::graph::{Activation, AttentionHeads, AttentionMask, AttentionOp, ConvolutionOp, Store};

/// What has fewer pixels takes no time worth a plan of its own: embeddings of times.
const PIXELS_MIN: usize = 32;

/// What is placed side by side, or gates, may take. A little less than what kernels would have had as scratch, so that no more is needed than was
/// said beforehand.
const SCRATCH_MOST: usize = SCRATCH_BYTES / 8 * 7;

impl NodeLowering<'_> {
    /// `false`, and nothing done, where other steps are needed.
    pub(super) fn convolve_as_one(&mut self, op: &ConvolutionOp, offers: &dyn Offers) -> bool {
        if op.store == Store::Geglu {
            return self.convolve_gated(op, offers);
        }
        let Parameters::Weights { weights, bias, rows } = self.parameters else { return false };
        let Some(shape) = self.convolution_shape(op, rows.depth) else { return false };
        let alone = ConvolutionShape { then: Epilogue::NONE, ..shape };
        // Windows of one pixel without an epilogue are a product, and there is a library for products alone.
        let ways = [Some(shape).filter(|shape| op.kernel > 1 || *shape != alone), (op.kernel > 1).then_some(alone)];
        let taken = ways.into_iter().flatten().find(|shape| offers.has_convolution(shape));
        let Some(shape) = taken else { return false };
        let source = if self.is_one_source(op) { self.reads[0].place } else { self.place_pixels(op, &shape) };
        let place = |index: Option<usize>| index.map(|index| self.reads[index].place);
        let Epilogue { bias: has_bias, row_bias, residual, .. } = shape.then;
        let convolution = Convolution {
            shape,
            source,
            weights,
            bias: bias.filter(|_| has_bias),
            row_bias: row_bias.and_then(|_| place(op.row_bias_index())),
            factor: None,
            residual: residual.and_then(|_| place(op.residual_index())),
            target: self.target,
        };
        self.push(Step::Convolution(convolution));
        if shape == alone {
            let pixels = self.rows * self.node.writes.pixels();
            self.finish_sums(op, Band { first: 0, pixels }, self.target, bias);
        }
        true
    }

    /// GEGLU as two: the gates, and what is multiplied by them. Sums of both halves are not written.
    fn convolve_gated(&mut self, op: &ConvolutionOp, offers: &dyn Offers) -> bool {
        let Parameters::Weights { weights, bias, rows } = self.parameters else { return false };
        let half = op.stored_channels();
        let Some(shape) = self.convolution_shape(op, rows.depth) else { return false };
        let gate_bytes = self.rows * self.node.writes.elements() * element_bytes(self.format);
        if !self.is_one_source(op) || !self.is_whole_vectors(half) || gate_bytes > SCRATCH_MOST {
            return false;
        }
        let biased = Epilogue { bias: bias.is_some(), ..Epilogue::NONE };
        let gate = ConvolutionShape { then: Epilogue { activation: Activation::Gelu, ..biased }, ..shape };
        let value = ConvolutionShape { then: Epilogue { factor: true, ..biased }, ..shape };
        if ![gate, value].iter().all(|shape| offers.has_convolution(shape)) {
            return false;
        }
        let gates = self.take_scratch(gate_bytes);
        let of_gates = bias.map(|bias| Place { offset: bias.offset + half * size_of::<f32>(), ..bias });
        let source = self.reads[0].place;
        let values = Convolution {
            shape: value,
            source,
            weights,
            bias,
            row_bias: None,
            factor: Some(gates),
            residual: None,
            target: self.target,
        };
        let weights = self.element(weights, half * rows.depth);
        let first = Convolution { shape: gate, weights, bias: of_gates, factor: None, target: gates, ..values };
        self.push(Step::Convolution(first));
        self.push(Step::Convolution(values));
        true
    }

    /// `false`, and nothing done, where other steps are needed.
    pub(super) fn attend_as_one(&mut self, op: &AttentionOp, offers: &dyn Offers) -> bool {
        let AttentionHeads { count, width } = op.heads;
        if op.mask != AttentionMask::None || !self.has_whole_heads(op) {
            return false;
        }
        let [query, key, value] = [0, 1, 2].map(|index| self.reads[index]);
        let shape = AttentionShape {
            format: self.format,
            rows: self.rows,
            heads: count,
            width,
            queries: query.extent.pixels(),
            keys: key.extent.pixels(),
            strides: [query, key, value].map(|operand| operand.extent.channels),
            operand_rows: [query, key, value].map(|operand| operand.rows),
        };
        if !offers.has_attention(&shape) {
            return false;
        }
        let operands = [0, 1, 2].map(|index| self.element(self.reads[index].place, op.offsets[index]));
        self.push(Step::Attention(Attention { shape, operands, target: self.target }));
        true
    }

    /// `None` where no library is asked: channels that are no whole vectors, more than scratch holds, few pixels.
    fn convolution_shape(&self, op: &ConvolutionOp, depth: usize) -> Option<ConvolutionShape> {
        let channels: usize = self.reads[..op.sources].iter().map(|source| source.extent.channels).sum();
        let [height, width] = op.size;
        let activation = match op.store {
            Store::Geglu if op.row_bias || op.residual => return None,
            Store::Geglu => Activation::None,
            Store::Plain(activation) => activation,
        };
        let placed_bytes = self.rows * height * width * channels * element_bytes(self.format);
        let has_room = self.is_one_source(op) || placed_bytes <= SCRATCH_MOST;
        let has_pixels = self.rows * self.node.writes.pixels() >= PIXELS_MIN;
        if depth != op.kernel * op.kernel * channels || !self.is_whole_vectors(channels) || !has_room || !has_pixels {
            return None;
        }
        let rows = |index: Option<usize>| index.map(|index| self.reads[index].rows);
        let then = Epilogue {
            bias: !op.biases.is_empty(),
            row_bias: rows(op.row_bias_index()),
            activation,
            factor: false,
            residual: rows(op.residual_index()),
        };
        // For `finish` are operands whose pixels are no whole vectors, and the activation function that cuDNN lacks.
        let is_aligned = self.is_whole_vectors(op.out_channels) || (!op.row_bias && !op.residual);
        let is_fused = is_aligned && activation != Activation::QuickGelu;
        Some(ConvolutionShape {
            format: self.format,
            rows: self.rows,
            height,
            width,
            channels,
            out_height: self.node.writes.height,
            out_width: self.node.writes.width,
            out_channels: op.stored_channels(),
            kernel: op.kernel,
            stride: op.stride,
            padding: op.padding,
            then: if is_fused { then } else { Epilogue::NONE },
        })
    }

    /// Whether a library can read what the node reads.
    fn is_one_source(&self, op: &ConvolutionOp) -> bool {
        let Operand { extent, rows, .. } = self.reads[0];
        op.sources == 1 && op.size == [extent.height, extent.width] && rows == self.rows
    }

    /// The sources side by side and upsampled, in scratch: windows of one pixel.
    fn place_pixels(&mut self, op: &ConvolutionOp, shape: &ConvolutionShape) -> Place {
        let &ConvolutionShape { rows, height, width, channels, .. } = shape;
        let pixels = rows * height * width;
        let placed = self.take_scratch(pixels * channels * element_bytes(self.format));
        let band = Band { first: 0, pixels };
        self.gather(op, band, placed, PixelsOf { kernel: 1, stride: 1, before: 0, height, width, depth: channels });
        placed
    }
}
