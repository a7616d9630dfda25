//! What the links of a job's workers cost: between two workers as they measure it themselves, once per pair of sessions.
//!
//! Which links are measured is decided in [`link_samples`](super::link_samples). A worker is in one measurement at a time, so that they do
//! not disturb each other: they go in rounds of pairs that share nobody.

use std::collections::BTreeSet;
use std::time::Duration;

use asyncdiff_common::wire::{LinkMeasurement, WorkerReply, WorkerRequest};
use asyncdiff_plan::{Cut, LinkCost, Links, PlacedPlan, Rank, Wishes};
use futures_util::future::try_join_all;

use super::link_samples::{Pair, TRIED_PER_HOSTS, Usable, pairs, representatives, rounds, to_measure};
use super::session::{KnownLink, WorkerHandle};
use crate::failure::JobFailed;

/// What QUIC takes from the cores at either end.
const QUIC_WORK: LinkCost =
    LinkCost { busy_seconds_per_byte: 2.0e-9, busy_seconds_per_tensor: 0.000_06, ..LinkCost::FREE };

/// A link between the coordinator and a worker of its machine: QUIC on loopback. Only latents and noise predictions go there, too few bytes
/// to measure it by.
const LOCAL_LINK: LinkCost = LinkCost { latency_seconds: 0.000_3, bytes_per_second: 500.0e6, ..QUIC_WORK };

/// The same to another machine: 1 Gbit/s Ethernet. A faster network makes the prediction too careful, not wrong in kind.
const REMOTE_LINK: LinkCost = LinkCost { latency_seconds: 0.001, bytes_per_second: 110.0e6, ..QUIC_WORK };

/// How long a worker may take to measure a link: some seconds more than it gives itself.
const MEASURE_WITHIN: Duration = Duration::from_secs(20);

/// Links that are warned of one by one; a cluster without any UDP has as many as pairs of workers.
const WARNINGS: usize = 4;

/// A link that a plan uses is a surprise if it is slower than was assumed by this factor: measurements of one link differ by less.
const SURPRISE: f64 = 2.0;

/// What the links between workers and with the coordinator cost, one rank each in the workers' order, and what the user should know
/// about them. Measures as many as it takes to assume something of the others.
pub(super) async fn job_links(workers: &[WorkerHandle], wishes: &Wishes) -> Result<(Links, Vec<String>), JobFailed> {
    let mut links = Links::uniform(REMOTE_LINK);
    for (rank, _) in workers.iter().enumerate().filter(|(_, worker)| worker.is_local()) {
        links.set(rank_of(rank), None, LOCAL_LINK);
        links.set(None, rank_of(rank), LOCAL_LINK);
    }
    if !may_cross(wishes) {
        return Ok((links, Vec::new()));
    }
    let hosts: Vec<&str> = workers.iter().map(|worker| worker.endpoint().host.as_str()).collect();
    let known = |(from, to): Pair| workers[from].link_to(&workers[to]).map(|link| Usable::of(&link));
    for _attempt in 0..TRIED_PER_HOSTS {
        measure_in_rounds(workers, to_measure(&hosts, known)).await?;
    }
    let representatives = representatives(&hosts, known);
    let mut warnings = Vec::new();
    for (from, to) in pairs(workers.len()) {
        let cost = match workers[from].link_to(&workers[to]) {
            Some(KnownLink::Measured(measured)) => cost(measured),
            Some(KnownLink::Unusable { reason, .. }) => {
                warnings.push(warning(&workers[from], &workers[to], &reason));
                LinkCost::UNUSABLE
            }
            None => match representatives
                .get(&(hosts[from], hosts[to]))
                .and_then(|&(from, to)| workers[from].link_to(&workers[to]))
            {
                Some(KnownLink::Measured(measured)) => cost(measured),
                Some(KnownLink::Unusable { .. }) => LinkCost::UNUSABLE,
                // It has just become too old, or was displaced: measured again for the next job.
                None => REMOTE_LINK,
            },
        };
        links.set(rank_of(from), rank_of(to), cost);
    }
    Ok((links, shortened(warnings)))
}

/// Measures the links that a plan uses and that were only assumed. Whether one of them is much worse, so that the plan is not the best any more.
pub(super) async fn measure_used(
    workers: &[WorkerHandle],
    placed: &PlacedPlan,
    assumed: &Links,
) -> Result<bool, JobFailed> {
    let used: BTreeSet<Pair> =
        placed.transfers.iter().map(|transfer| (transfer.from.index(), transfer.to.index())).collect();
    let unknown: Vec<Pair> =
        used.into_iter().filter(|&(from, to)| workers[from].link_to(&workers[to]).is_none()).collect();
    measure_in_rounds(workers, unknown.clone()).await?;
    let is_surprise = |&(from, to): &Pair| {
        let assumed = assumed.cost(rank_of(from), rank_of(to));
        match workers[from].link_to(&workers[to]) {
            Some(KnownLink::Measured(measured)) => measured.bytes_per_second * SURPRISE < assumed.bytes_per_second,
            Some(KnownLink::Unusable { .. }) => assumed != LinkCost::UNUSABLE,
            None => false,
        }
    };
    Ok(unknown.iter().any(is_surprise))
}

