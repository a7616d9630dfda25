//! A job made in this process, without a cluster: checked, planned and denoised by the same code, computed in one
//! thread.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use asyncdiff_common::wire::ComputeType;
use asyncdiff_model::kernels::{Format, Kernels};
use asyncdiff_plan::{
    DenoiseEngine, Device as PlannedDevice, LayerMemory, LayerSeconds, LinkCost, Links, Situation, StepIndex, choose,
};
use candle_core::{Device, Tensor};

use crate::denoise::in_process::{self, InProcessError, Parts};
use crate::denoise::{DenoiseLoop, Denoised};
use crate::failure::JobFailed;
use crate::job_spec::{Conditions, JobSpec};
use crate::model_store::{CheckedJob, ModelStore, StoreError};

/// Makes a job whose conditions are tensors, planned for `ranks` equally fast devices whose layers cost their
/// operations.
///
/// # Shapes
/// - returns: see [`Denoised`]
pub fn run_in_process(store: &ModelStore, spec: JobSpec, ranks: usize) -> Result<Denoised, JobFailed> {
    run_replanned_in_process(store, spec, ranks, &[])
}

/// The same for a job that is planned anew after each of these numbers of steps, as one that lost a worker there: what such a job must
/// come to, if its plan does not depend on who is left.
///
/// # Shapes
/// - returns: see [`Denoised`]
pub fn run_replanned_in_process(
    store: &ModelStore,
    spec: JobSpec,
    ranks: usize,
    replanned_after: &[u32],
) -> Result<Denoised, JobFailed> {
    let mut job = CheckedJob::new(store, spec)?;
    // By this process' CPU, which settles nothing that was left open but f32.
    job.setup.settle_compute(&[])?;
    let format = match job.setup.denoiser.compute {
        ComputeType::Bf16 => Format::Bf16,
        ComputeType::F16 => Format::F16,
        ComputeType::F32 => Format::F32,
    };
    // All of them now, so that what is wrong with one is an error before anything is computed.
    let engine = |first: u32| engine(&job, ranks, StepIndex(first));
    let mut later = replanned_after
        .iter()
        .map(|&first| Ok((first, engine(first)?)))
        .collect::<Result<BTreeMap<_, _>, JobFailed>>()?;
    let first = engine(0)?;
    let conditions = tensors(&job.spec.conditions).map_err(|error| StoreError::Model(error.into()))?;
    let (timesteps, noise) = (job.scheduler.timesteps().to_vec(), job.noise());
    let denoise_loop = DenoiseLoop::new(first, job.scheduler, job.setup.settings, &noise);
    let parts = Parts {
        program: &job.setup.program,
        weights: store.denoiser_weights(),
        kernels: &Kernels::for_device(&Device::Cpu).with_format(format),
        timesteps: &timesteps,
        conditions: &conditions,
    };
    in_process::run(denoise_loop, &parts, |taken| later.remove(&taken.0)).map_err(|error| match error {
        InProcessError::Model(error) => StoreError::Model(error).into(),
        error => JobFailed::Bug { what: error.to_string() },
    })
}

/// The engine of the job's plan of the steps from `first` on.
fn engine(job: &CheckedJob, ranks: usize, first: StepIndex) -> Result<DenoiseEngine, JobFailed> {
    let (setup, now) = (&job.setup, Instant::now());
    let flops = |share: f64| -> Vec<f64> {
        setup.program.program.layers.iter().map(|layer| layer.flops as f64 * share).collect()
    };
    let (whole, half) = (flops(1.0), flops(0.5));
    let situation = Situation {
        program: &setup.program.program,
        steps: setup.evaluations,
        first,
        guidance_on: setup.settings.guidance_scale.is_some(),
        rows: setup.settings.rows(),
        layer_seconds: LayerSeconds { whole: &whole, half: &half },
        layer_memory: &vec![LayerMemory::default(); whole.len()],
        devices: &vec![PlannedDevice { speed: 1.0, memory_bytes: u64::MAX }; ranks],
        links: &Links::uniform(LinkCost::FREE),
        turnaround_seconds: 0.0,
        now,
    };
    let choice = choose(&job.spec.settings.wishes, &situation)?;
    // Nothing can get stuck on the way: no step is overdue.
    Ok(DenoiseEngine::new(choice.placed, Duration::MAX, now))
}

fn tensors(conditions: &Conditions) -> Result<BTreeMap<String, Tensor>, candle_core::Error> {
    let Conditions::Tensors(tensors) = conditions else { return Ok(BTreeMap::new()) };
    let tensor = |(name, condition): (&String, &crate::job_spec::ConditionTensor)| {
        let shape: Vec<usize> = condition.shape.iter().map(|&axis| axis as usize).collect();
        Ok((name.clone(), Tensor::from_vec(condition.values.clone(), shape, &Device::Cpu)?))
    };
    tensors.iter().map(tensor).collect()
}
