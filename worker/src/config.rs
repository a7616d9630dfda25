//! What a worker is started with.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_plan::Layer;
use tokio::sync::watch;

/// Settings of one worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Threads that compute layers. Default: the machine's cores. More than there are cores makes everything slower.
    pub threads: u32,
    /// The CPUs that they are kept on, one each. Default: none, and they run where the operating system likes. Fewer than `threads` makes
    /// threads share.
    pub cpus: Vec<Cpu>,
    /// Bytes that components may take. Default: what the machine has available when the worker starts. Less refuses large components early;
    /// more risks being killed by the operating system.
    pub memory_bytes: u64,
    /// A checkpoint on this machine, a folder or a hub id. Default: none. Parameters that are equal in it are read there and not sent
    /// by the coordinator.
    pub model: Option<String>,
    /// Where received parameters are kept for the next time. Default: nowhere.
    pub cache: Option<CacheConfig>,
    /// Bytes of parameters per second that other workers are sent at most, all together. Default: no limit. Less leaves more of the network to
    /// others and lets workers that join wait longer; more than the network carries changes nothing.
    pub weights_bytes_per_second: Option<NonZeroU64>,
    /// What computes. Default: a thread of its own.
    pub device: DeviceKind,
    /// Whether hidden states may go from GPU to GPU over NCCL. Default: they may, where NCCL is there and both GPUs are of one host. Without it they
    /// go through the host's memory.
    pub nccl: Nccl,
    /// Told when the worker becomes a member and when it loses the coordinator. Default: nobody.
    pub membership: Option<watch::Sender<Membership>>,
    /// Becomes true when the worker is to leave as soon as no job needs it: the coordinator moves its part of running jobs to others first.
    /// Default: never.
    pub drain: Option<watch::Receiver<bool>>,
}

/// A cache of parameters on disk. Workers of one user may share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// The folder.
    pub folder: PathBuf,
    /// Bytes that it may take, about. Less than the model's parameters drives out what is needed next; more takes disk.
    pub limit_bytes: u64,
}

/// A CPU by the number that the operating system has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(pub usize);

/// What computes layers.
#[derive(Clone, Debug, Default)]
pub enum DeviceKind {
    /// A GPU of NVIDIA's, by its number, driven by an operating system thread of its own. `memory_bytes` is then of the GPU.
    Cuda(usize),
    /// Computes nothing, without weights, on a thread of its own, and takes as long for a layer as is said: tensors have their sizes and no
    /// meaning. For benchmarks of everything around the computing.
    Paced(LayerTime),
    /// Computes in the actors' own runtime and then sleeps for as long as the layer is said to take, so that a paused clock orders
    /// what happens in a cluster within one process.
    Simulated(LayerTime),
    /// An operating system thread of its own.
    #[default]
    Thread,
}

/// Whether hidden states go from GPU to GPU over NCCL where they can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nccl {
    /// Never.
    Off,
    /// Where they can.
    #[default]
    On,
}

/// How long a simulated device takes for a layer and a number of rows. Called for every layer before it is computed.
#[derive(Clone)]
pub struct LayerTime(Arc<TimeOf>);

type TimeOf = dyn Fn(&Layer, u32) -> Duration + Send + Sync;

/// Whether the coordinator counts on this worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// It looks for the coordinator.
    #[default]
    Joining,
    /// The coordinator has welcomed it.
    Member,
}

impl DeviceKind {
    /// The clock of what carrying takes from this process' computing. Simulated workers share a process and a clock of their own: there
    /// carrying is free. A GPU computes on while its host carries, and the process' clock would count the other GPUs' workers too.
    pub(crate) fn processor_time(&self) -> fn() -> Duration {
        match self {
            Self::Cuda(_) | Self::Simulated(_) => || Duration::ZERO,
            Self::Paced(_) | Self::Thread => asyncdiff_common::system::processor_time,
        }
    }
}

impl WorkerConfig {
    /// A worker with one thread, all of the available memory and defaults for the rest.
    #[must_use]
    pub fn new() -> Self {
        Self {
            threads: 1,
            cpus: Vec::new(),
            memory_bytes: asyncdiff_common::system::available_memory_bytes(),
            model: None,
            cache: None,
            weights_bytes_per_second: None,
            device: DeviceKind::default(),
            nccl: Nccl::default(),
            membership: None,
            drain: None,
        }
    }

    /// A worker that computes nothing and takes as long for it as is said, in real time.
    #[must_use]
    pub fn paced(layer_time: LayerTime) -> Self {
        Self { device: DeviceKind::Paced(layer_time), ..Self::new() }
    }

    /// A worker that computes, and takes as long for a layer as is said by the runtime's clock.
    #[must_use]
    pub fn simulated(layer_time: LayerTime) -> Self {
        Self { device: DeviceKind::Simulated(layer_time), ..Self::new() }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerTime {
    /// Any function of a layer and a number of rows.
    pub fn new(seconds_of: impl Fn(&Layer, u32) -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(seconds_of))
    }

    /// As long as the layer's operations take at a rate.
    #[must_use]
    pub fn at_rate(flops_per_second: f64) -> Self {
        Self::new(move |layer, rows| Duration::from_secs_f64(layer.flops as f64 * f64::from(rows) / flops_per_second))
    }

    pub(crate) fn of(&self, layer: &Layer, rows: u32) -> Duration {
        (self.0)(layer, rows)
    }
}

impl fmt::Debug for LayerTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LayerTime(…)")
    }
}
