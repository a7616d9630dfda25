//! What a worker's layers cost: as it measured them when it was first needed, corrected by what they took in jobs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use asyncdiff_common::wire::{DenoiserSpec, LayerCost};
use asyncdiff_plan::LayerId;
use tokio::time::Instant;

/// Measurements kept per session: two for each picture size in use, of the whole batch and of a guidance half.
const KEPT: usize = 16;

/// A job whose layers took as long as was measured, but for this factor, changes nothing: two jobs differ by as much, and plans should not
/// follow chance.
const AS_MEASURED: f64 = 1.05;

/// By how much one job may correct what is known: a worker that something else held up for a while is not that slow for ever.
const CORRECTION_MAX: f64 = 4.0;

/// For how long a correction counts after the job that it comes from: jobs that follow each other are planned by it. Then what was measured counts again, so that a
/// worker that was held up for a while, and has got no part since, gets another chance.
const CORRECTED_FOR: Duration = Duration::from_secs(60);

/// What one session's worker takes for the layers of denoisers, for a number of rows; the oldest first.
#[derive(Debug, Default)]
pub(super) struct Measurements(Mutex<Vec<Measurement>>);

#[derive(Debug)]
struct Measurement {
    denoiser: DenoiserSpec,
    rows: u32,
    /// By layer, as they were measured.
    costs: Arc<[LayerCost]>,
    /// What they took in a job, if it was something else, and when it ended.
    corrected: Option<(Arc<[LayerCost]>, Instant)>,
}

impl Measurement {
    fn current(&self) -> &Arc<[LayerCost]> {
        match &self.corrected {
            Some((costs, since)) if since.elapsed() < CORRECTED_FOR => costs,
            _ => &self.costs,
        }
    }
}

impl Measurements {
    pub(super) fn find(&self, denoiser: &DenoiserSpec, rows: u32) -> Option<Arc<[LayerCost]>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|known| known.denoiser == *denoiser && known.rows == rows);
        found.map(|known| Arc::clone(known.current()))
    }

    pub(super) fn keep(&self, denoiser: DenoiserSpec, rows: u32, costs: Arc<[LayerCost]>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == KEPT {
            known.remove(0);
        }
        known.push(Measurement { denoiser, rows, costs, corrected: None });
    }

    /// Corrects what is known of a denoiser by what layers took in a job: all layers alike, also those that the job did not have, so that a part is
    /// not taken for slow because it was somewhere else. Returns the factor, if there is one; against what was measured, so that corrections do not
    /// multiply.
    pub(super) fn correct(&self, denoiser: &DenoiserSpec, rows: u32, taken: &[(LayerId, f64)]) -> Option<f64> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = known.iter().find(|known| known.denoiser == *denoiser && known.rows == rows)?;
        let cost = |layer: LayerId| measured.costs.get(layer.index()).map(|cost| cost.seconds);
        let both = taken.iter().filter_map(|&(layer, seconds)| Some((seconds, cost(layer)?)));
        let (taken, expected) =
            both.fold((0.0, 0.0), |(sum, other), (taken, expected)| (sum + taken, other + expected));
        let factor = taken / expected;
        if !factor.is_finite() || factor <= 0.0 {
            return None;
        }
        let is_chance = (1.0 / AS_MEASURED..=AS_MEASURED).contains(&factor);
        let factor = if is_chance { 1.0 } else { factor.clamp(1.0 / CORRECTION_MAX, CORRECTION_MAX) };
        let now = Instant::now();
        for known in known.iter_mut().filter(|known| known.denoiser == *denoiser) {
            let corrected = |cost: &LayerCost| LayerCost { seconds: cost.seconds * factor, ..*cost };
            known.corrected = (!is_chance).then(|| (known.costs.iter().map(corrected).collect(), now));
        }
        (!is_chance).then_some(factor)
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
    fn a_job_corrects_within_bounds_and_what_was_measured() {
        let known = known();
        for _job in 0..2 {
            assert_eq!(known.correct(&denoiser(8), 2, &[(LayerId(0), 1000.0)]), Some(CORRECTION_MAX));
            assert_eq!(seconds(&known, 8, 2), [4.0, 8.0, 12.0]);
        }
        assert_eq!(known.correct(&denoiser(8), 2, &[(LayerId(0), 1.01)]), None);
        assert_eq!(seconds(&known, 8, 2), [1.0, 2.0, 3.0], "it is as fast as it was");
    }

    #[tokio::test(start_paused = true)]
    async fn a_correction_is_forgotten_when_no_job_has_confirmed_it_for_a_while() {
        let known = known();
        known.correct(&denoiser(8), 2, &[(LayerId(0), 3.0)]);
        tokio::time::advance(CORRECTED_FOR / 2).await;
        assert_eq!(seconds(&known, 8, 2), [3.0, 6.0, 9.0]);
        tokio::time::advance(CORRECTED_FOR).await;
        assert_eq!(seconds(&known, 8, 2), [1.0, 2.0, 3.0]);
    }
}
