//! What a slow link does: only what depends on it slips, for there is no barrier per step.

use std::time::Duration;

use asyncdiff_common::wire::TraceKind;
use asyncdiff_coordinator::{JobSpec, JobTrace, Limits};
use asyncdiff_plan::{ComponentId, TimeShift};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::faulty::Faults;
use asyncdiff_transport::network::SimulatedNetwork;

use super::support::{SLOW, TestCluster, ended, tensor_job, tiny_store, wishes};

/// More than a step takes, and not so much that a worker gives up measuring the link: plans avoid a link that seems to carry nothing.
const DELAY: Duration = Duration::from_secs(2);

const NAMES: [&str; 3] = ["worker-a", "worker-b", "worker-c"];

/// Microseconds from the first layer of all to the end of a component's run at a step. Its beginning says nothing: what
/// depends on the timestep alone is computed while the run waits for the rest.
fn end(trace: &JobTrace, component: u16, step: u32) -> u64 {
    let layers = || {
        let events = trace.tracks.iter().flat_map(|track| &track.events);
        events.filter(|event| matches!(event.kind, TraceKind::Layer(_)))
    };
    let of_run = layers()
        .filter(|event| event.run.is_some_and(|run| run.component == ComponentId(component) && run.step.0 == step));
    let ends = of_run.map(|event| event.start_micros + event.duration_micros);
    ends.max().unwrap() - layers().map(|event| event.start_micros).min().unwrap()
}

async fn trace_with(faults: Option<Faults>) -> JobTrace {
    let hub = SimulatedNetwork::with_faults(11);
    if let Some(faults) = faults {
        // The link that the published split's skip connections take: from the first component to the last.
        let [from, to] = [NAMES[0], NAMES[2]].map(|name| PeerName::worker(name).unwrap());
        hub.set_faults(&from, &to, &faults);
    }
    let limits = Limits { step_within: 100 * DELAY, ..Limits::default() };
    let cluster = TestCluster::on(hub, tiny_store(), &NAMES, SLOW, limits).await;
    let mut spec: JobSpec = tensor_job(6, 7.5, wishes(3, 1, 1, TimeShift::Off));
    spec.settings.trace = true;
    let handle = cluster.submit(spec).await;
    let id = handle.id;
    let record = ended(handle).await;
    assert_eq!(record.error, None);
    cluster.cluster.outcome(id).await.unwrap().unwrap().trace.clone().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_delays_only_what_depends_on_it() {
    let quick = trace_with(None).await;
    let slow = trace_with(Some(Faults { delay: DELAY, ..Faults::default() })).await;
    let slipped = |component, step| end(&slow, component, step).saturating_sub(end(&quick, component, step));
    let delay = DELAY.as_micros() as u64;
    // In the warm-up the last component waits for the first one's skip connections, beside what it waits for
    // anyway ...
    assert!(slipped(2, 0) > delay / 10 * 7, "{}", slipped(2, 0));
    // ... and the middle one, which reads another link, goes on to the next round meanwhile.
    assert!(slipped(1, 1) < delay / 10, "{}", slipped(1, 1));
    // The next latents depend on the last component, and so does the first component's next run.
    assert!(slipped(0, 1) > delay / 10 * 7, "{}", slipped(0, 1));
}
