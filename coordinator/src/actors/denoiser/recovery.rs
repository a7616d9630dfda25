//! Which faults a job survives, whom it goes on without, and when it gives up. Decides; the actor does.

use std::collections::HashSet;
use std::mem::Discriminant;

use asyncdiff_common::wire::WorkerFailure;
use ractor::ActorId;
use tokio::time::Instant;

use crate::failure::JobFailed;
use crate::job::Recovery;

/// Placements that may fail one after the other without a step in between. Each costs a planning at least; more than these are a cluster that
/// does not hold still, or a fault that no placement avoids.
const ATTEMPTS: u32 = 8;

/// What a job knows of the faults that it met.
pub(super) struct Recoveries {
    started: Instant,
    /// Sessions whose worker this job does not use again, although it is in the cluster. A new process of its name is a new chance.
    excluded: HashSet<ActorId>,
    /// Sessions whose worker was too slow: used again only if nobody else is there.
    aside: HashSet<ActorId>,
    /// Who failed, and how: a failure that follows the work from worker to worker is not theirs.
    failed: Vec<(ActorId, Discriminant<WorkerFailure>)>,
    attempts: u32,
    /// Ends of links that failed since the last step.
    broken_ends: Vec<ActorId>,
    /// Noticed, and no step taken since.
    open: Vec<(Instant, Recovery)>,
    closed: Vec<Recovery>,
}

/// What a fault takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cure {
    /// Planning anew with who is left.
    Again,
    /// The same without the worker, unless nobody else is there.
    Aside,
    /// Planning anew when it is known whether the other end of a link is lost.
    AnotherPath,
    /// More workers than there are.
    More,
    /// None: the job fails.
    None,
    /// Planning anew without the worker.
    Without,
}

/// How far a job had come when a fault was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its first components are being placed: what is wrong now is wrong with what was asked for.
    Starting,
    /// It has been placed before.
    Started,
}

impl Recoveries {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            excluded: HashSet::new(),
            aside: HashSet::new(),
            failed: Vec::new(),
            attempts: 0,
            broken_ends: Vec::new(),
            open: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// What to do about a fault of a worker.
    pub(super) fn judge(&mut self, fault: &JobFailed, worker: Option<ActorId>, stage: Stage) -> Cure {
        let mut worker = worker;
        let cure = match cure(fault) {
            Cure::More if stage == Stage::Starting => Cure::None,
            Cure::Without if worker.is_none() || self.follows_the_work(fault, worker) => Cure::None,
            // The last plan avoided a broken link and needed one all the same, as settings may demand.
            Cure::AnotherPath if self.broken_ends.len() > 2 => {
                worker = self.worst_end();
                Cure::Without
            }
            cure => cure,
        };
        self.attempts += 1;
        if self.attempts > ATTEMPTS {
            return Cure::None;
        }
        if let (Cure::Without, Some(worker)) = (cure, worker) {
            self.excluded.insert(worker);
        }
        if let (Cure::Aside, Some(worker)) = (cure, worker) {
            self.set_aside(worker);
        }
        cure
    }

    /// Notes that a worker is too slow for now.
    pub(super) fn set_aside(&mut self, worker: ActorId) {
        self.aside.insert(worker);
    }

    pub(super) fn aside(&self) -> &HashSet<ActorId> {
        &self.aside
    }

    /// Notes between whom a link failed, before it is judged.
    pub(super) fn note_broken_link(&mut self, ends: [ActorId; 2]) {
        self.broken_ends.extend(ends);
    }

    /// Notes a fault that the job goes on after.
    pub(super) fn begin(&mut self, fault: &JobFailed, step: u32, now: Instant) {
        let after_seconds = now.saturating_duration_since(self.started).as_secs_f64();
        let what = fault.to_error().message;
        self.open.push((now, Recovery { what, step, after_seconds, lost_seconds: 0.0 }));
    }

