//! The transforms of one axis, by Lavin and Gray's section 4, with common terms shared.

use pulp::Simd;

/// `B^T x`: 4 inputs for F(2, 3), 6 for F(4, 3).
#[inline(always)]
pub(super) fn input<S: Simd, const INPUTS: usize>(simd: S, x: [S::f32s; INPUTS]) -> [S::f32s; INPUTS] {
    let mut y = x;
    if INPUTS == 4 {
        y[0] = simd.sub_f32s(x[0], x[2]);
        y[1] = simd.add_f32s(x[1], x[2]);
        y[2] = simd.sub_f32s(x[2], x[1]);
        y[3] = simd.sub_f32s(x[1], x[3]);
        return y;
    }
    let scaled = |factor: f32, value, sum| simd.mul_add_e_f32s(simd.splat_f32s(factor), value, sum);
    let (even, odd) = (scaled(-4.0, x[2], x[4]), scaled(-4.0, x[1], x[3]));
    let (even_half, odd_half) = (simd.sub_f32s(x[4], x[2]), simd.sub_f32s(x[3], x[1]));
    y[0] = scaled(4.0, x[0], scaled(-5.0, x[2], x[4]));
    y[1] = simd.add_f32s(even, odd);
    y[2] = simd.sub_f32s(even, odd);
    y[3] = scaled(2.0, odd_half, even_half);
    y[4] = scaled(-2.0, odd_half, even_half);
    y[5] = scaled(4.0, x[1], scaled(-5.0, x[3], x[5]));
    y
}

/// `A^T x`: the first 2 (4) of what is returned.
#[inline(always)]
pub(super) fn output<S: Simd, const INPUTS: usize>(simd: S, x: [S::f32s; INPUTS]) -> [S::f32s; INPUTS] {
    let mut y = x;
    let (sum, difference) = (simd.add_f32s(x[1], x[2]), simd.sub_f32s(x[1], x[2]));
    if INPUTS == 4 {
        y[0] = simd.add_f32s(x[0], sum);
        y[1] = simd.sub_f32s(difference, x[3]);
        return y;
    }
    let scaled = |factor: f32, value, sum| simd.mul_add_e_f32s(simd.splat_f32s(factor), value, sum);
    let (far_sum, far_difference) = (simd.add_f32s(x[3], x[4]), simd.sub_f32s(x[3], x[4]));
    y[0] = simd.add_f32s(simd.add_f32s(x[0], sum), far_sum);
    y[1] = scaled(2.0, far_difference, difference);
    y[2] = scaled(4.0, far_sum, sum);
    y[3] = simd.add_f32s(scaled(8.0, far_difference, difference), x[5]);
    y
}

/// `G`: the transform of three weights, for tiles of 2 outputs.
const WEIGHTS_2: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
/// `G` for tiles of 4 outputs.
const WEIGHTS_4: [[f64; 3]; 6] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// The rows of `G` for tiles of so many outputs.
pub(super) fn weights(side: usize) -> &'static [[f64; 3]] {
    if side == 2 { &WEIGHTS_2 } else { &WEIGHTS_4 }
}
