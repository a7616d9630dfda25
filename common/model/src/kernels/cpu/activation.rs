//! Activation functions in one pass over memory.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};

use super::math::{gelu, quick_gelu, silu};
use super::storage::{elements, for_blocks};
use crate::kernels::Activation;

/// Elements that one thread takes at a time: 64 KiB, which stays in its first-level cache or the next one.
const BLOCK: usize = 16 * 1024;

/// An activation function, element by element.
pub(in crate::kernels) struct Activate {
    pub(in crate::kernels) activation: Activation,
}

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = elements(storage, layout)?;
        let mut output = input.to_vec();
        for_blocks(&mut output, BLOCK, |_, values| apply(self.activation, values));
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }
}

/// Applies the function in place. The match is outside of the loops so that each can be vectorised.
pub(super) fn apply(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::Gelu => values.iter_mut().for_each(|value| *value = gelu(*value)),
        Activation::None => {}
        Activation::QuickGelu => values.iter_mut().for_each(|value| *value = quick_gelu(*value)),
        Activation::Silu => values.iter_mut().for_each(|value| *value = silu(*value)),
    }
}

/// The first half of each row times the GELU of its second half.
pub(in crate::kernels) struct Geglu;

impl CustomOp1 for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = elements(storage, layout)?;
        let mut shape = layout.dims().to_vec();
        let width = shape.last().map_or(0, |&double| double / 2);
        if width == 0 {
            return Ok((CpuStorage::F32(Vec::new()), Shape::from(shape)));
        }
        if let Some(last) = shape.last_mut() {
            *last = width;
        }
        let mut output = vec![0.0; input.len() / 2];
        let rows = (BLOCK / width).max(1);
        for_blocks(&mut output, rows * width, |block, values| {
            let first = block * rows;
            for (row, values) in values.chunks_mut(width).enumerate() {
                let (hidden, gate) = input[(first + row) * 2 * width..][..2 * width].split_at(width);
                for ((value, &hidden), &gate) in values.iter_mut().zip(hidden).zip(gate) {
                    *value = hidden * gelu(gate);
                }
            }
        });
        Ok((CpuStorage::F32(output), Shape::from(shape)))
    }
}
