//! What a soak found, as JSON and Markdown, and whether it is as it must be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Serialize;

use super::jobs::Seen;
use crate::bench::median::median;

/// A picture that is less like the undisturbed one is another picture: what AsyncDiff itself changes is 37 dB and more, a picture of something
/// else has 15 dB or less.
const ALIKE_DECIBELS: f64 = 25.0;

/// By how much a process may grow from its first jobs on. What it holds for a job is given back; what stays are the allocator's heaps, which fill by a
/// few MiB, and what it shares with the links of the moment, 20 MiB more or less. A leak of 8 kB for each job is over this after 3000 jobs: half an
/// hour's.
const GROWTH_BYTES: u64 = 24 << 20;

/// What [`SoakBench`](super::SoakBench) found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SoakReport {
    /// The processor, and how many of its cores there are.
    pub hardware: String,
    /// The version of this program.
    pub version: &'static str,
    /// What decided what happened.
    pub seed: u64,
    /// How long it took.
    pub minutes: f64,
    /// Jobs whose pictures were made.
    pub done: usize,
    /// Why the others have none.
    pub lost: Vec<String>,
    /// What was done to workers, and how often.
    pub faults: BTreeMap<&'static str, usize>,
    /// Jobs by what happened while they ran.
    pub jobs: Vec<JobsOfKind>,
    /// Memory of processes.
    pub memory: Vec<Memory>,
}

/// Jobs in whose time one kind of thing happened; where others happened too, the job is counted with each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobsOfKind {
    /// Which kind; `undisturbed` if the job went on by the plan that it began with.
    pub kind: &'static str,
    /// How many.
    pub jobs: usize,
    /// Of these, pictures that are equal to the undisturbed one.
    pub equal: usize,
    /// The least PSNR of the others to the undisturbed one, in dB.
    pub psnr_min_decibels: Option<f64>,
    /// The middle one.
    pub psnr_median_decibels: Option<f64>,
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Which process.
    pub process: &'static str,
    /// After the first jobs.
    pub start: u64,
    /// In the middle.
    pub middle: u64,
    /// When all jobs have ended.
    pub end: u64,
}

impl SoakReport {
    /// What is not as it must be.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints: Vec<String> = self.lost.iter().map(|why| format!("a job was lost: {why}")).collect();
        let alike = |kind: &&JobsOfKind| kind.psnr_min_decibels.is_some_and(|decibels| decibels < ALIKE_DECIBELS);
        for kind in self.jobs.iter().filter(alike) {
            let found = kind.psnr_min_decibels.unwrap_or_default();
            complaints.push(format!("{}: a picture has {found:.1} dB, less than {ALIKE_DECIBELS}", kind.kind));
        }
        for Memory { process, start, end, .. } in &self.memory {
            if end.saturating_sub(*start) > GROWTH_BYTES {
                complaints.push(format!("{process}: grew from {} to {} MiB", start >> 20, end >> 20));
            }
        }
        complaints
    }

    /// The figures as Markdown tables.
    #[must_use]
    pub fn markdown(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let decibels = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.1}"));
        let jobs: String = self
            .jobs
            .iter()
            .map(|of| {
                let (least, middle) = (decibels(of.psnr_min_decibels), decibels(of.psnr_median_decibels));
                format!("| {} | {} | {} | {least} | {middle} |\n", of.kind, of.jobs, of.equal)
            })
            .collect();
        let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let memory: String = self
            .memory
            .iter()
            .map(|of| {
                let [start, middle, end] = [of.start, of.middle, of.end].map(mebibytes);
                format!("| {} | {start} | {middle} | {end} |\n", of.process)
            })
            .collect();
        format!(
            "| coordinator | version {} |\n|---|---|\n| hardware | {} |\n| seed | {} |\n| minutes | {:.1} |\n| jobs done | {} |\n\
             | jobs lost | {} |\n| done to workers | {} |\n\n\
             | jobs, by what happened meanwhile | jobs | equal pictures | PSNR of the others, least, dB | median, dB |\n|---|--:|--:|--:|--:|\n{jobs}\n\
             | resident memory, MiB | after the first jobs | in the middle | at the end |\n|---|--:|--:|--:|\n{memory}",
            self.version,
            self.hardware,
            self.seed,
            self.minutes,
            self.done,
            self.lost.len(),
            faults.join(", ")
        )
    }
}

