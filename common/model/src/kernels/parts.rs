//! Values in parts, as they travel between the memory of a GPU and another host, so that copying a part overlaps sending the one before.

use std::ops::Range;

use bytes::Bytes;

use super::cpu::Isa;
#[cfg(feature = "cuda")]
use super::cuda::{GpuAssembly, HostBytes};
use super::format::Format;
use super::{Backend, Kernels, Value};
use crate::ModelError;
use crate::encodings::{Half, decode_half};

/// Nothing comes from a GPU where there is none.
#[cfg(not(feature = "cuda"))]
type HostBytes = std::convert::Infallible;

/// Some elements of a value on a GPU, on their way to the host as they are there.
#[derive(Debug)]
pub struct Part {
    elements: Range<usize>,
    bytes: HostBytes,
}

/// A value that comes in parts, in any order.
#[derive(Debug)]
pub struct Assembly {
    shape: Vec<usize>,
    format: Format,
    /// What has come, in order, neighbours joined.
    here: Vec<Range<usize>>,
    target: Target,
}

#[derive(Debug)]
enum Target {
    #[cfg(feature = "cuda")]
    Gpu(GpuAssembly),
    Host(Vec<f32>),
}

impl Part {
    /// Which elements of the value they are, channels last.
    #[must_use]
    pub fn elements(&self) -> Range<usize> {
        self.elements.clone()
    }

    /// The elements, little-endian, when they have come.
    pub fn wait(self) -> Result<Bytes, ModelError> {
        #[cfg(feature = "cuda")]
        return Ok(Bytes::from_owner(self.bytes.wait()?));
        #[cfg(not(feature = "cuda"))]
        match self.bytes {}
    }
}

impl Value {
    /// Begins to read it in parts of about so many bytes, as it is on a GPU; `None` where it is not on one.
    pub fn start_reading_parts(&self, part_bytes: usize) -> Result<Option<Vec<Part>>, ModelError> {
        #[cfg(feature = "cuda")]
        if let Some(format) = self.gpu_format() {
            let elements = self.on_its_gpu()?;
            let (len, step) = (elements.len(), (part_bytes / format.bytes()).max(1));
            let part = |first: usize| {
                let range = first..(first + step).min(len);
                Ok(Part { bytes: elements.slice(range.clone()).start_reading_bytes()?, elements: range })
            };
            return (0..len).step_by(step).map(part).collect::<Result<_, ModelError>>().map(Some);
        }
        let _ = part_bytes;
        Ok(None)
    }
}

impl Kernels {
    /// A value that comes in parts, whose elements are of a format.
    ///
    /// # Shapes
    /// - `shape`: as in [`Kernels::value`]
    pub fn assemble(&self, shape: &[usize], format: Format) -> Result<Assembly, ModelError> {
        let len = shape.iter().product();
        let target = match &self.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda, _) => Target::Gpu(GpuAssembly::new(cuda, format, len)?),
            Backend::Candle(_) | Backend::Cpu(..) | Backend::Stub(_) => Target::Host(vec![0.0; len]),
        };
        Ok(Assembly { shape: shape.to_vec(), format, here: Vec::new(), target })
    }

    /// The value, once all of its parts have come.
    pub fn assembled(&self, assembly: Assembly) -> Result<Value, ModelError> {
        match assembly.target {
            #[cfg(feature = "cuda")]
            Target::Gpu(target) => {
                let len = assembly.shape.iter().product();
                Value::of_elements(&assembly.shape, len, target.finish())
            }
            Target::Host(elements) => self.value_filled(&assembly.shape, |target| {
                target.copy_from_slice(&elements);
                Ok(())
            }),
        }
    }
}

impl Assembly {
    /// What its elements are.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Takes a part. Whether all have come now.
    ///
    /// # Shapes
    /// - `bytes`: elements from `first` on, channels last, little-endian
    pub fn put(&mut self, first: usize, bytes: &[u8]) -> Result<bool, ModelError> {
        let (element, len) = (self.format.bytes(), self.shape.iter().product::<usize>());
        let range = first..first.saturating_add(bytes.len() / element);
        let is_new = self.here.iter().all(|here| here.end <= range.start || range.end <= here.start);
        if !bytes.len().is_multiple_of(element) || range.end > len || !is_new {
            return Err(ModelError::ShapeMismatch {
                layer: "a value in parts".to_owned(),
                operand: "part".to_owned(),
                expected: format!("elements of {len} that have not come"),
                found: vec![range.start, range.end],
            });
        }
        match &mut self.target {
            #[cfg(feature = "cuda")]
            Target::Gpu(target) => target.put(&range, bytes)?,
            Target::Host(elements) => widen(self.format, bytes, &mut elements[range.clone()])?,
        }
        self.note(range);
        Ok(self.here.first().is_some_and(|here| *here == (0..len)))
    }

    fn note(&mut self, range: Range<usize>) {
        let place = self.here.partition_point(|here| here.start < range.start);
        self.here.insert(place, range);
        self.here.dedup_by(|next, here| {
            let joins = here.end == next.start;
            if joins {
                here.end = next.end;
            }
            joins
        });
    }
}

/// As f32.
fn widen(format: Format, bytes: &[u8], elements: &mut [f32]) -> Result<(), ModelError> {
    let half = match format {
        Format::Bf16 => Half::Bf16,
        Format::F16 => Half::F16,
        Format::F32 => {
            for (element, &chunk) in elements.iter_mut().zip(bytes.as_chunks().0) {
                *element = f32::from_le_bytes(chunk);
            }
            return Ok(());
        }
    };
    let wrong = |error| ModelError::Tensor(candle_core::Error::wrap(error));
    decode_half(Isa::best(), half, bytes, elements).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(elements: &[f32]) -> Vec<u8> {
        elements.iter().flat_map(|element| element.to_le_bytes()).collect()
    }

    #[test]
    fn parts_in_any_order_make_the_value() {
        let kernels = Kernels::cpu(Isa::best());
        let elements: Vec<f32> = (0..24).map(|index| index as f32).collect();
        let mut assembly = kernels.assemble(&[2, 12], Format::F32).unwrap();
        assert!(!assembly.put(16, &bytes(&elements[16..24])).unwrap());
        assert!(!assembly.put(0, &bytes(&elements[..10])).unwrap());
        assert!(assembly.put(10, &bytes(&elements[10..16])).unwrap());
        let value = kernels.assembled(assembly).unwrap();
        assert_eq!((value.shape(), value.to_elements().unwrap()), (vec![2, 12], elements));
    }

    #[test]
    fn halves_are_widened() {
        let kernels = Kernels::cpu(Isa::best());
        let mut assembly = kernels.assemble(&[1, 2], Format::Bf16).unwrap();
        assert!(assembly.put(0, &[0x80, 0x3f, 0x00, 0xc0]).unwrap());
        assert_eq!(kernels.assembled(assembly).unwrap().to_elements().unwrap(), [1.0, -2.0]);
    }

    #[test]
    fn a_part_that_came_or_is_out_of_place_is_an_error() {
        let kernels = Kernels::cpu(Isa::best());
        let mut assembly = kernels.assemble(&[1, 8], Format::F32).unwrap();
        assembly.put(2, &bytes(&[0.0; 4])).unwrap();
        for (first, count) in [(2, 4), (5, 1), (0, 3), (6, 3), (usize::MAX, 1)] {
            assert!(assembly.put(first, &bytes(&vec![0.0; count])).is_err(), "{first}, {count}");
        }
        assert!(assembly.put(0, &[0; 3]).is_err());
    }
}
