//! What `verify` found: one line for each run or part.

use serde::Serialize;

/// What came of one run or part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Folder and run, such as `sd21/n2_s1_w1_ts0`.
    pub name: String,
    /// What came of it.
    pub verdict: Verdict,
    /// BLAKE3 of the final latents and the last noise prediction of a run: equal bits have equal digests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Bytes per step that went from GPU to GPU over NCCL, of a run of which some did. Not written: lines are compared between carriers.
    #[serde(skip)]
    pub nccl_bytes_per_step: Option<f64>,
}

/// Whether a result agrees with the golden data.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Verdict {
    /// It could not be computed or compared.
    Broken {
        /// Why.
        reason: String,
    },
    /// It differs by more than the tolerance.
    Differs {
        /// Largest difference relative to the largest value.
        error: f64,
        /// What is allowed.
        tolerance: f64,
        /// Which of the compared tensors.
        what: String,
    },
    /// It agrees.
    Passed {
        /// Largest difference relative to the largest value.
        error: f64,
        /// What is allowed.
        tolerance: f64,
    },
    /// The family or part is not supported.
    Unsupported {
        /// What was found, and what is supported.
        reason: String,
    },
}

impl Line {
    /// Of what has no bits to show.
    pub(super) fn new(name: String, verdict: Verdict) -> Self {
        Self { name, verdict, digest: None, nccl_bytes_per_step: None }
    }
}

impl Verdict {
    /// The verdict on several comparisons: the worst one decides.
    pub(super) fn of(tolerance: f64, comparisons: impl IntoIterator<Item = (String, f64)>) -> Self {
        let worst = comparisons.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        match worst {
            Some((_, error)) if error <= tolerance => Self::Passed { error, tolerance },
            Some((what, error)) => Self::Differs { error, tolerance, what },
            None => Self::Broken { reason: "nothing was compared".to_owned() },
        }
    }

    /// Whether the run agrees with the golden data.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        matches!(self, Self::Passed { .. })
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = &self.name;
        match &self.verdict {
            Verdict::Broken { reason } => write!(formatter, "{name}  FAILED  {reason}"),
            Verdict::Differs { error, tolerance, what } => {
                write!(formatter, "{name}  DIFFERS  {what}: {error:.1e} (tolerance {tolerance:.0e})")
            }
            Verdict::Passed { error, tolerance } => {
                write!(formatter, "{name}  ok  {error:.1e} (tolerance {tolerance:.0e})")
            }
            Verdict::Unsupported { reason } => write!(formatter, "{name}  NOT SUPPORTED  {reason}"),
        }
    }
}
