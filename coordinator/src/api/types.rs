//! What the API takes and answers beside the types of [`job`](crate::job).

use std::num::NonZeroU32;

use asyncdiff_plan::{Encoding, JobId, Wishes};
use serde::{Deserialize, Serialize};

use super::ApiError;
use crate::actors::{WeightCounts, WorkerPart};
use crate::job::{Dtype, JobRequest, JobSettings};

/// The largest guidance scale: far beyond it pictures are noise, and f32 overflows.
const GUIDANCE_SCALE_LIMIT: f64 = 100.0;

/// What a user asks for; what is absent is the server's choice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewJob {
    /// What the picture shows.
    pub prompt: String,
    /// What it should not show.
    #[serde(default)]
    pub negative_prompt: String,
    /// Everything else.
    #[serde(default)]
    pub settings: GivenSettings,
    /// By which the job is known if it is submitted again, such as by a client that heard no answer: it is then not done
    /// again. Up to 64 letters, digits, `-` and `_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Settings of a job as far as the user gave any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GivenSettings {
    /// Steps of the noise scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<NonZeroU32>,
    /// Seed of the initial noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Classifier-free guidance weight, 1 to 100; 1 turns guidance off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// Noise scheduler, such as `ddim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// Width and height in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<(u32, u32)>,
    /// How the denoiser is split and scheduled.
    pub wishes: Wishes,
    /// What the denoiser is computed in.
    pub dtype: Dtype,
    /// Record a trace.
    pub trace: bool,
    /// Seconds after its submission at which it is given up if it is not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u32>,
    /// Seconds that it waits for workers if it has lost those that it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_for_workers_seconds: Option<u32>,
}

/// What a server does where the user does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JobDefaults {
    /// Steps of the noise scheduler.
    pub steps: NonZeroU32,
    /// Classifier-free guidance weight.
    pub guidance_scale: f64,
    /// Seed of the initial noise.
    pub seed: u64,
}

/// The longest key: that of two UUIDs.
const KEY_LIMIT: usize = 64;

impl NewJob {
    /// Refuses a key that is none.
    pub fn check_key(&self) -> Result<(), ApiError> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        match &self.key {
            Some(key) if key.is_empty() || key.len() > KEY_LIMIT || !key.bytes().all(is_part) => {
                let hint = format!("use 1 to {KEY_LIMIT} letters, digits, `-` and `_`");
                Err(ApiError::bad_request("the job's key is no key", hint))
            }
            _ => Ok(()),
        }
    }

    /// The request with the server's defaults filled in.
    pub fn complete(self, defaults: &JobDefaults) -> Result<JobRequest, ApiError> {
        let Self { prompt, negative_prompt, settings, key: _ } = self;
        Ok(JobRequest { prompt, negative_prompt, settings: settings.complete(defaults)? })
    }
}

impl GivenSettings {
    /// The settings with the server's defaults filled in.
    pub fn complete(self, defaults: &JobDefaults) -> Result<JobSettings, ApiError> {
        let guidance_scale = self.guidance_scale.unwrap_or(defaults.guidance_scale);
        check_guidance_scale(guidance_scale)?;
        Ok(JobSettings {
            steps: self.steps.unwrap_or(defaults.steps),
            seed: self.seed.unwrap_or(defaults.seed),
            guidance_scale,
            scheduler: self.scheduler,
            size: self.size,
            wishes: self.wishes,
            dtype: self.dtype,
            trace: self.trace,
            deadline_seconds: self.deadline_seconds,
            wait_for_workers_seconds: self.wait_for_workers_seconds,
        })
    }
}

fn check_guidance_scale(scale: f64) -> Result<(), ApiError> {
    if (1.0..=GUIDANCE_SCALE_LIMIT).contains(&scale) {
        return Ok(());
    }
    let hint = format!("use a number from 1 (guidance off) to {GUIDANCE_SCALE_LIMIT}; 5 to 8 is usual");
    Err(ApiError::bad_request(format!("guidance scale {scale} is out of range"), hint))
}

/// A worker as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its name.
    pub name: String,
    /// Such as `ready`.
    pub state: String,
    /// Its devices, such as `cpu, 4 threads`.
    pub devices: Vec<String>,
    /// Memory that it may use.
    pub memory_bytes: u64,
    /// What it does for which job.
    pub parts: Vec<WorkerPart>,
    /// Parameters that it was sent since it joined.
    #[serde(default)]
    pub weights: WeightCounts,
}

