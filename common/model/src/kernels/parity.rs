//! Every CPU kernel against candle's own operations, over even and odd shapes; and against itself on other thread counts.

use candle_core::{Device, Tensor};

use super::{
    Activation, AttentionMask, AttentionSpec, Bias, Conv2dSpec, GroupNormSpec, Kernels, LayerNormSpec, LinearSpec,
};
use crate::checkpoint::FormulaWeights;
use crate::formula;

/// Both sum in f32, in different orders; sums here have at most a few thousand terms.
const TOLERANCE: f32 = 2e-5;

const WEIGHTS: FormulaWeights = FormulaWeights { seed: 3 };

const ACTIVATIONS: [Activation; 4] = [Activation::Gelu, Activation::None, Activation::QuickGelu, Activation::Silu];

fn kernels() -> (Kernels, Kernels) {
    (Kernels::for_device(&Device::Cpu), Kernels::reference(&Device::Cpu))
}

fn input(name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_vec(formula::noise(name, shape, 5), shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (values(found), values(expected));
    let largest = expected.iter().fold(1e-3f32, |largest, value| largest.max(value.abs()));
    for (index, (a, b)) in found.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= TOLERANCE * largest, "{what}: element {index} is {a}, expected {b}");
    }
}

/// The same bits with one thread and with three.
fn assert_thread_independent(work: impl Fn() -> Tensor + Sync + Send, what: &str) {
    let with =
        |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| values(&work()));
    assert_eq!(with(1), with(3), "{what}");
}

#[test]
fn convolutions_agree_for_all_kernels_strides_and_sizes() {
    let (cpu, reference) = kernels();
    for (kernel, stride, padding) in [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (3, 2, 0), (3, 1, 0), (5, 3, 2)] {
        for (in_channels, out_channels) in [(1, 1), (3, 8), (20, 5)] {
            let spec = Conv2dSpec { in_channels, out_channels, kernel, stride, padding };
            for (height, width) in [(5, 5), (8, 8), (7, 16), (33, 9)] {
                let input = input("image", &[2, in_channels, height, width]);
                let forward =
                    |kernels: &Kernels| kernels.conv2d(spec, &WEIGHTS, "conv").unwrap().forward(&input).unwrap();
                assert_close(&forward(&cpu), &forward(&reference), &format!("{spec:?} on {height}x{width}"));
            }
        }
    }
}

#[test]
fn convolutions_in_several_bands_agree() {
    let (cpu, reference) = kernels();
    // 64 * 9 rows of columns of 128 * 128 pixels are more than one band holds.
    let (spec, input) = (Conv2dSpec::same3(64, 2), input("image", &[1, 64, 128, 128]));
    let forward = |kernels: &Kernels| kernels.conv2d(spec, &WEIGHTS, "conv").unwrap().forward(&input).unwrap();
    assert_close(&forward(&cpu), &forward(&reference), "bands");
    assert_thread_independent(|| forward(&cpu), "bands");
}

#[test]
fn a_convolution_reads_tensors_that_are_not_contiguous() {
    let (cpu, reference) = kernels();
    let (spec, input) = (Conv2dSpec::same3(4, 4), input("image", &[1, 6, 6, 8]).transpose(1, 3).unwrap());
    let input = input.narrow(1, 2, 4).unwrap();
    let forward = |kernels: &Kernels| kernels.conv2d(spec, &WEIGHTS, "conv").unwrap().forward(&input).unwrap();
    assert_close(&forward(&cpu), &forward(&reference), "narrowed and transposed");
}

#[test]
fn linear_layers_agree() {
    let (cpu, reference) = kernels();
    for bias in [Bias::Absent, Bias::Present] {
        for (rows, in_features, out_features) in [(1, 1, 1), (1, 70, 3), (77, 32, 96), (130, 300, 65)] {
            let spec = LinearSpec { in_features, out_features, bias };
            let input = input("rows", &[2, rows, in_features]);
            let forward =
                |kernels: &Kernels| kernels.linear(spec, &WEIGHTS, "linear").unwrap().forward(&input).unwrap();
            assert_close(&forward(&cpu), &forward(&reference), &format!("{spec:?} on {rows} rows"));
            assert_thread_independent(|| forward(&cpu), "linear");
        }
    }
}

