//! What passes between layers: a tensor of some rows of the batch, where its device wants it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use candle_core::{Device, Tensor};

use super::cpu::{Cpu, to_channels_first};
#[cfg(feature = "cuda")]
use super::cuda::{Cuda, Elements};
use super::floats::Floats;
use super::format::Format;

use crate::ModelError;
use crate::graph::Extent;

/// A value: rows of the batch, channels last. Cloning it and taking rows of it copy nothing.
#[derive(Clone, Debug)]
pub struct Value {
    axes: Axes,
    rows: Range<usize>,
    data: Data,
}

/// Where the elements are.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// `[rows, height, width, channels]`
    Candle(Tensor),
    /// The same, on a GPU; there may be more rows than the value has.
    #[cfg(feature = "cuda")]
    Gpu(Elements),
    /// The same, in the process' memory; there may be more rows than the value has.
    Host(Arc<Floats>),
    /// The same, where a link has left it: little-endian on a machine that is, aligned to an element.
    Received(Bytes),
}

/// The axes behind the batch axis, as the rest of the world has them: `[channels, height, width]`, `[tokens, width]`, `[width]` or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axes {
    lengths: [usize; 3],
    count: usize,
}

impl Axes {
    pub(super) fn new(axes: &[usize]) -> Option<Self> {
        let mut lengths = [1; 3];
        lengths.get_mut(..axes.len())?.copy_from_slice(axes);
        Some(Self { lengths, count: axes.len() })
    }

    pub(super) fn as_slice(&self) -> &[usize] {
        &self.lengths[..self.count]
    }

    pub(super) fn extent(&self) -> Extent {
        let [first, second, third] = self.lengths;
        match self.count {
            3 => Extent { channels: first, height: second, width: third },
            2 => Extent::tokens(first, second),
            _ => Extent::vector(first),
        }
    }

    /// The axes of a value of this extent, made from a value with these axes: maps stay maps, tokens stay tokens.
    pub(super) fn of(extent: Extent, like: usize) -> Self {
        let Extent { height, width, channels } = extent;
        match like {
            3 => Self { lengths: [channels, height, width], count: 3 },
            2 => Self { lengths: [width, channels, 1], count: 2 },
            _ => Self { lengths: [channels, 1, 1], count: 1 },
        }
    }
}

impl Value {
    pub(super) fn new(axes: Axes, rows: usize, data: Data) -> Self {
        Self { axes, rows: 0..rows, data }
    }

    /// In a buffer of the process, filled by `fill`.
    ///
    /// # Shapes
    /// - `shape`: as of [`Value::shape`], with `elements` elements
    /// - `fill`: is given the buffer, `[rows, height, width, channels]`, and the shape of a row
    pub(super) fn on_host(
        shape: &[usize],
        elements: usize,
        cpu: &Cpu,
        fill: impl FnOnce(&mut [f32], Extent),
    ) -> Result<Self, ModelError> {
        let (rows, axes) = split(shape, elements)?;
        let floats = cpu.filled_buffer(elements, |floats| fill(floats, axes.extent()))?;
        Ok(Self::new(axes, rows, Data::Host(floats)))
    }

    /// On a GPU, filled by `fill`, as in [`Value::on_host`].
    #[cfg(feature = "cuda")]
    pub(super) fn on_gpu<E: From<ModelError>>(
        shape: &[usize],
        elements: usize,
        cuda: &Arc<Cuda>,
        fill: impl FnOnce(&mut [f32], Extent) -> Result<(), E>,
    ) -> Result<Self, E> {
        let (rows, axes) = split(shape, elements)?;
        let elements = Elements::filled(cuda, elements, |floats| fill(floats, axes.extent()))?;
        Ok(Self::new(axes, rows, Data::Gpu(elements)))
    }

    /// Of so many elements that are on a GPU.
    #[cfg(feature = "cuda")]
    pub(super) fn of_elements(shape: &[usize], count: usize, elements: Elements) -> Result<Self, ModelError> {
        let (rows, axes) = split(shape, count)?;
        Ok(Self::new(axes, rows, Data::Gpu(elements)))
    }

    /// From elements where a link has left them; `None` where they cannot be read in place.
    ///
    /// # Shapes
    /// - `bytes`: `[rows, height, width, channels]`, little-endian
    pub(super) fn received(shape: &[usize], bytes: &Bytes) -> Result<Option<Self>, ModelError> {
        let elements: Option<&[f32]> = bytemuck::try_cast_slice(bytes).ok();
        let Some(elements) = elements.filter(|_| cfg!(target_endian = "little")) else { return Ok(None) };
        let (rows, axes) = split(shape, elements.len())?;
        Ok(Some(Self::new(axes, rows, Data::Received(bytes.clone()))))
    }

