//! The kernel: sums of a few pixels and two vectors of output channels, held in registers over the depth of a block.
//!
//! The pixels' channels are read where they lie, through one slice per pixel and segment: indirect convolution (Dukhan 2019,
//! arXiv 1907.02129). So padding, stride, upsampling and concatenation cost nothing here.
//! Raw pointers are here, in `shared.rs`, in `winograd/planes.rs` and under `amx/`, nowhere else.

use pulp::{Simd, WithSimd};

use super::layout::{ROWS, VECTORS};
use super::multiply::Multiply;

/// For each pixel of a tile the channels of one segment.
pub(crate) type Rows<'a> = [&'a [f32]; ROWS];

/// A tile's factors and where its sums go.
pub(crate) struct Tile<'a, 'b> {
    /// The activations, segment by segment.
    pub(crate) segments: &'b [Rows<'a>],
    /// How many of the rows are used.
    pub(crate) rows: usize,
    /// The weights of the same depth.
    pub(crate) panel: &'a [f32],
    /// Columns of the panel: one vector or two.
    pub(crate) columns: usize,
    /// Sums of row r go to `output[r * stride..]`.
    pub(crate) output: &'b mut [f32],
    pub(crate) stride: usize,
}

/// Computes a tile.
pub(crate) fn multiply_tile<M: Multiply>(multiply: M, tile: Tile<'_, '_>) {
    multiply.vectorize(Task { multiply, tile });
}

/// How far ahead weights are fetched into the first-level cache, in f32.
const PREFETCH: usize = 512;

/// Asks for a line of the cache. Any address will do.
#[inline(always)]
fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch touches nothing that a program can see.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

struct Task<'a, 'b, M> {
    multiply: M,
    tile: Tile<'a, 'b>,
}

impl<M: Multiply> WithSimd for Task<'_, '_, M> {
    type Output = ();

    /// Uses the vectors of `M`, which are those of `S` or greater.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let lanes = <M::Simd as Simd>::F32_LANES;
        let Tile { segments, rows, panel, columns, ref output, stride } = self.tile;
        let units: usize = segments.iter().map(|rows| rows[0].len()).sum();
        let even = segments.iter().all(|slices| slices[..rows].iter().all(|slice| slice.len() == slices[0].len()));
        assert!(even, "the pixels of a segment differ in length");
        assert!(columns == lanes || columns == VECTORS * lanes, "a panel is one or {VECTORS} vectors wide");
        assert!(panel.len() >= units * columns, "the weights are shorter than the activations");
        assert!(rows > 0 && output.len() >= (rows - 1) * stride + columns, "the output is too short for its tile");
        macro_rules! sizes {
            ($($rows:literal)*) => {
                match (rows, columns == lanes) {
                    // SAFETY: checked above.
                    $(($rows, true) => unsafe { self.run::<$rows, 1>() },
                    ($rows, false) => unsafe { self.run::<$rows, VECTORS>() },)*
                    _ => unreachable!("tiles of vectors have at most 12 rows"),
                }
            };
        }
        sizes!(1 2 3 4 5 6 7 8 9 10 11 12);
    }
}

impl<M: Multiply> Task<'_, '_, M> {
    /// # Safety
    /// There are `HEIGHT` rows, in each segment of the same length; the panel has `WIDTH` vectors for each of their units, and the output
    /// has room for `WIDTH` vectors in each row.
    #[inline(always)]
    unsafe fn run<const HEIGHT: usize, const WIDTH: usize>(self) {
        let Self { multiply, tile } = self;
        let (simd, lanes) = (multiply.simd(), <M::Simd as Simd>::F32_LANES);
        let mut sums = [[simd.splat_f32s(0.0); WIDTH]; HEIGHT];
        let mut panel = tile.panel.as_ptr();
        for slices in tile.segments {
            let mut pointers = [slices[0].as_ptr(); HEIGHT];
            for row in 1..HEIGHT {
                pointers[row] = slices[row].as_ptr();
            }
            for unit in 0..slices[0].len() {
                // SAFETY: the caller's promise: `unit` lies within each row and the panel has vectors for each unit.
                unsafe {
                    let mut right = [multiply.right(panel.cast::<<M::Simd as Simd>::f32s>().read_unaligned()); WIDTH];
                    for (vector, right) in right.iter_mut().enumerate().skip(1) {
                        let units = panel.add(vector * lanes).cast::<<M::Simd as Simd>::f32s>();
                        *right = multiply.right(units.read_unaligned());
                    }
                    panel = panel.add(WIDTH * lanes);
                    for vector in 0..WIDTH {
                        prefetch(panel.wrapping_add(PREFETCH + vector * lanes));
                    }
                    for row in 0..HEIGHT {
                        let left = multiply.left(*pointers[row].add(unit));
                        for vector in 0..WIDTH {
                            sums[row][vector] = multiply.multiply_add(left, right[vector], sums[row][vector]);
                        }
                    }
                }
            }
        }
        let output = tile.output.as_mut_ptr();
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sums) in sums.into_iter().enumerate() {
                // SAFETY: the caller's promise: the output has room for all rows.
                unsafe {
                    let place = output.add(row * tile.stride + vector * lanes).cast::<<M::Simd as Simd>::f32s>();
                    place.write_unaligned(sums);
                }
            }
        }
    }
}