#[test]
fn group_norms_agree_with_every_activation() {
    let (cpu, reference) = kernels();
    for (groups, channels, pixels) in [(1, 1, 1), (2, 6, 35), (8, 32, 64), (4, 8, 5000)] {
        for activation in ACTIVATIONS {
            let spec = GroupNormSpec { groups, channels, epsilon: 1e-5, activation };
            let input = (input("image", &[2, channels, pixels]) + 3.0).unwrap();
            let forward =
                |kernels: &Kernels| kernels.group_norm(spec, &WEIGHTS, "norm").unwrap().forward(&input).unwrap();
            assert_close(&forward(&cpu), &forward(&reference), &format!("{spec:?} on {pixels} pixels"));
            assert_thread_independent(|| forward(&cpu), "group norm");
        }
    }
}

#[test]
fn layer_norms_agree() {
    let (cpu, reference) = kernels();
    for (rows, width) in [(1, 2), (3, 17), (77, 320), (100, 1024)] {
        let spec = LayerNormSpec { width, epsilon: 1e-5 };
        let input = input("rows", &[2, rows, width]);
        let forward = |kernels: &Kernels| kernels.layer_norm(spec, &WEIGHTS, "norm").unwrap().forward(&input).unwrap();
        assert_close(&forward(&cpu), &forward(&reference), &format!("{spec:?} on {rows} rows"));
        assert_thread_independent(|| forward(&cpu), "layer norm");
    }
}

#[test]
fn attention_agrees_with_and_without_a_mask() {
    let (cpu, reference) = kernels();
    for (heads, head_width, queries, keys) in [(1, 1, 1, 1), (3, 8, 5, 77), (2, 40, 64, 64), (1, 16, 600, 600)] {
        for mask in [AttentionMask::Causal, AttentionMask::None] {
            let keys = if mask == AttentionMask::Causal { queries } else { keys };
            let spec = AttentionSpec { heads, head_width, mask };
            let width = heads * head_width;
            let query = (input("query", &[2, queries, width]) * 4.0).unwrap();
            let (key, value) = (input("key", &[2, keys, width]), input("value", &[2, keys, width]));
            let forward = |kernels: &Kernels| kernels.attention(spec).forward(&query, &key, &value).unwrap();
            assert_close(&forward(&cpu), &forward(&reference), &format!("{spec:?}, {queries} queries, {keys} keys"));
            assert_thread_independent(|| forward(&cpu), "attention");
        }
    }
}

#[test]
fn activations_agree() {
    let (cpu, reference) = kernels();
    let input = (input("values", &[3, 20_011]) * 8.0).unwrap();
    for activation in ACTIVATIONS {
        let forward = |kernels: &Kernels| kernels.activate(activation, &input).unwrap();
        assert_close(&forward(&cpu), &forward(&reference), &format!("{activation:?}"));
        assert_thread_independent(|| forward(&cpu), "activation");
    }
    let gated = input.narrow(1, 0, 20_010).unwrap();
    let forward = |kernels: &Kernels| kernels.geglu(&gated).unwrap();
    assert_close(&forward(&cpu), &forward(&reference), "geglu");
}

#[test]
fn operands_of_wrong_shapes_are_refused_and_not_computed() {
    for kernels in [kernels().0, kernels().1] {
        let conv = kernels.conv2d(Conv2dSpec::same3(3, 4), &WEIGHTS, "conv").unwrap();
        assert!(conv.forward(&input("image", &[1, 4, 8, 8])).is_err());
        assert!(conv.forward(&input("image", &[3, 8, 8])).is_err());
        let spec = LinearSpec { in_features: 3, out_features: 2, bias: Bias::Absent };
        assert!(kernels.linear(spec, &WEIGHTS, "linear").unwrap().forward(&input("rows", &[2, 4])).is_err());
        let spec = AttentionSpec { heads: 2, head_width: 4, mask: AttentionMask::None };
        let attention = kernels.attention(spec);
        assert!(attention.forward(&input("q", &[1, 2, 8]), &input("k", &[2, 2, 8]), &input("v", &[2, 2, 8])).is_err());
        assert!(attention.forward(&input("q", &[1, 2, 6]), &input("k", &[1, 2, 6]), &input("v", &[1, 2, 6])).is_err());
        let spec = GroupNormSpec { groups: 4, channels: 6, epsilon: 1e-5, activation: Activation::None };
        assert!(kernels.group_norm(spec, &WEIGHTS, "norm").is_err());
        assert!(kernels.geglu(&input("gated", &[2, 3])).is_err());
    }
}
