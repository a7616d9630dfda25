//! Convolutions and attention as graphs of the library's operations.
//!
//! ```text
//!   convolution ──sums (f32, never stored)──► + bias ──► + row bias ──► activation ──► × factor ──► + residual ──► target
//! ```

use cudarc::cudnn::sys::{
    cudnnConvolutionMode_t as ConvolutionMode, cudnnDataType_t as DataType, cudnnPointwiseMode_t as PointwiseMode,
};

use super::descriptor::{Descriptor, Descriptors, Kind, Name, Type, Value};
use super::library::Failure;
use crate::graph::Activation;
use crate::kernels::Format;
use crate::kernels::cuda::fused::{AttentionShape, ConvolutionShape, Epilogue};

/// Operands by the numbers that a run names them by.
pub(super) const SOURCE: i64 = 1;
pub(super) const WEIGHTS: i64 = 2;
pub(super) const TARGET: i64 = 3;
pub(super) const BIAS: i64 = 4;
pub(super) const ROW_BIAS: i64 = 5;
pub(super) const RESIDUAL: i64 = 6;
pub(super) const QUERIES: i64 = 7;
pub(super) const KEYS: i64 = 8;
pub(super) const VALUES: i64 = 9;
pub(super) const SCALE: i64 = 10;
pub(super) const FACTOR: i64 = 11;

/// The first of what is never stored.
const FIRST_VIRTUAL: i64 = 100;

/// Where each operand begins at a multiple of.
const ALIGNMENT: i64 = 16;

/// Operations of one graph in the making.
struct Operations<'a> {
    descriptors: &'a mut Descriptors,
    made: Vec<Descriptor>,
    next_virtual: i64,
}

/// A tensor's type and sizes.
struct Tensor {
    data: DataType,
    dimensions: [i64; 4],
    strides: [i64; 4],
}

/// A convolution and what follows it.
pub(super) fn convolution(descriptors: &mut Descriptors, shape: &ConvolutionShape) -> Result<Vec<Descriptor>, Failure> {
    let &ConvolutionShape { rows, channels, out_channels, kernel, then, .. } = shape;
    let data = data_type(shape.format);
    let mut graph = Operations { descriptors, made: Vec::new(), next_virtual: FIRST_VIRTUAL };
    let source = graph.operand(SOURCE, &channels_last(data, [rows, shape.height, shape.width, channels]))?;
    let weights = graph.operand(WEIGHTS, &channels_last(data, [out_channels, kernel, kernel, channels]))?;
    let target = |data, rows| channels_last(data, [rows, shape.out_height, shape.out_width, out_channels]);
    let pixel = |data, rows| channels_last(data, [rows, 1, 1, out_channels]);

    // By number and tensor, what is added or applied.
    let Epilogue { bias, row_bias, activation, factor, residual } = then;
    let mut following: Vec<(PointwiseMode, Option<(i64, Tensor)>)> = Vec::new();
    let add = PointwiseMode::CUDNN_POINTWISE_ADD;
    if bias {
        following.push((add, Some((BIAS, pixel(DataType::CUDNN_DATA_FLOAT, 1)))));
    }
    if let Some(rows) = row_bias {
        following.push((add, Some((ROW_BIAS, pixel(data, rows)))));
    }
    if let Some(mode) = pointwise(activation) {
        following.push((mode, None));
    }
    if factor {
        following.push((PointwiseMode::CUDNN_POINTWISE_MUL, Some((FACTOR, target(data, rows)))));
    }
    if let Some(rows) = residual {
        following.push((add, Some((RESIDUAL, target(data, rows)))));
    }

    let mut left = following.len();
    let mut write = |graph: &mut Operations<'_>| match left {
        0 => graph.operand(TARGET, &target(data, rows)),
        _ => {
            left -= 1;
            graph.virtual_tensor(&target(DataType::CUDNN_DATA_FLOAT, rows))
        }
    };
    let mut sums = write(&mut graph)?;
    graph.convolve(shape, [source, weights, sums])?;
    for (mode, operand) in following {
        let operand = operand.map(|(number, tensor)| graph.operand(number, &tensor)).transpose()?;
        let written = write(&mut graph)?;
        graph.pointwise(mode, sums, operand, written)?;
        sums = written;
    }
    Ok(graph.made)
}

