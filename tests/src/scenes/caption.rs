//! Captions as text: written with `Display`, read with `FromStr`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::scene::{Background, Object, Scene, Subject};
use super::words::{BackgroundKind, Colour, Relation, Size};
use crate::shapes::Shape;

impl fmt::Display for Scene {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = |object: Object| format!("{} {}", object.colour.name(), object.shape.name());
        let subject = match self.subject {
            Subject::One { size, object: only } => {
                with_article(&size.word().map_or(object(only), |word| format!("{word} {}", object(only))))
            }
            Subject::Two { first, relation, second } => {
                format!("{} {} {}", with_article(&object(first)), relation.words(), with_article(&object(second)))
            }
        };
        let colour = self.background.colour.name();
        let background = self.background.kind.word().map_or(colour.to_owned(), |word| format!("{word} {colour}"));
        write!(out, "{subject} on {} background", with_article(&background))
    }
}

fn with_article(words: &str) -> String {
    let article = if words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {words}")
}

/// Why a caption could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the caption needs {expected} after {read:?}, and {found:?} was found\nhint: captions look like \"a small red circle \
     on a white background\" or \"a green heart above a purple square on a striped gray background\""
)]
pub struct CaptionError {
    /// The words that were understood.
    pub read: String,
    /// What the grammar has next.
    pub expected: &'static str,
    /// The word that stands there; empty at the end.
    pub found: String,
}

impl FromStr for Scene {
    type Err = CaptionError;

    fn from_str(caption: &str) -> Result<Self, CaptionError> {
        let mut words = Words { all: caption.split_whitespace().collect(), next: 0 };
        words.take("an article", |word| matches!(word, "a" | "an").then_some(()))?;
        let size = words.maybe(|word| Size::ALL.into_iter().find(|size| size.word() == Some(word)));
        let first = words.object()?;
        let subject = if words.maybe(|word| (word == "on").then_some(())).is_some() {
            Subject::One { size: size.unwrap_or(Size::Medium), object: first }
        } else {
            if size.is_some() {
                return Err(words.error("\"on\" (only a single object has a size)"));
            }
            let relation = words.take("\"on\", \"left of\", \"right of\", \"above\" or \"below\"", |word| {
                Relation::ALL.into_iter().find(|relation| relation.words().split(' ').next() == Some(word))
            })?;
            if relation.words().ends_with(" of") {
                words.take("\"of\"", |word| (word == "of").then_some(()))?;
            }
            words.take("an article", |word| matches!(word, "a" | "an").then_some(()))?;
            let second = words.object()?;
            words.take("\"on\"", |word| (word == "on").then_some(()))?;
            Subject::Two { first, relation, second }
        };
        words.take("an article", |word| matches!(word, "a" | "an").then_some(()))?;
        let kind = words.maybe(|word| BackgroundKind::ALL.into_iter().find(|kind| kind.word() == Some(word)));
        let background = Background { kind: kind.unwrap_or(BackgroundKind::Plain), colour: words.colour()? };
        words.take("\"background\"", |word| (word == "background").then_some(()))?;
        words.end()?;
        Ok(Self { subject, background })
    }
}

/// The caption's words and how far they are read.
struct Words<'caption> {
    all: Vec<&'caption str>,
    next: usize,
}

impl Words<'_> {
    fn object(&mut self) -> Result<Object, CaptionError> {
        let colour = self.colour()?;
        let shape = self.take("a shape", |word| Shape::ALL.into_iter().find(|shape| shape.name() == word))?;
        Ok(Object { colour, shape })
    }

    fn colour(&mut self) -> Result<Colour, CaptionError> {
        self.take("a colour", |word| Colour::ALL.into_iter().find(|colour| colour.name() == word))
    }

    fn take<T>(&mut self, expected: &'static str, meaning: impl Fn(&str) -> Option<T>) -> Result<T, CaptionError> {
        self.maybe(meaning).ok_or_else(|| self.error(expected))
    }

    fn maybe<T>(&mut self, meaning: impl Fn(&str) -> Option<T>) -> Option<T> {
        let found = self.all.get(self.next).and_then(|word| meaning(word));
        self.next += usize::from(found.is_some());
        found
    }

    fn end(&self) -> Result<(), CaptionError> {
        if self.next == self.all.len() { Ok(()) } else { Err(self.error("nothing")) }
    }

    fn error(&self, expected: &'static str) -> CaptionError {
        let found = self.all.get(self.next).copied().unwrap_or_default().to_owned();
        CaptionError { read: self.all[..self.next].join(" "), expected, found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes::{rated_scenes, seeded_scenes};

    #[test]
    fn every_caption_is_read_back_as_what_it_was_made_from() {
        for scene in seeded_scenes(1, 500) {
            assert_eq!(scene.to_string().parse(), Ok(scene));
        }
    }

    #[test]
    fn captions_read_as_the_training_set_writes_them() {
        for caption in [
            "a red circle on a white background",
            "an orange star on a striped black background",
            "a small orange ring on an orange background",
            "a green heart above a purple square on a gray background",
            "a cyan cross right of an orange diamond on a checkered pink background",
        ] {
            // The grammar chooses the article of the second object by its colour, as any other.
            assert_eq!(caption.parse::<Scene>().map(|scene| scene.to_string()), Ok(caption.to_owned()));
        }
    }

    #[test]
    fn a_caption_outside_the_grammar_is_refused_with_the_place_and_what_belongs_there() {
        let refused = |caption: &str| caption.parse::<Scene>().unwrap_err();
        let error = refused("a red dog on a white background");
        assert_eq!((error.read.as_str(), error.expected, error.found.as_str()), ("a red", "a shape", "dog"));
        assert_eq!(refused("a red circle on a white").found, "");
        assert_eq!(refused("a red circle on a white background today").found, "today");
        assert_eq!(refused("a small red circle above a red star on a white background").found, "above");
        assert_eq!(refused("").expected, "an article");
    }

    #[test]
    fn the_rated_captions_are_forty_different_ones() {
        let captions: std::collections::HashSet<String> = rated_scenes().iter().map(Scene::to_string).collect();
        assert_eq!(captions.len(), 40);
    }
}
