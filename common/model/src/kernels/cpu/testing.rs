//! What the tests of the kernels share: repeatable numbers, pools of threads, reference formulas in f64.

use crate::graph::Activation;
use crate::kernels::cpu::isa::Isa;

/// Roughly normal numbers, mean 0 and deviation 1, the same for the same seed.
pub(crate) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (uniform() + uniform() + uniform() + uniform() - 2.0) * 3.0f32.sqrt()).collect()
}

/// Runs a test for each instruction set of kernels here, and says aloud which this CPU lacks.
pub(crate) fn each_isa(test: impl Fn(Isa)) {
    let available = Isa::available();
    #[cfg(target_arch = "x86_64")]
    let all = [Isa::Portable, Isa::Avx2, Isa::Avx512];
    #[cfg(target_arch = "aarch64")]
    let all = [Isa::Portable, Isa::Neon];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let all = [Isa::Portable];
    for isa in all {
        if available.contains(&isa) {
            test(isa);
        } else {
            eprintln!("skipped: {isa:?}, which this CPU lacks");
        }
    }
}

/// Runs an operation on a pool of its own.
pub(crate) fn with_threads<R: Send>(threads: usize, operation: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool for a test").install(operation)
}

/// The formula of an activation function; the error function by its series and continued fraction.
pub(crate) fn reference_activation(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => x * normal_distribution(x),
        Activation::None => x,
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// Φ: the share of a normal distribution below `x`, to about 1e-14 (Marsaglia 2004: a Taylor series without cancellation).
pub(crate) fn normal_distribution(x: f64) -> f64 {
    if x.abs() > 8.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut sum, mut term, mut index) = (x.abs(), x.abs(), 1.0);
    while term > sum * 1e-17 {
        index += 2.0;
        term *= x * x / index;
        sum += term;
    }
    let half = sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x >= 0.0 { 0.5 + half } else { 0.5 - half }
}

/// The greatest distance between a result and what was expected, relative to the greater of one and the expected value.
pub(crate) fn greatest_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let errors = found.iter().zip(expected).map(|(&found, &expected)| {
        assert!(found.is_finite(), "{found} in the output");
        (f64::from(found) - expected).abs() / expected.abs().max(1.0)
    });
    errors.fold(0.0, f64::max)
}
