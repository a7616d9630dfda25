//! Captions of the demo model's grammar: made from a seed, written as text and read back.
//!
//! A port of the caption half of `coordinator/demo-model/scenes.py`, with a random stream of its own:
//!
//! ```text
//! [small|large] COLOUR SHAPE on a [gradient|checkered|striped] COLOUR background
//! a COLOUR SHAPE left of|right of|above|below a COLOUR SHAPE on a … background
//! ```

mod caption;
mod scene;
mod words;

pub use caption::CaptionError;
pub use scene::{Background, Object, RATED_CAPTIONS, RATED_SEED, Scene, Subject, rated_scenes, seeded_scenes};
pub use words::{BackgroundKind, Colour, Relation, Size};
