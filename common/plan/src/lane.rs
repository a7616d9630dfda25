//! Lanes (rows of the batch) and instances (versions of values).

use serde::{Deserialize, Serialize};

use crate::{StepIndex, ValueId};

/// Which rows of the batch a run computes. The batch is `[unconditional rows, conditional rows]`, as in diffusers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lane {
    /// The second half of the batch: with the prompt.
    Conditional,
    /// The first half of the batch: with the negative prompt.
    Unconditional,
    /// All rows.
    Whole,
}

/// One version of a value: what a run wrote at a step for the rows of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instance {
    /// The value.
    pub value: ValueId,
    /// Its version: the step of the run that wrote it.
    pub step: StepIndex,
    /// The rows that it holds.
    pub lane: Lane,
}

impl Lane {
    /// The two halves, in the order of the batch.
    pub const HALVES: [Self; 2] = [Self::Unconditional, Self::Conditional];

    /// The rows of a batch of `rows` that belong to this lane.
    #[must_use]
    pub fn rows(self, rows: usize) -> std::ops::Range<usize> {
        match self {
            Self::Unconditional => 0..rows / 2,
            Self::Conditional => rows / 2..rows,
            Self::Whole => 0..rows,
        }
    }
}
