//! A coordinator made of a few lines, and workers on a simulated network: what the worker's tests share.

#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod denoiser;
pub(crate) mod fake_coordinator;
pub(crate) mod weights;

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_transport::PeerName;
use asyncdiff_transport::network::{Network, SimulatedNetwork};
use asyncdiff_worker::{LayerTime, WorkerConfig, WorkerError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running worker; dropping it aborts it.
pub(crate) struct TestWorker {
    pub(crate) name: PeerName,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl TestWorker {
    pub(crate) fn start(hub: &SimulatedNetwork, name: &str, config: WorkerConfig) -> Self {
        let name = PeerName::worker(name).unwrap();
        let network: Arc<dyn Network> = hub.process(name.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let endpoint = network.endpoint();
        let shutdown = async move { drop(stopped.await) };
        let task = tokio::spawn(asyncdiff_worker::run(config, network, vec![endpoint], shutdown));
        Self { name, stop: Some(stop), task }
    }

    /// Asks it to stop and waits for its end.
    pub(crate) async fn stop(mut self) -> Result<(), WorkerError> {
        drop(self.stop.take());
        self.ended().await
    }

    /// Waits for its end, by itself.
    pub(crate) async fn ended(&mut self) -> Result<(), WorkerError> {
        (&mut self.task).await.unwrap()
    }
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A worker whose layers take a millisecond each.
pub(crate) fn simulated() -> WorkerConfig {
    WorkerConfig::simulated(LayerTime::new(|_, _| Duration::from_millis(1)))
}
