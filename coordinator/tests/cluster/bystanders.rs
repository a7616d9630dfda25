//! Workers between the ranks of a plan that have nothing to do in it: the job does not depend on them.

use std::time::Duration;

use asyncdiff_coordinator::job::{JobRecord, JobState};
use asyncdiff_coordinator::local_workers::{Pace, SimulatedWorker};
use asyncdiff_coordinator::{JobHandle, JobSpec, WorkerState};
use asyncdiff_plan::{TimeShift, Wishes};

use super::support::{LONG, SLOW, TestCluster, ended, tensor_job, wishes};

/// Two workers of one speed and, before them by name, one that is far too slow to be given a part: the first rank has nothing to do.
async fn with_a_bystander() -> TestCluster {
    let mut cluster = TestCluster::start(&["b", "c"], SLOW).await;
    cluster.workers.push(SimulatedWorker::start(&cluster.hub, "a", Pace::FlopsPerSecond(1.0e6)).unwrap());
    cluster.cluster.wait_for_workers(3, LONG).await.unwrap();
    cluster
}

async fn begun(cluster: &TestCluster) -> JobHandle {
    let split = Wishes { split_guidance: Some(false), ..wishes(2, 1, 1, TimeShift::Off) };
    let spec: JobSpec = tensor_job(40, 7.5, split);
    let handle = cluster.submit(spec).await;
    cluster.wait_for_steps(&handle, 3).await;
    handle
}

fn check_undisturbed(record: &JobRecord) {
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert_eq!(record.summary.as_ref().unwrap().workers, ["a", "b", "c"], "the first has a rank");
    assert!(record.recoveries.is_empty() && record.moves.is_empty(), "{:?} {:?}", record.recoveries, record.moves);
    assert!(record.warnings.is_empty(), "{:?}", record.warnings);
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_a_worker_that_has_nothing_to_do_costs_no_new_plan() {
    let mut cluster = with_a_bystander().await;
    let handle = begun(&cluster).await;
    drop(cluster.workers.pop());
    check_undisturbed(&ended(handle).await);
    assert_eq!(cluster.cluster.workers().await.unwrap().len(), 2, "it was lost");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_has_nothing_to_do_leaves_at_once_and_nothing_moves() {
    let cluster = with_a_bystander().await;
    let handle = begun(&cluster).await;
    let listed = cluster.cluster.workers().await.unwrap();
    let states: Vec<WorkerState> = listed.iter().map(|worker| worker.state).collect();
    assert_eq!(states, [WorkerState::Ready, WorkerState::Working, WorkerState::Working]);
    assert!(cluster.cluster.drain("a").await.unwrap());
    let gone = async {
        while cluster.cluster.workers().await.unwrap().len() > 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), gone).await.unwrap();
    assert_eq!(cluster.cluster.job(handle.id).await.unwrap().state, JobState::Running);
    check_undisturbed(&ended(handle).await);
}
