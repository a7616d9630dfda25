//! The middle of encoder and decoder: two ResNet blocks with attention of one head between them.

use super::block::VaeGraph;
use super::config::MidAttention;
use crate::graph::{Activation, AttentionHeads, AttentionMask, Convolution, Slot};

impl VaeGraph {
    /// The block at `path`, such as `decoder.mid_block`.
    ///
    /// # Shapes
    /// - `hidden`: `[height, width, channels]`
    /// - returns: the same
    pub(super) fn mid_block(&mut self, path: &str, hidden: Slot, attention: MidAttention) -> Slot {
        let channels = self.graph.extent(hidden).channels;
        let hidden = self.resnet(&format!("{path}.resnets.0"), hidden, channels);
        let hidden = match attention {
            MidAttention::Absent => hidden,
            MidAttention::Present => self.self_attention(&format!("{path}.attentions.0"), hidden),
        };
        self.resnet(&format!("{path}.resnets.1"), hidden, channels)
    }

    fn self_attention(&mut self, path: &str, hidden: Slot) -> Slot {
        let channels = self.graph.extent(hidden).channels;
        let normed = self.norm(&format!("{path}.group_norm"), hidden, Activation::None);
        let names = ["to_q", "to_k", "to_v"].map(|name| format!("{path}.{name}"));
        let all = self.graph.convolutions(&names, &[normed], Convolution::linear(channels));
        let operands = [(all, 0), (all, channels), (all, 2 * channels)];
        let heads = AttentionHeads { count: 1, width: channels };
        let attended = self.graph.attention(path, operands, heads, AttentionMask::None);
        self.graph.convolution(&format!("{path}.to_out.0"), &[attended], Convolution::linear(channels).plus(hidden))
    }
}
