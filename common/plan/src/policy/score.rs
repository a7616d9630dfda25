//! What a predicted plan is worth: its time, lengthened by what it gives up of exactness.

use super::draft::Draft;
use crate::{CutShape, Prediction};

/// Hidden states that are a round old must bring this much, against a plan that reads none.
const STALE: f64 = 0.03;

/// A nested cut is one round deeper, so it must bring this much more.
const NESTED: f64 = 0.05;

/// One component more: the first ones' work is older when it reaches the noise prediction, and another device is taken.
const COMPONENT: f64 = 0.01;

/// Seconds, with a premium for each thing that a faster plan has to be worth.
pub(super) fn of(draft: &Draft, prediction: &Prediction) -> f64 {
    let stale = if draft.is_exact() { 0.0 } else { STALE };
    let nested = if draft.shape == Some(CutShape::Nested) && !draft.is_exact() { NESTED } else { 0.0 };
    prediction.seconds * (1.0 + stale + nested + COMPONENT * (draft.components() - 1) as f64)
}
