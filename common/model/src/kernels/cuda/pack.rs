//! A graph's parameters as kernels read them, one behind the other in one buffer.
//!
//! Weights of products are in the element type of the format, a row of them for each channel that is made; everything else is f32.

use half::{bf16, f16};

use super::launch::{ALIGNMENT, Memory, Place};
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::graph::{ConvolutionOp, Graph, GroupNormOp, LayerNormOp, Node, Op, Parameter};
use crate::kernels::Format;

/// Rows of a product over gathered windows have a multiple of so many elements, so that each begins at a multiple of 16 bytes.
const DEPTH_MULTIPLE: usize = 8;

/// Where each node's parameters lie; from the graph and the format alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    format: Format,
    /// By node.
    nodes: Vec<Parameters>,
    bytes: usize,
}

/// Where a node's parameters begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parameters {
    None,
    /// Of a convolution.
    Weights {
        weights: Place,
        bias: Option<Place>,
        rows: WeightRows,
    },
    /// Of a norm: `[channels]` each.
    Norm {
        scale: Place,
        shift: Place,
    },
    /// Of sinusoids.
    Frequencies(Place),
}

/// The rows of a convolution's weights: `[out_channels, depth]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WeightRows {
    /// What the product's left side is.
    pub(super) reads: Reads,
    /// Elements of a row: `[kernel, kernel, channels]`, and zeros.
    pub(super) depth: usize,
}

/// What the left side of a convolution's product is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// The only source, as it lies in memory: a pixel is a window.
    Source,
    /// Windows that were gathered.
    Windows,
}

impl Layout {
    pub(super) fn new(graph: &Graph, format: Format) -> Self {
        let mut layout = Self { format, nodes: Vec::with_capacity(graph.nodes().len()), bytes: 0 };
        for node in graph.nodes() {
            let parameters = layout.append(graph, node);
            layout.nodes.push(parameters);
        }
        layout
    }

    /// Bytes of all parameters.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn of_node(&self, node: usize) -> Parameters {
        self.nodes[node]
    }

    fn append(&mut self, graph: &Graph, node: &Node) -> Parameters {
        match &node.op {
            Op::Activate(_) | Op::Add | Op::Attention(_) | Op::Concatenate => Parameters::None,
            Op::Convolution(op) => {
                let rows = weight_rows(graph, node, op);
                let weights = self.take(op.out_channels * rows.depth * element_bytes(self.format));
                let bias = (!op.biases.is_empty()).then(|| self.take_floats(op.out_channels));
                Parameters::Weights { weights, bias, rows }
            }
            Op::GroupNorm(_) | Op::LayerNorm(_) => {
                let channels = node.writes.channels;
                Parameters::Norm { scale: self.take_floats(channels), shift: self.take_floats(channels) }
            }
            Op::Sinusoids(op) => Parameters::Frequencies(self.take_floats(op.frequencies.len())),
        }
    }

    fn take_floats(&mut self, count: usize) -> Place {
        self.take(count * size_of::<f32>())
    }

    fn take(&mut self, bytes: usize) -> Place {
        let offset = self.bytes.next_multiple_of(ALIGNMENT);
        self.bytes = offset + bytes;
        Place { memory: Memory::Parameters, offset }
    }
}

/// Bytes of an element of what lies between operations, and of weights.
pub(super) fn element_bytes(format: Format) -> usize {
    match format {
        Format::Bf16 | Format::F16 => 2,
        Format::F32 => 4,
    }
}

/// The parameters, where the layout says.
pub(super) fn pack(graph: &Graph, layout: &Layout, weights: &dyn Weights) -> Result<Vec<u8>, ModelError> {
    let mut packed = vec![0; layout.bytes];
    for (node, &parameters) in graph.nodes().iter().zip(&layout.nodes) {
        match (&node.op, parameters) {
            (Op::Convolution(op), Parameters::Weights { weights: place, bias, rows }) => {
                let target = &mut packed[place.offset..];
                pack_weights(op, rows.depth, layout.format, weights, target)?;
                if let Some(bias) = bias {
                    put_floats(&mut packed, bias, op.biases.iter().map(|bias| floats(bias, weights)))?;
                }
            }
            (
                Op::GroupNorm(GroupNormOp { scale, shift, .. }) | Op::LayerNorm(LayerNormOp { scale, shift, .. }),
                Parameters::Norm { scale: scale_place, shift: shift_place },
            ) => {
                put_floats(&mut packed, scale_place, [floats(scale, weights)])?;
                put_floats(&mut packed, shift_place, [floats(shift, weights)])?;
            }
            (Op::Sinusoids(op), Parameters::Frequencies(place)) => {
                put_floats(&mut packed, place, [Ok(op.frequencies.clone())])?;
            }
            _ => {}
        }
    }
    Ok(packed)
}

fn weight_rows(graph: &Graph, node: &Node, op: &ConvolutionOp) -> WeightRows {
    let sources: Vec<_> = node.reads[..op.sources].iter().map(|&slot| graph.extent(slot)).collect();
    let channels: usize = sources.iter().map(|source| source.channels).sum();
    let in_place = op.kernel == 1 && op.stride == 1 && op.padding == [0; 2];
    if in_place && sources.len() == 1 && op.size == [sources[0].height, sources[0].width] {
        return WeightRows { reads: Reads::Source, depth: channels };
    }
    let depth = (op.kernel * op.kernel * channels).next_multiple_of(DEPTH_MULTIPLE);
    WeightRows { reads: Reads::Windows, depth }
}

