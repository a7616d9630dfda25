//! Parity with plain loops in f64.

use super::{Algorithm, Call, Convolution, ConvolutionSpec, CpuFormat, algorithm, packed_bytes, scratch_floats};
use crate::graph::{Activation, Store};
use crate::kernels::cpu::isa::Isa;

/// Numbers between -0.5 and 0.5, the same for the same seed.
pub(super) fn noise(length: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        })
        .collect()
}

/// Inputs of a layer.
pub(super) struct Case {
    pub(super) spec: ConvolutionSpec,
    pub(super) rows: usize,
    pub(super) weight: Vec<f32>,
    pub(super) bias: Option<Vec<f32>>,
    pub(super) sources: Vec<Vec<f32>>,
    pub(super) row_bias: Option<Vec<f32>>,
    pub(super) residual: Option<Vec<f32>>,
}

impl Case {
    /// `extras` picks, by its bits: bias, row bias, residual.
    pub(super) fn new(spec: ConvolutionSpec, rows: usize, extras: u32) -> Self {
        let depth = spec.in_channels() * spec.kernel * spec.kernel;
        let [height, width] = spec.output_size();
        let written = rows * height * width * spec.written_channels();
        let pixels = rows * spec.source_size[0] * spec.source_size[1];
        let has = |bit: u32| extras >> bit & 1 == 1;
        let scale = 2.0 / (depth as f32).sqrt();
        Self {
            rows,
            weight: noise(spec.out_channels * depth, 1).iter().map(|value| value * scale).collect(),
            bias: has(0).then(|| noise(spec.out_channels, 2)),
            sources: spec.sources.iter().zip(3..).map(|(channels, seed)| noise(pixels * channels, seed)).collect(),
            row_bias: (has(1) && spec.store != Store::Geglu)
                .then(|| noise(if has(0) { rows } else { 1 } * spec.out_channels, 7)),
            residual: has(2).then(|| noise(written, 8)),
            spec,
        }
    }

    /// Rounds weights and sources to bf16, as the bf16 kernels do.
    pub(super) fn rounded(mut self) -> Self {
        for values in self.sources.iter_mut().chain([&mut self.weight]) {
            values.iter_mut().for_each(|value| *value = half::bf16::from_f32(*value).to_f32());
        }
        self
    }

    pub(super) fn run(&self, convolution: &Convolution) -> Vec<f32> {
        let [height, width] = self.spec.output_size();
        let mut output = vec![f32::NAN; self.rows * height * width * self.spec.written_channels()];
        let mut scratch = vec![f32::NAN; convolution.scratch_floats(self.rows)];
        let sources: Vec<&[f32]> = self.sources.iter().map(Vec::as_slice).collect();
        convolution.run(Call {
            rows: self.rows,
            sources: &sources,
            row_bias: self.row_bias.as_deref(),
            residual: self.residual.as_deref(),
            scratch: &mut scratch,
            output: &mut output,
        });
        output
    }

    pub(super) fn prepare(&self, algorithm: Algorithm, isa: Isa, format: CpuFormat) -> Convolution {
        Convolution::with_algorithm((self.spec.clone(), algorithm), isa, format, &self.weight, self.bias.as_deref())
            .unwrap()
    }

    /// The input at padded coordinates, all sources concatenated.
    fn input(&self, row: usize, [y, x]: [usize; 2], channel: usize) -> f64 {
        let spec = &self.spec;
        let [Some(y), Some(x)] = [y, x].map(|padded| padded.checked_sub(spec.padding[0])) else { return 0.0 };
        if y >= spec.size[0] || x >= spec.size[1] {
            return 0.0;
        }
        let [height, width] = spec.source_size;
        let (y, x) = (y * height / spec.size[0], x * width / spec.size[1]);
        let mut channel = channel;
        for (source, &channels) in self.sources.iter().zip(&spec.sources) {
            if channel < channels {
                return f64::from(source[((row * height + y) * width + x) * channels + channel]);
            }
            channel -= channels;
        }
        unreachable!("the channel lies in a source")
    }

