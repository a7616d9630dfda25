//! Workers that do not follow the protocol: each loses its link with a reason that both sides can read, and the cluster
//! goes on.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{DType, Endpoint, Hello, TensorHeader, TensorName, ToCoordinator, ToWorker};
use asyncdiff_coordinator::job::JobState;
use asyncdiff_coordinator::local_workers::Pace;
use asyncdiff_plan::{Epoch, Instance, JobId, Lane, StepIndex, ValueId};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::link::{AdmitEverything, CloseReason, Link, TensorFrame};
use asyncdiff_transport::network::Network;

use super::support::{LONG, TestCluster, plain_job};

/// A link of somebody who proved to be a worker, and says whatever a test wants.
async fn stranger(cluster: &TestCluster) -> Link {
    let process = cluster.hub.process(PeerName::worker("stranger").unwrap());
    let endpoint = Endpoint { host: String::new(), control_port: 0, data_port: 0 };
    process.connect(&PeerName::Coordinator, &endpoint, Arc::new(AdmitEverything)).await.unwrap()
}

fn hello() -> ToCoordinator {
    ToCoordinator::Hello(Hello {
        incarnation: 1,
        version: "0.1.0".to_owned(),
        devices: Vec::new(),
        endpoint: Endpoint { host: "stranger".to_owned(), control_port: 1, data_port: 2 },
        process_id: 1,
    })
}

async fn say(link: &Link, message: &ToCoordinator) {
    link.sender.send_control(codec::encode(message).unwrap().into()).await.unwrap();
}

/// A stranger that was welcomed.
async fn member(cluster: &TestCluster) -> Link {
    let mut link = stranger(cluster).await;
    say(&link, &hello()).await;
    let answer = link.control.control().await.unwrap();
    assert!(matches!(codec::decode(&answer).unwrap(), ToWorker::Welcome { .. }));
    link
}

async fn tensor(link: &Link, name: TensorName) {
    let header = TensorHeader {
        job: JobId(1),
        epoch: Epoch(0),
        name,
        shape: vec![1, 4],
        dtype: DType::F32,
        delta: None,
        part: None,
    };
    link.sender.send_tensor(TensorFrame { header, payload: vec![0; 16].into() }).await.unwrap();
}

/// The link closes by an accusation that contains `part`; others are not affected.
async fn check_accused(cluster: &TestCluster, link: &Link, part: &str) {
    let reason = tokio::time::timeout(LONG, link.sender.closed()).await.unwrap();
    assert!(matches!(reason, CloseReason::AccusedByPeer(_)), "{reason}");
    assert!(reason.to_string().contains(part), "{reason}");
    assert_eq!(cluster.run(plain_job(1)).await.state, JobState::Done);
    assert_eq!(cluster.cluster.workers().await.unwrap().len(), 1);
}

#[tokio::test]
async fn random_bytes_are_no_message() {
    let cluster = TestCluster::start(&["honest"], Pace::Instant).await;
    let link = stranger(&cluster).await;
    link.sender.send_control(vec![250; 40].into()).await.unwrap();
    check_accused(&cluster, &link, "malformed control message").await;
}

#[tokio::test]
async fn who_does_not_introduce_itself_is_turned_away() {
    let cluster = TestCluster::start(&["honest"], Pace::Instant).await;
    let link = stranger(&cluster).await;
    say(&link, &ToCoordinator::Heartbeat { sequence: 0 }).await;
    check_accused(&cluster, &link, "wrong place").await;
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_turned_away_after_a_while() {
    let cluster = TestCluster::start(&["honest"], Pace::Instant).await;
    let link = stranger(&cluster).await;
    let reason = tokio::time::timeout(Duration::from_secs(10), link.sender.closed()).await.unwrap();
    assert!(reason.to_string().contains("no sign of life"), "{reason}");
}

#[tokio::test]
async fn a_hidden_state_sent_to_the_coordinator_is_refused() {
    let cluster = TestCluster::start(&["honest"], Pace::Instant).await;
    let link = member(&cluster).await;
    let instance = Instance { value: ValueId(0), step: StepIndex(0), lane: Lane::Whole };
    tensor(&link, TensorName::HiddenState(instance)).await;
    check_accused(&cluster, &link, "no such tensor").await;
}

#[tokio::test]
async fn a_noise_prediction_of_a_job_that_is_not_there_is_refused() {
    let cluster = TestCluster::start(&["honest"], Pace::Instant).await;
    let link = member(&cluster).await;
    tensor(&link, TensorName::NoisePrediction(StepIndex(0), Lane::Whole)).await;
    check_accused(&cluster, &link, "job-1 is unknown").await;
}

#[tokio::test]
async fn a_tensor_that_no_request_asked_for_is_refused() {
    let cluster = TestCluster::start(&["honest"], Pace::Instant).await;
    let link = member(&cluster).await;
    tensor(&link, TensorName::Reply { request: 7, index: 0 }).await;
    check_accused(&cluster, &link, "no such tensor").await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_falls_silent_is_no_worker_any_more() {
    let cluster = TestCluster::start(&["honest"], Pace::Instant).await;
    let link = member(&cluster).await;
    let reason = tokio::time::timeout(Duration::from_secs(3), link.sender.closed()).await.unwrap();
    assert!(reason.to_string().contains("no sign of life"), "{reason}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(cluster.cluster.workers().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_older_life_of_a_name_is_refused() {
    let cluster = TestCluster::start(&["honest"], Pace::Instant).await;
    let process = cluster.hub.process(PeerName::worker("honest").unwrap());
    let endpoint = Endpoint { host: String::new(), control_port: 0, data_port: 0 };
    let connecting = process.connect(&PeerName::Coordinator, &endpoint, Arc::new(AdmitEverything));
    let mut link = connecting.await.unwrap();
    // Incarnations are the microseconds of a process's start: 1 is long ago.
    say(&link, &hello()).await;
    let answer = link.control.control().await.unwrap();
    let ToWorker::Refused { reason } = codec::decode(&answer).unwrap() else { panic!("it was not refused") };
    assert!(reason.contains("a newer process of this name"), "{reason}");
}
