//! From a decoded image to bytes.

use candle_core::{DType, Device, Tensor};

use crate::ModelError;

/// Pixels of one image, row by row, three bytes each: red, green, blue. Values beyond the range are cut.
///
/// # Shapes
/// - `image`: `[1, 3, height, width]` or `[3, height, width]`, -1 (black) to 1
/// - returns: `[height, width, 3]`
pub fn to_rgb8(image: &Tensor) -> Result<Vec<u8>, ModelError> {
    let plane = match image.dims() {
        [1, 3, _, _] => image.squeeze(0)?,
        [3, _, _] => image.clone(),
        other => {
            return Err(ModelError::ShapeMismatch {
                layer: "to_rgb8".to_owned(),
                operand: "image".to_owned(),
                expected: "[1, 3, height, width]".to_owned(),
                found: other.to_vec(),
            });
        }
    };
    let interleaved = plane.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.permute((1, 2, 0))?;
    let values: Vec<f32> = interleaved.flatten_all()?.to_vec1()?;
    // The cast saturates, so neither overshoot nor NaN can wrap around.
    Ok(values.into_iter().map(|value| (value * 127.5 + 127.5).round() as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_interleaved_and_cut_to_the_range() {
        let image = Tensor::new(&[-1.0f32, 1.0, 0.0, 2.0, -3.0, f32::NAN], &Device::Cpu).unwrap();
        let image = image.reshape((1, 3, 1, 2)).unwrap();
        assert_eq!(to_rgb8(&image).unwrap(), [0, 128, 0, 255, 255, 0]);
        assert!(to_rgb8(&image.squeeze(2).unwrap()).is_err());
    }
}