/// Attention as one operation, which the library has from 9.13 on.
pub(super) fn attention(descriptors: &mut Descriptors, shape: &AttentionShape) -> Result<Vec<Descriptor>, Failure> {
    let &AttentionShape { rows, heads, width, queries, keys, strides, operand_rows, .. } = shape;
    let data = data_type(shape.format);
    let mut graph = Operations { descriptors, made: Vec::new(), next_virtual: FIRST_VIRTUAL };
    let tokens = |count: usize, stride: usize, operand_rows: usize| Tensor {
        data,
        dimensions: [rows, heads, count, width].map(integer),
        // Where one row counts for all, the next one is the same.
        strides: [if operand_rows < rows { 0 } else { count * stride }, width, stride, 1].map(integer),
    };
    let query = graph.operand(QUERIES, &tokens(queries, strides[0], operand_rows[0]))?;
    let key = graph.operand(KEYS, &tokens(keys, strides[1], operand_rows[1]))?;
    let value = graph.operand(VALUES, &tokens(keys, strides[2], operand_rows[2]))?;
    let target = graph.operand(TARGET, &tokens(queries, heads * width, rows))?;
    let scale = graph.scalar(SCALE)?;
    let one = |descriptor| std::slice::from_ref(descriptor);
    let attributes = [
        (Name::CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, Value::Descriptors(one(&query))),
        (Name::CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, Value::Descriptors(one(&key))),
        (Name::CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, Value::Descriptors(one(&value))),
        (Name::CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, Value::Descriptors(one(&target))),
        (Name::CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, Value::Descriptors(one(&scale))),
    ];
    graph.push(Kind::CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR, &attributes)?;
    Ok(graph.made)
}

