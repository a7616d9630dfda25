//! Identifiers: an id is a type, so that a step cannot be passed where a rank is meant.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl $name {
            /// The id as an index into a slice.
            #[must_use]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(formatter, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// One part of the split denoiser, `0..components`; the last one makes the noise prediction.
    ComponentId(u16),
    "c"
);
id!(
    /// Counts the changes of one job's placement; whatever carries an older epoch is dropped.
    Epoch(u32),
    "e"
);
id!(
    /// A graph input of a program: an index into [`Program::inputs`](crate::Program::inputs).
    InputId(u16),
    "in"
);
id!(
    /// One job: an image (or video) that somebody asked for. Unique within a coordinator's life.
    JobId(u64),
    "job-"
);
id!(
    /// A layer of a program: an index into [`Program::layers`](crate::Program::layers).
    LayerId(u16),
    "l"
);
id!(
    /// A device's place among those that serve one job, `0..world_size`.
    Rank(u16),
    "r"
);
id!(
    /// 0-based place in the denoising loop: counts evaluations of the denoiser.
    StepIndex(u32),
    "k"
);
id!(
    /// What a layer writes; each layer writes exactly one value, so the indices coincide.
    ValueId(u16),
    "v"
);

impl LayerId {
    /// The value that this layer writes.
    #[must_use]
    pub fn value(self) -> ValueId {
        ValueId(self.0)
    }
}

impl ValueId {
    /// The layer that writes this value.
    #[must_use]
    pub fn layer(self) -> LayerId {
        LayerId(self.0)
    }
}

impl StepIndex {
    /// The step after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
