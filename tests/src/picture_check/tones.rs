//! How well a pixel is explained by a background in shadow or by an object in light: costs, zero for a perfect match.
//!
//! The ranges are those of the drawing rules. Rare tones carry a small surcharge, so that a pixel which two surfaces
//! could have goes to the one for which its tone is common.

use crate::drawing::{background_at, second_tone};
use crate::scenes::{Background, BackgroundKind, Colour};

/// Darkest factor of a shadow that is seen: full shadow is 0.62, but there the object itself covers it.
const DARKEST_SHADOW: f32 = 0.66;

/// Steps in which shadows are tried; finer ones change costs by less than noise does.
const SHADOW_STEPS: u8 = 4;

/// Cost of full shadow.
const SHADOW_SURCHARGE: f32 = 0.12;

/// Light on an object where its surface is neither turned to the light nor away.
pub(super) const USUAL_LIGHT: f32 = 0.92;

/// Faintest and strongest light that the rules allow.
const LIGHT: [f32; 2] = [0.55, 1.2];

/// Cost of a light that is one away from the usual.
const LIGHT_SURCHARGE: f32 = 0.15;

/// White that a gloss adds, and what it costs: it covers a twentieth of an object.
const GLOSS: [(f32, f32); 3] = [(0.0, 0.0), (0.1, 0.03), (0.2, 0.06)];

/// Distance of two colours, each channel from 0 to 1.
pub(super) fn colour_distance(one: [f32; 3], other: [f32; 3]) -> f32 {
    one.iter().zip(other).map(|(one, other)| (one - other).powi(2)).sum::<f32>().sqrt()
}

/// Distance of a pixel from the tones that a lit background has at a place.
///
/// A checkered or striped background may have any mixture of its two tones anywhere: edges of its fields are soft in a
/// decoded picture, and the phase of the pattern is no part of the caption.
pub(super) fn background_distance(pixel: [f32; 3], background: Background, place: [f32; 2]) -> f32 {
    let (one, other) = ends(background, place);
    distance_to_segment(pixel, one, other)
}

/// Cost of explaining a pixel as background, lit or in shadow.
pub(super) fn background_cost(pixel: [f32; 3], background: Background, place: [f32; 2]) -> f32 {
    let (one, other) = ends(background, place);
    let costs = (0..=SHADOW_STEPS).map(|step| {
        let depth = f32::from(step) / f32::from(SHADOW_STEPS);
        let factor = 1.0 - depth * (1.0 - DARKEST_SHADOW);
        let shaded = |colour: [f32; 3]| colour.map(|channel| channel * factor);
        distance_to_segment(pixel, shaded(one), shaded(other)) + SHADOW_SURCHARGE * depth
    });
    costs.fold(f32::MAX, f32::min)
}

/// Cost of explaining a pixel as a surface of this colour, lit, shaded or glossy.
pub(super) fn surface_cost(pixel: [f32; 3], colour: Colour) -> f32 {
    let base = colour.rgb();
    let length: f32 = base.iter().map(|channel| channel * channel).sum();
    let costs = GLOSS.into_iter().map(|(gloss, surcharge)| {
        let along: f32 = pixel.iter().zip(base).map(|(pixel, base)| (pixel - gloss) * base).sum();
        let light = (along / length).clamp(LIGHT[0], LIGHT[1]);
        let surface = base.map(|channel| (channel * light + gloss).min(1.0));
        colour_distance(pixel, surface) + surcharge + LIGHT_SURCHARGE * (light - USUAL_LIGHT).abs()
    });
    costs.fold(f32::MAX, f32::min)
}

fn ends(background: Background, place: [f32; 2]) -> ([f32; 3], [f32; 3]) {
    match background.kind {
        BackgroundKind::Plain | BackgroundKind::Gradient => {
            let tone = background_at(background, place);
            (tone, tone)
        }
        BackgroundKind::Checkered | BackgroundKind::Striped => {
            let base = background.colour.rgb();
            (base, second_tone(base))
        }
    }
}

fn distance_to_segment(point: [f32; 3], one: [f32; 3], other: [f32; 3]) -> f32 {
    let mut along = 0.0;
    let mut length = 0.0;
    for ((point, one), other) in point.into_iter().zip(one).zip(other) {
        along += (point - one) * (other - one);
        length += (other - one).powi(2);
    }
    let share = if length > 0.0 { (along / length).clamp(0.0, 1.0) } else { 0.0 };
    let mut nearest = one;
    for (channel, other) in nearest.iter_mut().zip(other) {
        *channel += share * (other - *channel);
    }
    colour_distance(point, nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tone_of_a_surface_costs_little_for_its_own_colour() {
        for colour in Colour::ALL {
            for light in [0.7, 0.8, 0.92, 1.0, 1.1] {
                let cost = surface_cost(colour.rgb().map(|channel| (channel * light).min(1.0)), colour);
                // The surcharge of the light, and what the clamp at white costs the brightest.
                assert!(cost < 0.1, "{} in a light of {light} costs {cost}", colour.name());
            }
        }
    }

    #[test]
    fn a_shadow_is_background_and_not_an_unknown_colour() {
        for colour in Colour::ALL {
            for kind in BackgroundKind::ALL {
                let (background, place) = (Background { kind, colour }, [0.3, -0.4]);
                let shadow = background_at(background, place).map(|channel| channel * 0.8);
                let cost = background_cost(shadow, background, place);
                assert!(cost < 0.13, "{kind:?} {} in shadow costs {cost}", colour.name());
            }
        }
    }
}
