//! What a worker's layers cost: as it measured them when it was first needed, corrected by what they took in jobs.

use std::sync::{Arc, Mutex, PoisonError};

use asyncdiff_common::wire::{DenoiserSpec, LayerCost};
use asyncdiff_plan::LayerId;

/// Measurements kept per session: two for each picture size in use, of the whole batch and of a guidance half.
const KEPT: usize = 16;

/// A job whose layers took as long as was measured, but for this factor, changes nothing: two jobs differ by as much, and plans should not
/// follow chance.
const AS_MEASURED: f64 = 1.05;

/// By how much one job may correct what is known: a worker that something else held up for a while is not that slow for ever.
const CORRECTION_MAX: f64 = 4.0;

/// What one session's worker takes for the layers of denoisers, for a number of rows; the oldest first.
#[derive(Debug, Default)]
pub(super) struct Measurements(Mutex<Vec<Measurement>>);

#[derive(Debug)]
struct Measurement {
    denoiser: DenoiserSpec,
    rows: u32,
    /// By layer.
    costs: Arc<[LayerCost]>,
}

impl Measurements {
    pub(super) fn find(&self, denoiser: &DenoiserSpec, rows: u32) -> Option<Arc<[LayerCost]>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|known| known.denoiser == *denoiser && known.rows == rows);
        found.map(|known| Arc::clone(&known.costs))
    }

    pub(super) fn keep(&self, denoiser: DenoiserSpec, rows: u32, costs: Arc<[LayerCost]>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == KEPT {
            known.remove(0);
        }
        known.push(Measurement { denoiser, rows, costs });
    }

    /// Corrects what is known of a denoiser by what layers took in a job: all layers alike, also those that the job did not have, so that a part is
    /// not taken for slow because it was somewhere else. Returns the factor, if there is one.
    pub(super) fn correct(&self, denoiser: &DenoiserSpec, rows: u32, taken: &[(LayerId, f64)]) -> Option<f64> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = known.iter().find(|known| known.denoiser == *denoiser && known.rows == rows)?;
        let both =
            taken.iter().filter_map(|&(layer, seconds)| Some((seconds, measured.costs.get(layer.index())?.seconds)));
        let (taken, expected) =
            both.fold((0.0, 0.0), |(sum, other), (taken, expected)| (sum + taken, other + expected));
        let factor = taken / expected;
        if !factor.is_finite() || factor <= 0.0 || (1.0 / AS_MEASURED..=AS_MEASURED).contains(&factor) {
            return None;
        }
        let factor = factor.clamp(1.0 / CORRECTION_MAX, CORRECTION_MAX);
        for known in known.iter_mut().filter(|known| known.denoiser == *denoiser) {
            let corrected = |cost: &LayerCost| LayerCost { seconds: cost.seconds * factor, ..*cost };
            known.costs = known.costs.iter().map(corrected).collect();
        }
        Some(factor)
    }
}

#[cfg(test)]
mod tests {
    use asyncdiff_common::wire::ComputeType;

    use super::*;

    fn denoiser(side: u32) -> DenoiserSpec {
        let compute = ComputeType::F32;
        DenoiserSpec { config: String::new(), height: side, width: side, tokens: 77, compute }
    }

    fn known() -> Measurements {
        let known = Measurements::default();
        let costs = |seconds: [f64; 3]| {
            seconds.map(|seconds| LayerCost { seconds, resident_bytes: 8, working_bytes: 4 }).into()
        };
        known.keep(denoiser(8), 2, costs([1.0, 2.0, 3.0]));
        known.keep(denoiser(8), 1, costs([0.5, 1.0, 1.5]));
        known.keep(denoiser(16), 2, costs([4.0, 8.0, 12.0]));
        known
    }

    fn seconds(known: &Measurements, side: u32, rows: u32) -> Vec<f64> {
        known.find(&denoiser(side), rows).unwrap().iter().map(|cost| cost.seconds).collect()
    }

    #[test]
    fn what_a_part_took_corrects_all_layers_of_its_denoiser() {
        let known = known();
        let factor = known.correct(&denoiser(8), 2, &[(LayerId(1), 3.0), (LayerId(2), 4.5)]);
        assert_eq!(factor, Some(1.5));
        assert_eq!(seconds(&known, 8, 2), [1.5, 3.0, 4.5]);
        assert_eq!(seconds(&known, 8, 1), [0.75, 1.5, 2.25]);
        assert_eq!(seconds(&known, 16, 2), [4.0, 8.0, 12.0], "another size is another denoiser");
        assert_eq!(known.find(&denoiser(8), 2).unwrap()[0].resident_bytes, 8);
    }

    #[test]
    fn chance_and_nonsense_correct_nothing() {
        let known = known();
        for taken in [
            vec![(LayerId(0), 1.04)],
            vec![(LayerId(0), 0.96)],
            vec![],
            vec![(LayerId(9), 5.0)],
            vec![(LayerId(0), f64::NAN)],
            vec![(LayerId(0), f64::INFINITY)],
            vec![(LayerId(0), -1.0)],
        ] {
            assert_eq!(known.correct(&denoiser(8), 2, &taken), None, "{taken:?}");
        }
        assert_eq!(seconds(&known, 8, 2), [1.0, 2.0, 3.0]);
        assert_eq!(known.correct(&denoiser(8), 4, &[(LayerId(0), 2.0)]), None, "never measured");
    }

    #[test]
    fn a_single_job_corrects_within_bounds() {
        let known = known();
        assert_eq!(known.correct(&denoiser(8), 2, &[(LayerId(0), 1000.0)]), Some(CORRECTION_MAX));
        assert_eq!(seconds(&known, 8, 2), [4.0, 8.0, 12.0]);
    }
}
