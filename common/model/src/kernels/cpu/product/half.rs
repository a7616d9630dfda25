//! bf16: activations and weights rounded, in pairs that take the place of one f32.

use pulp::{Simd, WithSimd};

use super::shared::Shared;
use super::split;
use crate::kernels::cpu::isa::Isa;

/// Pairs that a share of the rounding has at least.
const SHARE: usize = 16 * 1024;

/// The upper half, rounded to the nearest even. Without branches, so that loops of it become vectors.
#[inline(always)]
fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // A payload in the lower bits alone must not round to infinity.
    if value.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

/// Two bf16, the first in the lower half.
#[inline(always)]
pub(crate) fn pair(low: f32, high: f32) -> f32 {
    f32::from_bits(round(low) | round(high) << 16)
}

/// Rounds pixels of `channels` each; a last channel without a partner is paired with zero.
pub(crate) fn round_pixels(isa: Isa, channels: usize, input: &[f32], output: &mut [f32]) {
    let pixels = input.len() / channels;
    let units = channels.div_ceil(2);
    let shares = split::shares(input.len() * 16).min((output.len() / SHARE).max(1)).min(pixels.max(1));
    let output = Shared::new(output);
    split::for_each(shares, |share| {
        let pixels = split::part(pixels, shares, share);
        // SAFETY: shares have different pixels.
        let output = unsafe { output.part(pixels.start * units, pixels.len() * units) };
        isa.dispatch(Round { channels, input: &input[pixels.start * channels..pixels.end * channels], output });
    });
}

struct Round<'a> {
    channels: usize,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl WithSimd for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        if self.channels.is_multiple_of(2) {
            return round_pairs(self.input, self.output);
        }
        let units = self.channels.div_ceil(2);
        for (pixel, place) in self.input.chunks_exact(self.channels).zip(self.output.chunks_exact_mut(units)) {
            round_pairs(pixel, place);
            place[units - 1] = pair(pixel[self.channels - 1], 0.0);
        }
    }
}

#[inline(always)]
fn round_pairs(input: &[f32], output: &mut [f32]) {
    for (&[low, high], place) in input.as_chunks::<2>().0.iter().zip(output) {
        *place = pair(low, high);
    }
}

/// Pairs of bf16 by `vdpbf16ps`, which AVX-512 alone has not.
#[cfg(target_arch = "x86_64")]
pub(crate) mod native {
    use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};

    use pulp::x86::V4;
    use pulp::{Simd, WithSimd, f32x16};

    use crate::kernels::cpu::product::multiply::Multiply;

    /// Exists only where the CPU has the instruction.
    #[derive(Clone, Copy)]
    pub(crate) struct Pairs(V4);

    impl Pairs {
        pub(crate) fn try_new() -> Option<Self> {
            std::arch::is_x86_feature_detected!("avx512bf16").then(V4::try_new).flatten().map(Self)
        }
    }

    /// # Safety
    /// The CPU has AVX-512 and its bf16 extension.
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn vectorize<O: WithSimd>(simd: V4, operation: O) -> O::Output {
        operation.with_simd(simd)
    }

    impl Multiply for Pairs {
        type Simd = V4;
        type Left = f32x16;
        type Right = f32x16;

        #[inline(always)]
        fn simd(self) -> V4 {
            self.0
        }

        #[inline(always)]
        fn left(self, unit: f32) -> f32x16 {
            self.0.splat_f32s(unit)
        }

        #[inline(always)]
        fn right(self, units: f32x16) -> f32x16 {
            units
        }

        #[inline(always)]
        fn multiply_add(self, left: f32x16, right: f32x16, sums: f32x16) -> f32x16 {
            // SAFETY: vectors of equal size of which any bits are valid; `self` proves that the CPU has the instruction.
            unsafe {
                let left = std::mem::transmute::<f32x16, __m512bh>(left);
                let right = std::mem::transmute::<f32x16, __m512bh>(right);
                let sums = std::mem::transmute::<f32x16, __m512>(sums);
                std::mem::transmute(_mm512_dpbf16_ps(sums, left, right))
            }
        }

        #[inline(always)]
        fn vectorize<O: WithSimd>(self, operation: O) -> O::Output {
            // SAFETY: `self` proves it.
            unsafe { vectorize(self.0, operation) }
        }
    }
}