    /// Notes that the coordinator ended and was started again.
    pub(super) fn begin_again(&mut self, step: u32, now: Instant) {
        let what = "the coordinator ended and was started again".to_owned();
        let after_seconds = now.saturating_duration_since(self.started).as_secs_f64();
        self.open.push((now, Recovery { what, step, after_seconds, lost_seconds: 0.0 }));
    }

    /// Notes that a step was taken. Returns what it ended.
    pub(super) fn stepped(&mut self, now: Instant) -> Vec<Recovery> {
        self.attempts = 0;
        self.broken_ends.clear();
        let over = self.open.drain(..).map(|(noticed, recovery)| {
            let lost_seconds = now.saturating_duration_since(noticed).as_secs_f64();
            Recovery { lost_seconds, ..recovery }
        });
        let over: Vec<Recovery> = over.collect();
        self.closed.extend(over.iter().cloned());
        over
    }

    pub(super) fn is_excluded(&self, worker: ActorId) -> bool {
        self.excluded.contains(&worker) || self.aside.contains(&worker)
    }

    pub(super) fn excluded(&self) -> &HashSet<ActorId> {
        &self.excluded
    }

    /// What the job survived so far.
    pub(super) fn closed(&self) -> &[Recovery] {
        &self.closed
    }

    /// The worker that most of the links that failed since the last step have in common; the one that told so last, where several do.
    fn worst_end(&self) -> Option<ActorId> {
        let count = |end: ActorId| self.broken_ends.iter().filter(|other| **other == end).count();
        self.broken_ends.iter().copied().max_by_key(|&end| count(end))
    }

    fn follows_the_work(&mut self, fault: &JobFailed, worker: Option<ActorId>) -> bool {
        let (JobFailed::WorkerFailed { failure, .. }, Some(worker)) = (fault, worker) else { return false };
        let kind = std::mem::discriminant(failure);
        let elsewhere = self.failed.iter().any(|(other, known)| *other != worker && *known == kind);
        self.failed.push((worker, kind));
        elsewhere
    }
}

/// Whether what failed may succeed elsewhere.
pub(super) fn is_curable(fault: &JobFailed) -> bool {
    cure(fault) != Cure::None
}

