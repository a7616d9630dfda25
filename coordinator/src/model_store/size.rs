//! Which picture sizes a model can make.

use super::StoreError;

/// Width and height of the latents of a picture; refuses a size that latents cannot have, naming the nearest that they
/// can.
///
/// Latents of any size can be denoised (odd ones are halved and doubled to the skip connection's size, as in
/// diffusers), so only the VAE's factor counts.
pub(super) fn latent_size((width, height): (u32, u32), pixels_per_latent: u32) -> Result<(u32, u32), StoreError> {
    let fits = |side: u32| side > 0 && side.is_multiple_of(pixels_per_latent);
    if fits(width) && fits(height) {
        return Ok((width / pixels_per_latent, height / pixels_per_latent));
    }
    let below = |side: u32| (side / pixels_per_latent).max(1) * pixels_per_latent;
    let above = |side: u32| side.div_ceil(pixels_per_latent).clamp(1, u32::MAX / pixels_per_latent) * pixels_per_latent;
    let smaller = format!("{}x{}", below(width), below(height));
    let larger = format!("{}x{}", above(width), above(height));
    let nearest = if smaller == larger { smaller } else { format!("{smaller} and {larger}") };
    Err(StoreError::Size { width, height, multiple: pixels_per_latent, nearest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_of_the_factor_can_be_made() {
        assert_eq!(latent_size((512, 768), 8).unwrap(), (64, 96));
        assert_eq!(latent_size((8, 24), 8).unwrap(), (1, 3));
    }

    #[test]
    fn other_sizes_are_refused_and_the_nearest_are_named() {
        let message = latent_size((100, 128), 8).unwrap_err().to_string();
        assert!(message.contains("96x128 and 104x128"), "{message}");
        let message = latent_size((0, 3), 8).unwrap_err().to_string();
        assert!(message.contains("8x8"), "{message}");
        assert!(latent_size((u32::MAX, u32::MAX), 8).is_err());
    }
}