impl Operations<'_> {
    fn push(&mut self, kind: Kind, attributes: &[(Name, Value<'_>)]) -> Result<(), Failure> {
        let operation = self.descriptors.make(kind, attributes)?;
        self.made.push(operation);
        Ok(())
    }

    fn convolve(
        &mut self,
        shape: &ConvolutionShape,
        [source, weights, target]: [Descriptor; 3],
    ) -> Result<(), Failure> {
        let both = |value: usize| [integer(value); 2];
        let [before, after] = shape.padding;
        let cross_correlation = ConvolutionMode::CUDNN_CROSS_CORRELATION as u32;
        let how = [
            (Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, enumerator(DataType::CUDNN_DATA_FLOAT)),
            (
                Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE,
                Value::Enumerator(Type::CUDNN_TYPE_CONVOLUTION_MODE, cross_correlation),
            ),
            (Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, Value::Integers(&[2])),
            (Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, Value::Integers(&[1, 1])),
            (Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, Value::Integers(&both(shape.stride))),
            (Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, Value::Integers(&both(before))),
            (Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, Value::Integers(&both(after))),
        ];
        let how = self.descriptors.make(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, &how)?;
        let attributes = [
            (Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, Value::Descriptors(&[how])),
            (Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, Value::Descriptors(&[source])),
            (Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, Value::Descriptors(&[weights])),
            (Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, Value::Descriptors(&[target])),
            (Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, Value::Float(1.0)),
            (Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, Value::Float(0.0)),
        ];
        self.push(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, &attributes)
    }

    fn pointwise(
        &mut self,
        mode: PointwiseMode,
        source: Descriptor,
        operand: Option<Descriptor>,
        target: Descriptor,
    ) -> Result<(), Failure> {
        let how = [
            (Name::CUDNN_ATTR_POINTWISE_MODE, Value::Enumerator(Type::CUDNN_TYPE_POINTWISE_MODE, mode as u32)),
            (Name::CUDNN_ATTR_POINTWISE_MATH_PREC, enumerator(DataType::CUDNN_DATA_FLOAT)),
        ];
        let how = [self.descriptors.make(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR, &how)?];
        let (source, target) = ([source], [target]);
        let mut attributes = vec![
            (Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, Value::Descriptors(&how)),
            (Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, Value::Descriptors(&source)),
            (Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, Value::Descriptors(&target)),
        ];
        if let Some(operand) = &operand {
            let operand = Value::Descriptors(std::slice::from_ref(operand));
            attributes.push((Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, operand));
        }
        self.push(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, &attributes)
    }

    /// What a run gives.
    fn operand(&mut self, number: i64, tensor: &Tensor) -> Result<Descriptor, Failure> {
        self.tensor(number, tensor, &[])
    }

    /// What passes from one operation to the next.
    fn virtual_tensor(&mut self, tensor: &Tensor) -> Result<Descriptor, Failure> {
        self.next_virtual += 1;
        self.tensor(self.next_virtual, tensor, &[(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, Value::Boolean(true))])
    }

    /// A number of the host's.
    fn scalar(&mut self, number: i64) -> Result<Descriptor, Failure> {
        let tensor = Tensor { data: DataType::CUDNN_DATA_FLOAT, dimensions: [1; 4], strides: [1; 4] };
        self.tensor(number, &tensor, &[(Name::CUDNN_ATTR_TENSOR_IS_BY_VALUE, Value::Boolean(true))])
    }

    fn tensor(&mut self, number: i64, tensor: &Tensor, more: &[(Name, Value<'_>)]) -> Result<Descriptor, Failure> {
        let attributes = [
            (Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, Value::Integers(&[number])),
            (Name::CUDNN_ATTR_TENSOR_DATA_TYPE, enumerator(tensor.data)),
            (Name::CUDNN_ATTR_TENSOR_DIMENSIONS, Value::Integers(&tensor.dimensions)),
            (Name::CUDNN_ATTR_TENSOR_STRIDES, Value::Integers(&tensor.strides)),
            (Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Value::Integers(&[ALIGNMENT])),
        ];
        let attributes: Vec<(Name, Value<'_>)> = attributes.into_iter().chain(more.iter().copied()).collect();
        self.descriptors.make(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR, &attributes)
    }
}

/// In the library's order of axes, rows and channels first.
///
/// # Shapes
/// - `sizes`: rows, height, width, channels, as they lie in memory
fn channels_last(data: DataType, [rows, height, width, channels]: [usize; 4]) -> Tensor {
    Tensor {
        data,
        dimensions: [rows, channels, height, width].map(integer),
        strides: [height * width * channels, 1, width * channels, channels].map(integer),
    }
}

/// `None` for the identity, and for what lowering never asks for.
fn pointwise(activation: Activation) -> Option<PointwiseMode> {
    match activation {
        Activation::Gelu => Some(PointwiseMode::CUDNN_POINTWISE_GELU_FWD),
        Activation::None | Activation::QuickGelu => None,
        Activation::Silu => Some(PointwiseMode::CUDNN_POINTWISE_SWISH_FWD),
    }
}

fn data_type(format: Format) -> DataType {
    match format {
        Format::Bf16 => DataType::CUDNN_DATA_BFLOAT16,
        Format::F16 => DataType::CUDNN_DATA_HALF,
        Format::F32 => DataType::CUDNN_DATA_FLOAT,
    }
}

fn enumerator(data: DataType) -> Value<'static> {
    Value::Enumerator(Type::CUDNN_TYPE_DATA_TYPE, data as u32)
}

/// Sizes of tensors are bounded far below.
fn integer(value: usize) -> i64 {
    value as i64
}
