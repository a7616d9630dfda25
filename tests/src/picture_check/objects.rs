//! The objects of a picture: which pixels are theirs, what colour they have, where they are and which shape is theirs.

use std::fmt;

use super::background::median;
use super::mask::Mask;
use super::outline::{overlap, pose_by_moments};
use super::tones::{USUAL_LIGHT, background_cost, colour_distance, surface_cost};
use crate::drawing::{Pose, jitter, radii};
use crate::picture::Picture;
use crate::scenes::{Colour, Object, Relation, Scene, Subject};
use crate::shapes::Shape;

/// Largest cost at which a pixel may be part of an object: half the distance of the nearest two named colours, as for
/// the background, and as much again for the soft edges of a decoded picture.
const LARGEST_COST: f32 = 0.34;

/// How far the size may leave the grammar's range before it is no longer that object: the ranges of small, medium and
/// large are a factor of 1.25 apart; "rough" allows what is nearer than the far side of the next range.
const SIZE_SLACK: f32 = 1.5;

/// How far an object may be from the places that the grammar draws it at. A tenth of the way from the middle to the
/// edge, about six pixels of 128.
const PLACE_SLACK: f32 = 0.12;

/// How much worse than the best outline the right one may overlap. Drawings of small objects overlap with their own
/// outline to 0.9 and differ by this much when edges move by half a pixel.
const SHAPE_SLACK: f32 = 0.03;

/// What was found of an object that the caption names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ObjectFound {
    /// What the caption says.
    pub expected: Object,
    /// Named colour nearest to the median of the pixels that could be this object's.
    pub colour: Option<Colour>,
    /// Where it is and how large, taken as the expected shape; none if no pixel could be this object's.
    pub pose: Option<Pose>,
    /// Whether place and size are such as the caption says.
    pub in_place: bool,
    /// The shape that overlaps most, and how much; looked for only if colour and place are right.
    pub shape: Option<(Shape, f32)>,
    /// How much the expected shape overlaps.
    pub overlap: f32,
}

impl ObjectFound {
    /// The object has the caption's colour.
    #[must_use]
    pub fn colour_is_right(&self) -> bool {
        self.colour == Some(self.expected.colour)
    }

    /// The expected shape overlaps best, or nearly so.
    #[must_use]
    pub fn shape_is_right(&self) -> bool {
        self.shape.is_some_and(|(_, best)| self.overlap >= best - SHAPE_SLACK)
    }
}

impl fmt::Display for ObjectFound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(colour), Some(Pose { x, y, radius })) = (self.colour, self.pose) else {
            return write!(out, "not found");
        };
        let place = if self.in_place { "in place" } else { "OUT OF PLACE" };
        write!(out, "found {} of radius {radius:.2} at ({x:.2}, {y:.2}), {place}", colour.name())?;
        if let Some((shape, best)) = self.shape {
            let name = shape.name();
            write!(out, ", overlap {:.2}, best is a {name} with {best:.2}", self.overlap)?;
        }
        Ok(())
    }
}

/// Looks for the objects of a scene, in the order in which the caption names them.
pub(super) fn find(picture: &Picture, scene: &Scene) -> Vec<ObjectFound> {
    let [smallest, largest] = radii(&scene.subject);
    let fits = |pose: Pose| (smallest / SIZE_SLACK..=largest * SIZE_SLACK).contains(&pose.radius);
    match scene.subject {
        Subject::One { size, object } => {
            let mask = mask_of(picture, scene, object, |_| true);
            let reach = jitter(size) + PLACE_SLACK;
            let near_middle = |pose: Pose| pose.x.abs() <= reach && pose.y.abs() <= reach;
            vec![found(picture, mask, object, |pose| near_middle(pose) && fits(pose))]
        }
        Subject::Two { first, relation, second } => {
            let look = |object, side: f32| {
                // Two objects of one colour are told apart by the half of the picture that each is in.
                let own_half = |place| first.colour != second.colour || side * along(relation, place) > 0.0;
                let mask = mask_of(picture, scene, object, own_half);
                found(picture, mask, object, |pose| beside(relation, side, pose) && fits(pose))
            };
            vec![look(first, 1.0), look(second, -1.0)]
        }
    }
}

/// How far a place lies in the direction in which the first object is.
fn along(relation: Relation, [x, y]: [f32; 2]) -> f32 {
    let [right, down] = relation.direction();
    right * x + down * y
}

/// Whether an object is where the grammar puts it: 0.38 to 0.58 from the middle, and at most 0.06 off the axis.
fn beside(relation: Relation, side: f32, pose: Pose) -> bool {
    let away = side * along(relation, [pose.x, pose.y]);
    let [right, down] = relation.direction();
    let off_axis = right * pose.y + down * pose.x;
    (0.38 - PLACE_SLACK..=0.58 + PLACE_SLACK).contains(&away) && off_axis.abs() <= 0.06 + PLACE_SLACK
}

/// The pixels that an object's colour explains better than the background and the other objects do.
fn mask_of(picture: &Picture, scene: &Scene, object: Object, may_be: impl Fn([f32; 2]) -> bool) -> Mask {
    let others: Vec<Colour> = match scene.subject {
        Subject::One { .. } => Vec::new(),
        Subject::Two { first, second, .. } => {
            [first.colour, second.colour].into_iter().filter(|colour| *colour != object.colour).collect()
        }
    };
    let belongs = |place, pixel| {
        let cost = surface_cost(pixel, object.colour);
        cost < LARGEST_COST
            && may_be(place)
            && cost < background_cost(pixel, scene.background, place)
            && others.iter().all(|other| cost < surface_cost(pixel, *other))
    };
    Mask::new(picture, belongs).without_specks().largest_part()
}

fn found(picture: &Picture, mask: Mask, expected: Object, in_place: impl Fn(Pose) -> bool) -> ObjectFound {
    let mut found = ObjectFound { expected, colour: None, pose: None, in_place: false, shape: None, overlap: 0.0 };
    if mask.count() == 0 {
        return found;
    }
    let pose = pose_by_moments(&mask, expected.shape);
    found.colour = Some(median_colour(&mask.colours(picture)));
    found.pose = Some(pose);
    found.in_place = in_place(pose);
    if found.in_place && found.colour_is_right() {
        let overlaps = Shape::ALL.map(|shape| (shape, overlap(&mask, shape)));
        found.shape = overlaps.into_iter().max_by(|one, other| one.1.total_cmp(&other.1));
        found.overlap = overlaps[expected.shape as usize].1;
    }
    found
}

/// The named colour that is nearest to the median of these pixels in the usual light.
fn median_colour(pixels: &[[f32; 3]]) -> Colour {
    let channel = |index: usize| median(pixels.iter().map(|pixel| pixel[index]).collect());
    let found = [channel(0), channel(1), channel(2)];
    let distance = |colour: Colour| colour_distance(found, colour.rgb().map(|channel| channel * USUAL_LIGHT));
    let nearest = |one: Colour, other: Colour| if distance(other) < distance(one) { other } else { one };
    Colour::ALL.into_iter().fold(Colour::ALL[0], nearest)
}
