//! What the cluster is asked to make: a [`JobRequest`] of a user, or tensors for verification. Both go the same way.

use std::collections::BTreeMap;

use asyncdiff_common::wire::TraceEvent;
use asyncdiff_plan::Rank;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::denoise::LatentsShape;
use crate::job::{JobRecord, JobRequest, JobSettings};

/// A job before it is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSpec {
    /// What the denoiser is conditioned on.
    pub conditions: Conditions,
    /// What the loop starts from.
    pub latents: InitialLatents,
    /// Everything else.
    pub settings: JobSettings,
    /// What is wanted at the end.
    pub product: Product,
}

/// What the denoiser is conditioned on.
#[derive(Clone, Debug, PartialEq)]
pub enum Conditions {
    /// Texts, encoded on a worker.
    Prompt {
        /// What the picture shows.
        prompt: String,
        /// What it should not show; without effect if guidance is off.
        negative: String,
    },
    /// The denoiser's conditions themselves, by the argument's name in diffusers.
    Tensors(BTreeMap<String, ConditionTensor>),
}

/// A condition as a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionTensor {
    /// All axes, such as `[rows, tokens, width]`; with guidance the unconditional rows come first.
    pub shape: Vec<u32>,
    /// The elements, row-major.
    pub values: Vec<f32>,
}

/// What the loop starts from. Either is multiplied by the noise scheduler's initial sigma, as diffusers does with
/// `latents`.
#[derive(Clone, Debug, PartialEq)]
pub enum InitialLatents {
    /// Standard normal noise of this seed.
    Seed(u64),
    /// These values, `[images, channels, height, width]`.
    Values(Vec<f32>),
}

/// What is wanted at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// The final latents.
    Latents,
    /// A picture, decoded on a worker.
    Picture,
}

/// What a finished job leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOutcome {
    /// The record at the end.
    pub record: JobRecord,
    /// The picture as a PNG file, if one was wanted.
    pub picture: Option<Bytes>,
    /// The final latents and their axes.
    pub latents: (LatentsShape, Vec<f32>),
    /// The last step's noise prediction before guidance, `[rows, channels, height, width]`.
    pub last_prediction: Vec<f32>,
    /// What happened when, if the job was traced.
    pub trace: Option<JobTrace>,
}

/// What happened when: one track for the coordinator and one for each rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobTrace {
    /// The tracks with their names.
    pub tracks: Vec<TraceTrack>,
    /// Names of the layers, by layer id.
    pub layers: Vec<String>,
}

/// The events of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceTrack {
    /// The process: `coordinator` or the worker's name.
    pub name: String,
    /// Its rank; none for the coordinator.
    pub rank: Option<Rank>,
    /// Its events.
    pub events: Vec<TraceEvent>,
}

impl JobSpec {
    /// The request as users see it in a job's record; tensors have no text.
    #[must_use]
    pub fn request(&self) -> JobRequest {
        let (prompt, negative_prompt) = match &self.conditions {
            Conditions::Prompt { prompt, negative } => (prompt.clone(), negative.clone()),
            Conditions::Tensors(_) => (String::new(), String::new()),
        };
        JobRequest { prompt, negative_prompt, settings: self.settings.clone() }
    }
}

impl From<JobRequest> for JobSpec {
    fn from(request: JobRequest) -> Self {
        Self {
            conditions: Conditions::Prompt { prompt: request.prompt, negative: request.negative_prompt },
            latents: InitialLatents::Seed(request.settings.seed),
            settings: request.settings,
            product: Product::Picture,
        }
    }
}