fn floats(parameter: &Parameter, weights: &dyn Weights) -> Result<Vec<f32>, ModelError> {
    Ok(weights.floats(&parameter.name, &parameter.shape)?)
}

/// One behind the other, from a place on.
fn put_floats(
    packed: &mut [u8],
    place: Place,
    pieces: impl IntoIterator<Item = Result<Vec<f32>, ModelError>>,
) -> Result<(), ModelError> {
    let (mut target, _) = packed[place.offset..].as_chunks_mut::<{ size_of::<f32>() }>();
    for piece in pieces {
        let piece = piece?;
        let (head, rest) = target.split_at_mut(piece.len());
        for (bytes, value) in head.iter_mut().zip(piece) {
            *bytes = value.to_ne_bytes();
        }
        target = rest;
    }
    Ok(())
}

/// From `[out_channels, channels, kernel, kernel]` to `[out_channels, kernel, kernel, channels]`, with zeros up to `depth` elements of a row.
fn pack_weights(
    op: &ConvolutionOp,
    depth: usize,
    format: Format,
    weights: &dyn Weights,
    mut target: &mut [u8],
) -> Result<(), ModelError> {
    let taps = op.kernel * op.kernel;
    let row_bytes = depth * element_bytes(format);
    for parameter in &op.weights {
        let stored = floats(parameter, weights)?;
        let row_elements = parameter.shape[1..].iter().product::<usize>();
        let (rows, rest) = target.split_at_mut(parameter.shape[0] * row_bytes);
        for (row, stored) in rows.chunks_exact_mut(row_bytes).zip(stored.chunks_exact(row_elements)) {
            let channels = row_elements / taps;
            let in_order = (0..row_elements).map(|element| stored[element % channels * taps + element / channels]);
            match format {
                Format::Bf16 => put(row, in_order.map(|value| bf16::from_f32(value).to_ne_bytes())),
                Format::F16 => put(row, in_order.map(|value| f16::from_f32(value).to_ne_bytes())),
                Format::F32 => put(row, in_order.map(f32::to_ne_bytes)),
            }
        }
        target = rest;
    }
    Ok(())
}

/// One behind the other, from the beginning.
fn put<const BYTES: usize>(row: &mut [u8], elements: impl Iterator<Item = [u8; BYTES]>) {
    for (bytes, element) in row.as_chunks_mut().0.iter_mut().zip(elements) {
        *bytes = element;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Convolution, Extent, GraphBuilder};
    use crate::kernels::parity::WEIGHTS;

    /// Two convolutions as one, over five channels: rows of 45 elements and three zeros.
    #[test]
    fn weights_are_windows_with_zeros_behind_them() {
        let mut graph = GraphBuilder::new(&[Extent { height: 4, width: 4, channels: 5 }]);
        let names = ["a", "b"].map(str::to_owned);
        let output = graph.convolutions(&names, &[graph.input(0)], Convolution::same3(2));
        let graph = graph.finish(&[output]);
        for format in [Format::Bf16, Format::F16, Format::F32] {
            let layout = Layout::new(&graph, format);
            let Parameters::Weights { weights, bias, rows } = layout.of_node(0) else { panic!("no weights") };
            assert_eq!(rows, WeightRows { reads: Reads::Windows, depth: 48 });
            let bias = bias.expect("there is one");
            assert!(
                weights.offset == 0
                    && bias.offset >= 4 * 48 * element_bytes(format)
                    && bias.offset.is_multiple_of(ALIGNMENT)
            );
            let packed = pack(&graph, &layout, &WEIGHTS).unwrap();
            assert_eq!(packed.len(), bias.offset + 4 * 4);
            let stored = WEIGHTS.floats("b.weight", &[2, 5, 3, 3]).unwrap();
            let element = |row: usize, element: usize| match format {
                Format::Bf16 => bf16::from_ne_bytes(packed.as_chunks().0[row * 48 + element]).to_f32(),
                Format::F16 => f16::from_ne_bytes(packed.as_chunks().0[row * 48 + element]).to_f32(),
                Format::F32 => f32::from_ne_bytes(packed.as_chunks().0[row * 48 + element]),
            };
            let rounded = |value: f32| match format {
                Format::Bf16 => bf16::from_f32(value).to_f32(),
                Format::F16 => f16::from_f32(value).to_f32(),
                Format::F32 => value,
            };
            // The last channel of the window's middle, in the second row of `b`.
            assert_eq!(element(3, 4 * 5 + 4), rounded(stored[5 * 9 + 4 * 9 + 4]));
            assert!((45..48).all(|padding| element(3, padding) == 0.0));
            let biases = WEIGHTS.floats("b.bias", &[2]).unwrap();
            assert_eq!(f32::from_ne_bytes(packed[bias.offset + 8..][..4].try_into().unwrap()), biases[0]);
        }
    }
}
