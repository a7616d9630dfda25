//! The background's colour: the named colour whose tones lie nearest to the border of the picture.

use std::fmt;

use super::tones::background_distance;
use crate::picture::Picture;
use crate::scenes::{Background, BackgroundKind, Colour};

/// Inner edge of the border, from the middle. Only a large object and its shadow reach beyond, and cover little of it.
const BORDER: f32 = 0.88;

/// Largest distance of the border's median pixel from the colour that it counts as: half the distance between the two
/// named colours that are nearest to each other (orange and yellow, 0.34).
const LARGEST_DISTANCE: f32 = 0.17;

/// What the background looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackgroundFound {
    /// Its colour; none if it is near no named colour.
    pub colour: Option<Colour>,
    /// The nearest named colour, however far.
    pub nearest: Colour,
    /// Median distance of the border's pixels from the tones of the nearest colour, channels from 0 to 1.
    pub distance: f32,
}

impl BackgroundFound {
    /// Looks for the colour of a background that varies as the caption says.
    pub(super) fn new(picture: &Picture, kind: BackgroundKind) -> Self {
        let border: Vec<_> = picture.points().filter(|([x, y], _)| x.abs() > BORDER || y.abs() > BORDER).collect();
        let distance = |colour| {
            let background = Background { kind, colour };
            median(border.iter().map(|(place, pixel)| background_distance(*pixel, background, *place)).collect())
        };
        let mut nearest = (Colour::ALL[0], f32::MAX);
        for colour in Colour::ALL {
            let found = distance(colour);
            if found < nearest.1 {
                nearest = (colour, found);
            }
        }
        let colour = (nearest.1 <= LARGEST_DISTANCE).then_some(nearest.0);
        Self { colour, nearest: nearest.0, distance: nearest.1 }
    }
}

impl fmt::Display for BackgroundFound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = if self.colour.is_some() { "found" } else { "no named colour; nearest is" };
        write!(out, "{words} {} at {:.2}", self.nearest.name(), self.distance)
    }
}

/// The middle value; the largest number if there is none.
pub(super) fn median(mut values: Vec<f32>) -> f32 {
    let middle = values.len() / 2;
    if values.is_empty() {
        return f32::MAX;
    }
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture_check::tones::colour_distance;

    #[test]
    fn the_limit_is_half_the_distance_of_the_nearest_colours() {
        let mut nearest = f32::MAX;
        for (index, one) in Colour::ALL.into_iter().enumerate() {
            for other in &Colour::ALL[..index] {
                nearest = nearest.min(colour_distance(one.rgb(), other.rgb()));
            }
        }
        assert!((nearest / 2.0 - LARGEST_DISTANCE).abs() < 0.005, "{nearest}");
    }
}
