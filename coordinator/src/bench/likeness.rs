//! How alike two pictures are.

use anyhow::{Context, ensure};
use asyncdiff_plan::JobId;

use crate::cluster::Cluster;

/// The pixels of a job's picture.
pub(super) async fn pixels(cluster: &Cluster, job: JobId) -> anyhow::Result<Vec<u8>> {
    let files = cluster.files(job).await?.context("a job that is done has no files")?;
    let picture = files.picture.context("a job that is done has no picture")?;
    let mut reader = png::Decoder::new(std::io::Cursor::new(picture)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().context("the picture is too large")?];
    reader.next_frame(&mut pixels)?;
    Ok(pixels)
}

/// Peak signal-to-noise ratio of two pictures; infinite if they are equal.
pub(super) fn decibels(one: &[u8], other: &[u8]) -> anyhow::Result<f64> {
    ensure!(one.len() == other.len() && !one.is_empty(), "pictures of {} and {} bytes", one.len(), other.len());
    let squares = one.iter().zip(other).map(|(one, other)| f64::from(one.abs_diff(*other)).powi(2));
    let mean = squares.sum::<f64>() / one.len() as f64;
    Ok(10.0 * (255.0 * 255.0 / mean).log10())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_pictures_are_infinitely_alike_and_black_and_white_not_at_all() {
        assert_eq!(decibels(&[1, 2, 3], &[1, 2, 3]).unwrap(), f64::INFINITY);
        assert_eq!(decibels(&[0; 4], &[255; 4]).unwrap(), 0.0);
        assert!(decibels(&[0; 4], &[0; 5]).is_err());
    }
}