    /// From a candle tensor, which stays on its device.
    ///
    /// # Shapes
    /// - `tensor`: as in [`Value::shape`]
    pub(super) fn on_candle(tensor: &Tensor) -> Result<Self, ModelError> {
        let (rows, axes) = split(tensor.dims(), tensor.elem_count())?;
        let tensor = if axes.count == 3 { tensor.permute((0, 2, 3, 1))?.contiguous()? } else { tensor.contiguous()? };
        let Extent { height, width, channels } = axes.extent();
        Ok(Self::new(axes, rows, Data::Candle(tensor.reshape((rows, height, width, channels))?)))
    }

    /// From elements that are in this order already.
    ///
    /// # Shapes
    /// - `elements`: `[rows, height, width, channels]`
    pub(super) fn channels_last_on_candle(
        shape: &[usize],
        elements: Vec<f32>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let (rows, axes) = split(shape, elements.len())?;
        let Extent { height, width, channels } = axes.extent();
        let tensor = Tensor::from_vec(elements, (rows, height, width, channels), device)?;
        Ok(Self::new(axes, rows, Data::Candle(tensor)))
    }

    /// Rows of the batch.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// All axes: `[rows, channels, height, width]`, `[rows, tokens, width]`, `[rows, width]` or `[rows]`.
    #[must_use]
    pub fn shape(&self) -> Vec<usize> {
        std::iter::once(self.rows()).chain(self.axes.as_slice().iter().copied()).collect()
    }

    /// The axes behind the batch axis.
    #[must_use]
    pub fn axes(&self) -> &[usize] {
        self.axes.as_slice()
    }

    pub(super) fn layout(&self) -> Axes {
        self.axes
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// When it has fewer.
    #[must_use]
    pub fn narrow(&self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.rows(), "{rows:?} of {} rows", self.rows());
        let rows = self.rows.start + rows.start..self.rows.start + rows.end;
        Self { axes: self.axes, rows, data: self.data.clone() }
    }

    /// Joins values of equal axes along the batch axis.
    pub fn concatenate(pieces: &[Self]) -> Result<Self, ModelError> {
        let [first, ..] = pieces else { return Err(candle_core::Error::msg("no pieces to join").into()) };
        if let [whole] = pieces {
            return Ok(whole.clone());
        }
        let rows = pieces.iter().map(Self::rows).sum();
        let data = match &first.data {
            Data::Candle(_) => {
                let tensors: Vec<Tensor> = pieces.iter().map(Self::tensor).collect::<Result<_, _>>()?;
                Data::Candle(Tensor::cat(&tensors, 0)?)
            }
            #[cfg(feature = "cuda")]
            Data::Gpu(_) => {
                let pieces: Vec<Elements> = pieces.iter().map(Self::on_its_gpu).collect::<Result<_, _>>()?;
                Data::Gpu(Elements::concatenate(&pieces)?)
            }
            Data::Host(_) | Data::Received(_) => {
                let mut floats = Floats::zeros(rows * first.axes.extent().elements())?;
                let mut rest = &mut floats[..];
                for piece in pieces {
                    let elements = piece.elements()?;
                    let (target, behind) = rest.split_at_mut(elements.len());
                    target.copy_from_slice(elements);
                    rest = behind;
                }
                Data::Host(Arc::new(floats))
            }
        };
        Ok(Self::new(first.axes, rows, data))
    }

    /// The same, which a GPU copies to the host meanwhile: whoever reads it then, also another thread, waits for the copy alone. Elsewhere nothing
    /// is to be done.
    pub fn start_reading(&self) -> Result<Self, ModelError> {
        #[cfg(feature = "cuda")]
        if let Data::Gpu(elements) = &self.data {
            let whole = elements.slice(self.range());
            whole.settle()?;
            let data = Data::Gpu(whole.start_reading()?);
            return Ok(Self { axes: self.axes, rows: 0..self.rows(), data });
        }
        Ok(self.clone())
    }

    /// What its elements are on a GPU; `None` where they are not on one.
    #[must_use]
    pub fn gpu_format(&self) -> Option<Format> {
        match &self.data {
            #[cfg(feature = "cuda")]
            Data::Gpu(elements) => Some(elements.format()),
            Data::Candle(_) | Data::Host(_) | Data::Received(_) => None,
        }
    }

    /// The elements in the order of the rest of the world, written into `target` piece by piece.
    ///
    /// # Shapes
    /// - returns: row-major, of [`Value::shape`]
    pub fn to_elements(&self) -> Result<Vec<f32>, ModelError> {
        self.with_elements(|elements| {
            if self.axes.count < 3 {
                return elements.to_vec();
            }
            let extent = self.axes.extent();
            let mut target = vec![0.0; elements.len()];
            to_channels_first(self.rows(), extent.channels, extent.pixels(), elements, &mut target);
            target
        })
    }

