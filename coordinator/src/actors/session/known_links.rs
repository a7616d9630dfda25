//! What is known of a worker's links to other workers, for as long as both sessions live.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use asyncdiff_common::wire::LinkMeasurement;
use ractor::ActorId;
use tokio::time::Instant;

/// Links kept per session: as many as a worker reads at a time.
const LINKS_KEPT: usize = 256;

/// After this long a link that could not be measured is tried again: a firewall may have been opened meanwhile. Less makes every job of a
/// cluster with such a link wait for it.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What is known of a link.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum KnownLink {
    /// The sending worker's figures.
    Measured(LinkMeasurement),
    /// The sending worker could not measure it.
    Unusable {
        /// Why.
        reason: String,
        /// When.
        tried: Instant,
    },
}

/// The links of one session's worker, by the receiving worker's session; the oldest first.
#[derive(Debug, Default)]
pub(super) struct KnownLinks(Mutex<VecDeque<(ActorId, KnownLink)>>);

impl KnownLink {
    pub(crate) fn unusable(reason: String) -> Self {
        Self::Unusable { reason, tried: Instant::now() }
    }

    fn is_current(&self) -> bool {
        match self {
            Self::Measured(_) => true,
            Self::Unusable { tried, .. } => tried.elapsed() < TRIED_AGAIN_AFTER,
        }
    }
}

impl KnownLinks {
    pub(super) fn find(&self, to: ActorId) -> Option<KnownLink> {
        let links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = links.iter().find(|(known, _)| *known == to).map(|(_, link)| link.clone());
        found.filter(KnownLink::is_current)
    }

    pub(super) fn keep(&self, to: ActorId, link: KnownLink) {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|(known, _)| *known != to);
        if links.len() == LINKS_KEPT {
            links.pop_front();
        }
        links.push_back((to, link));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(latency_seconds: f64) -> KnownLink {
        KnownLink::Measured(LinkMeasurement {
            latency_seconds,
            bytes_per_second: 1e9,
            busy_seconds_per_byte: 0.0,
            busy_seconds_per_tensor: 0.0,
        })
    }

    #[test]
    fn a_link_is_known_for_one_session_of_its_receiver_and_by_its_newest_figures() {
        let links = KnownLinks::default();
        links.keep(ActorId::Local(1), measured(0.1));
        links.keep(ActorId::Local(1), measured(0.2));
        assert_eq!(links.find(ActorId::Local(1)), Some(measured(0.2)));
        assert_eq!(links.find(ActorId::Local(2)), None, "a worker that comes back has another session");
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let links = KnownLinks::default();
        for session in 0..=LINKS_KEPT as u64 {
            links.keep(ActorId::Local(session), measured(0.1));
        }
        assert_eq!(links.find(ActorId::Local(0)), None);
        assert!(links.find(ActorId::Local(LINKS_KEPT as u64)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_could_not_be_measured_is_tried_again_after_a_while() {
        let links = KnownLinks::default();
        links.keep(ActorId::Local(1), KnownLink::unusable("no answer".to_owned()));
        links.keep(ActorId::Local(2), measured(0.1));
        tokio::time::advance(TRIED_AGAIN_AFTER / 2).await;
        assert!(links.find(ActorId::Local(1)).is_some());
        tokio::time::advance(TRIED_AGAIN_AFTER).await;
        assert_eq!(links.find(ActorId::Local(1)), None);
        assert!(links.find(ActorId::Local(2)).is_some());
    }
}
