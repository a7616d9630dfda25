//! Attention: a launch, and how much shared memory its blocks take.

use super::super::launch::{Argument, Kernel};
use super::node::{NodeLowering, WARP};
use crate::graph::{AttentionHeads, AttentionMask, AttentionOp};

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

/// Channels of the widest head. The VAE's only head has 512.
const HEAD_WIDTH_MAX: usize = 512;

impl NodeLowering<'_> {
    pub(super) fn attention(&mut self, op: &AttentionOp) {
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
        let grid = [queries.div_ceil(QUERIES), count, self.rows];
        self.launch_with_shared(kernel(width), grid, (WARPS * WARP, shared_floats(width)), arguments);
    }
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
