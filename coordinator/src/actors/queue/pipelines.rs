//! Which workers each running job has to itself. Decides; the queue does.
//!
//! A job starts with all workers that are free, and gives back those that its plan has no use for: further jobs start with them, beside it.
//! A worker that becomes free goes to a job that lacks workers, else to the next one in the queue, else to the oldest running job that has
//! not found yet that it gains nothing by it.

use std::collections::{BTreeMap, BTreeSet};

use asyncdiff_plan::JobId;

/// The running jobs with their workers, by name: who comes back under its name finds its job again.
pub(super) struct Pipelines {
    jobs: BTreeMap<JobId, Pipeline>,
    most: usize,
}

#[derive(Default)]
struct Pipeline {
    /// Who has a part in its plan.
    uses: BTreeSet<String>,
    /// Who may be given one: nobody else is until the job has decided.
    considers: BTreeSet<String>,
    /// Whom it has no use for, as things are.
    spare: BTreeSet<String>,
    /// It waits for more workers than it has.
    is_short: bool,
}

impl Pipelines {
    /// `most`: jobs that may run at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { jobs: BTreeMap::new(), most }
    }

    /// The running jobs, the oldest first.
    pub(super) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.keys().copied()
    }

    /// Whom another job could start with now, of those who are there; nobody if none is to start.
    pub(super) fn for_another(&self, there: &BTreeSet<String>) -> BTreeSet<String> {
        let somebody_waits = self.jobs.values().any(|pipeline| pipeline.is_short(there));
        if self.jobs.len() >= self.most || somebody_waits { BTreeSet::new() } else { self.free(there) }
    }

    /// A job starts, and may use those.
    pub(super) fn start(&mut self, job: JobId, workers: BTreeSet<String>) {
        self.jobs.insert(job, Pipeline { considers: workers, ..Pipeline::default() });
    }

    /// A job has decided about workers: it uses some of them, or goes on with those that it has.
    pub(super) fn settle(&mut self, job: JobId, considered: &BTreeSet<String>, uses: Option<BTreeSet<String>>) {
        let Some(pipeline) = self.jobs.get_mut(&job) else { return };
        pipeline.considers.retain(|name| !considered.contains(name));
        if let Some(uses) = uses {
            pipeline.spare.append(&mut pipeline.uses);
            (pipeline.uses, pipeline.is_short) = (uses, false);
        }
        pipeline.spare.extend(considered.iter().cloned());
        pipeline.spare.retain(|name| !pipeline.uses.contains(name));
    }

    /// A job waits for more workers than it has.
    pub(super) fn fall_short(&mut self, job: JobId) {
        if let Some(pipeline) = self.jobs.get_mut(&job) {
            pipeline.is_short = true;
        }
    }

    /// A worker is there that may be another one than before: jobs may gain by it.
    pub(super) fn joined(&mut self, name: &str) {
        for pipeline in self.jobs.values_mut() {
            pipeline.spare.remove(name);
        }
    }

    /// A job has ended.
    pub(super) fn end(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }

    /// Gives free workers to running jobs: no other job starts with them.
    pub(super) fn give(&mut self, there: &BTreeSet<String>) {
        for name in self.free(there) {
            let lacks = self.jobs.values().position(|pipeline| pipeline.is_short(there));
            let place = lacks.or_else(|| self.jobs.values().position(|pipeline| !pipeline.spare.contains(&name)));
            if let Some(pipeline) = place.and_then(|place| self.jobs.values_mut().nth(place)) {
                pipeline.spare.remove(&name);
                pipeline.considers.insert(name);
            }
        }
    }

    /// Whom a job may use: its own, and those that nobody has while it found no use for them, in case it loses others.
    pub(super) fn offer(&self, job: JobId, there: &BTreeSet<String>) -> BTreeSet<String> {
        let Some(pipeline) = self.jobs.get(&job) else { return BTreeSet::new() };
        let free = self.free(there);
        let may_use = |name: &&String| pipeline.has(name) || (free.contains(*name) && pipeline.spare.contains(*name));
        there.iter().filter(may_use).cloned().collect()
    }

    fn free(&self, there: &BTreeSet<String>) -> BTreeSet<String> {
        let is_free = |name: &&String| !self.jobs.values().any(|pipeline| pipeline.has(name));
        there.iter().filter(is_free).cloned().collect()
    }
}

impl Pipeline {
    fn has(&self, name: &str) -> bool {
        self.uses.contains(name) || self.considers.contains(name)
    }