/// Counts jobs by what happened while they ran.
///
/// - `faults`: when something of which kind was done.
pub(super) fn by_kind(jobs: &[Seen], faults: &[(Instant, &'static str)]) -> Vec<JobsOfKind> {
    let mut kinds: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for job in jobs {
        let Ok(decibels) = job.picture else { continue };
        for kind in kinds_of(job, faults) {
            kinds.entry(kind).or_default().push(decibels);
        }
    }
    let of_kind = |(kind, all): (&'static str, Vec<f64>)| {
        let others: Vec<f64> = all.iter().copied().filter(|decibels| decibels.is_finite()).collect();
        JobsOfKind {
            kind,
            jobs: all.len(),
            equal: all.len() - others.len(),
            psnr_min_decibels: others.iter().copied().min_by(f64::total_cmp),
            psnr_median_decibels: median(others),
        }
    };
    kinds.into_iter().map(of_kind).collect()
}

fn kinds_of(job: &Seen, faults: &[(Instant, &'static str)]) -> BTreeSet<&'static str> {
    if job.changes == 0 {
        return BTreeSet::from(["undisturbed"]);
    }
    let meanwhile = faults.iter().filter(|(at, _)| (job.began..=job.ended).contains(at));
    let kinds: BTreeSet<&str> = meanwhile.map(|(_, kind)| *kind).collect();
    // Such as one who stood still since before the job began.
    if kinds.is_empty() { BTreeSet::from(["something before it"]) } else { kinds }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seen(start: Instant, seconds: (u64, u64), changes: usize, decibels: f64) -> Seen {
        let at = |seconds| start + Duration::from_secs(seconds);
        Seen { began: at(seconds.0), ended: at(seconds.1), changes, picture: Ok(decibels) }
    }

    #[test]
    fn jobs_are_counted_by_what_happened_in_their_time_and_changed_their_plan() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let faults = [(at(5), "killed"), (at(6), "killed"), (at(15), "stopped"), (at(16), "killed")];
        let jobs = [
            seen(start, (0, 10), 2, 40.0),
            seen(start, (0, 10), 0, f64::INFINITY),
            seen(start, (4, 20), 1, 50.0),
            seen(start, (3, 9), 1, 30.0),
            seen(start, (17, 18), 1, f64::INFINITY),
        ];
        let found = by_kind(&jobs, &faults);
        let kinds: Vec<(&str, usize, Option<f64>)> =
            found.iter().map(|of| (of.kind, of.jobs, of.psnr_min_decibels)).collect();
        let before = ("something before it", 1, None);
        assert_eq!(kinds, [("killed", 3, Some(30.0)), before, ("stopped", 1, Some(50.0)), ("undisturbed", 1, None)]);
        assert_eq!(found[0].psnr_median_decibels, Some(40.0));
    }

    #[test]
    fn a_lost_job_a_wrong_picture_and_a_leak_are_complained_of_and_nothing_else() {
        let start = Instant::now();
        let memory = |end| Memory { process: "coordinator", start: 100 << 20, middle: 0, end };
        let report = |lost: &[&str], decibels, end| SoakReport {
            hardware: String::new(),
            version: "0.1.0",
            seed: 1,
            minutes: 2.0,
            done: 1,
            lost: lost.iter().map(|why| (*why).to_owned()).collect(),
            faults: BTreeMap::from([("killed", 2)]),
            jobs: by_kind(&[seen(start, (0, 1), 1, decibels)], &[(start, "killed")]),
            memory: vec![memory(end)],
        };
        assert!(report(&[], 37.0, 120 << 20).complaints().is_empty());
        let bad = report(&["too slow"], 12.0, 200 << 20).complaints();
        assert_eq!(bad.len(), 3, "{bad:?}");
        let text = report(&[], 37.0, 120 << 20).markdown();
        assert!(
            text.contains("| killed | 1 | 0 | 37.0 | 37.0 |") && text.contains("| coordinator | 100.0 |"),
            "{text}"
        );
    }
}
