//! Group normalisation against its formula in f64.

use super::*;
use crate::kernels::cpu::testing::{each_isa, greatest_error, numbers, reference_activation, with_threads};

fn normalise(norm: &GroupNorm, rows: usize, sources: &[Vec<f32>], threads: usize) -> Vec<f32> {
    let sources: Vec<&[f32]> = sources.iter().map(Vec::as_slice).collect();
    let mut scratch = vec![f32::NAN; norm.scratch_floats(rows)];
    let mut output = vec![f32::NAN; sources.iter().map(|source| source.len()).sum()];
    with_threads(threads, || norm.run(rows, &sources, &mut scratch, &mut output));
    output
}

fn expected(norm: &GroupNorm, rows: usize, sources: &[Vec<f32>]) -> Vec<f64> {
    let (spec, channels) = (&norm.spec, norm.scale.len());
    let mut joined = Vec::new();
    for pixel in 0..rows * spec.pixels {
        for (source, &width) in sources.iter().zip(&spec.sources) {
            joined.extend(source[pixel * width..][..width].iter().map(|&value| f64::from(value)));
        }
    }
    let in_group = channels / spec.groups;
    for row in joined.chunks_mut(spec.pixels * channels) {
        for group in 0..spec.groups {
            let of_group = |index: &usize| index % channels / in_group == group;
            let indices: Vec<usize> = (0..row.len()).filter(of_group).collect();
            let count = indices.len() as f64;
            let mean = indices.iter().map(|&index| row[index]).sum::<f64>() / count;
            let variance = indices.iter().map(|&index| (row[index] - mean).powi(2)).sum::<f64>() / count;
            let deviation = (variance + f64::from(spec.epsilon)).sqrt();
            for index in indices {
                let (scale, shift) = (norm.scale[index % channels], norm.shift[index % channels]);
                let value = (row[index] - mean) / deviation * f64::from(scale) + f64::from(shift);
                row[index] = reference_activation(spec.activation, value);
            }
        }
    }
    joined
}

/// Channels of the inputs, groups, pixels, rows.
const SHAPES: [(&[usize], usize, usize, usize); 12] = [
    (&[64], 32, 64, 2),
    (&[320], 32, 300, 1),
    (&[4], 2, 64, 2),
    (&[4], 1, 49, 1),
    (&[20], 5, 36, 2),
    (&[33], 3, 16, 1),
    (&[33], 11, 1, 2),
    (&[128], 32, 1025, 2),
    (&[32, 16], 4, 64, 2),
    (&[33, 15], 2, 77, 1),
    (&[5, 7, 4], 4, 600, 2),
    (&[64, 0], 2, 5, 1),
];

#[test]
fn all_shapes_agree_with_the_formula() {
    let activations = [Activation::Gelu, Activation::None, Activation::QuickGelu, Activation::Silu];
    each_isa(|isa| {
        for (index, (sources, groups, pixels, rows)) in SHAPES.into_iter().enumerate() {
            let channels = sources.iter().sum();
            let activation = activations[index % activations.len()];
            let spec = GroupNormSpec { sources: sources.to_vec(), groups, epsilon: 1e-5, activation, pixels };
            let norm = GroupNorm::prepare(spec, isa, &numbers(1, channels), &numbers(2, channels));
            let inputs: Vec<Vec<f32>> =
                (3..).zip(sources).map(|(seed, channels)| numbers(seed, rows * pixels * channels)).collect();
            let found = normalise(&norm, rows, &inputs, 1);
            let error = greatest_error(&found, &expected(&norm, rows, &inputs));
            assert!(error < 2e-6, "{isa:?} {sources:?} in {groups}, {pixels} pixels: error {error:e}");
        }
    });
}

#[test]
fn large_means_do_not_cancel() {
    each_isa(|isa| {
        let spec =
            GroupNormSpec { sources: vec![32], groups: 8, epsilon: 1e-5, activation: Activation::None, pixels: 1024 };
        let norm = GroupNorm::prepare(spec, isa, &[1.0; 32], &[0.0; 32]);
        let input: Vec<f32> = numbers(9, 32 * 1024).iter().map(|value| 10_000.0 + value).collect();
        let found = normalise(&norm, 1, std::slice::from_ref(&input), 1);
        let error = greatest_error(&found, &expected(&norm, 1, &[input]));
        assert!(error < 5e-6, "{isa:?}: error {error:e}");
    });
}

#[test]
fn constant_images_give_the_shift() {
    each_isa(|isa| {
        let spec =
            GroupNormSpec { sources: vec![8], groups: 2, epsilon: 1e-6, activation: Activation::None, pixels: 100 };
        let norm = GroupNorm::prepare(spec, isa, &[2.0; 8], &[0.5; 8]);
        let found = normalise(&norm, 1, &[vec![1.0e6; 800]], 1);
        assert!(found.iter().all(|&value| value == 0.5), "{isa:?}");
    });
}

#[test]
fn threads_do_not_change_a_bit() {
    each_isa(|isa| {
        for sources in [vec![64], vec![40, 24]] {
            let inputs: Vec<Vec<f32>> = sources.iter().map(|width| numbers(4, 2 * 1024 * width)).collect();
            let spec = GroupNormSpec { sources, groups: 8, epsilon: 1e-5, activation: Activation::Silu, pixels: 1024 };
            let norm = GroupNorm::prepare(spec, isa, &numbers(1, 64), &numbers(2, 64));
            assert_eq!(normalise(&norm, 2, &inputs, 1), normalise(&norm, 2, &inputs, 2));
        }
    });
}