    fn is_short(&self, there: &BTreeSet<String>) -> bool {
        self.is_short || !there.iter().any(|name| self.has(name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: JobId = JobId(1);
    const B: JobId = JobId(2);

    fn names(names: &str) -> BTreeSet<String> {
        names.chars().map(String::from).collect()
    }

    /// Job A uses `uses` of `all`.
    fn running(all: &str, uses: &str) -> Pipelines {
        let mut pipelines = Pipelines::new(8);
        let workers = pipelines.for_another(&names(all));
        pipelines.start(A, workers);
        pipelines.settle(A, &names(all), Some(names(uses)));
        pipelines
    }

    #[test]
    fn a_job_keeps_everybody_until_it_is_planned() {
        let mut pipelines = Pipelines::new(8);
        pipelines.start(A, names("abcd"));
        assert_eq!(pipelines.for_another(&names("abcd")), names(""));
        pipelines.settle(A, &names("abcd"), Some(names("ab")));
        assert_eq!(pipelines.for_another(&names("abcd")), names("cd"));
    }

    #[test]
    fn what_a_job_has_no_use_for_is_there_if_it_loses_others_and_for_the_next_job() {
        let mut pipelines = running("abc", "ab");
        pipelines.give(&names("abc"));
        assert_eq!(pipelines.offer(A, &names("abc")), names("abc"));
        pipelines.start(B, pipelines.for_another(&names("abc")));
        assert_eq!(pipelines.offer(A, &names("abc")), names("ab"));
        assert_eq!(pipelines.offer(B, &names("abc")), names("c"));
    }

    #[test]
    fn workers_of_a_job_that_ended_go_to_the_oldest_that_has_not_declined_them() {
        let mut pipelines = running("abc", "ab");
        pipelines.start(B, names("c"));
        pipelines.settle(B, &names("c"), Some(names("c")));
        pipelines.end(A);
        pipelines.give(&names("abc"));
        assert_eq!(pipelines.offer(B, &names("abc")), names("abc"));
        assert_eq!(pipelines.for_another(&names("abc")), names(""), "they are being considered");
        pipelines.settle(B, &names("abc"), None);
        assert_eq!(pipelines.for_another(&names("abc")), names("ab"));
        pipelines.joined("a");
        pipelines.give(&names("abc"));
        assert_eq!(pipelines.for_another(&names("abc")), names("b"), "another worker of that name may be of use");
    }

    #[test]
    fn a_job_that_lacks_workers_is_first() {
        let mut pipelines = running("abc", "ab");
        pipelines.fall_short(A);
        assert_eq!(pipelines.for_another(&names("abc")), names(""));
        pipelines.give(&names("abc"));
        pipelines.settle(A, &names("abc"), Some(names("abc")));
        assert_eq!(pipelines.offer(A, &names("abcd")), names("abc"));
        assert_eq!(pipelines.for_another(&names("abcd")), names("d"));
    }

    #[test]
    fn a_job_that_has_lost_everybody_is_given_whoever_comes() {
        let mut pipelines = running("ab", "ab");
        assert_eq!(pipelines.for_another(&names("c")), names(""));
        pipelines.give(&names("c"));
        assert_eq!(pipelines.offer(A, &names("c")), names("c"));
    }

    #[test]
    fn no_more_jobs_run_than_may() {
        let mut pipelines = Pipelines::new(1);
        pipelines.start(A, names("a"));
        pipelines.settle(A, &names("a"), Some(names("a")));
        assert_eq!(pipelines.for_another(&names("ab")), names(""));
        pipelines.end(A);
        assert_eq!(pipelines.for_another(&names("ab")), names("ab"));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Start,
        Settle(u8, Option<BTreeSet<String>>),
        FallShort(u8),
        End(u8),
        There(BTreeSet<String>),
    }

    fn act() -> impl Strategy<Value = Act> {
        let some = || proptest::collection::btree_set("[a-e]", 0..5);
        prop_oneof![
            Just(Act::Start),
            (0..4u8, proptest::option::of(some())).prop_map(|(job, uses)| Act::Settle(job, uses)),
            (0..4u8).prop_map(Act::FallShort),
            (0..4u8).prop_map(Act::End),
            some().prop_map(Act::There),
        ]
    }

    proptest! {
        /// As the queue acts: whatever happens, nobody serves two masters and nobody who is there is forgotten.
        #[test]
        fn everybody_has_at_most_one_job_and_is_free_or_offered(acts in proptest::collection::vec(act(), 1..60)) {
            let (mut pipelines, mut there, mut next) = (Pipelines::new(3), names("abcde"), 0);
            for act in acts {
                let nth = |pipelines: &Pipelines, nth: u8| pipelines.jobs().nth(usize::from(nth));
                match act {
                    Act::Start => {
                        let workers = pipelines.for_another(&there);
                        if !workers.is_empty() {
                            next += 1;
                            pipelines.start(JobId(next), workers);
                        }
                    }
                    Act::Settle(place, uses) => if let Some(job) = nth(&pipelines, place) {
                        let offer = pipelines.offer(job, &there);
                        let uses = uses.map(|uses| uses.intersection(&offer).cloned().collect());
                        pipelines.settle(job, &offer, uses);
                    },
                    Act::FallShort(place) => if let Some(job) = nth(&pipelines, place) { pipelines.fall_short(job) },
                    Act::End(place) => if let Some(job) = nth(&pipelines, place) { pipelines.end(job) },
                    Act::There(now) => there = now,
                }
                pipelines.give(&there);
                prop_assert!(pipelines.jobs().count() <= 3);
                for name in &there {
                    let owners = pipelines.jobs.values().filter(|pipeline| pipeline.has(name)).count();
                    prop_assert!(owners <= 1, "{name} has {owners} jobs");
                    let is_offered = pipelines.jobs().any(|job| pipelines.offer(job, &there).contains(name));
                    prop_assert!(is_offered || pipelines.jobs().count() == 0, "{name} is forgotten");
                }
            }
        }
    }
}
