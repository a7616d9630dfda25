//! A peer that is not heard any more, and what is still said to it.
//!
//! QUIC's own idle timeout ends a connection without a word (RFC 9000, 10.1). Where only one way is blocked, the peer hears us and would go
//! on as if nothing were, until our own silence is noticed: twice the time. So the link is given up a little earlier, while there is a
//! connection to say so on.

use std::time::Duration;

use quinn::Connection;
use tokio::time::MissedTickBehavior;

use super::config::LinkTiming;
use crate::link::{CloseReason, Farewell};

/// How often within its patience a side looks whether anything came. More finds the end more exactly and wakes more often, for each link.
const LOOKS: u32 = 6;

/// Silence after which the peer is lost: three quarters of the idle timeout, which with the defaults is when the coordinator takes a worker
/// without heartbeats for lost, and three times what a live peer is silent.
pub(super) fn patience(timing: &LinkTiming) -> Duration {
    timing.control_idle / 4 * 3
}

/// Returns when nothing came on a connection for so long. Looks are counted and not the time, so that a machine that stood still is given the
/// time to read what waits for it.
pub(super) async fn wait(control: &Connection, patience: Duration) {
    let mut looks = tokio::time::interval(patience / LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut silent) = (0, 0);
    while silent < LOOKS {
        looks.tick().await;
        let datagrams = control.stats().udp_rx.datagrams;
        silent = if datagrams == heard { silent + 1 } else { 0 };
        heard = datagrams;
    }
}

/// What this side learns.
pub(super) fn reason() -> CloseReason {
    CloseReason::PeerLost { detail: "nothing heard until the deadline".to_owned() }
}

/// What the peer learns, if it hears.
pub(super) fn farewell() -> Farewell {
    Farewell::failed("nothing was heard any more")
}
