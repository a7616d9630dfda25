//! How one unit of depth is multiplied: f32, pairs of bf16 by the instruction for them, or pairs of bf16 that are expanded.

use pulp::{Simd, WithSimd};

/// The arithmetic of the kernel. A unit is four bytes: an f32, or a pair of bf16 of which the first is the lower half.
pub(crate) trait Multiply: Copy + Send + Sync {
    /// The vectors that hold the sums.
    type Simd: Simd;
    /// A unit of activations in all lanes.
    type Left: Copy;
    /// A unit of weights per lane.
    type Right: Copy;

    fn simd(self) -> Self::Simd;
    fn left(self, unit: f32) -> Self::Left;
    fn right(self, units: <Self::Simd as Simd>::f32s) -> Self::Right;
    fn multiply_add(
        self,
        left: Self::Left,
        right: Self::Right,
        sums: <Self::Simd as Simd>::f32s,
    ) -> <Self::Simd as Simd>::f32s;

    /// Runs `operation` compiled for the instructions that this arithmetic needs.
    fn vectorize<O: WithSimd>(self, operation: O) -> O::Output;
}

/// Plain f32.
#[derive(Clone, Copy)]
pub(crate) struct Single<S>(pub(crate) S);

impl<S: Simd> Multiply for Single<S> {
    type Simd = S;
    type Left = S::f32s;
    type Right = S::f32s;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }

    #[inline(always)]
    fn left(self, unit: f32) -> S::f32s {
        self.0.splat_f32s(unit)
    }

    #[inline(always)]
    fn right(self, units: S::f32s) -> S::f32s {
        units
    }

    #[inline(always)]
    fn multiply_add(self, left: S::f32s, right: S::f32s, sums: S::f32s) -> S::f32s {
        self.0.mul_add_e_f32s(left, right, sums)
    }

    #[inline(always)]
    fn vectorize<O: WithSimd>(self, operation: O) -> O::Output {
        self.0.vectorize(operation)
    }
}

/// Pairs of bf16 on a CPU without instructions for them: each becomes two f32. Slower than f32, at half the memory.
#[derive(Clone, Copy)]
pub(crate) struct Expanded<S>(pub(crate) S);

impl<S: Simd> Expanded<S> {
    #[inline(always)]
    fn halves(self, pairs: S::f32s) -> [S::f32s; 2] {
        let simd = self.0;
        let bits = simd.transmute_u32s_f32s(pairs);
        let low = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(16));
        let high = simd.and_u32s(bits, simd.splat_u32s(0xffff_0000));
        [simd.transmute_f32s_u32s(low), simd.transmute_f32s_u32s(high)]
    }
}

impl<S: Simd> Multiply for Expanded<S> {
    type Simd = S;
    type Left = [S::f32s; 2];
    type Right = [S::f32s; 2];

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }

    #[inline(always)]
    fn left(self, unit: f32) -> [S::f32s; 2] {
        let bits = unit.to_bits();
        let [low, high] = [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)];
        [self.0.splat_f32s(low), self.0.splat_f32s(high)]
    }

    #[inline(always)]
    fn right(self, units: S::f32s) -> [S::f32s; 2] {
        self.halves(units)
    }

    #[inline(always)]
    fn multiply_add(self, left: [S::f32s; 2], right: [S::f32s; 2], sums: S::f32s) -> S::f32s {
        let sums = self.0.mul_add_e_f32s(left[0], right[0], sums);
        self.0.mul_add_e_f32s(left[1], right[1], sums)
    }

    #[inline(always)]
    fn vectorize<O: WithSimd>(self, operation: O) -> O::Output {
        self.0.vectorize(operation)
    }
}
