//! What a convolution computes: sizes, store and number format, as pure data.

use crate::graph::Store;
use crate::kernels::Format;

/// What a convolution computes, at which size. A linear layer is kernel 1 over size `[1, tokens]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConvolutionSpec {
    /// Channels of each input; they are concatenated along channels without being copied.
    pub sources: Vec<usize>,
    /// Channels that are computed; with [`Store::Geglu`] half as many are written.
    pub out_channels: usize,
    /// Width and height of the kernel.
    pub kernel: usize,
    /// Distance of two neighbouring outputs' windows.
    pub stride: usize,
    /// Zeros before and after on both axes.
    pub padding: [usize; 2],
    /// Height and width of the sources.
    pub source_size: [usize; 2],
    /// Height and width that the sources are upsampled to: index `floor(index * source / size)`. Equal to `source_size` if they are not.
    pub size: [usize; 2],
    /// What happens to the sums.
    pub store: Store,
}

/// The formats that a CPU has products of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CpuFormat {
    /// The upper half of an f32, rounded to the nearest even.
    Bf16,
    /// As it is.
    F32,
}

impl CpuFormat {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => Format::Bf16.name(),
            Self::F32 => Format::F32.name(),
        }
    }
}

impl From<Format> for CpuFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Bf16 => Self::Bf16,
            Format::F16 | Format::F32 => Self::F32,
        }
    }
}

impl ConvolutionSpec {
    /// A linear layer over `tokens` tokens.
    pub(crate) fn linear(in_channels: usize, out_channels: usize, tokens: usize, store: Store) -> Self {
        Self {
            sources: vec![in_channels],
            out_channels,
            kernel: 1,
            stride: 1,
            padding: [0, 0],
            source_size: [1, tokens],
            size: [1, tokens],
            store,
        }
    }

    /// Channels of all inputs together.
    pub(crate) fn in_channels(&self) -> usize {
        self.sources.iter().sum()
    }

    /// Height and width of the output.
    pub(crate) fn output_size(&self) -> [usize; 2] {
        let [before, after] = self.padding;
        self.size.map(|size| (size + before + after + 1).saturating_sub(self.kernel).div_ceil(self.stride))
    }

    /// Channels of the output.
    pub(crate) fn written_channels(&self) -> usize {
        match self.store {
            Store::Geglu => self.out_channels / 2,
            Store::Plain(_) => self.out_channels,
        }
    }

    /// Panics where the specification is none: such a layer is our own bug.
    pub(crate) fn check(&self) {
        assert!(!self.sources.is_empty() && self.sources.iter().all(|&channels| channels > 0), "a source is empty");
        assert!(self.kernel > 0 && self.stride > 0 && self.out_channels > 0, "kernel, stride or channels are zero");
        assert!(self.source_size.iter().chain(&self.size).all(|&side| side > 0), "a size is zero");
        if self.store == Store::Geglu {
            assert!(self.kernel == 1 && self.out_channels.is_multiple_of(2), "GEGLU is the store of linear layers");
        }
    }
}
