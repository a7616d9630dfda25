//! Which tensors a worker may send to the coordinator: noise predictions that the plan expects of it, and the tensors
//! of requests that it was asked for. Of a step's other tensors the coordinator receives none.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use asyncdiff_common::wire::{DType, TensorHeader, TensorName};
use asyncdiff_plan::{Epoch, JobId, Lane, PlacedPlan, Rank, StepIndex};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::link::{Admission, Refusal};

use super::{TensorCounts, TensorSpec};
use crate::denoise::LoopSettings;

/// Ended jobs that are remembered, so that what was under way when they ended is late and no offence. Tensors are under
/// way for seconds; more jobs than this do not end in that time.
const ENDED_JOBS_REMEMBERED: usize = 64;

/// The same for requests whose tensor nobody waits for any more, while their job goes on: another worker was asked instead.
const FORGOTTEN_REPLIES_REMEMBERED: usize = 64;

/// Decides for one session. Asked on the transport's thread, told by actors; nobody holds its lock for longer than a
/// look-up.
pub(crate) struct SessionAdmission {
    expected: RwLock<Expected>,
    noise_predictions: AtomicU64,
    replies: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
}

#[derive(Default)]
struct Expected {
    jobs: HashMap<JobId, Arc<ExpectedOfJob>>,
    ended: VecDeque<JobId>,
    replies: HashMap<u64, TensorSpec>,
    forgotten: VecDeque<u64>,
}

/// The noise predictions that a rank makes in a job.
pub(crate) struct ExpectedOfJob {
    epoch: Epoch,
    settings: LoopSettings,
    predictions: HashSet<(StepIndex, Lane)>,
}

impl ExpectedOfJob {
    pub(crate) fn new(placed: &PlacedPlan, rank: Rank, epoch: Epoch, settings: LoopSettings) -> Self {
        let runs = placed.plan.runs.iter().filter(|run| placed.plan.predicts(run) && placed.rank_of(run) == rank);
        Self { epoch, settings, predictions: runs.map(|run| (run.id.step, run.id.lane)).collect() }
    }
}

impl SessionAdmission {
    pub(crate) fn new() -> Self {
        Self {
            expected: RwLock::default(),
            noise_predictions: AtomicU64::new(0),
            replies: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            late: AtomicU64::new(0),
        }
    }

    pub(crate) fn open_job(&self, job: JobId, expected: ExpectedOfJob) {
        self.write(|state| {
            state.jobs.insert(job, Arc::new(expected));
        });
    }

    pub(crate) fn close_job(&self, job: JobId) {
        self.write(|state| {
            state.jobs.remove(&job);
            if !state.ended.contains(&job) {
                state.ended.push_back(job);
            }
            while state.ended.len() > ENDED_JOBS_REMEMBERED {
                state.ended.pop_front();
            }
        });
    }

    pub(crate) fn expect_reply(&self, request: u64, tensor: TensorSpec) {
        self.write(|state| {
            state.replies.insert(request, tensor);
        });
    }

    pub(crate) fn forget_reply(&self, request: u64) {
        self.write(|state| {
            if state.replies.remove(&request).is_some() {
                state.forgotten.push_back(request);
            }
            while state.forgotten.len() > FORGOTTEN_REPLIES_REMEMBERED {
                state.forgotten.pop_front();
            }
        });
    }

    /// What was asked so far.
    pub(crate) fn counts(&self) -> TensorCounts {
        TensorCounts {
            noise_predictions: self.noise_predictions.load(Ordering::Relaxed),
            replies: self.replies.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
        }
    }

