//! The words of a caption and what they mean: colours, kinds of background, sizes, relations.

/// A colour of the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Cyan,
    Blue,
    Purple,
    Pink,
    Brown,
    Black,
    White,
    Gray,
}

impl Colour {
    /// All colours in the order of `scenes.py`.
    pub const ALL: [Self; 12] = [
        Self::Red,
        Self::Orange,
        Self::Yellow,
        Self::Green,
        Self::Cyan,
        Self::Blue,
        Self::Purple,
        Self::Pink,
        Self::Brown,
        Self::Black,
        Self::White,
        Self::Gray,
    ];

    /// The caption's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// Red, green and blue from 0 to 1.
    #[must_use]
    pub fn rgb(self) -> [f32; 3] {
        self.entry().1
    }

    fn entry(self) -> (&'static str, [f32; 3]) {
        match self {
            Self::Red => ("red", [0.86, 0.13, 0.15]),
            Self::Orange => ("orange", [0.96, 0.52, 0.10]),
            Self::Yellow => ("yellow", [0.97, 0.85, 0.18]),
            Self::Green => ("green", [0.16, 0.62, 0.26]),
            Self::Cyan => ("cyan", [0.15, 0.76, 0.80]),
            Self::Blue => ("blue", [0.13, 0.30, 0.82]),
            Self::Purple => ("purple", [0.49, 0.20, 0.68]),
            Self::Pink => ("pink", [0.96, 0.50, 0.70]),
            Self::Brown => ("brown", [0.48, 0.30, 0.16]),
            Self::Black => ("black", [0.08, 0.08, 0.09]),
            Self::White => ("white", [0.96, 0.96, 0.95]),
            Self::Gray => ("gray", [0.52, 0.53, 0.55]),
        }
    }
}

/// How a background varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BackgroundKind {
    Plain,
    Gradient,
    Checkered,
    Striped,
}

impl BackgroundKind {
    /// All kinds in the order of `scenes.py`.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Gradient, Self::Checkered, Self::Striped];

    /// The caption's word; a plain background has none.
    #[must_use]
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Gradient => Some("gradient"),
            Self::Checkered => Some("checkered"),
            Self::Striped => Some("striped"),
        }
    }
}

/// How large the only object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Size {
    Small,
    Medium,
    Large,
}

impl Size {
    /// All sizes in the order of `scenes.py`.
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// The caption's word; a medium object has none.
    #[must_use]
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Small => Some("small"),
            Self::Medium => None,
            Self::Large => Some("large"),
        }
    }
}

/// Where the first of two objects is, seen from the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

impl Relation {
    /// All relations in the order of `scenes.py`.
    pub const ALL: [Self; 4] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below];

    /// The caption's words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::LeftOf => "left of",
            Self::RightOf => "right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }

    /// The way from the second object to the first: x to the right, y down.
    #[must_use]
    pub fn direction(self) -> [f32; 2] {
        match self {
            Self::LeftOf => [-1.0, 0.0],
            Self::RightOf => [1.0, 0.0],
            Self::Above => [0.0, -1.0],
            Self::Below => [0.0, 1.0],
        }
    }
}
