//! What a noise prediction says about the latents, for each thing that a model may have been trained to predict.
//!
//! Latents are `alpha * picture + sigma * noise`; velocity is `alpha * noise - sigma * picture` (arXiv 2202.00512,
//! appendix D). The sigma methods divide the latents by alpha: `picture + sigma * noise`, and predict on rescaled
//! latents.

use super::linear::Mix;
use super::options::PredictionType;

/// The noise in the latents.
pub(super) fn noise(prediction: PredictionType, alpha: f64, sigma: f64) -> Mix {
    match prediction {
        PredictionType::Epsilon => Mix::new(0.0, 1.0),
        PredictionType::Sample => Mix::new(1.0 / sigma, -alpha / sigma),
        PredictionType::Velocity => Mix::new(sigma, alpha),
    }
}

/// The picture in the latents.
pub(super) fn denoised(prediction: PredictionType, alpha: f64, sigma: f64) -> Mix {
    match prediction {
        PredictionType::Epsilon => Mix::new(1.0 / alpha, -sigma / alpha),
        PredictionType::Sample => Mix::new(0.0, 1.0),
        PredictionType::Velocity => Mix::new(alpha, -sigma),
    }
}

/// The picture in latents that were divided by alpha (arXiv 2206.00364).
pub(super) fn denoised_at(prediction: PredictionType, sigma: f64) -> Mix {
    let variance = sigma * sigma + 1.0;
    match prediction {
        PredictionType::Epsilon => Mix::new(1.0, -sigma),
        PredictionType::Sample => Mix::new(0.0, 1.0),
        PredictionType::Velocity => Mix::new(1.0 / variance, -sigma / variance.sqrt()),
    }
}

/// How such latents change with sigma: the difference to the picture, over sigma (equation 3 of arXiv 2206.00364).
pub(super) fn derivative_at(prediction: PredictionType, sigma: f64) -> Mix {
    let variance = sigma * sigma + 1.0;
    match prediction {
        PredictionType::Epsilon => Mix::new(0.0, 1.0),
        PredictionType::Sample => Mix::new(1.0 / sigma, -1.0 / sigma),
        PredictionType::Velocity => Mix::new(sigma / variance, 1.0 / variance.sqrt()),
    }
}

/// Signal and noise of latents that were divided by their signal: alpha and alpha times sigma.
pub(super) fn signal_and_noise(sigma: f64) -> (f64, f64) {
    let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
    (alpha, sigma * alpha)
}

/// The denoised latents, cut to plus and minus `range`.
pub(super) fn clipped(mix: Mix, latents: &[f32], prediction: &[f32], range: f64) -> Vec<f32> {
    let mut denoised = Vec::new();
    mix.write(&mut denoised, latents, prediction);
    let range = range as f32;
    denoised.iter_mut().for_each(|value| *value = value.clamp(-range, range));
    denoised
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Latents are made of a known picture and known noise, so everything that is asked has a known answer.
    #[test]
    fn every_prediction_type_finds_the_picture_and_the_noise() {
        let (picture, epsilon, sigma_over_alpha) = (0.7, -1.3, 2.5);
        let (alpha, sigma) = signal_and_noise(sigma_over_alpha);
        let latents = alpha * picture + sigma * epsilon;
        let predictions = [
            (PredictionType::Epsilon, epsilon),
            (PredictionType::Sample, picture),
            (PredictionType::Velocity, alpha * epsilon - sigma * picture),
        ];
        for (kind, prediction) in predictions {
            let value = |mix: Mix, latents: f64| mix.latents * latents + mix.prediction * prediction;
            assert!((value(noise(kind, alpha, sigma), latents) - epsilon).abs() < 1e-12, "{kind:?}");
            assert!((value(denoised(kind, alpha, sigma), latents) - picture).abs() < 1e-12, "{kind:?}");
            let divided = latents / alpha;
            assert!((value(denoised_at(kind, sigma_over_alpha), divided) - picture).abs() < 1e-12, "{kind:?}");
            assert!((value(derivative_at(kind, sigma_over_alpha), divided) - epsilon).abs() < 1e-12, "{kind:?}");
        }
    }

    #[test]
    fn clipping_bounds_the_denoised_latents_on_both_sides() {
        assert_eq!(clipped(Mix::new(1.0, 0.0), &[3.0, 0.5, -3.0], &[0.0; 3], 2.0), [2.0, 0.5, -2.0]);
    }
}
