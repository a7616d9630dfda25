//! Reading and writing a vector of each element of a tile, with one check for all of them: a check for each costs as much as the transform.

use pulp::Simd;

/// A vector of each element.
pub(super) type Square<S, const SIDE: usize> = [[<S as Simd>::f32s; SIDE]; SIDE];

/// Reads whole vectors, from `start` on, of slices of equal length.
#[inline(always)]
pub(super) fn read_pixels<S: Simd, const SIDE: usize>(
    simd: S,
    pixels: &[[&[f32]; SIDE]; SIDE],
    start: usize,
) -> Square<S, SIDE> {
    let mut values = [[simd.splat_f32s(0.0); SIDE]; SIDE];
    for (line, pixels) in values.iter_mut().zip(pixels) {
        for (value, pixel) in line.iter_mut().zip(pixels) {
            assert!(start + S::F32_LANES <= pixel.len(), "a pixel has too few channels");
            // SAFETY: checked above.
            *value = unsafe { pixel.as_ptr().add(start).cast::<S::f32s>().read_unaligned() };
        }
    }
    values
}

/// Reads a vector of each plane.
#[inline(always)]
pub(super) fn read_planes<S: Simd, const SIDE: usize>(
    simd: S,
    planes: &[f32],
    plane: usize,
    start: usize,
) -> Square<S, SIDE> {
    assert!(start + (SIDE * SIDE - 1) * plane + S::F32_LANES <= planes.len(), "a vector lies outside of the planes");
    let mut values = [[simd.splat_f32s(0.0); SIDE]; SIDE];
    for (index, value) in values.as_flattened_mut().iter_mut().enumerate() {
        // SAFETY: the last vector lies inside, as checked above.
        *value = unsafe { planes.as_ptr().add(start + index * plane).cast::<S::f32s>().read_unaligned() };
    }
    values
}

/// Writes a column of vectors: one to each `SIDE`th plane from `start` on.
#[inline(always)]
pub(super) fn write_column<S: Simd, const SIDE: usize>(
    planes: &mut [f32],
    plane: usize,
    start: usize,
    values: [S::f32s; SIDE],
) {
    assert!(start + (SIDE - 1) * SIDE * plane + S::F32_LANES <= planes.len(), "a vector lies outside of the planes");
    for (index, value) in values.into_iter().enumerate() {
        let place = start + index * SIDE * plane;
        // SAFETY: the last vector lies inside, as checked above.
        unsafe { planes.as_mut_ptr().add(place).cast::<S::f32s>().write_unaligned(value) };
    }
}
