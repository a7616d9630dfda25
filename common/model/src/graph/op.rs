//! The operations of a graph: what a backend must have a kernel for.

use asyncdiff_plan::WeightSpec;

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// An activation function, element by element.
    Activate(Activation),
    /// The sum of two operands of one shape; one row counts for all.
    Add,
    /// Scaled dot product attention. Reads queries, keys, values.
    Attention(AttentionOp),
    /// The operands side by side along the channels.
    Concatenate,
    /// A convolution or, with a kernel of 1, a linear layer. Reads its sources, then the row bias and the residual where it has them.
    Convolution(ConvolutionOp),
    /// A group norm over the concatenation of what it reads.
    GroupNorm(GroupNormOp),
    /// A layer norm over the channels of each pixel.
    LayerNorm(LayerNormOp),
    /// The sinusoids of numbers (arXiv 1706.03762, section 3.5), one number's after the other's. Reads one or more per row.
    Sinusoids(SinusoidsOp),
}

/// An activation function, by the name that configurations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * Φ(x)` with the exact error function, not the tanh approximation.
    Gelu,
    /// The identity.
    None,
    /// `x * sigmoid(1.702 x)`: CLIP's.
    QuickGelu,
    /// `x * sigmoid(x)`.
    Silu,
}

/// A parameter by its name in the checkpoint and its shape there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parameter {
    /// Such as `down_blocks.0.resnets.0.conv1.weight`.
    pub name: String,
    /// The axes as stored.
    pub shape: Vec<usize>,
}

/// Options of [`Op::Convolution`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvolutionOp {
    /// How many of the operands are sources; they are concatenated along the channels.
    pub sources: usize,
    /// Channels that the weights make.
    pub out_channels: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step between output pixels.
    pub stride: usize,
    /// Zeros added before and after, on both axes.
    pub padding: [usize; 2],
    /// Height and width that the sources are upsampled to, by nearest neighbour, before they are convolved; their own if not.
    pub size: [usize; 2],
    /// `[out_channels_i, in_channels, kernel, kernel]` (or without the axes of length 1), one below the other: several are one product.
    pub weights: Vec<Parameter>,
    /// One for each of `weights`, or none.
    pub biases: Vec<Parameter>,
    /// Whether an operand `[channels]` per row of the batch is added to every pixel, before the activation.
    pub row_bias: bool,
    /// Whether an operand of the output's shape is added at the end.
    pub residual: bool,
    /// What happens between bias and residual.
    pub store: Store,
}

/// What happens to the sums of a convolution before they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    /// The first half of the channels times the GELU of the second half (GEGLU, arXiv 2002.05202).
    Geglu,
    /// An activation function.
    Plain(Activation),
}

/// Options of [`Op::GroupNorm`].
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNormOp {
    /// Number of groups.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Applied to the result.
    pub activation: Activation,
    /// `[channels]`
    pub scale: Parameter,
    /// `[channels]`
    pub shift: Parameter,
}

/// Options of [`Op::LayerNorm`].
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNormOp {
    /// Added to the variance.
    pub epsilon: f32,
    /// `[channels]`
    pub scale: Parameter,
    /// `[channels]`
    pub shift: Parameter,
}

/// Options of [`Op::Attention`]; the scale is `1 / sqrt(head_width)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionOp {
    /// How the channels divide into heads.
    pub heads: AttentionHeads,
    /// Which keys a query may see.
    pub mask: AttentionMask,
    /// The first channel of queries, keys and values in their operands: one operand may hold all three side by side.
    pub offsets: [usize; 3],
}

/// Heads side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionHeads {
    /// How many.
    pub count: usize,
    /// Channels of one.
    pub width: usize,
}

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionMask {
    /// Those at its own place and before it.
    Causal,
    /// All.
    None,
}

/// Options of [`Op::Sinusoids`].
#[derive(Clone, Debug, PartialEq)]
pub struct SinusoidsOp {
    /// Angle per unit of the number, one per sine and cosine.
    pub frequencies: Vec<f32>,
    /// Cosines before sines.
    pub flip_sin_to_cos: bool,
}

impl Op {
    /// The operation's name in tables of costs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Activate(_) => "activation",
            Self::Add => "addition",
            Self::Attention(_) => "attention",
            Self::Concatenate => "concatenation",
            Self::Convolution(op) if op.kernel == 1 => "linear",
            Self::Convolution(_) => "convolution",
            Self::GroupNorm(_) => "group norm",
            Self::LayerNorm(_) => "layer norm",
            Self::Sinusoids(_) => "sinusoids",
        }
    }
}

impl Parameter {
    /// As a denoiser's program and the weights' collection have it.
    #[must_use]
    pub fn spec(&self) -> WeightSpec {
        // A configuration's sizes are bounded far below u32.
        WeightSpec { name: self.name.clone(), shape: self.shape.iter().map(|&axis| axis as u32).collect() }
    }
}

impl AttentionHeads {
    /// Channels of all heads.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.count * self.width
    }
}

impl ConvolutionOp {
    /// Length of an output axis for an axis of this length, or `None` if the kernel does not fit.
    #[must_use]
    pub fn output_axis(&self, axis: usize) -> Option<usize> {
        let padded = axis + self.padding[0] + self.padding[1];
        padded.checked_sub(self.kernel).map(|room| room / self.stride + 1)
    }

    /// Channels that are stored.
    #[must_use]
    pub fn stored_channels(&self) -> usize {
        match self.store {
            Store::Geglu => self.out_channels / 2,
            Store::Plain(_) => self.out_channels,
        }
    }

    /// The operand that is added to every pixel, of a node's operands.
    #[must_use]
    pub fn row_bias_index(&self) -> Option<usize> {
        self.row_bias.then_some(self.sources)
    }

    /// The operand that is added at the end, of a node's operands.
    #[must_use]
    pub fn residual_index(&self) -> Option<usize> {
        self.residual.then_some(self.sources + usize::from(self.row_bias))
    }
}
