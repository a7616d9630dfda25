//! A cluster computes what one process computes, and moves what the plan says.

use asyncdiff_coordinator::job::JobState;
use asyncdiff_coordinator::local_workers::Pace;
use asyncdiff_coordinator::run_in_process;
use asyncdiff_plan::{TimeShift, Wishes};

use super::support::{SLOW, TestCluster, plain_job, tensor_job, tiny_store, wishes};

async fn check_bits(cluster: &TestCluster, steps: u32, guidance_scale: f64, wishes: Wishes) {
    let spec = tensor_job(steps, guidance_scale, wishes);
    let expected = run_in_process(&tiny_store(), spec.clone(), cluster.workers.len()).unwrap();
    let record = cluster.run(spec).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    let outcome = cluster.cluster.outcome(record.id).await.unwrap().unwrap();
    assert!(outcome.latents.1.iter().all(|value| value.is_finite()));
    assert_eq!(outcome.latents.1, expected.latents);
    assert_eq!(outcome.last_prediction, expected.last_prediction);
}

#[tokio::test]
async fn a_cluster_gives_the_bits_of_one_process_for_every_number_of_components_and_stride() {
    let cluster = TestCluster::start(&["a", "b", "c", "d", "e"], Pace::Instant).await;
    for (components, stride, warm_up) in [(1, 1, 1), (2, 1, 1), (2, 2, 1), (3, 1, 2), (3, 2, 3), (4, 3, 1), (2, 1, 9)] {
        check_bits(&cluster, 6, 7.5, wishes(components, stride, warm_up, TimeShift::Off)).await;
    }
}

#[tokio::test]
async fn fewer_workers_than_components_give_the_same_bits() {
    let cluster = TestCluster::start(&["a", "b"], Pace::Instant).await;
    check_bits(&cluster, 5, 7.5, wishes(4, 2, 1, TimeShift::On)).await;
    check_bits(&cluster, 5, 1.0, wishes(3, 1, 1, TimeShift::Off)).await;
}

#[tokio::test]
async fn split_guidance_gives_the_same_bits() {
    let cluster = TestCluster::start(&["a", "b", "c", "d"], Pace::Instant).await;
    let wishes = Wishes { split_guidance: Some(true), ..wishes(2, 1, 1, TimeShift::Off) };
    check_bits(&cluster, 5, 7.5, wishes).await;
}

#[tokio::test]
async fn the_coordinator_receives_noise_predictions_and_nothing_else_of_a_step() {
    let cluster = TestCluster::start(&["a", "b"], Pace::Instant).await;
    let record = cluster.run(tensor_job(6, 7.5, wishes(2, 1, 1, TimeShift::Off))).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    let workers = cluster.cluster.workers().await.unwrap();
    // The warm-up step's two halves arrive one by one.
    let predictions: Vec<u64> = workers.iter().map(|worker| worker.tensors.noise_predictions).collect();
    assert_eq!(predictions, [0, 7]);
    assert!(workers.iter().all(|worker| worker.tensors.replies + worker.tensors.refused + worker.tensors.late == 0));
}

#[tokio::test(start_paused = true)]
async fn a_summary_says_what_crossed_and_how_long_it_took() {
    let cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let mut spec = plain_job(10);
    spec.settings.wishes.components = Some(2);
    let record = cluster.run(spec).await;
    let summary = record.summary.unwrap();
    assert_eq!((summary.steps, summary.components, summary.workers.len()), (10, 2, 2));
    assert!((summary.bytes_per_step / summary.predicted_bytes_per_step - 1.0).abs() < 0.02, "{summary:?}");
    assert!(summary.denoise_seconds > 0.0 && summary.denoise_seconds <= summary.total_seconds, "{summary:?}");
    // Two workers at the same time are faster than one after the other.
    assert!(summary.alone_seconds > 1.3 * summary.denoise_seconds, "{summary:?}");
    assert!(summary.resident_bytes.iter().all(|&bytes| bytes > 0), "{summary:?}");
}

#[tokio::test]
async fn a_trace_has_a_track_for_the_coordinator_and_one_for_each_rank() {
    let cluster = TestCluster::start(&["a", "b"], Pace::Instant).await;
    let mut spec = plain_job(4);
    spec.settings.trace = true;
    let record = cluster.run(spec).await;
    let outcome = cluster.cluster.outcome(record.id).await.unwrap().unwrap();
    let trace = outcome.trace.as_ref().unwrap();
    let names: Vec<&str> = trace.tracks.iter().map(|track| track.name.as_str()).collect();
    assert_eq!(names, ["coordinator", "a", "b"]);
    assert!(trace.tracks.iter().all(|track| !track.events.is_empty()));
    assert!(trace.layers.iter().any(|name| name == "conv_in"));
}

#[tokio::test]
async fn a_dry_run_plans_without_a_job() {
    let cluster = TestCluster::start(&["a", "b"], Pace::Instant).await;
    let planned = cluster.cluster.plan(&plain_job(20).settings).await.unwrap();
    assert_eq!(planned.workers, ["a", "b"]);
    assert_eq!(planned.choice.placed.plan.partition.components(), 2);
    assert!(cluster.cluster.jobs().await.unwrap().is_empty());
}
