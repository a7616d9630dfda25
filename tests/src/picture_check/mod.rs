//! Says whether a picture shows what its caption says: background, then colour and place of the objects, then shape.
//!
//! ```text
//! picture ──► background: named colour nearest to the border
//!         ──► mask per object: pixels that its colour, lit and shaded, explains better than the background in shadow
//!               ├─► colour: named colour nearest to the mask's median
//!               ├─► place: the shape's origin by the mask's moments
//!               └─► shape: the one of the eight outlines that overlaps most
//! ```
//!
//! Every limit follows from the grammar's drawing rules or from drawings by them (`tests/picture_check.rs`), none from
//! what a model makes. Each question is asked only of a picture that answers the one before it right.

mod background;
mod mask;
mod objects;
mod outline;
mod tones;

use std::fmt;

pub use background::BackgroundFound;
pub use objects::ObjectFound;

use crate::picture::Picture;
use crate::scenes::Scene;

/// What a picture shows, compared with its caption.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct PictureReport {
    /// The caption's meaning.
    pub scene: Scene,
    /// The background.
    pub background: BackgroundFound,
    /// The objects in the order in which the caption names them.
    pub objects: Vec<ObjectFound>,
}

/// Checks a picture against the meaning of its caption.
pub fn check_picture(picture: &Picture, scene: &Scene) -> PictureReport {
    let background = BackgroundFound::new(picture, scene.background.kind);
    PictureReport { scene: *scene, background, objects: objects::find(picture, scene) }
}

impl PictureReport {
    /// The background has the caption's colour.
    #[must_use]
    pub fn background_is_right(&self) -> bool {
        self.background.colour == Some(self.scene.background.colour)
    }

    /// The background is right, and every object has its colour and is at its place.
    #[must_use]
    pub fn place_is_right(&self) -> bool {
        self.background_is_right() && self.objects.iter().all(|object| object.colour_is_right() && object.in_place)
    }

    /// Everything is right: background, colours, places and rough shapes.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.place_is_right() && self.objects.iter().all(ObjectFound::shape_is_right)
    }
}

impl fmt::Display for PictureReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |right| if right { "right" } else { "WRONG" };
        write!(out, "background {} ({})", word(self.background_is_right()), self.background)?;
        for object in &self.objects {
            write!(out, "; {} {}: {object}", object.expected.colour.name(), object.expected.shape.name())?;
        }
        write!(out, "; colour and place {}, shape {}", word(self.place_is_right()), word(self.is_right()))
    }
}
