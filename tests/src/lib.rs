//! Harness of the integration tests: captions of the demo model's grammar, drawings of them, and a check of pictures.
//!
//! Nothing here looks at what a model makes: the check is set by pictures drawn by the grammar's own rules, so that a
//! rate that it reports says something about the model and not about the check.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod drawing;
mod picture;
mod picture_check;
mod scenes;
mod seeded;
mod shapes;

pub use drawing::{Layout, Pose};
pub use picture::{Picture, PictureError, psnr};
pub use picture_check::{BackgroundFound, ObjectFound, PictureReport, check_picture};
pub use scenes::{
    Background, BackgroundKind, CaptionError, Colour, Object, RATED_CAPTIONS, RATED_SEED, Relation, Scene, Size,
    Subject, rated_scenes, seeded_scenes,
};
pub use seeded::SeededStream;
pub use shapes::Shape;
