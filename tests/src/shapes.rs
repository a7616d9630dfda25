//! The eight shapes of the demo model's grammar as signed distance functions.
//!
//! The outlines are those of `coordinator/demo-model/scenes.py`: unit size, y pointing down.

use std::f32::consts::PI;
use std::sync::LazyLock;

/// A shape of the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Heart,
    Ring,
    Cross,
    Diamond,
}

impl Shape {
    /// All shapes in the order of `scenes.py`.
    pub const ALL: [Self; 8] =
        [Self::Circle, Self::Square, Self::Triangle, Self::Star, Self::Heart, Self::Ring, Self::Cross, Self::Diamond];

    /// The caption's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Heart => "heart",
            Self::Ring => "ring",
            Self::Cross => "cross",
            Self::Diamond => "diamond",
        }
    }

    /// Signed distance from a point to the outline of the shape of unit size, negative inside.
    #[must_use]
    pub fn distance(self, x: f32, y: f32) -> f32 {
        match self {
            Self::Circle => x.hypot(y) - 0.95,
            Self::Ring => (x.hypot(y) - 0.72).abs() - 0.25,
            Self::Square => x.abs().max(y.abs()) - 0.85,
            Self::Triangle => polygon_distance(x, y, &TRIANGLE),
            Self::Star => polygon_distance(x, y, &STAR),
            Self::Heart => polygon_distance(x, y, &HEART),
            Self::Cross => polygon_distance(x, y, &CROSS),
            Self::Diamond => polygon_distance(x, y, &DIAMOND),
        }
    }
}

const TRIANGLE: [(f32, f32); 3] = [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)];
const DIAMOND: [(f32, f32); 4] = [(0.0, -1.1), (0.8, 0.0), (0.0, 1.1), (-0.8, 0.0)];
const CROSS: [(f32, f32); 12] = [
    (-0.33, -1.0),
    (0.33, -1.0),
    (0.33, -0.33),
    (1.0, -0.33),
    (1.0, 0.33),
    (0.33, 0.33),
    (0.33, 1.0),
    (-0.33, 1.0),
    (-0.33, 0.33),
    (-1.0, 0.33),
    (-1.0, -0.33),
    (-0.33, -0.33),
];

static STAR: LazyLock<Vec<(f32, f32)>> = LazyLock::new(|| {
    let corner = |index: u8| {
        let radius = if index.is_multiple_of(2) { 1.0 } else { 0.45 };
        let angle = -PI / 2.0 + f32::from(index) * PI / 5.0;
        (radius * angle.cos(), radius * angle.sin())
    };
    (0..10).map(corner).collect()
});

static HEART: LazyLock<Vec<(f32, f32)>> = LazyLock::new(|| {
    let corner = |index: u8| {
        let angle = 2.0 * PI * f32::from(index) / 40.0;
        let height = 13.0 * angle.cos() - 5.0 * (2.0 * angle).cos() - 2.0 * (3.0 * angle).cos() - (4.0 * angle).cos();
        (angle.sin().powi(3), -height / 16.0)
    };
    (0..40).map(corner).collect()
});

/// Distance to the nearest edge, its sign by the even-odd rule.
fn polygon_distance(x: f32, y: f32, corners: &[(f32, f32)]) -> f32 {
    let mut squared = f32::MAX;
    let mut inside = false;
    let Some(&(mut bx, mut by)) = corners.last() else { return squared };
    for &(ax, ay) in corners {
        let (edge_x, edge_y) = (bx - ax, by - ay);
        let (to_x, to_y) = (x - ax, y - ay);
        let along = ((to_x * edge_x + to_y * edge_y) / (edge_x * edge_x + edge_y * edge_y)).clamp(0.0, 1.0);
        squared = squared.min((to_x - edge_x * along).powi(2) + (to_y - edge_y * along).powi(2));
        let (below, above, left) = (y >= ay, y < by, edge_x * to_y > edge_y * to_x);
        if (below && above && left) || (!below && !above && !left) {
            inside = !inside;
        }
        (bx, by) = (ax, ay);
    }
    if inside { -squared.sqrt() } else { squared.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_known_where_geometry_gives_them() {
        let near = |found: f32, expected: f32| assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        near(Shape::Circle.distance(0.0, 0.0), -0.95);
        near(Shape::Ring.distance(0.0, 0.0), 0.47);
        near(Shape::Square.distance(1.0, 0.0), 0.15);
        near(Shape::Triangle.distance(0.0, 0.75), 0.0);
        near(Shape::Triangle.distance(0.0, 1.0), 0.25);
        near(Shape::Cross.distance(0.0, 0.0), -0.33 * 2f32.sqrt());
        // A right triangle with legs 0.8 and 1.1: its height is their product over the hypotenuse.
        near(Shape::Diamond.distance(0.0, 0.0), -0.8 * 1.1 / 0.8f32.hypot(1.1));
        near(Shape::Star.distance(0.0, -1.5), 0.5);
    }

    #[test]
    fn every_shape_is_closed_and_lies_within_its_frame() {
        for shape in Shape::ALL {
            for (x, y) in [(1.2, 0.0), (-1.2, 0.0), (0.0, 1.2), (0.0, -1.2), (1.2, 1.2), (-1.2, 1.2)] {
                assert!(shape.distance(x, y) > 0.0, "{} reaches ({x}, {y})", shape.name());
            }
        }
    }
}
