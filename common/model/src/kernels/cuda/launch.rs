//! What a graph becomes on a GPU, as data: kernels and products in order, and the memory that they read and write.

use super::fused::{Attention, Convolution};
use crate::kernels::Format;

/// Where everything in memory begins at a multiple of: what CUDA's own allocations do, and more than any load wants.
pub(super) const ALIGNMENT: usize = 256;

/// Memory that a step names. It begins at a multiple of 16 bytes, or, where rows were taken of what the caller gave, at a row of one that does:
/// kernels load vectors where all channels are whole ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Memory {
    /// What the caller gave, by input of the graph. `[rows, pixels, channels]`
    Input(usize),
    /// What the caller gets, by output of the graph.
    Output(usize),
    /// What lies between two steps; registers of one device are shared by all graphs.
    Register(usize),
    /// One node's own: what its steps leave for each other.
    Scratch,
    /// The graph's parameters, packed by `pack`, resident.
    Parameters,
}

/// Where something begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) memory: Memory,
    /// In bytes.
    pub(super) offset: usize,
}

/// An argument of a kernel, in the order of its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Argument {
    /// A pointer.
    Place(Place),
    /// A null pointer: an optional operand that is absent.
    Null,
    Int(i32),
    Float(f32),
}

/// A kernel by its name in the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    Activate,
    Add,
    /// For heads of at most 64 channels; the next ones for wider heads.
    Attention64,
    Attention128,
    Attention256,
    Attention512,
    /// By units for tiles, which 16-bit elements alone have; for heads of at most 64 channels, and the next ones for wider heads.
    AttentionTiles64,
    AttentionTiles128,
    AttentionTiles160,
    /// What follows a product: bias, activation, residual.
    Finish,
    /// `(const float* source, Element* target, int count)`, a thread for each: the executor's own, for what comes from the host.
    FromFloats,
    /// A convolution's windows, side by side for a product.
    Gather,
    GroupNormApply,
    GroupNormFold,
    GroupNormSums,
    LayerNorm,
    /// One operand of a concatenation to its channels of the target.
    PlaceChannels,
    Sinusoids,
    /// `(const Element* source, float* target, int count)`, a thread for each: the executor's own, for what goes to the host.
    ToFloats,
}

/// A kernel's launch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Launch {
    pub(super) kernel: Kernel,
    pub(super) grid: [u32; 3],
    /// Threads of a block.
    pub(super) block: u32,
    /// Dynamic shared memory, in bytes.
    pub(super) shared_bytes: u32,
    pub(super) arguments: Vec<Argument>,
}

/// `target[m, n] = left[m, k] * right[n, k]^T`, row-major, in the element type of the format, sums in f32.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) left: Place,
    pub(super) right: Place,
    pub(super) target: Place,
}

/// What is done at a time.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Attention(Attention),
    Convolution(Convolution),
    Launch(Launch),
    Product(Product),
}

/// A graph for so many rows of each operand.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lowered {
    /// With the node that each belongs to.
    pub(super) steps: Vec<(usize, Step)>,
    /// Rows of the batch that each node writes.
    pub(super) rows: Vec<usize>,
    /// By input of the graph, the element type that the steps read: f32 for numbers that sinusoids are made of, since bf16 would make 980
    /// of a timestep of 981; else that of the format. The executor converts what it was given in another one.
    pub(super) inputs: Vec<Format>,
    /// Bytes, by register.
    pub(super) registers: Vec<usize>,
    pub(super) scratch_bytes: usize,
    /// Bytes, by output of the graph.
    pub(super) outputs: Vec<usize>,
}

/// What an allocation of so many bytes takes. None is empty: the driver refuses to allocate nothing.
#[cfg(feature = "cuda")]
pub(super) fn allocated_bytes(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(ALIGNMENT)
}

#[cfg(feature = "cuda")]
impl Lowered {
    /// Where each register begins in the memory that a run works in, and where scratch does.
    pub(super) fn offsets(&self) -> (Vec<usize>, usize) {
        let mut end = 0;
        let begin = |&bytes: &usize| {
            let begin = end;
            end += bytes.next_multiple_of(ALIGNMENT);
            begin
        };
        let registers = self.registers.iter().map(begin).collect();
        (registers, end)
    }

    /// Bytes that a run works in: registers, and scratch behind them.
    pub(super) fn working_bytes(&self) -> usize {
        self.offsets().1 + self.scratch_bytes
    }
}

impl Kernel {
    /// Every kernel that the sources have for a format.
    pub(super) fn all(format: Format) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(move |kernel| format != Format::F32 || !kernel.takes_tiles())
    }

    const ALL: &[Self] = &[
        Self::Activate,
        Self::Add,
        Self::Attention64,
        Self::Attention128,
        Self::Attention256,
        Self::Attention512,
        Self::AttentionTiles64,
        Self::AttentionTiles128,
        Self::AttentionTiles160,
        Self::Finish,
        Self::FromFloats,
        Self::Gather,
        Self::GroupNormApply,
        Self::GroupNormFold,
        Self::GroupNormSums,
        Self::LayerNorm,
        Self::PlaceChannels,
        Self::Sinusoids,
        Self::ToFloats,
    ];

    fn takes_tiles(self) -> bool {
        matches!(self, Self::AttentionTiles64 | Self::AttentionTiles128 | Self::AttentionTiles160)
    }

    /// The function's name in the sources.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Activate => "activate",
            Self::Add => "add",
            Self::Attention64 => "attention_64",
            Self::Attention128 => "attention_128",
            Self::Attention256 => "attention_256",
            Self::Attention512 => "attention_512",
            Self::AttentionTiles64 => "attention_tiles_64",
            Self::AttentionTiles128 => "attention_tiles_128",
            Self::AttentionTiles160 => "attention_tiles_160",
            Self::Finish => "finish",
            Self::FromFloats => "from_floats",
            Self::Gather => "gather",
            Self::GroupNormApply => "group_norm_apply",
            Self::GroupNormFold => "group_norm_fold",
            Self::GroupNormSums => "group_norm_sums",
            Self::LayerNorm => "layer_norm",
            Self::PlaceChannels => "place_channels",
            Self::Sinusoids => "sinusoids",
            Self::ToFloats => "to_floats",
        }
    }
}