    fn sum(&self, row: usize, [y, x]: [usize; 2], out: usize) -> f64 {
        let (spec, kernel) = (&self.spec, self.spec.kernel);
        let mut sum = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[out]));
        for channel in 0..spec.in_channels() {
            for tap in 0..kernel * kernel {
                let place = [y * spec.stride + tap / kernel, x * spec.stride + tap % kernel];
                let weight = self.weight[(out * spec.in_channels() + channel) * kernel * kernel + tap];
                sum += self.input(row, place, channel) * f64::from(weight);
            }
        }
        sum
    }

    pub(super) fn expected(&self) -> Vec<f64> {
        let [height, width] = self.spec.output_size();
        let channels = self.spec.written_channels();
        let mut expected = Vec::new();
        for place in 0..self.rows * height * width {
            let (row, at) = (place / (height * width), [place / width % height, place % width]);
            for out in 0..channels {
                let sum = self.sum(row, at, out);
                let value = match self.spec.store {
                    Store::Geglu => sum * activate(Activation::Gelu, self.sum(row, at, channels + out)),
                    Store::Plain(activation) => {
                        let bias = self.row_bias.as_ref().map_or(0.0, |bias| {
                            let row = if bias.len() == channels { 0 } else { row };
                            f64::from(bias[row * channels + out])
                        });
                        activate(activation, sum + bias)
                    }
                };
                let residual = self.residual.as_ref().map_or(0.0, |all| f64::from(all[place * channels + out]));
                expected.push(value + residual);
            }
        }
        expected
    }
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => x * 0.5 * erfc(-x / std::f64::consts::SQRT_2),
        Activation::None => x,
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// By the series of the error function, which converges fast enough for the small numbers here.
fn erfc(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    1.0 - sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Fails unless all elements are within `tolerance` of the expected ones.
pub(super) fn check(case: &Case, output: &[f32], tolerance: f64, what: &str) {
    let expected = case.expected();
    assert_eq!(output.len(), expected.len());
    let error = output.iter().zip(&expected).map(|(&found, &wanted)| (f64::from(found) - wanted).abs());
    let error = error.fold(0.0, |worst: f64, error| if error <= worst { worst } else { error });
    assert!(error <= tolerance, "{what}: off by {error:e} in {:?}", case.spec);
}

/// A square convolution of `[size, size]` with padding that keeps it.
pub(super) fn square(sources: &[usize], out_channels: usize, size: usize, kernel: usize) -> ConvolutionSpec {
    let padding = [(kernel - 1) / 2, kernel / 2];
    let (source_size, store) = ([size, size], Store::Plain(Activation::None));
    ConvolutionSpec {
        sources: sources.to_vec(),
        out_channels,
        kernel,
        stride: 1,
        padding,
        source_size,
        size: source_size,
        store,
    }
}

/// Odd sizes and channels, several sources, strides, upsampling, every store.
pub(super) fn cases() -> Vec<Case> {
    let activations = [Activation::Gelu, Activation::None, Activation::QuickGelu, Activation::Silu];
    let mut specs = vec![
        square(&[5], 20, 5, 3),
        square(&[20, 33], 33, 7, 3),
        square(&[64], 64, 8, 3),
        square(&[33], 5, 9, 1),
        square(&[4], 40, 6, 2),
        square(&[3], 17, 6, 5),
        square(&[7, 1, 20], 50, 4, 3),
        square(&[1], 1, 1, 3),
        square(&[330, 41], 37, 4, 3),
    ];
    specs.push(ConvolutionSpec { stride: 2, ..square(&[20], 33, 9, 3) });
    specs.push(ConvolutionSpec { stride: 2, padding: [0, 1], ..square(&[16], 20, 8, 3) });
    specs.push(ConvolutionSpec { size: [10, 12], ..square(&[20], 33, 6, 3) });
    specs.push(ConvolutionSpec { size: [9, 11], source_size: [5, 6], ..square(&[5, 20], 64, 9, 3) });
    specs.push(ConvolutionSpec { source_size: [3, 17], size: [3, 17], ..square(&[8], 96, 9, 3) });
    specs.push(ConvolutionSpec { padding: [0, 0], ..square(&[12], 48, 11, 3) });
    for (tokens, store) in [(1, Store::Plain(Activation::Silu)), (29, Store::Geglu), (77, Store::Geglu)] {
        specs.push(ConvolutionSpec::linear(33, 70, tokens, store));
    }
    specs.push(ConvolutionSpec::linear(5000, 40, 2, Store::Plain(Activation::None)));
    specs.push(ConvolutionSpec::linear(64, 128, 30, Store::Geglu));
    let case = |(index, mut spec): (usize, ConvolutionSpec)| {
        if spec.store != Store::Geglu {
            spec.store = Store::Plain(activations[index % 4]);
        }
        Case::new(spec, 1 + index % 3, index as u32)
    };
    let repeated = specs.clone().into_iter().chain(specs);
    repeated.enumerate().map(case).collect()
}

#[test]
fn direct_products_agree_with_plain_loops() {
    for case in cases() {
        for isa in Isa::available() {
            let output = case.run(&case.prepare(Algorithm::Direct, isa, CpuFormat::F32));
            check(&case, &output, 4e-6, &format!("{isa:?}"));
        }
    }
}

#[test]
fn winograd_agrees_with_plain_loops() {
    for case in cases().iter().filter(|case| case.spec.kernel == 3 && case.spec.stride == 1) {
        for isa in Isa::available() {
            for (algorithm, tolerance) in [(Algorithm::Winograd2, 4e-6), (Algorithm::Winograd4, 2e-5)] {
                let output = case.run(&case.prepare(algorithm, isa, CpuFormat::F32));
                check(case, &output, tolerance, &format!("{algorithm:?} {isa:?}"));
            }
        }
    }
}

#[test]
fn bf16_products_agree_with_plain_loops() {
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "only x86-64 has an emulated one"))]
    let mut isas = Isa::available();
    #[cfg(target_arch = "x86_64")]
    {
        for missing in [Isa::Avx512, Isa::Avx512Bf16].into_iter().filter(|isa| !isas.contains(isa)) {
            eprintln!("skipped: this CPU has no {missing:?}");
        }
        if isas.contains(&Isa::Avx512) && !isas.contains(&Isa::Amx) {
            eprintln!("skipped: AMX's instructions, which are emulated here");
            isas.push(Isa::Amx);
        }
    }
    for case in cases() {
        let case = case.rounded();
        for &isa in &isas {
            let output = case.run(&case.prepare(Algorithm::Direct, isa, CpuFormat::Bf16));
            check(&case, &output, 1e-5, &format!("bf16 {isa:?}"));
        }
    }
}

