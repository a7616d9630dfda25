//! How weights lie in memory: panels of output channels, each as deep as the window, in the order in which the kernel reads them.
//!
//! ```text
//! panel 0: [unit of depth][columns]   columns = two vectors; the last panel may be one vector wide
//! panel 1: ...
//! ```
//! Depth is counted in *units* of four bytes: a channel in f32, a pair of channels in bf16. It is cut into segments: some channels of one
//! source under one tap of the kernel, which lie side by side in memory. Segments are ordered so that a block of them reads a slice of the
//! channels under all taps: slice and block of weights then stay in the second-level cache together.

use super::spec::{ConvolutionSpec, CpuFormat};
use crate::graph::Store;
use crate::kernels::cpu::isa::Isa;

/// Vectors of a panel.
pub(crate) const VECTORS: usize = 2;
/// The most pixels that any instruction set computes at a time: two AMX tiles.
pub(crate) const ROWS: usize = 32;
/// Units that a tile of matrices is deep.
const SIDE_UNITS: usize = 16;
/// The most segments of a block: what one call of the kernel can take. Kernels of 3 with two sources fit.
pub(crate) const SEGMENTS: usize = 18;
/// The most units of a segment. Zeros of that length stand for pixels outside of the image.
pub(crate) const SEGMENT_UNITS: usize = 2048;
/// Bytes of one panel's block: with the activations under it, it fits a second-level cache of 1 MiB. Less means more reading and writing of
/// partial sums.
const BLOCK_BYTES: usize = 400 * 1024;
/// The same for AMX: the packed activations of a tile, as many bytes, have to stay there too.
const AMX_BLOCK_BYTES: usize = 128 * 1024;

/// Some channels of a source under one tap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) source: usize,
    pub(crate) tap: [usize; 2],
    /// The first unit within the source.
    pub(crate) start: usize,
    pub(crate) units: usize,
}

/// Segments that are multiplied in one go.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) segments: std::ops::Range<usize>,
    /// Units before this block.
    pub(crate) start: usize,
    pub(crate) units: usize,
}

pub(crate) struct Layout {
    /// f32 of a vector.
    pub(crate) lanes: usize,
    /// The most pixels of a tile.
    pub(crate) rows: usize,
    /// Channels of a unit.
    pub(crate) unit_channels: usize,
    /// Units of a pixel of each source.
    pub(crate) source_units: Vec<usize>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) blocks: Vec<Block>,
    /// Units of the whole window.
    pub(crate) depth: usize,
    /// Columns of all panels: output channels, those of padding included.
    pub(crate) columns: usize,
}

/// f32 of a vector and the most pixels of a tile: their sums, two vectors of weights and one of activations fill the registers.
pub(crate) const fn tile(isa: Isa) -> (usize, usize) {
    match isa {
        Isa::Portable => (1, 4),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => (4, 12),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (8, 6),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => (16, 12),
    }
}

/// Whether products are made by tiles of matrices, 32 pixels at a time.
pub(crate) fn uses_matrices(_isa: Isa, _format: CpuFormat) -> bool {
    #[cfg(target_arch = "x86_64")]
    return _isa == Isa::Amx && _format == CpuFormat::Bf16;
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl Layout {
    pub(crate) fn new(spec: &ConvolutionSpec, isa: Isa, format: CpuFormat) -> Self {
        let (lanes, vector_rows) = tile(isa);
        let matrices = uses_matrices(isa, format);
        let rows = if matrices { ROWS } else { vector_rows };
        let block_bytes = if matrices { AMX_BLOCK_BYTES } else { BLOCK_BYTES };
        let unit_channels = match format {
            CpuFormat::Bf16 => 2,
            CpuFormat::F32 => 1,
        };
        let source_units: Vec<usize> = spec.sources.iter().map(|channels| channels.div_ceil(unit_channels)).collect();
        let most = match spec.store {
            Store::Geglu => SEGMENTS * SEGMENT_UNITS,
            Store::Plain(_) => block_bytes / (VECTORS * lanes * size_of::<f32>()),
        };
        let segments = segments(spec.kernel, &source_units, most);
        let columns = match spec.store {
            Store::Geglu => (spec.out_channels / 2).div_ceil(lanes) * VECTORS * lanes,
            Store::Plain(_) => spec.out_channels.next_multiple_of(lanes),
        };
        let blocks = blocks(&segments, most);
        let depth = segments.iter().map(|segment| segment.units).sum();
        assert!(spec.store != Store::Geglu || blocks.len() == 1, "a GEGLU layer is too deep to be computed in one go");
        Self { lanes, rows, unit_channels, source_units, segments, blocks, depth, columns }
    }

    /// f32 of all panels, and of what tiles of matrices read beyond the last.
    pub(crate) fn packed_floats(&self) -> usize {
        self.depth * self.columns + if self.rows == ROWS { ROWS * SIDE_UNITS } else { 0 }
    }

    /// Columns of a whole panel.
    pub(crate) fn panel_columns(&self) -> usize {
        VECTORS * self.lanes
    }

    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(self.panel_columns())
    }

    /// Columns of this panel: only the last may be narrower.
    #[inline(always)]
    pub(crate) fn columns_of(&self, panel: usize) -> usize {
        self.panel_columns().min(self.columns - panel * self.panel_columns())
    }

    /// Where a block of a panel lies in the packed weights.
    #[inline(always)]
    pub(crate) fn range(&self, panel: usize, block: &Block) -> std::ops::Range<usize> {
        let columns = self.columns_of(panel);
        let start = panel * self.panel_columns() * self.depth + block.start * columns;
        start..start + block.units * columns
    }

    /// The output channel that a column computes, if it is not padding.
    pub(crate) fn channel(&self, spec: &ConvolutionSpec, column: usize) -> Option<usize> {
        match spec.store {
            Store::Plain(_) => (column < spec.out_channels).then_some(column),
            Store::Geglu => {
                let (panel, within) = (column / self.panel_columns(), column % self.panel_columns());
                let (half, lane) = (within / self.lanes, within % self.lanes);
                let channel = panel * self.lanes + lane;
                (channel < spec.out_channels / 2).then_some(half * (spec.out_channels / 2) + channel)
            }
        }
    }
}

/// The segments in the order of the packed weights, for blocks of at most `most` units.
fn segments(kernel: usize, source_units: &[usize], most: usize) -> Vec<Segment> {
    let taps = kernel * kernel;
    let longest = (most / taps).clamp(1, SEGMENT_UNITS);
    let mut segments = Vec::new();
    for (source, &units) in source_units.iter().enumerate() {
        let length = units.div_ceil(units.div_ceil(longest));
        for start in (0..units).step_by(length) {
            for tap in 0..taps {
                let tap = [tap / kernel, tap % kernel];
                segments.push(Segment { source, tap, start, units: length.min(units - start) });
            }
        }
    }
    segments
}

/// Cuts the segments into blocks of at most `most` units (or of one segment) and [`SEGMENTS`] segments.
fn blocks(segments: &[Segment], most: usize) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        match blocks.last_mut() {
            Some(block) if block.units + segment.units <= most && block.segments.len() < SEGMENTS => {
                block.segments.end += 1;
                block.units += segment.units;
            }
            previous => {
                let start = previous.map_or(0, |block| block.start + block.units);
                blocks.push(Block { segments: index..index + 1, start, units: segment.units });
            }
        }
    }
    blocks
}
