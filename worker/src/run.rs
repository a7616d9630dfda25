//! A worker's life: starts the device and the actors, waits for the end, leaves in order.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::Endpoint;
use asyncdiff_transport::network::Network;
use ractor::{Actor, ActorRef};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::actors::{Node, NodeArguments, NodeMessage};
use crate::config::{CacheConfig, WorkerConfig};
use crate::device;
use crate::error::WorkerError;
use crate::weights::{LocalCheckpoint, LocalWeights, WeightCache};
use asyncdiff_common::system;

/// How long a leaving worker waits for its actors; a goodbye takes a round trip, and links give themselves a second to drain.
const LEAVE_DEADLINE: Duration = Duration::from_secs(3);

/// Runs a worker until `shutdown` completes, it is not needed any more, or it cannot go on.
///
/// `shutdown` ends it at once, whatever it does for jobs; see [`WorkerConfig::drain`] for leaving in peace.
/// `coordinator`: where the coordinator may be, the likeliest first. While it cannot be reached the worker looks for it again and again.
/// Several workers may run in one process, each on a network of its own.
pub async fn run(
    config: WorkerConfig,
    network: Arc<dyn Network>,
    coordinator: Vec<Endpoint>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), WorkerError> {
    let local = open_local_weights(config.model.clone(), config.cache.clone()).await?;
    run_with(local, config, network, coordinator, shutdown).await
}

/// What this machine has of parameters: opened once, for all workers of a process.
pub(crate) async fn open_local_weights(
    model: Option<String>,
    cache: Option<CacheConfig>,
) -> Result<LocalWeights, WorkerError> {
    Ok(LocalWeights { checkpoint: open_local(model).await?, cache: open_cache(cache).await })
}

/// [`run`] with parameters that are open already, whatever the settings say of them.
pub(crate) async fn run_with(
    local: LocalWeights,
    config: WorkerConfig,
    network: Arc<dyn Network>,
    coordinator: Vec<Endpoint>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), WorkerError> {
    let (device, driver) = device::start(&config)?;
    let processor_time = config.device.processor_time();
    let (ended, mut has_ended) = oneshot::channel();
    let arguments = NodeArguments {
        network,
        coordinator,
        device,
        local,
        weights_bytes_per_second: config.weights_bytes_per_second,
        membership: config.membership,
        incarnation: system::unix_micros(),
        processor_time,
        ended,
    };
    let bug = |reason: String| WorkerError::Bug { part: "root actor", reason };
    let (node, mut task) = Node::spawn(None, Node, arguments).await.map_err(|error| bug(error.to_string()))?;
    let result = tokio::select! {
        result = &mut has_ended => result.unwrap_or_else(|_| Err(bug("it ended".to_owned()))),
        never = ask_to_leave(&node, config.drain) => match never {},
        _ = &mut task => Err(bug("it ended".to_owned())),
        () = shutdown => {
            leave(&node).await;
            Ok(())
        }
    };
    stop(node, task).await;
    driver.stop().await;
    result
}

/// Opening a checkpoint reads files, or asks the hub for them: not on the actors' threads.
async fn open_local(model: Option<String>) -> Result<Option<Arc<LocalCheckpoint>>, WorkerError> {
    let Some(model) = model else { return Ok(None) };
    let opened = tokio::task::spawn_blocking(move || LocalCheckpoint::open(&model)).await;
    let bug = |error: tokio::task::JoinError| WorkerError::Bug { part: "checkpoint", reason: error.to_string() };
    Ok(Some(Arc::new(opened.map_err(bug)??)))
}

/// Tells the worker to leave once `drain` says so. What comes of it is told elsewhere.
async fn ask_to_leave(node: &ActorRef<NodeMessage>, drain: Option<watch::Receiver<bool>>) -> Infallible {
    if let Some(mut drain) = drain
        && drain.wait_for(|drain| *drain).await.is_ok()
    {
        let reason = "the worker was asked to leave".to_owned();
        // A node that has ended says so itself.
        drop(node.cast(NodeMessage::WantToLeave { reason }));
    }
    std::future::pending().await
}

/// A cache that cannot be opened costs transfers and no worker.
async fn open_cache(config: Option<CacheConfig>) -> Option<Arc<WeightCache>> {
    let CacheConfig { folder, limit_bytes } = config?;
    let opening = tokio::task::spawn_blocking(move || {
        WeightCache::open(folder.clone(), limit_bytes).map_err(|error| {
            tracing::warn!(folder = %folder.display(), %error, "there is no cache of parameters");
        })
    });
    opening.await.ok()?.ok()
}

async fn leave(node: &ActorRef<NodeMessage>) {
    let (left, has_left) = oneshot::channel();
    let reason = "the worker was asked to stop".to_owned();
    if node.cast(NodeMessage::Leave { reason, left }).is_err() {
        return;
    }
    if tokio::time::timeout(LEAVE_DEADLINE, has_left).await.is_err() {
        tracing::warn!(deadline = ?LEAVE_DEADLINE, "leaving without a goodbye");
    }
}

async fn stop(node: ActorRef<NodeMessage>, mut task: JoinHandle<()>) {
    node.stop(None);
    if !task.is_finished() && tokio::time::timeout(LEAVE_DEADLINE, &mut task).await.is_err() {
        tracing::warn!(deadline = ?LEAVE_DEADLINE, "the actors have not ended in time");
        task.abort();
    }
}