#[test]
fn threads_do_not_show_in_the_bits() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    let (one, several) = (pool(1), pool(3));
    let mut specs = vec![square(&[64], 64, 24, 3), square(&[200, 56], 160, 6, 3)];
    specs.push(ConvolutionSpec { stride: 2, ..square(&[64], 96, 32, 3) });
    specs.push(ConvolutionSpec::linear(160, 320, 100, Store::Geglu));
    specs.push(ConvolutionSpec::linear(1280, 800, 1, Store::Plain(Activation::Silu)));
    for spec in specs {
        let case = Case::new(spec, 2, 7);
        for (algorithm, format) in [
            (Algorithm::Direct, CpuFormat::F32),
            (Algorithm::Direct, CpuFormat::Bf16),
            (Algorithm::Winograd2, CpuFormat::F32),
            (Algorithm::Winograd4, CpuFormat::F32),
        ] {
            if algorithm != Algorithm::Direct && (case.spec.kernel != 3 || case.spec.stride != 1) {
                continue;
            }
            for isa in Isa::available().into_iter().filter(|&isa| isa > Isa::Portable) {
                let convolution = case.prepare(algorithm, isa, format);
                let [alone, together] = [&one, &several].map(|pool| pool.install(|| case.run(&convolution)));
                assert!(alone == together, "{algorithm:?} {isa:?} differs in {:?}", case.spec);
            }
        }
    }
}

#[test]
fn sizes_are_known_without_weights() {
    for case in cases() {
        for isa in Isa::available() {
            for format in [CpuFormat::Bf16, CpuFormat::F32] {
                let convolution = Convolution::prepare(case.spec.clone(), isa, format, &case.weight, None).unwrap();
                assert_eq!(convolution.algorithm(), algorithm(&case.spec, isa, format).0);
                assert_eq!(convolution.packed_bytes(), packed_bytes(&case.spec, isa, format));
                let threads = rayon::current_num_threads();
                assert_eq!(convolution.scratch_floats(3), scratch_floats(&case.spec, isa, format, 3, threads));
            }
        }
    }
}
