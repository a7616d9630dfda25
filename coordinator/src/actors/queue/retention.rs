//! How many jobs are remembered after their end: the newest, up to a number and up to a number of bytes.

use std::collections::VecDeque;

use asyncdiff_plan::JobId;

/// Ended jobs with the bytes that their files take, the oldest first.
pub(super) struct Retention {
    ended: VecDeque<(JobId, u64)>,
    bytes: u64,
    most_jobs: usize,
    most_bytes: u64,
}

impl Retention {
    pub(super) fn new(most_jobs: usize, most_bytes: u64) -> Self {
        Self { ended: VecDeque::new(), bytes: 0, most_jobs, most_bytes }
    }

    /// Takes a job that ended. Returns those that are to be forgotten for it; never the job itself, so that whoever waits
    /// for it finds it.
    #[must_use]
    pub(super) fn push(&mut self, job: JobId, bytes: u64) -> Vec<JobId> {
        self.ended.push_back((job, bytes));
        self.bytes = self.bytes.saturating_add(bytes);
        let mut forgotten = Vec::new();
        while self.ended.len() > 1 && (self.ended.len() > self.most_jobs || self.bytes > self.most_bytes) {
            let Some((oldest, bytes)) = self.ended.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(bytes);
            forgotten.push(oldest);
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_they_are_too_large() {
        let mut retention = Retention::new(3, 100);
        assert_eq!(retention.push(JobId(1), 10), []);
        assert_eq!(retention.push(JobId(2), 10), []);
        assert_eq!(retention.push(JobId(3), 0), []);
        assert_eq!(retention.push(JobId(4), 0), [JobId(1)]);
        assert_eq!(retention.push(JobId(5), 95), [JobId(2)]);
        assert_eq!(retention.push(JobId(6), 6), [JobId(3), JobId(4), JobId(5)]);
    }

    #[test]
    fn the_newest_is_remembered_however_large_it_is() {
        let mut retention = Retention::new(1, 100);
        assert_eq!(retention.push(JobId(1), 500), []);
        assert_eq!(retention.push(JobId(2), 500), [JobId(1)]);
    }
}
