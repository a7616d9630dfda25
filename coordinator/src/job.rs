//! Jobs as users see them: what they ask for, how it goes, what came of it. These types are the client API's JSON.

use std::num::NonZeroU32;

use asyncdiff_plan::{JobId, Wishes};
use serde::{Deserialize, Serialize};

/// What a user asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// What the picture shows.
    pub prompt: String,
    /// What it should not show.
    #[serde(default)]
    pub negative_prompt: String,
    /// Everything else.
    #[serde(default)]
    pub settings: JobSettings,
}

/// Settings of a job; what is absent is the checkpoint's or the planner's choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JobSettings {
    /// Steps of the noise scheduler.
    pub steps: NonZeroU32,
    /// Seed of the initial noise.
    pub seed: u64,
    /// Classifier-free guidance weight; 1.0 turns guidance off.
    pub guidance_scale: f64,
    /// Noise scheduler, such as `ddim` or `dpmpp-2m-karras`; absent: the checkpoint's.
    pub scheduler: Option<String>,
    /// Width and height in pixels; absent: what the checkpoint was trained for.
    pub size: Option<(u32, u32)>,
    /// How the denoiser is split and scheduled.
    pub wishes: Wishes,
    /// What the denoiser is computed in.
    pub dtype: Dtype,
    /// Record a trace.
    pub trace: bool,
    /// Seconds after its submission at which it is given up if it is not done; absent, or more than the coordinator allows: what that
    /// allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u32>,
    /// Seconds that it waits for workers if it has lost those that it had; absent: the coordinator's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_for_workers_seconds: Option<u32>,
}

/// What the denoiser's weights are held in and multiplied as; sums are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dtype {
    /// What all of the job's workers are fastest with; f32 where exactness is asked for.
    #[default]
    Auto,
    /// bfloat16.
    Bf16,
    /// Half precision: on GPUs, of which there must be one. CPUs beside it take f32.
    F16,
    /// Single precision.
    F32,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            // 50 steps and guidance 7.5 are what diffusers' StableDiffusionPipeline defaults to, and what published
            // figures use.
            steps: NonZeroU32::MIN.saturating_add(49),
            seed: 0,
            guidance_scale: 7.5,
            scheduler: None,
            size: None,
            wishes: Wishes::default(),
            dtype: Dtype::Auto,
            trace: false,
            deadline_seconds: None,
            wait_for_workers_seconds: None,
        }
    }
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// The user stopped it.
    Cancelled,
    /// Its picture is made.
    Done,
    /// It ended with an error.
    Failed,
    /// It waits for its turn.
    Queued,
    /// Workers are on it.
    Running,
}

/// What is known of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// What was asked for.
    pub request: JobRequest,
    /// When it was submitted, started and ended.
    #[serde(default)]
    pub times: JobTimes,
    /// Where it is.
    pub state: JobState,
    /// What it is doing: `encoding the prompt`, `loading components`, `denoising`, `decoding`.
    pub phase: String,
    /// Steps taken, of how many.
    pub progress: (u32, u32),
    /// Things that the user should know: a prompt that was cut, a setting that has no effect.
    pub warnings: Vec<String>,
    /// Faults that it went on after, each with the steps that followed.
    #[serde(default)]
    pub recoveries: Vec<Recovery>,
    /// Where workers left or joined, so that it changed its plan without a fault.
    #[serde(default)]
    pub moves: Vec<Move>,
    /// Why it failed, if it did.
    pub error: Option<JobError>,
    /// How it went, when it is done.
    pub summary: Option<JobSummary>,
}

/// A change of a job's plan without a fault: the steps that were left were planned anew, and the first of them was exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Who left, or that somebody joined.
    pub why: String,
    /// Steps taken by then.
    pub step: u32,
}

/// A fault that a job went on after: the steps that were left were planned anew, and the first of them was exact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// What happened; names the worker if one is to blame.
    pub what: String,
    /// Steps taken by then.
    pub step: u32,
    /// Seconds from the job's start to when it was noticed.
    pub after_seconds: f64,
    /// Seconds from then to the next finished step; after the last step, to when decoding was tried elsewhere.
    pub lost_seconds: f64,
}

/// When things happened to a job, in seconds since 1970 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTimes {
    /// When it was submitted.
    pub submitted: u64,
    /// When it was started, the first time if there were several.
    pub started: Option<u64>,
    /// When it ended.
    pub ended: Option<u64>,
}

impl JobRecord {
    /// Whether nothing more happens to it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, JobState::Cancelled | JobState::Done | JobState::Failed)
    }
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// What failed and what was found; names the worker if one is to blame.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Whose fault: selects the exit code.
    pub fault: Fault,
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Ours: a bug.
    Bug,
    /// The user stopped it.
    Cancelled,
    /// A device: not enough memory.
    Hardware,
    /// Configuration, arguments, checkpoint: the operator can mend it.
    Operator,
    /// A worker or the network.
    Peer,
}

/// How a finished job went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobSummary {
    /// Why the planner chose this plan, in one line.
    pub plan: String,
    /// Workers that took part, by rank.
    pub workers: Vec<String>,
    /// Components, stride, warm-up.
    pub components: u16,
    /// Steps served by one round.
    pub stride: u32,
    /// Exact first steps.
    pub warm_up: u32,
    /// Evaluations of the denoiser.
    pub steps: u32,
    /// Seconds of the denoising loop: from the first latents' departure to the last step.
    pub denoise_seconds: f64,
    /// Seconds from start to picture.
    pub total_seconds: f64,
    /// What the planner predicted for the denoising loop.
    pub predicted_seconds: f64,
    /// What one worker alone would take for the denoising loop, from measured layer times.
    pub alone_seconds: f64,
    /// Bytes per step between ranks, headers and payload, counted by the links.
    pub bytes_per_step: f64,
    /// Of them, what went from GPU to GPU over NCCL.
    #[serde(default)]
    pub nccl_bytes_per_step: f64,
    /// What the plan predicted for them.
    pub predicted_bytes_per_step: f64,
    /// How hidden states travelled after the warm-up: such as `delta8`, or by edge where edges differ.
    pub encoding: String,
    /// The share of the denoising loop in which each rank computed.
    pub busy: Vec<f64>,
    /// Bytes of parameters resident at each rank.
    pub resident_bytes: Vec<u64>,
    /// Peak resident memory of each rank's process.
    pub peak_memory_bytes: Vec<u64>,
    /// The most bytes of its GPU's memory that each rank's worker has held at a time; 0 where no GPU computes.
    #[serde(default)]
    pub gpu_bytes: Vec<u64>,
    /// Peak resident memory of the coordinator's process.
    pub coordinator_peak_memory_bytes: u64,
    /// Median seconds between a noise prediction's arrival and the next latents' departure.
    pub turnaround_seconds: f64,
    /// What 99 of 100 of them are no longer than; of fewer than 100 the longest.
    pub turnaround_p99_seconds: f64,
    /// The longest of them.
    pub turnaround_max_seconds: f64,
}

impl std::fmt::Display for Recovery {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, step, after_seconds, lost_seconds } = self;
        write!(formatter, "{what}: after {after_seconds:.1} s, at step {step}, {lost_seconds:.1} s lost")
    }
}

/// What a job's listeners hear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum JobEvent {
    /// The record changed (state, phase or progress).
    Changed {
        /// The record now.
        job: Box<JobRecord>,
    },
    /// It ended: done, failed or cancelled. The last event.
    Ended {
        /// The record at the end.
        job: Box<JobRecord>,
    },
}
