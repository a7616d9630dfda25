//! `bench`: what parallelism brings on this machine, measured against one worker in the same run; what one device does,
//! kernel by kernel, and for a denoiser at its full size; what the coordinator takes; what a fault costs; what carries tensors how fast; what more GPUs
//! bring, and what more devices bring than this machine has.

mod coordinator;
mod device;
mod gpus;
mod hardware;
mod jobs;
mod likeness;
mod links;
mod median;
mod model;
mod pipeline;
mod recovery;
mod saving;
mod scaling;
mod soak;
mod step;
mod weights;

pub use coordinator::{CoordinatorBench, CoordinatorReport};
pub use device::{Case, DeviceBench, DeviceReport};
pub use gpus::{GpusBench, GpusReport, GpusRow};
pub use links::{LinksReport, measure_links};
pub use model::BenchModel;
pub use pipeline::{PipelineBench, PipelineReport};
pub use recovery::{RecoveryBench, RecoveryReport};
pub use saving::{SavingReport, SavingRow, measure_saving};
pub use scaling::{Capacity, GuidanceWay, Network, ScalingBench, ScalingReport, ScalingRow, SimulatedModel};
pub use soak::{JobsOfKind, Memory, SoakBench, SoakReport};
pub use step::{LayerKindTime, StepBench, StepCase, StepModel, StepReport};
pub use weights::{FeedingRow, WeightsBench, WeightsReport, WeightsRow};
