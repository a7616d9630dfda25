//! The denoising loop of one job: the engine's commands carried out on latents.

use std::time::Instant;

use asyncdiff_model::noise_scheduler::NoiseScheduler;
use asyncdiff_plan::{Command, DenoiseEngine, Event, JobFailure, Lane, Rank, StepIndex};
use bytes::Bytes;

use super::guidance::guide;
use super::latents::{LatentsShape, read_floats, repeated_bytes};
use super::progress::{Progress, ProgressError, check_step};

/// What a loop needs to know beside its plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoopSettings {
    /// Axes of the latents.
    pub shape: LatentsShape,
    /// Guidance weight; absent: guidance is off and a row of the batch is a picture.
    pub guidance_scale: Option<f32>,
}

/// What is to be done outside of the loop.
#[must_use]
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The job cannot go on.
    Failed(JobFailure),
    /// All steps are taken.
    Finished,
    /// Scaled latents are to be sent.
    SendLatents {
        /// Their version.
        step: StepIndex,
        /// Who reads them.
        to: Vec<Rank>,
        /// `[rows, channels, height, width]` as little-endian f32; one allocation, shared by all receivers.
        payload: Bytes,
    },
    /// A step was taken.
    StepTaken(StepIndex),
}

/// What a loop ends with.
#[derive(Clone, Debug, PartialEq)]
pub struct Denoised {
    /// Final latents, `[images, channels, height, width]`.
    pub latents: Vec<f32>,
    /// The noise prediction of the last step before guidance, `[rows, channels, height, width]`.
    pub last_prediction: Vec<f32>,
}

/// Owns the engine, the latents, the noise scheduler and guidance of one job.
///
/// After its first round it allocates one buffer per [`Effect::SendLatents`] (the payload, which receivers keep) and
/// the engine's list of receivers; everything else is reused.
pub struct DenoiseLoop {
    engine: DenoiseEngine,
    scheduler: NoiseScheduler,
    settings: LoopSettings,
    latents: Vec<f32>,
    scaled: Vec<f32>,
    guided: Vec<f32>,
    /// Noise predictions that arrived and are still of use; bounded by how far ranks may run ahead.
    predictions: Vec<(StepIndex, Vec<f32>)>,
    /// Buffers for further predictions.
    spare: Vec<Vec<f32>>,
    last_prediction: Vec<f32>,
}

impl DenoiseLoop {
    /// A loop that starts from `noise`.
    ///
    /// # Shapes
    /// - `noise`: `[images, channels, height, width]`, of variance 1; the noise scheduler's initial sigma is applied
    ///   here
    #[must_use]
    pub fn new(engine: DenoiseEngine, scheduler: NoiseScheduler, settings: LoopSettings, noise: &[f32]) -> Self {
        let sigma = scheduler.init_noise_sigma() as f32;
        Self::with_latents(engine, scheduler, settings, noise.iter().map(|value| value * sigma).collect())
    }

    /// A loop that goes on from what was saved, by a plan that begins there; the noise scheduler is a new one of the job's settings.
    pub fn resume(
        engine: DenoiseEngine,
        mut scheduler: NoiseScheduler,
        settings: LoopSettings,
        progress: Progress,
    ) -> Result<Self, ProgressError> {
        progress.restore(&engine, settings.shape.elements(), &mut scheduler)?;
        Ok(Self::with_latents(engine, scheduler, settings, progress.latents))
    }

    fn with_latents(
        engine: DenoiseEngine,
        scheduler: NoiseScheduler,
        settings: LoopSettings,
        latents: Vec<f32>,
    ) -> Self {
        Self {
            engine,
            scheduler,
            settings,
            scaled: Vec::with_capacity(latents.len()),
            guided: vec![0.0; latents.len()],
            latents,
            predictions: Vec::new(),
            spare: Vec::new(),
            last_prediction: Vec::new(),
        }
    }

