//! Building graphs: shapes are computed, parameters named, and mistakes found here, before a weight is loaded.

use super::op::{
    Activation, AttentionHeads, AttentionMask, AttentionOp, ConvolutionOp, GroupNormOp, LayerNormOp, Op, Parameter,
    SinusoidsOp, Store,
};
use super::{Extent, Graph, Node, Slot};

/// A graph in the making.
///
/// Panics are bugs of the code that builds a graph, from a configuration that was checked before.
#[derive(Debug)]
pub struct GraphBuilder {
    inputs: Vec<Extent>,
    nodes: Vec<Node>,
}

/// A convolution in the making: everything but its path and its sources has a default.
#[derive(Clone, Debug)]
#[must_use]
pub struct Convolution {
    /// Channels that the weights make.
    pub out_channels: usize,
    /// The axes that the checkpoint stores the weights with.
    pub stored: StoredAs,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step between output pixels.
    pub stride: usize,
    /// Zeros added before and after, on both axes.
    pub padding: [usize; 2],
    /// What the sources are upsampled to, if they are.
    pub upsampled: Option<[usize; 2]>,
    /// Whether there is a bias.
    pub bias: bool,
    /// Added to every pixel of a row, before the activation.
    pub row_bias: Option<Slot>,
    /// What happens before the residual is added.
    pub store: Store,
    /// Added at the end.
    pub residual: Option<Slot>,
}

/// The axes of a convolution's weights in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredAs {
    /// `[out_channels, in_channels, kernel, kernel]`
    Convolution,
    /// `[out_channels, in_channels]`
    Linear,
}

impl Convolution {
    /// A 3×3 convolution that keeps height and width.
    pub fn same3(out_channels: usize) -> Self {
        Self::square(out_channels, 3)
    }

    /// A convolution with an odd kernel that keeps height and width.
    pub fn square(out_channels: usize, kernel: usize) -> Self {
        let padding = [kernel / 2; 2];
        Self { kernel, padding, ..Self::pointwise(out_channels) }
    }

    /// A 1×1 convolution: one product per pixel.
    pub fn pointwise(out_channels: usize) -> Self {
        Self { stored: StoredAs::Convolution, ..Self::linear(out_channels) }
    }

    /// A linear layer: the same, stored with two axes.
    pub fn linear(out_channels: usize) -> Self {
        Self {
            out_channels,
            stored: StoredAs::Linear,
            kernel: 1,
            stride: 1,
            padding: [0; 2],
            upsampled: None,
            bias: true,
            row_bias: None,
            store: Store::Plain(Activation::None),
            residual: None,
        }
    }

    /// Without a bias.
    pub fn without_bias(self) -> Self {
        Self { bias: false, ..self }
    }

    /// With something added at the end.
    pub fn plus(self, residual: Slot) -> Self {
        Self { residual: Some(residual), ..self }
    }

    /// With something done to the sums.
    pub fn store(self, store: Store) -> Self {
        Self { store, ..self }
    }
}

impl GraphBuilder {
    /// A graph with these inputs and no operation.
    #[must_use]
    pub fn new(inputs: &[Extent]) -> Self {
        Self { inputs: inputs.to_vec(), nodes: Vec::new() }
    }

