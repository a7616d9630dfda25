//! Group and layer norms.

use super::super::launch::{Argument, Kernel};
use super::super::pack::Parameters;
use super::node::{NodeLowering, WARP};
use crate::graph::{GroupNormOp, LayerNormOp};

/// The fewest pixels whose sums one block makes: fewer are not worth a block, more leave a GPU idle where pictures are small.
const CHUNK_PIXELS: usize = 64;

/// The most blocks for sums of one row of the batch. More make joining them slower; fewer make longer sums.
const CHUNKS_MAX: usize = 512;

/// The most threads of a block whose threads take a channel each.
const SUM_THREADS: usize = 512;

/// Threads of the block that joins a group's sums.
const FOLD_THREADS: usize = 128;

/// Threads of a block of layer norms: a warp takes a pixel.
const LAYER_NORM_THREADS: usize = 256;

/// Mean and squares, or mean and inverse of the deviation.
const STATISTICS: usize = 2;

impl NodeLowering<'_> {
    pub(super) fn group_norm(&mut self, op: &GroupNormOp) {
        let Parameters::Norm { scale, shift } = self.parameters else { return };
        let (rows, pixels, channels) = (self.rows, self.node.writes.pixels(), self.node.writes.channels);
        let chunk_pixels = pixels.div_ceil((pixels / CHUNK_PIXELS).clamp(1, CHUNKS_MAX));
        let chunks = pixels.div_ceil(chunk_pixels);
        let partial = self.take_scratch(rows * chunks * channels * STATISTICS * size_of::<f32>());
        let statistics = self.take_scratch(rows * op.groups * STATISTICS * size_of::<f32>());
        let sources = self.concatenation(&self.reads);

        let more: [Argument; 4] = [partial.into(), channels.into(), pixels.into(), chunk_pixels.into()];
        // As few rounds of the threads over the channels as can be, and as few idle threads in the last of them.
        let threads = channels.div_ceil(channels.div_ceil(SUM_THREADS)).next_multiple_of(WARP);
        let arguments = sources.iter().copied().chain(more);
        self.launch(Kernel::GroupNormSums, [chunks, rows, 1], threads, arguments);

        let arguments: [Argument; 6] =
            [partial.into(), statistics.into(), channels.into(), pixels.into(), chunk_pixels.into(), op.epsilon.into()];
        let block = (FOLD_THREADS, FOLD_THREADS / WARP);
        self.launch_with_shared(Kernel::GroupNormFold, [op.groups, rows, 1], block, arguments);

        let wide = self.is_wide(&self.reads);
        let more: [Argument; 8] = [
            statistics.into(),
            scale.into(),
            shift.into(),
            self.target.into(),
            channels.into(),
            op.groups.into(),
            op.activation.into(),
            wide.into(),
        ];
        let threads = self.channel_threads(channels, wide);
        self.launch(Kernel::GroupNormApply, [pixels, rows, 1], threads, sources.into_iter().chain(more));
    }

    pub(super) fn layer_norm(&mut self, op: &LayerNormOp) {
        let Parameters::Norm { scale, shift } = self.parameters else { return };
        let pixels = self.rows * self.node.writes.pixels();
        let arguments: [Argument; 8] = [
            self.reads[0].place.into(),
            scale.into(),
            shift.into(),
            self.target.into(),
            self.node.writes.channels.into(),
            pixels.into(),
            op.epsilon.into(),
            self.is_wide(&[]).into(),
        ];
        let blocks = pixels.div_ceil(LAYER_NORM_THREADS / WARP);
        self.launch(Kernel::LayerNorm, [blocks, 1, 1], LAYER_NORM_THREADS, arguments);
    }
}
