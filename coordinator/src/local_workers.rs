//! Workers on this machine: simulated ones in this process, and this process as one. The one file that knows the
//! worker's crate.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_transport::network::{Network, SimulatedNetwork};
use asyncdiff_transport::{NameError, PeerName};
use asyncdiff_worker::cli::{self, Lifetime};
use asyncdiff_worker::{CacheConfig, LayerTime, WorkerConfig, WorkerError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use asyncdiff_worker::cli::JOIN_LINE_VARIABLE;

/// How long a simulated device takes for a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As long as the layer's operations take at this rate, on the runtime's clock, which may be paused.
    FlopsPerSecond(f64),
    /// No time beside the computing.
    Instant,
}

/// Makes this process a worker: the arguments are those of the program `worker`, beginning with its name. It lives
/// until its standard input is closed. May start the process's program again to set its number of threads, so it comes
/// before anything else.
pub(crate) fn run_worker(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    cli::main_from(arguments, Lifetime::UntilStdinCloses)
}

/// A worker in this process, on a simulated network. Dropping it makes it leave.
#[must_use]
pub struct SimulatedWorker {
    name: PeerName,
    leave: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl SimulatedWorker {
    /// Starts a worker of that name, which joins the coordinator of the same network.
    pub fn start(hub: &SimulatedNetwork, name: &str, pace: Pace) -> Result<Self, NameError> {
        let layer_time = match pace {
            Pace::FlopsPerSecond(rate) => LayerTime::at_rate(rate),
            Pace::Instant => LayerTime::new(|_, _| Duration::ZERO),
        };
        Self::with_config(hub, name, WorkerConfig::simulated(layer_time))
    }

    /// The same with a device whose speed changes: as many operations per second as are said whenever a layer is computed.
    pub fn with_changing_pace(
        hub: &SimulatedNetwork,
        name: &str,
        flops_per_second: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Result<Self, NameError> {
        let layer_time = LayerTime::new(move |layer, rows| {
            Duration::from_secs_f64(layer.flops as f64 * f64::from(rows) / flops_per_second())
        });
        Self::with_config(hub, name, WorkerConfig::simulated(layer_time))
    }

    /// The same with as little memory as is said, to see what a worker says that cannot do its part.
    pub fn with_memory(hub: &SimulatedNetwork, name: &str, memory_bytes: u64) -> Result<Self, NameError> {
        let layer_time = LayerTime::new(|_, _| Duration::ZERO);
        Self::with_config(hub, name, WorkerConfig { memory_bytes, ..WorkerConfig::simulated(layer_time) })
    }

    /// The same with a cache of parameters in a folder, so that others can have them of it.
    pub fn with_cache(hub: &SimulatedNetwork, name: &str, folder: PathBuf) -> Result<Self, NameError> {
        let layer_time = LayerTime::new(|_, _| Duration::ZERO);
        let cache = Some(CacheConfig { folder, limit_bytes: 1 << 30 });
        Self::with_config(hub, name, WorkerConfig { cache, ..WorkerConfig::simulated(layer_time) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &PeerName {
        &self.name
    }

    /// Makes it leave and waits until it has left.
    pub async fn leave(mut self) {
        self.leave = None;
        // Aborted or failed: it has left in any case.
        let _ = (&mut self.task).await;
    }

    fn with_config(hub: &SimulatedNetwork, name: &str, config: WorkerConfig) -> Result<Self, NameError> {
        let name = PeerName::worker(name)?;
        let network: Arc<dyn Network> = hub.process(name.clone());
        let coordinator = network.endpoint();
        let (leave, leaving) = oneshot::channel::<()>();
        // The sender's end, by a message or by its drop, is the wish to leave.
        let shutdown = async { drop(leaving.await) };
        let task = tokio::spawn(asyncdiff_worker::run(config, network, vec![coordinator], shutdown));
        Ok(Self { name, leave: Some(leave), task })
    }
}
