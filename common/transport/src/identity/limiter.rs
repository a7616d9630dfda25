//! Bounds how often an address may present a wrong secret.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Wrong secrets that an address may present within [`WINDOW`]. People paste an old token a few times; 256 random bits
/// are safe anyway, so this only keeps a broken script from filling the log.
const FAILURES_LIMIT: u32 = 10;

/// After which an address starts afresh.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered. When more fail at the same time, the oldest is forgotten.
const ADDRESSES_LIMIT: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct AttemptLimiter {
    failures: HashMap<IpAddr, Failures>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    since: Instant,
    count: u32,
}

impl AttemptLimiter {
    /// Whether this address may try again.
    pub(super) fn may_try(&self, from: IpAddr, now: Instant) -> bool {
        let current =
            self.failures.get(&from).filter(|failures| now.saturating_duration_since(failures.since) < WINDOW);
        current.is_none_or(|failures| failures.count < FAILURES_LIMIT)
    }

    pub(super) fn record_failure(&mut self, from: IpAddr, now: Instant) {
        self.failures.retain(|_, failures| now.saturating_duration_since(failures.since) < WINDOW);
        if self.failures.len() >= ADDRESSES_LIMIT && !self.failures.contains_key(&from) {
            let oldest = self.failures.iter().min_by_key(|(_, failures)| failures.since).map(|(&address, _)| address);
            if let Some(oldest) = oldest {
                self.failures.remove(&oldest);
            }
        }
        self.failures.entry(from).or_insert(Failures { since: now, count: 0 }).count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_too_often_must_wait() {
        let (mut limiter, now) = (AttemptLimiter::default(), Instant::now());
        let [guesser, other] = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])];
        for _ in 0..FAILURES_LIMIT {
            assert!(limiter.may_try(guesser, now));
            limiter.record_failure(guesser, now);
        }
        assert!(!limiter.may_try(guesser, now));
        assert!(limiter.may_try(other, now));
        assert!(limiter.may_try(guesser, now + WINDOW));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut limiter, now) = (AttemptLimiter::default(), Instant::now());
        for number in 0..5000u32 {
            limiter.record_failure(IpAddr::from(number.to_be_bytes()), now);
        }
        assert_eq!(limiter.failures.len(), ADDRESSES_LIMIT);
    }
}