    /// The slot of an input.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn input(&self, index: usize) -> Slot {
        assert!(index < self.inputs.len(), "the graph has {} inputs", self.inputs.len());
        Slot(index as u16)
    }

    /// The shape of a slot.
    #[must_use]
    pub fn extent(&self, slot: Slot) -> Extent {
        match slot.index().checked_sub(self.inputs.len()) {
            None => self.inputs[slot.index()],
            Some(node) => self.nodes[node].writes,
        }
    }

    /// A convolution with the parameters `path.weight` and `path.bias`.
    ///
    /// # Shapes
    /// - `sources`: of one height and width; they are concatenated along the channels
    pub fn convolution(&mut self, path: &str, sources: &[Slot], convolution: Convolution) -> Slot {
        self.convolutions(&[path.to_owned()], sources, convolution)
    }

    /// Several convolutions of the same source, each with `out_channels` channels, as one product: their results lie side by side.
    ///
    /// # Shapes
    /// - returns: `[height, width, paths * out_channels]`
    pub fn convolutions(&mut self, paths: &[String], sources: &[Slot], convolution: Convolution) -> Slot {
        let Convolution { out_channels, stored, kernel, stride, padding, upsampled, bias, row_bias, store, residual } =
            convolution;
        let Extent { height, width, .. } = self.extent(sources[0]);
        let in_channels = self.channels(sources);
        let weight_shape = match stored {
            StoredAs::Linear => vec![out_channels, in_channels],
            StoredAs::Convolution => vec![out_channels, in_channels, kernel, kernel],
        };
        let parameters = |kind: &str, shape: &[usize]| {
            let parameter = |path: &String| Parameter { name: format!("{path}.{kind}"), shape: shape.to_vec() };
            paths.iter().map(parameter).collect::<Vec<_>>()
        };
        let op = ConvolutionOp {
            sources: sources.len(),
            out_channels: paths.len() * out_channels,
            kernel,
            stride,
            padding,
            size: upsampled.unwrap_or([height, width]),
            weights: parameters("weight", &weight_shape),
            biases: if bias { parameters("bias", &[out_channels]) } else { Vec::new() },
            row_bias: row_bias.is_some(),
            residual: residual.is_some(),
            store,
        };
        let [height, width] = op.size.map(|axis| op.output_axis(axis).unwrap_or(0));
        let writes = Extent { height, width, channels: op.stored_channels() };
        if let Some(residual) = residual {
            assert_eq!(self.extent(residual).elements(), writes.elements(), "residual of {paths:?}");
        }
        let reads = sources.iter().copied().chain(row_bias).chain(residual).collect();
        self.push(&paths[0], Op::Convolution(op), reads, writes)
    }

    /// A group norm over the concatenation of `sources`, with the parameters `path.weight` and `path.bias`.
    pub fn group_norm(&mut self, path: &str, sources: &[Slot], norm: (usize, f32), activation: Activation) -> Slot {
        let (groups, epsilon) = norm;
        let writes = Extent { channels: self.channels(sources), ..self.extent(sources[0]) };
        let [scale, shift] = norm_parameters(path, writes.channels);
        let op = Op::GroupNorm(GroupNormOp { groups, epsilon, activation, scale, shift });
        self.push(path, op, sources.to_vec(), writes)
    }

    /// A layer norm with the parameters `path.weight` and `path.bias`.
    pub fn layer_norm(&mut self, path: &str, source: Slot, epsilon: f32) -> Slot {
        let writes = self.extent(source);
        let [scale, shift] = norm_parameters(path, writes.channels);
        self.push(path, Op::LayerNorm(LayerNormOp { epsilon, scale, shift }), vec![source], writes)
    }

    /// Attention; each operand with the first of its channels that counts.
    ///
    /// # Shapes
    /// - `operands`: queries, keys, values: `[tokens, channels]` of each, at least `heads.channels()` from the offset
    /// - returns: `[queries, heads.channels()]`
    pub fn attention(
        &mut self,
        path: &str,
        operands: [(Slot, usize); 3],
        heads: AttentionHeads,
        mask: AttentionMask,
    ) -> Slot {
        for (slot, offset) in operands {
            assert!(
                offset + heads.channels() <= self.extent(slot).channels,
                "attention {path} reads beyond its operand"
            );
        }
        let writes = Extent { channels: heads.channels(), ..self.extent(operands[0].0) };
        let op = Op::Attention(AttentionOp { heads, mask, offsets: operands.map(|(_, offset)| offset) });
        self.push(path, op, operands.map(|(slot, _)| slot).to_vec(), writes)
    }

    /// An activation function.
    pub fn activate(&mut self, path: &str, source: Slot, activation: Activation) -> Slot {
        let writes = self.extent(source);
        self.push(path, Op::Activate(activation), vec![source], writes)
    }

    /// The sum of two operands of one shape, of which one may have a single row for all.
    ///
    /// # Panics
    /// When their shapes differ.
    pub fn add(&mut self, path: &str, operands: [Slot; 2]) -> Slot {
        let [writes, other] = operands.map(|operand| self.extent(operand));
        assert_eq!(writes, other, "operands of {path}");
        self.push(path, Op::Add, operands.to_vec(), writes)
    }

    /// The operands side by side along the channels.
    pub fn concatenate(&mut self, path: &str, sources: &[Slot]) -> Slot {
        let writes = Extent { channels: self.channels(sources), ..self.extent(sources[0]) };
        self.push(path, Op::Concatenate, sources.to_vec(), writes)
    }

    /// The sinusoids of one or more numbers per row.
    ///
    /// # Shapes
    /// - `numbers`: `[numbers]`
    /// - returns: `[numbers * 2 * frequencies]`
    pub fn sinusoids(&mut self, path: &str, numbers: Slot, op: SinusoidsOp) -> Slot {
        let writes = Extent::vector(self.extent(numbers).elements() * 2 * op.frequencies.len());
        self.push(path, Op::Sinusoids(op), vec![numbers], writes)
    }

    /// The graph, of which `outputs` are wanted.
    #[must_use]
    pub fn finish(self, outputs: &[Slot]) -> Graph {
        assert!(self.inputs.len() + self.nodes.len() <= usize::from(u16::MAX), "slots are counted by u16");
        Graph { inputs: self.inputs, nodes: self.nodes, outputs: outputs.to_vec() }
    }

    fn channels(&self, slots: &[Slot]) -> usize {
        slots.iter().map(|&slot| self.extent(slot).channels).sum()
    }

    fn push(&mut self, name: &str, op: Op, reads: Vec<Slot>, writes: Extent) -> Slot {
        let slot = Slot((self.inputs.len() + self.nodes.len()) as u16);
        self.nodes.push(Node { name: name.to_owned(), op, reads, writes });
        slot
    }
}

fn norm_parameters(path: &str, channels: usize) -> [Parameter; 2] {
    ["weight", "bias"].map(|kind| Parameter { name: format!("{path}.{kind}"), shape: vec![channels] })
}
