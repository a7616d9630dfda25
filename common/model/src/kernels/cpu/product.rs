//! Matrix products into parts of larger buffers. One of the crate's few places with `unsafe`: the `gemm` crate takes pointers.

use gemm::Parallelism;

/// Products of fewer multiplications than this run on one thread: they take less time than waking a second one.
const PARALLEL_MULTIPLICATIONS: usize = 1 << 20;

/// A matrix inside a slice that starts at its first element.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    /// The slice.
    pub(super) elements: &'a [f32],
    /// Distance between neighbours in a column.
    pub(super) row_stride: usize,
    /// Distance between neighbours in a row.
    pub(super) column_stride: usize,
}

/// Where a product goes: rows of consecutive elements inside a slice that starts at the first.
pub(super) struct Target<'a> {
    /// The slice.
    pub(super) elements: &'a mut [f32],
    /// Distance between the starts of two rows.
    pub(super) row_stride: usize,
    /// What becomes of the elements that are there.
    pub(super) store: Store,
}

/// What becomes of the elements that a product is written over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    /// The product is added to them.
    Add,
    /// They are replaced.
    Overwrite,
}

/// Rows and columns of the result, and the length of the sums.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Rows of the result and of the left matrix.
    pub(super) rows: usize,
    /// Columns of the result and of the right matrix.
    pub(super) columns: usize,
    /// Columns of the left matrix and rows of the right one.
    pub(super) depth: usize,
}

/// Writes or adds `left * right`.
///
/// # Panics
/// When a matrix is larger than its slice: a mistake of the calling kernel, which has checked its operands' shapes.
#[allow(unsafe_code)]
pub(super) fn multiply(sizes: Sizes, left: Matrix<'_>, right: Matrix<'_>, target: Target<'_>) {
    let Sizes { rows, columns, depth } = sizes;
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(extent(rows, depth, left.row_stride, left.column_stride) <= left.elements.len(), "left matrix too large");
    assert!(
        extent(depth, columns, right.row_stride, right.column_stride) <= right.elements.len(),
        "right matrix too large"
    );
    assert!(extent(rows, columns, target.row_stride, 1) <= target.elements.len(), "target matrix too large");
    assert!(rows == 1 || target.row_stride >= columns, "rows of the target overlap");
    let several = rows * columns * depth >= PARALLEL_MULTIPLICATIONS && rayon::current_num_threads() > 1;
    let parallelism = if several { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: the four assertions above say that every element that the product touches (row r and column c at
    // r * row_stride + c * column_stride, both within the sizes) lies in its slice and that no two elements of the target
    // share a place. The target is borrowed mutably and so overlaps neither operand. All strides fit in isize because the
    // slices do. `f32` is among the element types that `gemm` computes.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            target.elements.as_mut_ptr(),
            1,
            target.row_stride as isize,
            target.store == Store::Add,
            left.elements.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.elements.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Elements from the first to the last of a matrix, both included.
fn extent(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + (columns - 1) * column_stride + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_touches_only_its_target() {
        let left: Vec<f32> = (0..6).map(|value| value as f32).collect();
        let right: Vec<f32> = (0..6).map(|value| value as f32 - 2.0).collect();
        let mut out = vec![100.0; 10];
        // [[0, 1, 2], [3, 4, 5]] times the transposed [[-2, -1, 0], [1, 2, 3]].
        multiply(
            Sizes { rows: 2, columns: 2, depth: 3 },
            Matrix { elements: &left, row_stride: 3, column_stride: 1 },
            Matrix { elements: &right, row_stride: 1, column_stride: 3 },
            Target { elements: &mut out[1..], row_stride: 5, store: Store::Add },
        );
        assert_eq!(out, [100.0, 99.0, 108.0, 100.0, 100.0, 100.0, 90.0, 126.0, 100.0, 100.0]);
    }

    #[test]
    #[should_panic(expected = "target matrix too large")]
    fn a_target_that_is_too_small_is_refused() {
        let ones = [1.0; 4];
        let mut out = [0.0; 3];
        let square = Matrix { elements: &ones, row_stride: 2, column_stride: 1 };
        let target = Target { elements: &mut out, row_stride: 2, store: Store::Overwrite };
        multiply(Sizes { rows: 2, columns: 2, depth: 2 }, square, square, target);
    }
}
