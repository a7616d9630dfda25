//! What a layer computes, kernel by kernel, as data: the one description that every backend carries out.
//!
//! ```text
//!   families, vae, text_encoder ──build──► Graph ──Kernels::prepare (weights)──► Prepared ──run──► Value
//! ```
//!
//! A graph is in single assignment form like a denoiser's program, one level below it: a program's layer is a graph of a dozen
//! operations. Operations come as they are fused: a convolution has its bias, its activation and its residual. Whoever builds a
//! graph says so once; a backend without such a kernel takes it apart. Activations are channels last throughout.

mod builder;
mod cost;
mod op;

use asyncdiff_plan::WeightSpec;

pub use builder::{Convolution, GraphBuilder, StoredAs};
pub use cost::Cost;
pub use op::{
    Activation, AttentionHeads, AttentionMask, AttentionOp, ConvolutionOp, GroupNormOp, LayerNormOp, Op, Parameter,
    SinusoidsOp, Store,
};

/// The shape of one row of the batch: an image of `height * width` pixels with `channels` channels each. Tokens are an image of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Lines of pixels.
    pub height: usize,
    /// Pixels of a line.
    pub width: usize,
    /// Channels of a pixel; they are neighbours in memory.
    pub channels: usize,
}

/// A value inside a graph: an input, or what a node writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

/// An operation, what it reads and what it writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its module's path, such as `down_blocks.0.resnets.0.conv1`.
    pub name: String,
    /// What is computed.
    pub op: Op,
    /// Its operands, in the operation's order.
    pub reads: Vec<Slot>,
    /// The shape of what it writes.
    pub writes: Extent,
}

/// Operations in an order in which each reads only what was written before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    inputs: Vec<Extent>,
    nodes: Vec<Node>,
    outputs: Vec<Slot>,
}

impl Extent {
    /// One line of `tokens` pixels.
    #[must_use]
    pub fn tokens(tokens: usize, channels: usize) -> Self {
        Self { height: 1, width: tokens, channels }
    }

    /// A single pixel: a vector for the whole row.
    #[must_use]
    pub fn vector(channels: usize) -> Self {
        Self::tokens(1, channels)
    }

    /// From the axes behind the batch axis: `[channels, height, width]`, `[tokens, width]`, `[width]` or none.
    #[must_use]
    pub fn from_axes(axes: &[usize]) -> Option<Self> {
        match *axes {
            [] => Some(Self::vector(1)),
            [channels] => Some(Self::vector(channels)),
            [tokens, channels] => Some(Self::tokens(tokens, channels)),
            [channels, height, width] => Some(Self { height, width, channels }),
            _ => None,
        }
    }

    /// Pixels of a row.
    #[must_use]
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Elements of a row.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.pixels() * self.channels
    }
}

impl Slot {
    /// The slot's place: inputs first, then nodes in order.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Graph {
    /// The shapes of the inputs.
    #[must_use]
    pub fn inputs(&self) -> &[Extent] {
        &self.inputs
    }

    /// The operations in order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What is wanted of it.
    #[must_use]
    pub fn outputs(&self) -> &[Slot] {
        &self.outputs
    }

    /// The shape of a slot.
    #[must_use]
    pub fn extent(&self, slot: Slot) -> Extent {
        match slot.index().checked_sub(self.inputs.len()) {
            None => self.inputs[slot.index()],
            Some(node) => self.nodes[node].writes,
        }
    }

    /// The parameters that it needs, in the order of its operations.
    #[must_use]
    pub fn parameters(&self) -> Vec<WeightSpec> {
        let of_node = |node: &Node| match &node.op {
            Op::Activate(_) | Op::Add | Op::Attention(_) | Op::Concatenate | Op::Sinusoids(_) => Vec::new(),
            Op::Convolution(op) => op.weights.iter().chain(&op.biases).map(Parameter::spec).collect(),
            Op::GroupNorm(GroupNormOp { scale, shift, .. }) | Op::LayerNorm(LayerNormOp { scale, shift, .. }) => {
                vec![scale.spec(), shift.spec()]
            }
        };
        self.nodes.iter().flat_map(of_node).collect()
    }

    /// The slot that a node writes.
    #[must_use]
    pub fn slot_of(&self, node: usize) -> Slot {
        // The builder counts slots by u16.
        Slot((self.inputs.len() + node) as u16)
    }
}
