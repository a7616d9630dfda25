//! How alike two pictures are.

use std::path::Path;

/// What a picture keeps that was made in another way after some step, compared with the one that was not disturbed. What AsyncDiff itself changes
/// is 37 dB and more; a picture of something else has 15 dB or less.
pub(crate) const ALIKE_DECIBELS: f64 = 25.0;

/// The peak signal-to-noise ratio between two PNG files of one size.
pub(crate) fn decibels(one: &Path, other: &Path) -> f64 {
    let (one, other) = (pixels(one), pixels(other));
    assert_eq!(one.len(), other.len());
    let squares = one.iter().zip(&other).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    10.0 * (255.0f64.powi(2) / (squares.sum::<f64>() / one.len() as f64).max(1e-9)).log10()
}

fn pixels(path: &Path) -> Vec<u8> {
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}
