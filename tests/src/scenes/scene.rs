//! A caption's meaning, and scenes made from a seed.

use super::words::{BackgroundKind, Colour, Relation, Size};
use crate::seeded::SeededStream;
use crate::shapes::Shape;

/// How many captions the published rates count.
pub const RATED_CAPTIONS: usize = 40;

/// Seed of the captions that the published rates count. The number of the AsyncDiff paper: chosen before a
/// picture was made, and kept, so that rates of different versions compare.
pub const RATED_SEED: u64 = 240_606_911;

/// What is behind the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Background {
    /// How it varies.
    pub kind: BackgroundKind,
    /// Its colour.
    pub colour: Colour,
}

/// A coloured shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its colour.
    pub colour: Colour,
    /// Its shape.
    pub shape: Shape,
}

/// What a picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// One object near the middle.
    One {
        /// How large it is.
        size: Size,
        /// The object.
        object: Object,
    },
    /// Two objects side by side.
    Two {
        /// The object named first.
        first: Object,
        /// Where the first is, seen from the second.
        relation: Relation,
        /// The object named second.
        second: Object,
    },
}

/// A caption's meaning. `Display` writes the caption, `FromStr` reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scene {
    /// What is in front.
    pub subject: Subject,
    /// What is behind.
    pub background: Background,
}

/// The captions that the published rates count.
#[must_use]
pub fn rated_scenes() -> Vec<Scene> {
    seeded_scenes(RATED_SEED, RATED_CAPTIONS)
}

/// As many different scenes as asked for, in the grammar's own frequencies.
#[must_use]
pub fn seeded_scenes(seed: u64, count: usize) -> Vec<Scene> {
    let mut stream = SeededStream::new(seed);
    let mut scenes = Vec::with_capacity(count);
    while scenes.len() < count {
        let scene = Scene::random(&mut stream);
        if !scenes.contains(&scene) {
            scenes.push(scene);
        }
    }
    scenes
}

impl Scene {
    /// A scene in the grammar's own frequencies: 60 % have one object, 55 % a plain background, and no object has the
    /// background's colour.
    #[must_use]
    pub fn random(stream: &mut SeededStream) -> Self {
        let kind = if stream.unit() < 0.6 { stream.pick(&BackgroundKind::ALL) } else { BackgroundKind::Plain };
        let background = Background { kind, colour: stream.pick(&Colour::ALL) };
        let colours: Vec<Colour> = Colour::ALL.into_iter().filter(|colour| *colour != background.colour).collect();
        let object = |stream: &mut SeededStream| {
            let colour = stream.pick(&colours);
            Object { colour, shape: stream.pick(&Shape::ALL) }
        };
        let subject = if stream.unit() < 0.6 {
            let size = stream.pick(&Size::ALL);
            Subject::One { size, object: object(stream) }
        } else {
            let relation = stream.pick(&Relation::ALL);
            Subject::Two { first: object(stream), relation, second: object(stream) }
        };
        Self { subject, background }
    }
}
