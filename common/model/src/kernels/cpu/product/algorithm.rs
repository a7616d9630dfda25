//! Which algorithm a convolution runs, chosen from its specification alone.
//!
//! The model counts cycles of one thread, for two rows (classifier-free guidance at batch 1): multiply-adds at the measured share of the peak,
//! two vectors per cycle; transformed inputs and sums through the second-level cache; weights once from memory, and again from the third-level
//! cache for each block of tiles. Its constants were fitted to bench figures of an EPYC of the Zen 5 generation; what they decide depends on
//! their ratios only, which differ less between CPUs than the figures do.

use super::spec::{ConvolutionSpec, CpuFormat};
use super::winograd::{self, Tiling};
use crate::kernels::cpu::isa::Isa;
use crate::kernels::cpu::product::layout::Layout;

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Algorithm {
    /// Every product of the definition.
    Direct,
    /// Winograd's F(2×2, 3×3).
    Winograd2,
    /// Winograd's F(4×4, 3×3).
    Winograd4,
}

/// Rows that the choice is made for.
const ROWS: usize = 2;
/// Share of the peak that the kernel reaches.
const EFFICIENCY: f64 = 0.88;
/// Bytes per cycle of transformed inputs and of sums, each written and read once.
const TRANSFORM_BYTES_PER_CYCLE: f64 = 6.0;
/// Bytes per cycle of weights from memory: a step reads all weights of a component, which are more than caches hold.
const MEMORY_BYTES_PER_CYCLE: f64 = 5.7;
/// Bytes per cycle of weights from the third-level cache.
const CACHE_BYTES_PER_CYCLE: f64 = 20.0;
/// How much faster an algorithm with more weights has to be: they take memory, and other workers' bandwidth.
const LEAST_GAIN: f64 = 1.2;

impl Algorithm {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Winograd2 => "winograd2",
            Self::Winograd4 => "winograd4",
        }
    }

    /// Outputs of a tile per axis.
    pub(crate) fn side(self) -> Option<usize> {
        match self {
            Self::Direct => None,
            Self::Winograd2 => Some(2),
            Self::Winograd4 => Some(4),
        }
    }
}

/// The choice that [`super::Convolution::prepare`] takes, and the format that is multiplied.
///
/// Where bf16 is asked for and its products are no more than twice as fast as those of f32, Winograd's algorithm in f32 may be faster still; it
/// is also more exact, and is taken.
pub(crate) fn algorithm(spec: &ConvolutionSpec, isa: Isa, format: CpuFormat) -> (Algorithm, CpuFormat) {
    let direct = (Algorithm::Direct, format);
    if !winograd::applies(spec, CpuFormat::F32) || (format == CpuFormat::Bf16 && isa.has_tiles()) {
        return direct;
    }
    let mut best = (direct, direct_cycles(spec, &Layout::new(spec, isa, format)));
    for algorithm in [Algorithm::Winograd2, Algorithm::Winograd4] {
        let cycles = winograd_cycles(spec, isa, algorithm.side().unwrap_or(1));
        if cycles * LEAST_GAIN < best.1 {
            best = ((algorithm, CpuFormat::F32), cycles);
        }
    }
    best.0
}

fn product_cycles(products: usize, lanes: usize) -> f64 {
    products as f64 / (2 * lanes) as f64 / EFFICIENCY
}

fn direct_cycles(spec: &ConvolutionSpec, layout: &Layout) -> f64 {
    let [height, width] = spec.output_size();
    let weights = layout.depth * layout.columns;
    let memory = (weights * size_of::<f32>()) as f64 / MEMORY_BYTES_PER_CYCLE;
    product_cycles(ROWS * height * width * weights, layout.lanes) + memory
}

fn winograd_cycles(spec: &ConvolutionSpec, isa: Isa, side: usize) -> f64 {
    let layout = winograd::weights_layout(spec, isa);
    let tiling = Tiling::new(side, spec.output_size(), &layout);
    let tiles = tiling.tiles(ROWS);
    let weights = tiling.elements() * layout.depth * layout.columns;
    let weight_bytes = (weights * size_of::<f32>()) as f64;
    let moved = (tiles * tiling.elements() * (layout.depth + layout.columns) * size_of::<f32>()) as f64;
    let again = (tiles.div_ceil(tiling.block) - 1) as f64;
    product_cycles(tiles * weights, layout.lanes)
        + moved / TRANSFORM_BYTES_PER_CYCLE
        + weight_bytes / MEMORY_BYTES_PER_CYCLE
        + again * weight_bytes / CACHE_BYTES_PER_CYCLE
}
