//! Noise from a seed: the latents that a job starts from, and what stochastic noise schedulers add at a step.
//!
//! Drawn in the coordinator by one generator, so the same seed gives the same noise on any number of workers and on
//! any machine. ChaCha20 rather than the standard generator, because its output is part of its definition.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// The stream that initial latents come from.
const INITIAL_LATENTS: u64 = 0;

/// Standard normal noise for a job's first latents.
///
/// # Shapes
/// - result: `[elements]`, to be read row-major as `[batch, channels, height, width]`
pub fn standard_normal(seed: u64, elements: usize) -> Vec<f32> {
    draw(seed, INITIAL_LATENTS, elements)
}

/// Standard normal noise that belongs to one step: independent of the first latents and of every other step, and
/// drawn without those before it, so that a job can go on from any step.
///
/// # Shapes
/// - result: `[elements]`, row-major like the latents
pub(crate) fn standard_normal_of_step(seed: u64, step: usize, elements: usize) -> Vec<f32> {
    draw(seed, INITIAL_LATENTS + 1 + step as u64, elements)
}

fn draw(seed: u64, stream: u64, elements: usize) -> Vec<f32> {
    let mut generator = ChaCha20Rng::from_seed(key(seed));
    generator.set_stream(stream);
    StandardNormal.sample_iter(generator).take(elements).collect()
}

/// The cipher's key. Written out instead of `seed_from_u64`, whose expansion may change between releases.
fn key(seed: u64) -> [u8; 32] {
    let mut key = *b"________asyncdiff latents, key 1";
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_latents_of_a_seed_never_change() {
        let expected = [-0.625_607_55, -1.386_726_1, -1.450_270_3, -1.229_536_4, 0.859_112, 1.179_977_4];
        let expected_of_step = [0.633_469_34, 0.614_530_86, -1.146_169];
        assert_eq!(standard_normal(42, 6), expected, "pictures of every seed would change");
        assert_eq!(
            standard_normal_of_step(42, 3, 3),
            expected_of_step,
            "pictures of stochastic noise schedulers would change"
        );
    }

    #[test]
    fn shorter_draw_is_the_beginning_of_a_longer_one() {
        let long = standard_normal(7, 1000);
        assert_eq!(standard_normal(7, 10), long[..10]);
    }

    #[test]
    fn noise_has_mean_zero_and_variance_one() {
        let values = standard_normal(3, 100_000);
        let count = values.len() as f64;
        let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
        let variance = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / count;
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
    }

    #[test]
    fn seeds_and_steps_have_noise_of_their_own() {
        let first = standard_normal(1, 8);
        assert_ne!(first, standard_normal(2, 8));
        assert_ne!(first, standard_normal_of_step(1, 0, 8));
        assert_ne!(standard_normal_of_step(1, 0, 8), standard_normal_of_step(1, 1, 8));
    }
}
