//! Changes of height and width without weights.

use candle_core::Tensor;

use crate::ModelError;

/// Candle's own operation on every device: it only copies.
pub(super) fn upsample_nearest(input: &Tensor, height: usize, width: usize) -> Result<Tensor, ModelError> {
    Ok(input.upsample_nearest2d(height, width)?)
}
