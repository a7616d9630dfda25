//! Pictures as the check sees them: 8-bit RGB, read from PNG files whose size is bounded.

use std::io::Cursor;

use thiserror::Error;

/// Largest side of a picture that is read: far beyond what any supported model makes, and at most 48 MiB of pixels.
const LARGEST_SIDE: u32 = 4096;

/// A picture of 8-bit RGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

/// Why a picture could not be used.
#[derive(Debug, Error)]
pub enum PictureError {
    /// Not a PNG file, or a broken one.
    #[error("the file is not a readable PNG: {0}")]
    Decode(#[from] png::DecodingError),
    /// Another kind of PNG than the program writes.
    #[error("the PNG holds {color:?} of {depth:?} bits, and 8-bit RGB is checked")]
    Format {
        /// Its colour type.
        color: png::ColorType,
        /// Its bits per channel.
        depth: png::BitDepth,
    },
    /// Pixels and size do not belong together, or the size is out of bounds.
    #[error("a picture of {width}x{height} pixels cannot have {bytes} bytes; sides go from 1 to {LARGEST_SIDE}")]
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes of pixels found or needed.
        bytes: usize,
    },
    /// Two pictures that are compared differ in size.
    #[error("a picture of {}x{} pixels cannot be compared with one of {}x{}", .0.0, .0.1, .1.0, .1.1)]
    SizesDiffer((u32, u32), (u32, u32)),
}

impl Picture {
    /// A picture of these pixels.
    ///
    /// # Shapes
    /// - `pixels`: `[height, width, 3]`, row-major bytes
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, PictureError> {
        let sides_fit = (1..=LARGEST_SIDE).contains(&width) && (1..=LARGEST_SIDE).contains(&height);
        if !sides_fit || pixels.len() != 3 * width as usize * height as usize {
            return Err(PictureError::Size { width, height, bytes: pixels.len() });
        }
        Ok(Self { width, height, pixels })
    }

    /// Reads a PNG file.
    pub fn from_png(file: &[u8]) -> Result<Self, PictureError> {
        let mut reader = png::Decoder::new(Cursor::new(file)).read_info()?;
        let (color, depth) = reader.output_color_type();
        if (color, depth) != (png::ColorType::Rgb, png::BitDepth::Eight) {
            return Err(PictureError::Format { color, depth });
        }
        let (width, height) = (reader.info().width, reader.info().height);
        if width > LARGEST_SIDE || height > LARGEST_SIDE {
            return Err(PictureError::Size { width, height, bytes: 3 * width as usize * height as usize });
        }
        let mut pixels = vec![0; 3 * width as usize * height as usize];
        reader.next_frame(&mut pixels)?;
        Self::new(width, height, pixels)
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.pixels
    }

    /// Every pixel with its place: x and y from -1 to 1, colour from 0 to 1, row by row.
    pub(crate) fn points(&self) -> impl Iterator<Item = ([f32; 2], [f32; 3])> + '_ {
        let (width, height) = (self.width as usize, self.height as usize);
        let middle = |index: usize, count: usize| (index as f32 + 0.5) / count as f32 * 2.0 - 1.0;
        self.pixels.chunks_exact(3).enumerate().map(move |(index, pixel)| {
            let place = [middle(index % width, width), middle(index / width, height)];
            (place, [pixel[0], pixel[1], pixel[2]].map(|channel| f32::from(channel) / 255.0))
        })
    }
}

/// Peak signal-to-noise ratio of two pictures in decibels, the peak being 255; infinite if they are equal.
pub fn psnr(one: &Picture, other: &Picture) -> Result<f64, PictureError> {
    let sizes = ((one.width, one.height), (other.width, other.height));
    if sizes.0 != sizes.1 {
        return Err(PictureError::SizesDiffer(sizes.0, sizes.1));
    }
    let squares = one.pixels.iter().zip(&other.pixels).map(|(one, other)| f64::from(one.abs_diff(*other)).powi(2));
    let mean = squares.sum::<f64>() / one.pixels.len() as f64;
    Ok(10.0 * (255.0 * 255.0 / mean).log10())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(value: u8) -> Picture {
        Picture::new(4, 4, vec![value; 48]).unwrap()
    }

    #[test]
    fn psnr_is_that_of_the_mean_square() {
        assert_eq!(psnr(&plain(9), &plain(9)).unwrap(), f64::INFINITY);
        // A difference of one everywhere: 20 log10(255).
        assert!((psnr(&plain(9), &plain(10)).unwrap() - 48.130_803).abs() < 1e-6);
        assert!((psnr(&plain(0), &plain(255)).unwrap()).abs() < 1e-12);
    }

    #[test]
    fn pictures_of_different_sizes_are_not_compared() {
        let wide = Picture::new(8, 2, vec![0; 48]).unwrap();
        assert!(matches!(psnr(&wide, &plain(0)), Err(PictureError::SizesDiffer((8, 2), (4, 4)))));
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        assert!(matches!(Picture::from_png(b"GIF89a"), Err(PictureError::Decode(_))));
        assert!(matches!(Picture::new(2, 2, vec![0; 11]), Err(PictureError::Size { bytes: 11, .. })));
        assert!(matches!(Picture::new(0, 2, Vec::new()), Err(PictureError::Size { width: 0, .. })));
    }

    #[test]
    fn a_png_gives_back_its_pixels_and_another_kind_of_png_is_named() {
        let write = |color, bytes: &[u8]| {
            let mut file = Vec::new();
            let mut encoder = png::Encoder::new(&mut file, 2, 1);
            encoder.set_color(color);
            encoder.write_header().unwrap().write_image_data(bytes).unwrap();
            file
        };
        let found = Picture::from_png(&write(png::ColorType::Rgb, &[1, 2, 3, 4, 5, 6])).unwrap();
        assert_eq!(found.bytes(), [1, 2, 3, 4, 5, 6]);
        let error = Picture::from_png(&write(png::ColorType::Grayscale, &[1, 2])).unwrap_err();
        assert!(error.to_string().contains("Grayscale"), "{error}");
    }
}