    fn write(&self, change: impl FnOnce(&mut Expected)) {
        // A panic while it was held can have lost one entry, which then is refused.
        change(&mut self.expected.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn check(&self, header: &TensorHeader) -> Result<&AtomicU64, Refusal> {
        let state = self.expected.read().unwrap_or_else(PoisonError::into_inner);
        match header.name {
            TensorName::NoisePrediction(step, lane) => {
                let Some(expected) = state.jobs.get(&header.job) else {
                    let ended = state.ended.contains(&header.job);
                    let job = header.job;
                    return Err(if ended { Refusal::EndedJob { job } } else { Refusal::UnknownJob { job } });
                };
                expected.check(header, step, lane)?;
                Ok(&self.noise_predictions)
            }
            TensorName::Reply { request, index: 0 } => match state.replies.get(&request) {
                Some(spec) => check_spec(header, &spec.shape, spec.dtype).map(|()| &self.replies),
                // Its job was cancelled or its deadline passed while it was under way.
                None if state.ended.contains(&header.job) || state.forgotten.contains(&request) => {
                    Err(Refusal::EndedJob { job: header.job })
                }
                None => Err(Refusal::Unexpected),
            },
            _ => Err(Refusal::Unexpected),
        }
    }
}

impl ExpectedOfJob {
    fn check(&self, header: &TensorHeader, step: StepIndex, lane: Lane) -> Result<(), Refusal> {
        if header.epoch < self.epoch {
            return Err(Refusal::OldEpoch { expected: self.epoch, found: header.epoch });
        }
        if header.epoch != self.epoch || !self.predictions.contains(&(step, lane)) {
            return Err(Refusal::Unexpected);
        }
        let rows = lane.rows(self.settings.rows() as usize).len() as u32;
        check_spec(header, &self.settings.shape.axes(rows), DType::F32)
    }
}

impl Admission for SessionAdmission {
    fn admit(&self, _peer: &PeerName, header: &TensorHeader) -> Result<(), Refusal> {
        let admitted = self.check(header);
        let counter = match &admitted {
            Ok(counter) => counter,
            Err(refusal) if refusal.is_late() => &self.late,
            Err(_) => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        admitted.map(|_| ())
    }
}

fn check_spec(header: &TensorHeader, shape: &[u32], dtype: DType) -> Result<(), Refusal> {
    if header.dtype != dtype {
        return Err(Refusal::WrongDType { expected: dtype, found: header.dtype });
    }
    if header.delta.is_some() {
        return Err(Refusal::WrongDelta { expected: None, found: header.delta });
    }
    if header.shape != shape {
        return Err(Refusal::WrongShape { expected: shape.to_vec(), found: header.shape.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use asyncdiff_plan::{Instance, ValueId};

    use super::*;
    use crate::denoise::LatentsShape;

    const JOB: JobId = JobId(3);

    fn admission() -> SessionAdmission {
        let admission = SessionAdmission::new();
        let shape = LatentsShape { images: 1, channels: 4, height: 8, width: 6 };
        let settings = LoopSettings { shape, guidance_scale: Some(7.5) };
        let predictions = HashSet::from([(StepIndex(0), Lane::Unconditional), (StepIndex(1), Lane::Whole)]);
        admission.open_job(JOB, ExpectedOfJob { epoch: Epoch(1), settings, predictions });
        admission.expect_reply(9, TensorSpec { shape: vec![2, 77, 32], dtype: DType::F32 });
        admission
    }

    fn header(name: TensorName, shape: &[u32]) -> TensorHeader {
        TensorHeader {
            job: JOB,
            epoch: Epoch(1),
            name,
            shape: shape.to_vec(),
            dtype: DType::F32,
            delta: None,
            part: None,
        }
    }

    fn admit(admission: &SessionAdmission, header: &TensorHeader) -> Result<(), Refusal> {
        admission.admit(&PeerName::worker("w").unwrap(), header)
    }

    #[test]
    fn noise_predictions_of_the_plan_and_replies_asked_for_are_admitted() {
        let admission = admission();
        let prediction = |step, lane| TensorName::NoisePrediction(StepIndex(step), lane);
        assert_eq!(admit(&admission, &header(prediction(0, Lane::Unconditional), &[1, 4, 8, 6])), Ok(()));
        assert_eq!(admit(&admission, &header(prediction(1, Lane::Whole), &[2, 4, 8, 6])), Ok(()));
        assert_eq!(admit(&admission, &header(TensorName::Reply { request: 9, index: 0 }, &[2, 77, 32])), Ok(()));
        assert_eq!(admission.counts(), TensorCounts { noise_predictions: 2, replies: 1, refused: 0, late: 0 });
    }

    #[test]
    fn hidden_states_latents_and_whatever_was_not_asked_for_are_refused() {
        let admission = admission();
        let instance = Instance { value: ValueId(1), step: StepIndex(0), lane: Lane::Whole };
        let names = [
            TensorName::HiddenState(instance),
            TensorName::Latents(StepIndex(0)),
            TensorName::Condition("encoder_hidden_states".to_owned()),
            TensorName::Weight([0; 32]),
            TensorName::NoisePrediction(StepIndex(0), Lane::Whole),
            TensorName::Reply { request: 8, index: 0 },
        ];
        for name in names {
            assert_eq!(admit(&admission, &header(name, &[2, 4, 8, 6])), Err(Refusal::Unexpected));
        }
        assert_eq!(admission.counts().refused, 6);
    }

    #[test]
    fn a_tensor_that_another_worker_was_asked_for_instead_is_late_and_no_offence() {
        let admission = admission();
        let reply = header(TensorName::Reply { request: 9, index: 0 }, &[2, 77, 32]);
        admission.forget_reply(9);
        admission.forget_reply(10);
        assert!(admit(&admission, &reply).unwrap_err().is_late());
        let unknown = header(TensorName::Reply { request: 10, index: 0 }, &[2, 77, 32]);
        assert_eq!(admit(&admission, &unknown), Err(Refusal::Unexpected), "nobody asked for it");
    }

    #[test]
    fn another_shape_or_job_is_refused_and_an_old_epoch_or_ended_job_is_late() {
        let admission = admission();
        let whole = TensorName::NoisePrediction(StepIndex(1), Lane::Whole);
        let wrong = header(whole.clone(), &[1, 4, 8, 6]);
        assert!(matches!(admit(&admission, &wrong), Err(Refusal::WrongShape { .. })));
        let unknown = TensorHeader { job: JobId(4), ..header(whole.clone(), &[2, 4, 8, 6]) };
        assert!(matches!(admit(&admission, &unknown), Err(Refusal::UnknownJob { .. })));
        let old = TensorHeader { epoch: Epoch(0), ..header(whole.clone(), &[2, 4, 8, 6]) };
        assert!(admit(&admission, &old).unwrap_err().is_late());
        admission.close_job(JOB);
        assert!(admit(&admission, &header(whole, &[2, 4, 8, 6])).unwrap_err().is_late());
        assert_eq!(admission.counts(), TensorCounts { noise_predictions: 0, replies: 0, refused: 2, late: 2 });
    }
}