fn cure(fault: &JobFailed) -> Cure {
    match fault {
        JobFailed::Bug { .. }
        | JobFailed::Cancelled { .. }
        | JobFailed::NeverAgain { .. }
        | JobFailed::NoWorkers { .. }
        | JobFailed::Overdue { .. }
        | JobFailed::Picture(_)
        | JobFailed::Policy(_)
        | JobFailed::Store(_) => Cure::None,
        JobFailed::WorkerLost { .. } => Cure::Again,
        JobFailed::DeviceHangs { .. }
        | JobFailed::RequestOverdue { .. }
        | JobFailed::Stalled { .. }
        | JobFailed::StepOverdue { .. } => Cure::Aside,
        JobFailed::UnexpectedPrediction { .. } | JobFailed::UnexpectedReply { .. } => Cure::Without,
        JobFailed::WorkerFailed { failure, .. } => match failure {
            WorkerFailure::BadWeight { .. } => Cure::None,
            WorkerFailure::OutOfMemory { .. } => Cure::More,
            WorkerFailure::PeerFailed { .. } => Cure::AnotherPath,
            WorkerFailure::BadAssignment { .. }
            | WorkerFailure::LayerFailed { .. }
            | WorkerFailure::Panicked { .. }
            | WorkerFailure::TimedOut { .. }
            | WorkerFailure::Unexpected { .. } => Cure::Without,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ActorId = ActorId::Local(1);
    const B: ActorId = ActorId::Local(2);

    fn failed(failure: WorkerFailure) -> JobFailed {
        JobFailed::WorkerFailed { worker: "a".to_owned(), failure }
    }

    fn panicked() -> JobFailed {
        failed(WorkerFailure::Panicked { message: "out of cheese".to_owned() })
    }

    fn lost() -> JobFailed {
        JobFailed::WorkerLost { worker: "b".to_owned(), reason: "no sign of life".to_owned() }
    }

    #[test]
    fn a_worker_that_fails_is_left_out_and_one_that_is_lost_may_come_back() {
        let mut recoveries = Recoveries::new(Instant::now());
        assert_eq!(recoveries.judge(&panicked(), Some(A), Stage::Started), Cure::Without);
        assert_eq!(recoveries.judge(&lost(), Some(B), Stage::Started), Cure::Again);
        assert!(recoveries.is_excluded(A) && !recoveries.is_excluded(B));
    }

    #[test]
    fn a_worker_that_is_too_slow_is_set_aside_and_not_excluded() {
        let mut recoveries = Recoveries::new(Instant::now());
        let hangs = JobFailed::DeviceHangs { worker: "a".to_owned(), waited: std::time::Duration::from_secs(2) };
        assert_eq!(recoveries.judge(&hangs, Some(A), Stage::Started), Cure::Aside);
        assert!(recoveries.is_excluded(A) && !recoveries.excluded().contains(&A) && recoveries.aside().contains(&A));
    }

    #[test]
    fn a_failure_that_a_second_worker_has_too_is_the_jobs() {
        let mut recoveries = Recoveries::new(Instant::now());
        assert_eq!(recoveries.judge(&panicked(), Some(A), Stage::Started), Cure::Without);
        assert_eq!(recoveries.judge(&panicked(), Some(B), Stage::Started), Cure::None);
    }

    #[test]
    fn too_little_memory_is_the_users_at_the_start_and_the_clusters_afterwards() {
        let out_of_memory = || failed(WorkerFailure::OutOfMemory { needed_bytes: 9, available_bytes: 3 });
        let mut recoveries = Recoveries::new(Instant::now());
        assert_eq!(recoveries.judge(&out_of_memory(), Some(A), Stage::Starting), Cure::None);
        assert_eq!(recoveries.judge(&out_of_memory(), Some(A), Stage::Started), Cure::More);
    }

    #[test]
    fn a_cluster_that_does_not_hold_still_is_given_up_and_a_step_counts_anew() {
        let mut recoveries = Recoveries::new(Instant::now());
        for _round in 0..3 {
            for _attempt in 0..ATTEMPTS {
                assert_eq!(recoveries.judge(&lost(), Some(B), Stage::Started), Cure::Again);
            }
            let _ = recoveries.stepped(Instant::now());
        }
        for _attempt in 0..ATTEMPTS {
            let _ = recoveries.judge(&lost(), Some(B), Stage::Started);
        }
        assert_eq!(recoveries.judge(&lost(), Some(B), Stage::Started), Cure::None);
    }

    #[test]
    fn a_worker_whose_links_fail_is_left_out_if_plans_do_not_get_round_them() {
        const C: ActorId = ActorId::Local(3);
        let unreachable = || failed(WorkerFailure::PeerFailed { peer: "b".to_owned(), reason: "cut".to_owned() });
        let mut recoveries = Recoveries::new(Instant::now());
        recoveries.note_broken_link([A, B]);
        assert_eq!(recoveries.judge(&unreachable(), Some(A), Stage::Started), Cure::AnotherPath);
        recoveries.note_broken_link([C, B]);
        assert_eq!(recoveries.judge(&unreachable(), Some(C), Stage::Started), Cure::Without);
        assert!(recoveries.is_excluded(B) && !recoveries.is_excluded(A) && !recoveries.is_excluded(C));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_fault_cost_is_the_time_to_the_next_step() {
        use std::time::Duration;
        let mut recoveries = Recoveries::new(Instant::now());
        tokio::time::advance(Duration::from_secs(2)).await;
        recoveries.begin(&lost(), 7, Instant::now());
        tokio::time::advance(Duration::from_secs(3)).await;
        let over = recoveries.stepped(Instant::now());
        assert_eq!(over, recoveries.closed());
        assert_eq!((over[0].step, over[0].after_seconds, over[0].lost_seconds), (7, 2.0, 3.0));
        assert!(over[0].what.contains("worker b was lost"), "{:?}", over[0]);
        assert!(recoveries.stepped(Instant::now()).is_empty());
    }
}
