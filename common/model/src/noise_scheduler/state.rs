//! What a noise scheduler remembers from one step to the next.

use serde::{Deserialize, Serialize};

use super::linear::Mix;
use super::{SchedulerError, SchedulerKind};

/// All that changes while a noise scheduler runs: saved with a job's latents, it lets the job go on at that step bit
/// for bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchedulerState {
    pub(super) kind: SchedulerKind,
    pub(super) evaluations: usize,
    pub(super) next_step: usize,
    pub(super) memory: Memory,
}

impl SchedulerState {
    pub(super) fn new(kind: SchedulerKind, evaluations: usize) -> Self {
        Self { kind, evaluations, next_step: 0, memory: Memory::default() }
    }

    /// The step that has not been made yet; the number of evaluations at the end.
    pub const fn next_step(&self) -> usize {
        self.next_step
    }

    /// Elements of the arrays that it holds, and so of the latents that it belongs to; `None` if it holds none.
    pub fn elements(&self) -> Option<usize> {
        self.memory.arrays().next().map(<[f32]>::len)
    }

    /// Whether this was saved by a noise scheduler like the one that has `own` and needs `expected` of it.
    pub(super) fn check(&self, own: &Self, expected: Remembered) -> Result<(), SchedulerError> {
        let same = |what, expected: String, found: String| match expected == found {
            true => Ok(()),
            false => Err(SchedulerError::StateMismatch { what, expected, found }),
        };
        same("name", own.kind.to_string(), self.kind.to_string())?;
        same("number of evaluations", own.evaluations.to_string(), self.evaluations.to_string())?;
        let found = self.memory.remembered();
        same("memory", format!("{expected:?}"), format!("{found:?}"))?;
        let mut lengths = self.memory.arrays().map(<[f32]>::len);
        let first = lengths.next().unwrap_or(0);
        match lengths.find(|length| *length != first) {
            Some(length) => same("array", format!("{first} elements"), format!("{length} elements")),
            None => Ok(()),
        }
    }
}

/// Arrays shaped like the latents. Which are in use follows from the method and the step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Of earlier steps: denoised latents, derivatives or noise predictions. The newest is first.
    pub(super) history: Vec<Vec<f32>>,
    /// Latents at an earlier evaluation, which a later one starts from again; empty if there are none.
    pub(super) anchor: Vec<f32>,
    /// A derivative or a sum that the evaluations of one step build up; empty between steps.
    pub(super) partial: Vec<f32>,
}

impl Memory {
    /// Puts a mixed array in front of the history and drops what lies beyond `limit`, whose buffer is used again.
    pub(super) fn push(&mut self, limit: usize, mix: Mix, latents: &[f32], prediction: &[f32]) {
        if self.history.len() < limit {
            self.history.push(Vec::new());
        }
        self.history.rotate_right(1);
        if let Some(newest) = self.history.first_mut() {
            mix.write(newest, latents, prediction);
        }
    }

    /// Remembers the latents as they are now.
    pub(super) fn set_anchor(&mut self, latents: &[f32]) {
        self.anchor.clear();
        self.anchor.extend_from_slice(latents);
    }

    fn remembered(&self) -> Remembered {
        Remembered { history: self.history.len(), anchor: !self.anchor.is_empty(), partial: !self.partial.is_empty() }
    }

    fn arrays(&self) -> impl Iterator<Item = &[f32]> {
        let others = [&self.anchor, &self.partial].into_iter().filter(|array| !array.is_empty());
        self.history.iter().chain(others).map(Vec::as_slice)
    }
}

/// How much a method remembers before a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) history: usize,
    pub(super) anchor: bool,
    pub(super) partial: bool,
}
