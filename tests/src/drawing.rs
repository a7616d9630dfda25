//! Draws scenes by the rules of the demo model's training set, `coordinator/demo-model/scenes.py`.
//!
//! These pictures are what the check is set by: it has to accept nearly all of them and refuse nearly all drawings of
//! other captions.

use crate::picture::{Picture, PictureError};
use crate::scenes::{Background, BackgroundKind, Object, Scene, Size, Subject};
use crate::seeded::SeededStream;

/// Where an object is and how large: x to the right and y down from -1 to 1, and the shape's unit in the same measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    /// The shape's origin, from left to right.
    pub x: f32,
    /// The shape's origin, from top to bottom.
    pub y: f32,
    /// The shape's unit.
    pub radius: f32,
}

/// A scene with everything that its caption leaves open.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// What is behind.
    pub background: Background,
    /// The objects in the order in which they are drawn.
    pub objects: Vec<(Object, Pose)>,
}

/// The radii that an object may have.
pub(crate) fn radii(subject: &Subject) -> [f32; 2] {
    match subject {
        Subject::One { size: Size::Small, .. } => [0.26, 0.34],
        Subject::One { size: Size::Medium, .. } => [0.42, 0.54],
        Subject::One { size: Size::Large, .. } => [0.66, 0.78],
        Subject::Two { .. } => [0.32, 0.40],
    }
}

/// How far the only object may be from the middle, along either axis.
pub(crate) fn jitter(size: Size) -> f32 {
    if size == Size::Large { 0.12 } else { 0.25 }
}

/// A background's colour at a place.
pub(crate) fn background_at(background: Background, [x, y]: [f32; 2]) -> [f32; 3] {
    let base = background.colour.rgb();
    let odd = |cells: f32| cells.rem_euclid(2.0) >= 1.0;
    match background.kind {
        BackgroundKind::Plain => base,
        BackgroundKind::Gradient => {
            let down = (y + 1.0) / 2.0;
            base.map(|channel| channel * (1.0 - 0.65 * down) + 0.65 * down * (1.0 - (1.0 - channel) * 0.25))
        }
        BackgroundKind::Checkered if odd(((x + 1.0) * 4.0).floor() + ((y + 1.0) * 4.0).floor()) => second_tone(base),
        BackgroundKind::Striped if odd(((x + y + 2.0) * 3.5).floor()) => second_tone(base),
        BackgroundKind::Checkered | BackgroundKind::Striped => base,
    }
}

/// The other colour of a checkered or striped background.
pub(crate) fn second_tone(base: [f32; 3]) -> [f32; 3] {
    base.map(|channel| 0.72 * channel + 0.14)
}

impl Layout {
    /// A layout in the training set's own spread.
    #[must_use]
    pub fn random(scene: &Scene, stream: &mut SeededStream) -> Self {
        let [smallest, largest] = radii(&scene.subject);
        let objects = match scene.subject {
            Subject::One { size, object } => {
                let reach = jitter(size);
                let (x, y) = (stream.between(-reach, reach), stream.between(-reach, reach));
                vec![(object, Pose { x, y, radius: stream.between(smallest, largest) })]
            }
            Subject::Two { first, relation, second } => {
                let away = stream.between(0.44, 0.52);
                let [x, y] = relation.direction().map(|axis| axis * away);
                let (shift_x, shift_y) = (stream.between(-0.06, 0.06), stream.between(-0.06, 0.06));
                let mut pose =
                    |x, y| Pose { x: x + shift_x, y: y + shift_y, radius: stream.between(smallest, largest) };
                vec![(second, pose(-x, -y)), (first, pose(x, y))]
            }
        };
        Self { background: scene.background, objects }
    }

    /// Draws it as a square of this side.
    pub fn draw(&self, side: u32) -> Result<Picture, PictureError> {
        let middle = |index: u32| (index as f32 + 0.5) / side as f32 * 2.0 - 1.0;
        let mut pixels = Vec::with_capacity(3 * side as usize * side as usize);
        for row in 0..side {
            for column in 0..side {
                let colour = self.colour_at([middle(column), middle(row)], side);
                pixels.extend(colour.map(|channel| (channel.clamp(0.0, 1.0) * 255.0).round() as u8));
            }
        }
        Picture::new(side, side, pixels)
    }

    /// The colour at a place: the background, then for every object its soft shadow, and over it the object lit from
    /// the upper left, with a gloss.
    fn colour_at(&self, place: [f32; 2], side: u32) -> [f32; 3] {
        let [x, y] = place;
        let smoothing = 1.6 / side as f32;
        let mut colour = background_at(self.background, place);
        for (object, Pose { x: object_x, y: object_y, radius }) in &self.objects {
            let (unit_x, unit_y) = ((x - object_x) / radius, (y - object_y) / radius);
            let shadow_at = object.shape.distance(unit_x - 0.05 / radius, unit_y - 0.08 / radius) * radius;
            let shadow = 1.0 - 0.38 / (1.0 + (shadow_at / 0.045).exp());
            let distance = object.shape.distance(unit_x, unit_y) * radius;
            let cover = (0.5 - distance / (2.0 * smoothing)).clamp(0.0, 1.0);
            let light = (0.92 - 0.16 * (unit_x + unit_y)).clamp(0.55, 1.2);
            let gloss = 0.22 * (-((unit_x + 0.35).powi(2) + (unit_y + 0.4).powi(2)) / 0.08).exp();
            let fill = object.colour.rgb().map(|channel| (channel * light + gloss).clamp(0.0, 1.0));
            for (channel, fill) in colour.iter_mut().zip(fill) {
                *channel = *channel * shadow * (1.0 - cover) + fill * cover;
            }
        }
        colour
    }
}
