//! Activations, sums, concatenations and sinusoids.

use super::super::launch::{Argument, Kernel};
use super::super::pack::Parameters;
use super::node::NodeLowering;
use crate::graph::{Activation, SinusoidsOp};
use crate::kernels::Format;

impl NodeLowering<'_> {
    pub(super) fn activate(&mut self, activation: Activation) {
        let (source, channels) = (self.reads[0], self.node.writes.channels);
        let wide = self.is_wide(&[]);
        let arguments: [Argument; 5] =
            [source.place.into(), self.target.into(), channels.into(), activation.into(), wide.into()];
        let pixels = self.rows * self.node.writes.pixels();
        self.launch(Kernel::Activate, [pixels, 1, 1], self.channel_threads(channels, wide), arguments);
    }

    pub(super) fn add(&mut self) {
        let (one, other, channels) = (self.reads[0], self.reads[1], self.node.writes.channels);
        let arguments: [Argument; 6] = [
            one.place.into(),
            one.row_pixels().into(),
            other.place.into(),
            other.row_pixels().into(),
            self.target.into(),
            channels.into(),
        ];
        let grid = [self.node.writes.pixels(), self.rows, 1];
        self.launch(Kernel::Add, grid, self.channel_threads(channels, false), arguments);
    }

    /// A launch for each operand.
    pub(super) fn concatenate(&mut self) {
        let mut first_channel = 0usize;
        // Operands before this one move its first channel; all are whole vectors, or none is taken for one.
        let wide = self.is_wide(&self.reads);
        for operand in self.reads.clone() {
            let channels = operand.extent.channels;
            let arguments: [Argument; 7] = [
                operand.place.into(),
                channels.into(),
                operand.row_pixels().into(),
                self.target.into(),
                self.node.writes.channels.into(),
                first_channel.into(),
                wide.into(),
            ];
            let grid = [self.node.writes.pixels(), self.rows, 1];
            self.launch(Kernel::PlaceChannels, grid, self.channel_threads(channels, wide), arguments);
            first_channel += channels;
        }
    }

    pub(super) fn sinusoids(&mut self, op: &SinusoidsOp) {
        let Parameters::Frequencies(frequencies) = self.parameters else { return };
        let (numbers, count) = (self.reads[0], op.frequencies.len());
        let arguments: [Argument; 6] = [
            numbers.place.into(),
            (numbers.format == Format::F32).into(),
            frequencies.into(),
            count.into(),
            op.flip_sin_to_cos.into(),
            self.target.into(),
        ];
        let grid = [self.rows * numbers.extent.elements(), 1, 1];
        self.launch(Kernel::Sinusoids, grid, self.channel_threads(count, false), arguments);
    }
}
