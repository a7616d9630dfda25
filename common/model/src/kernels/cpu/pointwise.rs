//! Activation functions and sums, element by element in one pass over memory.

use pulp::{Simd, WithSimd};

use crate::graph::Activation;
use crate::kernels::cpu::isa::Isa;
use crate::kernels::cpu::threads::for_chunks;
use crate::kernels::cpu::vector::{gelu, swish};

/// Elements that one thread takes at a time: 64 KiB, a share that its own cache holds and that outweighs the hand-over.
const BLOCK: usize = 16 * 1024;

/// Slope of CLIP's approximation of GELU.
const QUICK_GELU_SLOPE: f32 = 1.702;

/// A function over vectors. A type instead of a value, so that loops over memory are compiled for each function.
pub(crate) trait Function: Copy + Send + Sync {
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s;
}

/// [`Activation::Gelu`].
#[derive(Clone, Copy)]
pub(crate) struct Gelu;

/// [`Activation::None`].
#[derive(Clone, Copy)]
pub(crate) struct Identity;

/// [`Activation::QuickGelu`].
#[derive(Clone, Copy)]
pub(crate) struct QuickGelu;

/// [`Activation::Silu`].
#[derive(Clone, Copy)]
pub(crate) struct Silu;

impl Function for Gelu {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        gelu(simd, x)
    }
}

impl Function for Identity {
    #[inline(always)]
    fn apply<S: Simd>(self, _simd: S, x: S::f32s) -> S::f32s {
        x
    }
}

impl Function for QuickGelu {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        swish(simd, x, QUICK_GELU_SLOPE)
    }
}

impl Function for Silu {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        swish(simd, x, 1.0)
    }
}

/// Applies an activation function to each element.
///
/// # Shapes
/// - `input` and `output`: any, the same
pub(crate) fn activate(isa: Isa, activation: Activation, input: &[f32], output: &mut [f32]) {
    match activation {
        Activation::Gelu => map(isa, Gelu, input, output),
        Activation::None => map(isa, Identity, input, output),
        Activation::QuickGelu => map(isa, QuickGelu, input, output),
        Activation::Silu => map(isa, Silu, input, output),
    }
}

/// The sum of two operands: of embeddings, a few thousand elements, so that nothing is gained by vectors or threads.
///
/// # Shapes
/// - `one`, `other`: `[rows, ..]`, or one row for all
/// - `output`: `[rows, ..]`
pub(crate) fn add(one: &[f32], other: &[f32], output: &mut [f32]) {
    for ((output, one), other) in output.iter_mut().zip(one.iter().cycle()).zip(other.iter().cycle()) {
        *output = one + other;
    }
}

fn map<F: Function>(isa: Isa, function: F, input: &[f32], output: &mut [f32]) {
    assert_eq!(input.len(), output.len(), "input of an activation");
    for_chunks(output.len(), output, BLOCK, |index, output| {
        isa.dispatch(Map { function, input: &input[index * BLOCK..][..output.len()], output });
    });
}

struct Map<'a, F> {
    function: F,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl<F: Function> WithSimd for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (input, input_rest) = S::as_simd_f32s(self.input);
        let (output, output_rest) = S::as_mut_simd_f32s(self.output);
        for (output, &input) in output.iter_mut().zip(input) {
            *output = self.function.apply(simd, input);
        }
        if !output_rest.is_empty() {
            let values = self.function.apply(simd, simd.partial_load_f32s(input_rest));
            simd.partial_store_f32s(output_rest, values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::testing::{each_isa, numbers, reference_activation};

    #[test]
    fn activations_agree_with_the_formulas() {
        each_isa(|isa| {
            for count in [1, 15, 16, 17, 1000, 70_000] {
                let input: Vec<f32> = numbers(3, count).iter().map(|value| value * 6.0).collect();
                for activation in [Activation::Gelu, Activation::None, Activation::QuickGelu, Activation::Silu] {
                    let mut output = vec![f32::NAN; count];
                    activate(isa, activation, &input, &mut output);
                    for (&value, &x) in output.iter().zip(&input) {
                        let expected = reference_activation(activation, f64::from(x));
                        let error = (f64::from(value) - expected).abs();
                        assert!(error < 4e-7 * f64::from(x).abs().max(1.0), "{activation:?} of {x}: {value}");
                    }
                }
            }
        });
    }
}