async fn measure_in_rounds(workers: &[WorkerHandle], pairs: Vec<Pair>) -> Result<(), JobFailed> {
    for round in rounds(pairs) {
        try_join_all(round.into_iter().map(|(from, to)| measure(&workers[from], &workers[to]))).await?;
    }
    Ok(())
}

/// Whether hidden states may go from worker to worker: one component reads nothing but its own.
fn may_cross(wishes: &Wishes) -> bool {
    let one_list = matches!(&wishes.cut, Some(Cut::Modules(lists)) if lists.len() == 1);
    wishes.components != Some(1) && !one_list
}

/// Has a link measured and keeps what came of it. An error only if the worker is lost or does not follow the protocol: without a link it can
/// still compute alone.
async fn measure(from: &WorkerHandle, to: &WorkerHandle) -> Result<(), JobFailed> {
    let what = "measuring its link to another worker";
    let body = WorkerRequest::MeasureLink { peer: to.name().to_owned(), endpoint: to.endpoint().clone() };
    let known = match from.request(what, body, MEASURE_WITHIN).await {
        Ok(WorkerReply::LinkMeasured(measured)) if is_sound(&measured) => {
            tracing::debug!(from = from.name(), to = to.name(), ?measured, "measured a link");
            KnownLink::Measured(measured)
        }
        Ok(_) => return Err(JobFailed::UnexpectedReply { worker: from.name().to_owned(), what }),
        Err(JobFailed::WorkerFailed { failure, .. }) => KnownLink::unusable(failure.to_string()),
        Err(failed @ JobFailed::RequestOverdue { .. }) => KnownLink::unusable(failed.to_error().message),
        Err(failed) => return Err(failed),
    };
    from.keep_link_to(to, known);
    Ok(())
}

fn is_sound(measured: &LinkMeasurement) -> bool {
    let LinkMeasurement { latency_seconds, bytes_per_second, busy_seconds_per_byte, busy_seconds_per_tensor } =
        *measured;
    let all = [latency_seconds, bytes_per_second, busy_seconds_per_byte, busy_seconds_per_tensor];
    all.iter().all(|figure| figure.is_finite() && *figure >= 0.0) && bytes_per_second > 0.0
}

/// What carrying takes from the receiving end is taken to be the same as from the sending one, which is what was measured.
fn cost(measured: LinkMeasurement) -> LinkCost {
    let LinkMeasurement { latency_seconds, bytes_per_second, busy_seconds_per_byte, busy_seconds_per_tensor } =
        measured;
    LinkCost { latency_seconds, bytes_per_second, busy_seconds_per_byte, busy_seconds_per_tensor }
}

fn rank_of(worker: usize) -> Option<Rank> {
    Some(Rank(worker as u16))
}

fn warning(from: &WorkerHandle, to: &WorkerHandle, reason: &str) -> String {
    let (from, to) = (from.name(), to.name());
    format!(
        "worker {from} has no usable link to worker {to} ({reason}), so plans avoid it; check that the two reach each other's ports by UDP"
    )
}

fn shortened(mut warnings: Vec<String>) -> Vec<String> {
    let more = warnings.len().saturating_sub(WARNINGS);
    if more > 0 {
        warnings.truncate(WARNINGS);
        warnings.push(format!("{more} more links between workers cannot be used"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_of_one_component_needs_no_links() {
        let lists = |count| Some(Cut::Modules(vec![vec!["conv_in".to_owned()]; count]));
        assert!(!may_cross(&Wishes { components: Some(1), ..Wishes::default() }));
        assert!(!may_cross(&Wishes { cut: lists(1), ..Wishes::default() }));
        assert!(may_cross(&Wishes { cut: lists(2), ..Wishes::default() }));
        assert!(may_cross(&Wishes::default()));
    }

    #[test]
    fn figures_that_no_link_has_are_refused() {
        let sound = LinkMeasurement {
            latency_seconds: 0.0,
            bytes_per_second: 1e8,
            busy_seconds_per_byte: 1e-9,
            busy_seconds_per_tensor: 1e-5,
        };
        assert!(is_sound(&sound));
        for broken in [
            LinkMeasurement { latency_seconds: f64::NAN, ..sound },
            LinkMeasurement { latency_seconds: -1.0, ..sound },
            LinkMeasurement { bytes_per_second: 0.0, ..sound },
            LinkMeasurement { bytes_per_second: f64::INFINITY, ..sound },
            LinkMeasurement { busy_seconds_per_byte: f64::INFINITY, ..sound },
            LinkMeasurement { busy_seconds_per_tensor: -1.0, ..sound },
        ] {
            assert!(!is_sound(&broken), "{broken:?}");
        }
    }

    #[test]
    fn many_warnings_are_few_lines() {
        let warnings = shortened(vec!["no link".to_owned(); 90]);
        assert_eq!(
            (warnings.len(), warnings[WARNINGS].as_str()),
            (WARNINGS + 1, "86 more links between workers cannot be used")
        );
    }
}
