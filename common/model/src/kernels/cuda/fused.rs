//! Operations that a library may carry out as one: a convolution with what follows it, and attention. As data, like everything of a graph that
//! was lowered.
//!
//! Lowering asks whether there is somebody for an operation of a shape ([`Offers`]) and has other steps where there is not. So a list of steps
//! never has to be changed while it is carried out, and what a library lacks is found once.

use super::launch::Place;
use crate::graph::Activation;
use crate::kernels::Format;

/// What the choice of a convolution's kernel depends on.
///
/// # Shapes
/// - source: `[rows, height, width, channels]`
/// - weights: `[out_channels, kernel, kernel, channels]`
/// - bias: `[out_channels]` in f32
/// - row bias: `[rows, out_channels]`
/// - factor, residual and target: `[rows, out_height, out_width, out_channels]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConvolutionShape {
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
    pub(super) out_channels: usize,
    /// Height and width of the kernel.
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// Zeros before and after, on both axes.
    pub(super) padding: [usize; 2],
    pub(super) then: Epilogue,
}

/// What is done to the sums before they are stored, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Epilogue {
    pub(super) bias: bool,
    /// With its rows: one counts for all.
    pub(super) row_bias: Option<usize>,
    pub(super) activation: Activation,
    /// Whether there is something of the target's shape to multiply by.
    pub(super) factor: bool,
    /// With its rows: one counts for all.
    pub(super) residual: Option<usize>,
}

/// A convolution. The operands of the epilogue are there where the shape has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Convolution {
    pub(super) shape: ConvolutionShape,
    pub(super) source: Place,
    pub(super) weights: Place,
    pub(super) bias: Option<Place>,
    pub(super) row_bias: Option<Place>,
    pub(super) factor: Option<Place>,
    pub(super) residual: Option<Place>,
    pub(super) target: Place,
}

/// What the choice of an attention's kernel depends on: no mask, and scores are scaled by `1 / sqrt(width)`.
///
/// # Shapes
/// - queries, keys, values: `[rows, tokens, channels]` each, from the first head's first channel on
/// - target: `[rows, queries, heads * width]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AttentionShape {
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) heads: usize,
    /// Channels of a head.
    pub(super) width: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    /// What one token of queries, keys and values is away from the next, in elements.
    pub(super) strides: [usize; 3],
    /// Rows of queries, keys and values: one counts for all.
    pub(super) operand_rows: [usize; 3],
}

/// Attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Attention {
    pub(super) shape: AttentionShape,
    /// Queries, keys, values.
    pub(super) operands: [Place; 3],
    pub(super) target: Place,
}

/// Who knows what there is a library for. The answer for a shape never changes.
pub(super) trait Offers {
    fn has_attention(&self, shape: &AttentionShape) -> bool;

    fn has_convolution(&self, shape: &ConvolutionShape) -> bool;

    /// Whether kernels may multiply tiles of 16-bit elements by units of their own.
    fn has_tiles(&self) -> bool;
}

/// What there is, known beforehand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixed {
    pub(super) attention: bool,
    pub(super) convolutions: Convolutions,
    pub(super) tiles: bool,
}

/// Which convolutions there is a library for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Convolutions {
    /// With whatever follows them.
    #[cfg(test)]
    Any,
    None,
    /// With nothing behind the sums.
    Plain,
}

impl Fixed {
    /// Neither a library nor units for tiles.
    pub(super) const NOTHING: Self = Self { attention: false, convolutions: Convolutions::None, tiles: false };
}

impl Offers for Fixed {
    fn has_attention(&self, _: &AttentionShape) -> bool {
        self.attention
    }

    fn has_convolution(&self, shape: &ConvolutionShape) -> bool {
        match self.convolutions {
            #[cfg(test)]
            Convolutions::Any => true,
            Convolutions::None => false,
            Convolutions::Plain => shape.then == Epilogue::NONE,
        }
    }

    fn has_tiles(&self) -> bool {
        self.tiles
    }
}

impl Epilogue {
    /// The sums as they are.
    pub(super) const NONE: Self =
        Self { bias: false, row_bias: None, activation: Activation::None, factor: false, residual: None };
}