    /// The elements as they travel between workers: little-endian, channels last. On a CPU they are those of the value itself, not a copy.
    ///
    /// # Shapes
    /// - returns: `[rows, height, width, channels]`
    pub fn to_bytes(&self) -> Result<Bytes, ModelError> {
        match &self.data {
            Data::Candle(_) => {
                let elements = self.tensor()?.flatten_all()?.to_vec1::<f32>()?;
                Ok(elements.iter().flat_map(|element| element.to_le_bytes()).collect())
            }
            #[cfg(feature = "cuda")]
            Data::Gpu(_) => Ok(Bytes::from_owner(self.on_its_gpu()?.read()?)),
            Data::Host(floats) => {
                Ok(Bytes::from_owner(Travelling { elements: Arc::clone(floats), range: self.range() }))
            }
            Data::Received(bytes) => {
                let range = self.range();
                Ok(bytes.slice(range.start * size_of::<f32>()..range.end * size_of::<f32>()))
            }
        }
    }

    /// Hands out the elements in their own order. On a CPU they are those of the value itself, not a copy.
    ///
    /// # Shapes
    /// - `read`: is given `[rows, height, width, channels]`
    pub fn with_elements<R>(&self, read: impl FnOnce(&[f32]) -> R) -> Result<R, ModelError> {
        match &self.data {
            Data::Candle(_) => Ok(read(&self.tensor()?.flatten_all()?.to_vec1::<f32>()?)),
            #[cfg(feature = "cuda")]
            Data::Gpu(_) => Ok(read(&self.on_its_gpu()?.read()?)),
            Data::Host(_) | Data::Received(_) => Ok(read(self.elements()?)),
        }
    }

    /// As a candle tensor on a device.
    ///
    /// # Shapes
    /// - returns: [`Value::shape`]
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor, ModelError> {
        Ok(Tensor::from_vec(self.to_elements()?, self.shape(), device)?)
    }

    /// # Shapes
    /// - returns: `[rows, height, width, channels]`
    pub(super) fn elements(&self) -> Result<&[f32], ModelError> {
        match &self.data {
            Data::Candle(_) => Err(of_another_device()),
            #[cfg(feature = "cuda")]
            Data::Gpu(_) => Err(of_another_device()),
            Data::Host(floats) => Ok(&floats[self.range()]),
            Data::Received(bytes) => Ok(&bytemuck::cast_slice(bytes)[self.range()]),
        }
    }

    /// # Shapes
    /// - returns: `[rows, height, width, channels]`
    pub(super) fn tensor(&self) -> Result<Tensor, ModelError> {
        match &self.data {
            Data::Candle(tensor) => Ok(tensor.narrow(0, self.rows.start, self.rows.len())?),
            #[cfg(feature = "cuda")]
            Data::Gpu(_) => Err(of_another_device()),
            Data::Host(_) | Data::Received(_) => Err(of_another_device()),
        }
    }

    /// # Shapes
    /// - returns: `[rows, height, width, channels]`
    #[cfg(feature = "cuda")]
    pub(super) fn on_its_gpu(&self) -> Result<Elements, ModelError> {
        match &self.data {
            Data::Gpu(elements) => {
                let elements = elements.slice(self.range());
                elements.settle()?;
                Ok(elements)
            }
            Data::Candle(_) | Data::Host(_) | Data::Received(_) => Err(of_another_device()),
        }
    }

    /// Where its elements are among those of the buffer.
    fn range(&self) -> Range<usize> {
        let row = self.axes.extent().elements();
        self.rows.start * row..self.rows.end * row
    }
}

/// Elements that are read as bytes for as long as somebody sends them.
struct Travelling {
    elements: Arc<Floats>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Travelling {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.elements[self.range.clone()])
    }
}

fn of_another_device() -> ModelError {
    candle_core::Error::msg("a value of another device").into()
}

fn split(shape: &[usize], elements: usize) -> Result<(usize, Axes), ModelError> {
    let wrong = || ModelError::ShapeMismatch {
        layer: "a value".to_owned(),
        operand: "elements".to_owned(),
        expected: format!("[rows, ..] with at most three axes and {elements} elements"),
        found: shape.to_vec(),
    };
    let [rows, axes @ ..] = shape else { return Err(wrong()) };
    let axes = Axes::new(axes).ok_or_else(wrong)?;
    if rows * axes.extent().elements() == elements { Ok((*rows, axes)) } else { Err(wrong()) }
}
