//! Where the pixels of a convolution's window lie in its sources: padding, stride and upsampling, one axis at a time.

use super::spec::ConvolutionSpec;

/// A coordinate in the zeros around the image.
const OUTSIDE: u32 = u32::MAX;

/// For each padded coordinate of both axes the coordinate in the sources.
pub(crate) struct Geometry {
    pub(crate) output_size: [usize; 2],
    pub(crate) stride: usize,
    source_size: [usize; 2],
    vertical: Vec<u32>,
    horizontal: Vec<u32>,
}

impl Geometry {
    pub(crate) fn new(spec: &ConvolutionSpec) -> Self {
        let [vertical, horizontal] = [0, 1].map(|axis| {
            let [size, source_size] = [spec.size[axis], spec.source_size[axis]];
            (0..size + spec.padding[0])
                .map(|padded| match padded.checked_sub(spec.padding[0]) {
                    Some(index) => (index * source_size / size) as u32,
                    None => OUTSIDE,
                })
                .collect()
        });
        let (output_size, source_size) = (spec.output_size(), spec.source_size);
        Self { output_size, stride: spec.stride, source_size, vertical, horizontal }
    }

    /// Pixels of one row of the batch's output.
    pub(crate) fn output_pixels(&self) -> usize {
        self.output_size[0] * self.output_size[1]
    }

    pub(crate) fn source_pixels(&self) -> usize {
        self.source_size[0] * self.source_size[1]
    }

    /// The source's pixel at padded coordinates, if it lies inside.
    #[inline(always)]
    pub(crate) fn source_pixel(&self, row: usize, y: usize, x: usize) -> Option<usize> {
        let y = self.vertical.get(y).copied().unwrap_or(OUTSIDE);
        let x = self.horizontal.get(x).copied().unwrap_or(OUTSIDE);
        let [height, width] = self.source_size;
        (y != OUTSIDE && x != OUTSIDE).then(|| (row * height + y as usize) * width + x as usize)
    }

    /// For each pixel of the output from `first` on: row of the batch, and first padded coordinates of its window.
    #[inline(always)]
    pub(crate) fn windows(&self, first: usize) -> impl Iterator<Item = [usize; 3]> {
        let [height, width] = self.output_size;
        let (line, mut x) = (first / width, first % width);
        let (mut row, mut y) = (line / height, line % height);
        // One division for all, where one for each pixel is a tenth of a shallow layer's time.
        std::iter::repeat_with(move || {
            let window = [row, y * self.stride, x * self.stride];
            x += 1;
            if x == width {
                (x, y) = (0, y + 1);
            }
            if y == height {
                (y, row) = (0, row + 1);
            }
            window
        })
    }
}