    /// How far it has come: what another loop can go on from.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let (step, latents) = (self.engine.steps_taken(), self.latents.clone());
        Progress { step, latents, scheduler: self.scheduler.state() }
    }

    /// Goes on by another plan, which begins at the step that this loop has come to. What the old plan's ranks still send is of no use: it is the
    /// caller's to tell the two apart, by their epochs.
    pub fn replan(&mut self, engine: DenoiseEngine) -> Result<(), ProgressError> {
        check_step(&engine, self.engine.steps_taken(), self.scheduler.next_step())?;
        self.engine = engine;
        self.spare.extend(self.predictions.drain(..).map(|(_, buffer)| buffer));
        Ok(())
    }

    /// Rows of the batch.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.settings.rows()
    }

    /// Axes of the latents that are sent and of a whole noise prediction: `[rows, channels, height, width]`.
    #[must_use]
    pub fn axes(&self) -> Vec<u32> {
        self.settings.shape.axes(self.rows())
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &DenoiseEngine {
        &self.engine
    }

    /// Tells the engine about something other than a noise prediction.
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        self.engine.handle_event(event, now);
    }

    /// Takes a noise prediction.
    ///
    /// # Shapes
    /// - `payload`: the rows of `lane` of `[rows, channels, height, width]` as little-endian f32
    pub fn handle_prediction(&mut self, (step, lane): (StepIndex, Lane), from: Rank, payload: &[u8], now: Instant) {
        let row_elements = self.settings.shape.row_elements();
        let rows = lane.rows(self.rows() as usize);
        let buffer = self.prediction_buffer(step);
        read_floats(payload, &mut buffer[rows.start * row_elements..rows.end * row_elements]);
        self.engine.handle_event(Event::NoisePredictionArrived { step, lane, from }, now);
    }

    /// Carries out what the engine decided, until something is to be done outside.
    pub fn poll_effect(&mut self, now: Instant) -> Option<Effect> {
        match self.engine.poll_command()? {
            Command::Fail { failure } => Some(Effect::Failed(failure)),
            Command::Finish => Some(Effect::Finished),
            Command::SendLatents { step, to } => Some(self.run_send_latents(step, to)),
            Command::TakeStep { step, prediction, last_use, .. } => {
                self.run_take_step(step, prediction, last_use);
                self.engine.handle_event(Event::StepTaken { step }, now);
                Some(Effect::StepTaken(step))
            }
        }
    }

    /// What came out, once [`Effect::Finished`] was handed out.
    #[must_use]
    pub fn into_denoised(self) -> Denoised {
        Denoised { latents: self.latents, last_prediction: self.last_prediction }
    }

    fn run_send_latents(&mut self, step: StepIndex, to: Vec<Rank>) -> Effect {
        self.scheduler.scale_model_input(step.index(), &self.latents, &mut self.scaled);
        let payload = repeated_bytes(&self.scaled, self.settings.copies());
        Effect::SendLatents { step, to, payload }
    }

    fn run_take_step(&mut self, step: StepIndex, prediction: StepIndex, last_use: bool) {
        // The engine commands a step only when every lane of its prediction has arrived, so the buffer is there.
        let Some(index) = self.predictions.iter().position(|(held, _)| *held == prediction) else { return };
        let values = &self.predictions[index].1;
        match self.settings.guidance_scale {
            Some(scale) => {
                let (unconditional, conditional) = values.split_at(values.len() / 2);
                guide(unconditional, conditional, scale, &mut self.guided);
                self.scheduler.step(step.index(), &self.guided, &mut self.latents);
            }
            None => self.scheduler.step(step.index(), values, &mut self.latents),
        }
        if last_use {
            let (_, values) = self.predictions.swap_remove(index);
            let before = std::mem::replace(&mut self.last_prediction, values);
            self.spare.push(before);
        }
    }

    fn prediction_buffer(&mut self, step: StepIndex) -> &mut Vec<f32> {
        let index = match self.predictions.iter().position(|(held, _)| *held == step) {
            Some(index) => index,
            None => {
                let mut buffer = self.spare.pop().unwrap_or_default();
                buffer.resize(self.settings.rows() as usize * self.settings.shape.row_elements(), 0.0);
                self.predictions.push((step, buffer));
                self.predictions.len() - 1
            }
        };
        &mut self.predictions[index].1
    }
}

impl LoopSettings {
    /// Rows of the batch: pictures, doubled by guidance.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.shape.images * self.copies() as u32
    }

    fn copies(&self) -> usize {
        if self.guidance_scale.is_some() { 2 } else { 1 }
    }
}
