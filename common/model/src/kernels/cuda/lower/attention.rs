//! Attention by kernels of our own: a launch, and how much shared memory its blocks take.

use super::super::fused::Offers;
use super::super::launch::{Argument, Kernel};
use super::super::pack::element_bytes;
use super::node::{NodeLowering, WARP};
use crate::graph::{AttentionHeads, AttentionMask, AttentionOp};
use crate::kernels::Format;

/// `WARPS` of the sources.
const WARPS: usize = 4;

/// `QUERIES` of the sources.
const QUERIES: usize = 16;

/// `KEYS` of the sources.
const KEYS: usize = 32;

/// `CHUNK` of the sources.
const CHUNK: usize = 64;

/// `TILE_STRIDE` of the sources.
const TILE_STRIDE: usize = CHUNK + 4;

/// `TILE_WARPS` of the sources.
const TILE_WARPS: usize = 4;

/// `TILE_QUERIES` of the sources.
const TILE_QUERIES: usize = 64;

/// `LINE_PADDING` of the sources.
const LINE_PADDING: usize = 8;

/// Keys and values, those that are multiplied and those that are copied meanwhile.
const STAGED_TILES: usize = 2 * 2;

/// Channels of the widest head. The VAE's only head has 512.
const HEAD_WIDTH_MAX: usize = 512;

impl NodeLowering<'_> {
    /// Whether all that tiles are made of begins at whole vectors.
    pub(super) fn has_whole_heads(&self, op: &AttentionOp) -> bool {
        let begins = op.offsets.into_iter().chain([op.heads.width]);
        begins.into_iter().all(|channels| self.is_whole_vectors(channels)) && self.are_whole_vectors(&self.reads)
    }

    pub(super) fn attention(&mut self, op: &AttentionOp, offers: &dyn Offers) {
        let AttentionHeads { count, width } = op.heads;
        let [queries, keys] = [0, 1].map(|index| self.reads[index].extent.pixels());
        let mut arguments: Vec<Argument> = Vec::with_capacity(15);
        for (operand, &offset) in self.reads.iter().zip(&op.offsets) {
            let first = self.element(operand.place, offset);
            arguments.extend(operand.strided(first));
        }
        let more: [Argument; 6] = [
            self.target.into(),
            queries.into(),
            keys.into(),
            width.into(),
            (op.mask == AttentionMask::Causal).into(),
            (1.0 / (width as f32).sqrt()).into(),
        ];
        arguments.extend(more);
        let of_tiles =
            (self.format != Format::F32 && offers.has_tiles() && self.has_whole_heads(op)).then(|| tiles(width));
        let (kernel, block_queries, warps, shared) = match of_tiles.flatten() {
            Some((kernel, elements)) => {
                (kernel, TILE_QUERIES, TILE_WARPS, elements * element_bytes(self.format) / size_of::<f32>())
            }
            None => (kernel(width), QUERIES, WARPS, shared_floats(width)),
        };
        let grid = [queries.div_ceil(block_queries), count, self.rows];
        self.launch_with_shared(kernel, grid, (warps * WARP, shared), arguments);
    }
}

/// The kernel that takes heads of this width by tiles, and the elements that it has in shared memory; `None` for those that are too wide.
fn tiles(head_width: usize) -> Option<(Kernel, usize)> {
    let (kernel, width, keys) = match head_width {
        ..=64 => (Kernel::AttentionTiles64, 64, 64),
        65..=128 => (Kernel::AttentionTiles128, 128, 32),
        129..=160 => (Kernel::AttentionTiles160, 160, 32),
        _ => return None,
    };
    Some((kernel, STAGED_TILES * keys * (width + LINE_PADDING)))
}

fn kernel(head_width: usize) -> Kernel {
    match head_width {
        ..=64 => Kernel::Attention64,
        65..=128 => Kernel::Attention128,
        129..=256 => Kernel::Attention256,
        257..=HEAD_WIDTH_MAX => Kernel::Attention512,
        _ => panic!("a head of {head_width} channels, and kernels go to {HEAD_WIDTH_MAX}"),
    }
}

/// A tile of keys or values, the queries, and a weight for each query and key of a tile.
fn shared_floats(head_width: usize) -> usize {
    KEYS * TILE_STRIDE + QUERIES * head_width.next_multiple_of(CHUNK) + QUERIES * KEYS
}
