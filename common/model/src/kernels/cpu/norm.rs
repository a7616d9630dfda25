//! Normalisations: one pass for the statistics, one that scales, shifts and activates.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};

use super::activation::apply;
use super::math::sum_of;
use super::storage::{elements, for_blocks};
use crate::kernels::{GroupNormSpec, LayerNormSpec};

/// Elements whose mean is subtracted before their squares are summed: 16 KiB, so the second look at them costs no memory.
const STATISTICS_BLOCK: usize = 4096;

/// Rows of a layer normalisation that one thread takes at a time.
const ROWS: usize = 32;

/// Group normalisation and its activation.
pub(in crate::kernels) struct GroupNorm {
    pub(in crate::kernels) spec: GroupNormSpec,
    /// One per channel.
    pub(in crate::kernels) scale: Arc<[f32]>,
    /// One per channel.
    pub(in crate::kernels) shift: Arc<[f32]>,
}

impl CustomOp1 for GroupNorm {
    fn name(&self) -> &'static str {
        "group-norm"
    }

    /// # Shapes
    /// - input: `[batch, channels, ..]`
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = elements(storage, layout)?;
        let GroupNormSpec { groups, channels, epsilon, activation } = self.spec;
        let pixels: usize = layout.dims().iter().skip(2).product();
        let group_channels = channels / groups;
        let mut output = vec![0.0; input.len()];
        let group_elements = (group_channels * pixels).max(1);
        for_blocks(&mut output, group_elements, |index, values| {
            let group = &input[index * group_elements..][..group_elements];
            let (mean, deviation_inverse) = statistics(group, epsilon);
            let first_channel = (index % groups) * group_channels;
            for (channel, (source, target)) in group.chunks(pixels).zip(values.chunks_mut(pixels)).enumerate() {
                let scale = self.scale[first_channel + channel] * deviation_inverse;
                let shift = self.shift[first_channel + channel] - mean * scale;
                for (target, &source) in target.iter_mut().zip(source) {
                    *target = source * scale + shift;
                }
                apply(activation, target);
            }
        });
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }
}

/// Layer normalisation over the last axis.
pub(in crate::kernels) struct LayerNorm {
    pub(in crate::kernels) spec: LayerNormSpec,
    /// One per element of the last axis.
    pub(in crate::kernels) scale: Arc<[f32]>,
    /// One per element of the last axis.
    pub(in crate::kernels) shift: Arc<[f32]>,
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    /// # Shapes
    /// - input: `[.., width]`
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = elements(storage, layout)?;
        let LayerNormSpec { width, epsilon } = self.spec;
        let mut output = vec![0.0; input.len()];
        for_blocks(&mut output, (ROWS * width).max(1), |block, values| {
            let first = block * ROWS * width;
            let rows = input[first..][..values.len()].chunks(width);
            for (source, target) in rows.zip(values.chunks_mut(width)) {
                let (mean, deviation_inverse) = statistics(source, epsilon);
                let parameters = self.scale.iter().zip(self.shift.iter());
                for ((target, &source), (&scale, &shift)) in target.iter_mut().zip(source).zip(parameters) {
                    *target = (source - mean) * deviation_inverse * scale + shift;
                }
            }
        });
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }
}

/// Mean and `1 / sqrt(variance + epsilon)`.
///
/// Mean and squared distances of each block, joined as in Chan, Golub and LeVeque (1979): one pass over memory, and nothing
/// cancels when the mean is large, as it would in mean of squares minus square of mean.
fn statistics(values: &[f32], epsilon: f32) -> (f32, f32) {
    let (mut count, mut mean, mut squares) = (0.0f64, 0.0f64, 0.0f64);
    for block in values.chunks(STATISTICS_BLOCK) {
        let block_count = block.len() as f64;
        let block_mean = sum_of(block, |value| value) / block.len() as f32;
        let block_squares = sum_of(block, |value| (value - block_mean) * (value - block_mean));
        let distance = f64::from(block_mean) - mean;
        let total = count + block_count;
        mean += distance * block_count / total;
        squares += f64::from(block_squares) + distance * distance * count * block_count / total;
        count = total;
    }
    let variance = if count > 0.0 { squares / count } else { 0.0 };
    (mean as f32, (1.0 / (variance + f64::from(epsilon)).sqrt()) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_survive_a_large_mean() {
        let values: Vec<f32> = (0..10_000).map(|index| 1000.0 + (index % 2) as f32).collect();
        let (mean, deviation_inverse) = statistics(&values, 0.0);
        assert!((mean - 1000.5).abs() < 1e-3, "mean {mean}");
        assert!((deviation_inverse - 2.0).abs() < 1e-3, "1 / deviation {deviation_inverse}");
    }
}