/// A plan as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// Why this one, in one line.
    pub reason: String,
    /// Wishes that have no effect.
    pub notes: Vec<String>,
    /// What the denoiser is computed in.
    pub dtype: String,
    /// The split.
    pub components: Vec<ComponentView>,
    /// The workers, by rank.
    pub workers: Vec<String>,
    /// Evaluations of the denoiser.
    pub steps: u32,
    /// Steps served by one round.
    pub stride: u32,
    /// Exact first steps.
    pub warm_up: u32,
    /// Predicted seconds of the denoising loop.
    pub predicted_seconds: f64,
    /// Predicted seconds of one worker alone.
    pub alone_seconds: f64,
    /// Predicted bytes per step between workers.
    pub bytes_per_step: f64,
    /// The same by edge.
    pub edges: Vec<EdgeView>,
    /// The links that hidden states take.
    pub links: Vec<LinkView>,
    /// The share of the time in which each rank waits.
    pub idle: Vec<f64>,
    /// The first rounds, drawn.
    pub drawing: String,
}

/// One component of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComponentView {
    /// Its layers, named as in the checkpoint.
    pub layers: Vec<String>,
    /// Its share of a step's floating point operations.
    pub share: f64,
    /// Bytes of its parameters at 4 bytes each.
    pub parameter_bytes: u64,
    /// Bytes of its parameters as its worker's kernels hold them: packed, in their type, transformed.
    pub resident_bytes: u64,
    /// Bytes that its values and working memory take at most.
    pub activation_bytes: u64,
}

/// What travels from a component to a rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EdgeView {
    /// Such as `c0`.
    pub from: String,
    /// Such as `r1`.
    pub to: String,
    /// How hidden states travel on it after the warm-up, such as `full` or `delta8`.
    pub encoding: Encoding,
    /// Bytes per step.
    pub bytes_per_step: f64,
}

/// A link from one rank to another, as the sending worker measured it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkView {
    /// Such as `r0`.
    pub from: String,
    /// Such as `r1`.
    pub to: String,
    /// Seconds that a tensor is under way beside its bytes' time.
    pub latency_seconds: f64,
    /// Throughput.
    pub bytes_per_second: f64,
    /// Seconds that carrying a byte takes from the worker's cores.
    pub busy_seconds_per_byte: f64,
    /// Seconds that carrying a tensor takes from them beside its bytes.
    pub busy_seconds_per_tensor: f64,
}

/// Asks for a line that workers join with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JoinLineRequest {
    /// How long it lets workers in; absent: the server's setting.
    pub valid_for_seconds: Option<u64>,
}

/// A line that workers join with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinLine {
    /// What `worker join` takes.
    pub line: String,
    /// Until when, in seconds since 1970 UTC.
    pub expires_at: u64,
}

/// Reads `3` or `job-3`.
#[must_use]
pub fn parse_job_id(text: &str) -> Option<JobId> {
    text.strip_prefix("job-").unwrap_or(text).parse().ok().map(JobId)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: JobDefaults = JobDefaults { steps: NonZeroU32::MIN, guidance_scale: 5.0, seed: 7 };

    #[test]
    fn what_is_absent_is_the_servers_choice() {
        let job: NewJob = serde_json::from_str(r#"{"prompt": "a", "settings": {"seed": 3}}"#).unwrap();
        let request = job.complete(&DEFAULTS).unwrap();
        assert_eq!((request.settings.seed, request.settings.guidance_scale), (3, 5.0));
        assert_eq!(request.settings.steps, NonZeroU32::MIN);
    }

    #[test]
    fn keys_are_short_and_plain() {
        let checked = |key: &str| NewJob { key: Some(key.to_owned()), ..NewJob::default() }.check_key();
        assert!(checked("a-Z_9").is_ok() && checked(&"a".repeat(64)).is_ok());
        for wrong in ["", "a b", "ä", "a\n", &"a".repeat(65)] {
            assert!(checked(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_guidance_scale_that_is_no_weight_is_refused() {
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY, 101.0] {
            let given = GivenSettings { guidance_scale: Some(scale), ..GivenSettings::default() };
            assert!(given.complete(&DEFAULTS).is_err(), "{scale}");
        }
    }

    #[test]
    fn job_ids_are_read_in_both_spellings() {
        assert_eq!(parse_job_id("job-3"), Some(JobId(3)));
        assert_eq!(parse_job_id("3"), Some(JobId(3)));
        assert_eq!(parse_job_id("job-"), None);
        assert_eq!(parse_job_id("-3"), None);
    }
}
