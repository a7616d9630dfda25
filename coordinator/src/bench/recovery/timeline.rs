//! When a job's steps were finished, and what that says of a fault. Pure.

use std::time::{Duration, Instant};

use crate::job::JobRecord;

/// A job's record at a moment, as far as it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) steps: u32,
    /// One more whenever the job goes on by another plan.
    pub(super) warnings: usize,
}

/// All that was seen of a job, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Timeline(Vec<Seen>);

impl Timeline {
    pub(super) fn note(&mut self, record: &JobRecord, at: Instant) {
        self.0.push(Seen { at, steps: record.progress.0, warnings: record.warnings.len() });
    }

    /// From a fault until the job left the plan that it hit.
    pub(super) fn noticed(&self, fault: Instant) -> Option<Duration> {
        Some(self.change(fault)?.at.saturating_duration_since(fault))
    }

    /// From a fault until the first step of the plan after it was finished.
    pub(super) fn resumed(&self, fault: Instant) -> Option<Duration> {
        let change = self.change(fault)?;
        let stepped = self.0.iter().find(|seen| seen.at >= change.at && seen.steps > change.steps)?;
        Some(stepped.at.saturating_duration_since(fault))
    }

    /// The longest time between two finished steps, the latter of which was finished after a fault.
    pub(super) fn pause(&self, fault: Instant) -> Option<Duration> {
        let mut steps: Vec<Seen> = self.0.clone();
        steps.dedup_by_key(|seen| seen.steps);
        let pairs = steps.windows(2).filter(|pair| pair[0].steps > 0 && pair[1].at > fault);
        pairs.map(|pair| pair[1].at.saturating_duration_since(pair[0].at)).max()
    }

    fn change(&self, fault: Instant) -> Option<Seen> {
        let before = self.0.iter().take_while(|seen| seen.at <= fault).last().map_or(0, |seen| seen.warnings);
        self.0.iter().find(|seen| seen.at > fault && seen.warnings > before).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step each 10 ms, a fault 5 ms after the third, two more steps by the old plan, and the new one 205 ms after the fault.
    fn lossy(start: Instant) -> Timeline {
        let seen = [
            (0, 0, 1),
            (10, 1, 1),
            (20, 2, 1),
            (30, 3, 1),
            (40, 4, 1),
            (50, 5, 1),
            (140, 5, 2),
            (240, 6, 2),
            (250, 7, 2),
        ];
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        Timeline(seen.map(|(when, steps, warnings)| Seen { at: at(when), steps, warnings }).to_vec())
    }

    #[test]
    fn steps_of_the_old_plan_after_the_fault_do_not_count_as_going_on() {
        let start = Instant::now();
        let (timeline, fault) = (lossy(start), start + Duration::from_millis(35));
        let milliseconds = |found: Option<Duration>| found.map(|found| found.as_millis());
        assert_eq!(milliseconds(timeline.noticed(fault)), Some(105));
        assert_eq!(milliseconds(timeline.resumed(fault)), Some(205));
        assert_eq!(milliseconds(timeline.pause(fault)), Some(190));
    }

    #[test]
    fn what_was_before_the_fault_and_what_never_came_is_not_reported() {
        let start = Instant::now();
        let fault = start + Duration::from_millis(245);
        let timeline = lossy(start);
        assert_eq!((timeline.noticed(fault), timeline.resumed(fault)), (None, None));
        assert_eq!(timeline.pause(fault), Some(Duration::from_millis(10)));
    }
}
