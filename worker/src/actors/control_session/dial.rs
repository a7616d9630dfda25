//! Finding the coordinator: every address that it may have, and how long to pause in between.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::Endpoint;
use asyncdiff_transport::PeerName;
use asyncdiff_transport::link::Link;
use asyncdiff_transport::network::{DialError, Network};

use crate::intake::Intake;

/// The first pause: a coordinator that is being started again is back in about that time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause. More saves nothing; a worker should be back soon after its coordinator.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Doublings after which the longest pause is reached.
const DOUBLINGS: u32 = 6;

/// Tries the addresses in order. A refusal at one counts only if no other leads anywhere: an old address may be somebody else's.
pub(super) async fn dial_any(
    network: &dyn Network,
    endpoints: &[Endpoint],
    intake: Arc<Intake>,
) -> Result<Link, DialError> {
    let mut worst =
        DialError::Unreachable { peer: PeerName::Coordinator, reason: "no address of it is known".to_owned() };
    let mut is_refused_everywhere = !endpoints.is_empty();
    for endpoint in endpoints {
        match network.connect(&PeerName::Coordinator, endpoint, intake.clone()).await {
            Ok(link) => return Ok(link),
            Err(error) => {
                is_refused_everywhere &= matches!(error, DialError::Refused { .. });
                worst = error;
            }
        }
    }
    match worst {
        DialError::Refused { peer, reason } if !is_refused_everywhere => Err(DialError::Unreachable { peer, reason }),
        other => Err(other),
    }
}

/// How long to wait before the next attempt: doubling, and for each worker a little different, so that a cluster does not come back in one
/// blow. The difference comes from the worker's own address: it needs no randomness, and a simulation repeats itself.
pub(super) fn pause(attempts: u32, endpoint: &Endpoint) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << attempts.min(DOUBLINGS)).min(LONGEST_PAUSE);
    let seed = format!("{}:{}:{attempts}", endpoint.host, endpoint.control_port);
    let share = f64::from(blake3::hash(seed.as_bytes()).as_bytes()[0]) / f64::from(u8::MAX);
    pause.mul_f64(0.5 + 0.5 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ_between_workers() {
        let endpoint = |control_port| Endpoint { host: String::new(), control_port, data_port: 1 };
        for attempts in 0..100 {
            let pause = pause(attempts, &endpoint(1));
            assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE);
        }
        assert!(pause(20, &endpoint(1)) >= LONGEST_PAUSE / 2);
        assert_ne!(pause(3, &endpoint(1)), pause(3, &endpoint(2)));
    }
}
