//! From settings and workers to a plan: measure what is not known yet, then let the policy choose.

use std::sync::Arc;

use asyncdiff_common::wire::{LayerCost, WorkerReply, WorkerRequest};
use asyncdiff_plan::{Choice, LinkCost, Situation, Wishes, choose};
use futures_util::future::try_join_all;

use super::Limits;
use super::session::WorkerHandle;
use crate::failure::JobFailed;
use crate::model_store::DenoiseSetup;

/// A link between two processes of one machine: QUIC on loopback, on the cores that also compute. What a byte takes from them is the slope
/// of `coordinator bench pipeline` between a contiguous and a nested split.
const LOCAL_LINK: LinkCost =
    LinkCost { latency_seconds: 0.000_3, bytes_per_second: 500.0e6, busy_seconds_per_byte: 2.0e-9 };

/// A link between two machines: 1 Gbit/s Ethernet. A faster network makes the prediction too careful, not wrong in
/// kind.
const REMOTE_LINK: LinkCost =
    LinkCost { latency_seconds: 0.001, bytes_per_second: 110.0e6, busy_seconds_per_byte: 2.0e-9 };

/// What guidance, the noise scheduler and two hops to the coordinator's actor take.
const TURNAROUND_SECONDS: f64 = 0.000_3;

/// Devices whose measured times differ by less count as equally fast: two measurements of one device differ by as much.
const EQUALLY_FAST: f64 = 1.1;

/// Chooses a plan for workers, one rank each in their order.
pub(crate) async fn make_plan(
    workers: &[WorkerHandle],
    setup: &DenoiseSetup,
    wishes: &Wishes,
    limits: &Limits,
) -> Result<Choice, JobFailed> {
    let measured = measure_all(workers, setup, limits).await?;
    let local = workers.iter().all(WorkerHandle::is_local);
    let (setup, wishes) = (setup.clone(), wishes.clone());
    let now = tokio::time::Instant::now().into_std();
    let choosing = tokio::task::spawn_blocking(move || {
        let (layer_seconds, speeds) = compare(&measured);
        let situation = Situation {
            program: &setup.program.program,
            steps: setup.evaluations,
            guidance_on: setup.settings.guidance_scale.is_some(),
            rows: setup.settings.rows(),
            layer_seconds: &layer_seconds,
            speeds: &speeds,
            link: if local { LOCAL_LINK } else { REMOTE_LINK },
            turnaround_seconds: TURNAROUND_SECONDS,
            now,
        };
        choose(&wishes, &situation)
    });
    match choosing.await {
        Ok(choice) => Ok(choice?),
        Err(error) => Err(JobFailed::Bug { what: asyncdiff_common::owned_task::panic_message(error) }),
    }
}

/// What each layer costs at each worker.
pub(crate) async fn measure_all(
    workers: &[WorkerHandle],
    setup: &DenoiseSetup,
    limits: &Limits,
) -> Result<Vec<Arc<[LayerCost]>>, JobFailed> {
    try_join_all(workers.iter().map(|worker| measure(worker, setup, limits))).await
}

/// What each layer costs at a worker, measured once per session, picture size and batch.
async fn measure(worker: &WorkerHandle, setup: &DenoiseSetup, limits: &Limits) -> Result<Arc<[LayerCost]>, JobFailed> {
    let rows = setup.settings.rows();
    if let Some(measured) = worker.measured(&setup.denoiser, rows) {
        return Ok(measured);
    }
    let what = "measuring its layers";
    let layers: Vec<_> = setup.program.program.layers().map(|(layer, _)| layer).collect();
    let expected = layers.len();
    let body = WorkerRequest::Measure { denoiser: setup.denoiser.clone(), rows, layers };
    match worker.request(what, body, limits.measure_within).await? {
        WorkerReply::Measured { layers } if layers.len() == expected && layers.iter().all(|l| l.seconds >= 0.0) => {
            let layers: Arc<[LayerCost]> = layers.into();
            worker.keep_measured(setup.denoiser.clone(), rows, Arc::clone(&layers));
            Ok(layers)
        }
        _ => Err(JobFailed::UnexpectedReply { worker: worker.name().to_owned(), what }),
    }
}

/// Seconds of each layer on a device of speed 1, and the speed of each device.
fn compare(measured: &[Arc<[LayerCost]>]) -> (Vec<f64>, Vec<f64>) {
    let total =
        |layers: &Arc<[LayerCost]>| layers.iter().map(|layer| layer.seconds).sum::<f64>().max(f64::MIN_POSITIVE);
    let totals: Vec<f64> = measured.iter().map(total).collect();
    let fastest = totals.iter().copied().fold(f64::INFINITY, f64::min);
    let equal = totals.iter().all(|&total| total <= fastest * EQUALLY_FAST);
    let speeds: Vec<f64> = totals.iter().map(|&total| if equal { 1.0 } else { fastest / total }).collect();
    let layers = measured.first().map_or(0, |layers| layers.len());
    let mean = |layer: usize| {
        let at_speed_one = measured.iter().zip(&speeds).map(|(layers, speed)| layers[layer].seconds * speed);
        at_speed_one.sum::<f64>() / measured.len() as f64
    };
    ((0..layers).map(mean).collect(), speeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(seconds: [f64; 2]) -> Arc<[LayerCost]> {
        seconds.map(|seconds| LayerCost { seconds, resident_bytes: 0, working_bytes: 0 }).into()
    }

    #[test]
    fn devices_within_measurement_noise_are_equally_fast() {
        let (seconds, speeds) = compare(&[costs([1.0, 3.0]), costs([1.2, 3.0])]);
        assert_eq!(speeds, [1.0, 1.0]);
        assert_eq!(seconds, [1.1, 3.0]);
    }

    #[test]
    fn a_slow_device_counts_by_its_speed() {
        let (seconds, speeds) = compare(&[costs([1.0, 3.0]), costs([2.0, 6.0])]);
        assert_eq!(speeds, [1.0, 0.5]);
        assert_eq!(seconds, [1.0, 3.0]);
    }
}
