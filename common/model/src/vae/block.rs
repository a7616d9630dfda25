//! The VAE's ResNet block, and its options for norms.

use crate::graph::{Activation, Convolution, GraphBuilder, Slot};

/// Added to the variance in all of the VAE's group norms; diffusers has it in code, not in the configuration.
const EPSILON: f32 = 1e-6;

/// Half of a VAE in the making.
pub(super) struct VaeGraph {
    pub(super) graph: GraphBuilder,
    pub(super) groups: usize,
}

impl VaeGraph {
    pub(super) fn norm(&mut self, path: &str, source: Slot, activation: Activation) -> Slot {
        self.graph.group_norm(path, &[source], (self.groups, EPSILON), activation)
    }

    /// Norm, SiLU, convolution, twice, beside a residual.
    ///
    /// # Shapes
    /// - `hidden`: `[height, width, in_channels]`
    /// - returns: `[height, width, channels]`
    pub(super) fn resnet(&mut self, path: &str, hidden: Slot, channels: usize) -> Slot {
        let module = |name: &str| format!("{path}.{name}");
        let inner = self.norm(&module("norm1"), hidden, Activation::Silu);
        let inner = self.graph.convolution(&module("conv1"), &[inner], Convolution::same3(channels));
        let inner = self.norm(&module("norm2"), inner, Activation::Silu);
        let residual = match self.graph.extent(hidden).channels == channels {
            true => hidden,
            false => self.graph.convolution(&module("conv_shortcut"), &[hidden], Convolution::pointwise(channels)),
        };
        self.graph.convolution(&module("conv2"), &[inner], Convolution::same3(channels).plus(residual))
    }
}
