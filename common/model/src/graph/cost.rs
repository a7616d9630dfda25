//! What a node costs by its definition, whichever kernel computes it: what times are divided into.

use super::{AttentionMask, AttentionOp, ConvolutionOp, Graph, Node, Op};

/// Of one row of the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiplications and additions of convolutions, linear layers and attention products, as a program counts them: norms and
    /// activations are left out, and a faster algorithm does not count as less.
    pub flops: u64,
    /// Elements of activations that are read and written, each once.
    pub activations: u64,
}

impl Graph {
    /// What a node costs.
    ///
    /// # Panics
    /// When there are fewer nodes.
    #[must_use]
    pub fn cost(&self, node: usize) -> Cost {
        let node = &self.nodes()[node];
        let read: usize = match &node.op {
            // Queries, keys and values may lie side by side in one operand, of which each reads its part.
            Op::Attention(op) => node.reads.iter().map(|&slot| self.extent(slot).pixels() * op.heads.channels()).sum(),
            _ => node.reads.iter().map(|&slot| self.extent(slot).elements()).sum(),
        };
        let flops = match &node.op {
            Op::Attention(op) => 2 * self.attention_products(node, op),
            Op::Convolution(op) => 2 * self.convolution_products(node, op),
            Op::Activate(_) | Op::Add | Op::Concatenate | Op::GroupNorm(_) | Op::LayerNorm(_) | Op::Sinusoids(_) => 0,
        };
        Cost { flops: flops as u64, activations: (read + node.writes.elements()) as u64 }
    }

    /// Of queries and keys, and of weights and values.
    fn attention_products(&self, node: &Node, op: &AttentionOp) -> usize {
        let (queries, keys) = (self.extent(node.reads[0]).pixels(), self.extent(node.reads[1]).pixels());
        let pairs = match op.mask {
            AttentionMask::Causal => (1..=queries).map(|seen| seen.min(keys)).sum(),
            AttentionMask::None => queries * keys,
        };
        2 * pairs * op.heads.channels()
    }

    fn convolution_products(&self, node: &Node, op: &ConvolutionOp) -> usize {
        let in_channels: usize = node.reads[..op.sources].iter().map(|&slot| self.extent(slot).channels).sum();
        node.writes.pixels() * op.kernel * op.kernel * in_channels * op.out_channels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{AttentionHeads, Convolution, Extent, GraphBuilder, Slot, Store};

    fn cost(inputs: &[Extent], build: impl FnOnce(&mut GraphBuilder) -> Slot) -> Cost {
        let mut graph = GraphBuilder::new(inputs);
        let output = build(&mut graph);
        graph.finish(&[output]).cost(0)
    }

    #[test]
    fn a_convolution_counts_what_it_computes_and_not_only_what_it_stores() {
        let map = Extent { height: 4, width: 6, channels: 3 };
        let plain = cost(&[map], |graph| graph.convolution("a", &[graph.input(0)], Convolution::same3(5)));
        assert_eq!(plain, Cost { flops: 2 * 24 * 9 * 3 * 5, activations: 24 * (3 + 5) });
        let gated = Convolution::linear(10).store(Store::Geglu);
        let gated = cost(&[map], |graph| graph.convolution("a", &[graph.input(0)], gated));
        assert_eq!(gated, Cost { flops: 2 * 24 * 3 * 10, activations: 24 * (3 + 5) });
    }

    #[test]
    fn attention_reads_its_part_of_an_operand_and_a_mask_halves_its_products() {
        let heads = AttentionHeads { count: 2, width: 4 };
        let of = |mask| {
            cost(&[Extent::tokens(7, 24)], |graph| {
                let all = graph.input(0);
                graph.attention("a", [(all, 0), (all, 8), (all, 16)], heads, mask)
            })
        };
        assert_eq!(of(AttentionMask::None), Cost { flops: 2 * 2 * 49 * 8, activations: 4 * 7 * 8 });
        assert_eq!(of(AttentionMask::Causal).flops, 2 * 2 * 28 * 8);
    }
}
