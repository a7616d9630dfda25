//! Everything after the last step: pixels, a picture, the workers' reports.

use asyncdiff_common::wire::{DType, RankReport, TensorHeader, TensorName, TraceEvent, WorkerReply, WorkerRequest};
use asyncdiff_plan::{Choice, JobId, Rank, StepIndex};
use asyncdiff_transport::link::TensorFrame;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::EPOCH;
use super::prepare::blocking;
use super::recorder::Recorded;
use super::summary::summarize;
use crate::actors::Limits;
use crate::actors::job_reporter::JobReporter;
use crate::actors::session::{TensorPromise, TensorSpec, WorkerHandle};
use crate::denoise::Denoised;
use crate::failure::JobFailed;
use crate::job::{JobRecord, JobRequest, JobState};
use crate::job_spec::{JobOutcome, JobTrace, TraceTrack};
use crate::model_store::{DenoiseSetup, ModelStore};
use crate::picture::encode_png;

/// A worker whose decoder waits for latents.
pub(super) struct Decoder {
    worker: WorkerHandle,
    pixels: TensorPromise,
}

/// Asks a worker to load the decoder.
pub(super) async fn prepare_decoder(
    worker: WorkerHandle,
    store: std::sync::Arc<ModelStore>,
    (job, step): (JobId, StepIndex),
    setup: DenoiseSetup,
    limits: Limits,
) -> Result<Decoder, JobFailed> {
    let what = "loading the decoder";
    let model = blocking(move || Ok(store.vae_decoder()?)).await?;
    let latents = setup.settings.shape;
    let shape = latents.axes(latents.images);
    let (width, height) = setup.size;
    let tensor = TensorSpec { shape: vec![latents.images, height, width, 3], dtype: DType::U8 };
    let body = WorkerRequest::DecodeLatents { job, step, shape, model };
    match worker.request_tensor(what, body, tensor, limits.load_within).await? {
        (WorkerReply::DecoderReady, pixels) => Ok(Decoder { worker, pixels }),
        _ => Err(JobFailed::UnexpectedReply { worker: worker.name().to_owned(), what }),
    }
}

/// A job whose steps are all taken.
pub(super) struct Finishing {
    pub(super) choice: Choice,
    pub(super) setup: DenoiseSetup,
    pub(super) request: JobRequest,
    /// If a picture is wanted.
    pub(super) decoder: Option<Decoder>,
    pub(super) denoised: Denoised,
    pub(super) recorded: Recorded,
    /// By rank.
    pub(super) ranks: Vec<WorkerHandle>,
    pub(super) reporter: JobReporter,
    pub(super) limits: Limits,
    pub(super) started: Instant,
}

impl Finishing {
    /// Finishes the job. Aborted with the actor.
    pub(super) async fn run(mut self) -> Result<Box<JobOutcome>, JobFailed> {
        let picture = match self.decoder.take() {
            Some(decoder) => Some(self.picture(decoder).await?),
            None => None,
        };
        let total_seconds = self.started.elapsed().as_secs_f64();
        let mut reports = join_all(self.ranks.iter().map(|worker| self.release(worker))).await;
        let trace = self.request.settings.trace.then(|| self.trace(&mut reports));
        let workers = self.ranks.iter().map(|worker| worker.name().to_owned()).collect();
        let summary = summarize(&self.choice, workers, &reports, &self.recorded, total_seconds);
        let steps = self.setup.evaluations.get();
        // The queue's record replaces this one but for the summary.
        let record = JobRecord {
            id: self.reporter.job,
            request: self.request,
            state: JobState::Done,
            phase: String::new(),
            progress: (steps, steps),
            warnings: Vec::new(),
            error: None,
            summary: Some(summary),
        };
        Ok(Box::new(JobOutcome {
            record,
            picture,
            latents: (self.setup.settings.shape, self.denoised.latents),
            last_prediction: self.denoised.last_prediction,
            trace,
        }))
    }

    async fn picture(&self, decoder: Decoder) -> Result<Bytes, JobFailed> {
        self.reporter.phase("decoding");
        let Decoder { worker, pixels } = decoder;
        let shape = self.setup.settings.shape;
        let step = StepIndex(self.setup.evaluations.get());
        let header = TensorHeader {
            job: self.reporter.job,
            epoch: EPOCH,
            name: TensorName::Latents(step),
            shape: shape.axes(shape.images),
            dtype: DType::F32,
            delta: None,
        };
        let payload: Bytes = self.denoised.latents.iter().flat_map(|value| value.to_le_bytes()).collect();
        if let Err(error) = worker.link().try_send_tensor(TensorFrame { header, payload }) {
            let reason = error.to_string();
            return Err(JobFailed::WorkerLost { worker: worker.name().to_owned(), reason });
        }
        let pixels = worker.promised("decoding", pixels, self.limits.decode_within).await?;
        let (size, texts) = (self.setup.size, self.texts());
        blocking(move || Ok(encode_png(size, &pixels, &texts)?.into())).await
    }

    /// What the picture's file says of how it was made.
    fn texts(&self) -> Vec<(&'static str, String)> {
        let JobRequest { prompt, negative_prompt, settings } = &self.request;
        let mut texts = vec![
            ("Software", concat!("asyncdiff ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("prompt", prompt.clone()),
            ("seed", settings.seed.to_string()),
            ("steps", settings.steps.to_string()),
            ("guidance_scale", settings.guidance_scale.to_string()),
            ("plan", self.choice.outline.clone()),
        ];
        if !negative_prompt.is_empty() {
            texts.push(("negative_prompt", negative_prompt.clone()));
        }
        texts
    }

    /// A rank's report. The product is made: a worker that is lost now costs its figures and not the job.
    async fn release(&self, worker: &WorkerHandle) -> RankReport {
        let body = WorkerRequest::ReleaseJob { job: self.reporter.job };
        match worker.request("releasing the job", body, self.limits.release_within).await {
            Ok(WorkerReply::Released { report }) => *report,
            Ok(_) => RankReport::default(),
            Err(error) => {
                tracing::warn!(worker = worker.name(), %error, "a worker did not report on the job");
                RankReport::default()
            }
        }
    }

    fn trace(&self, reports: &mut [RankReport]) -> JobTrace {
        let coordinator =
            TraceTrack { name: "coordinator".to_owned(), rank: None, events: self.recorded.events.clone() };
        let mut tracks = vec![coordinator];
        for ((rank, worker), report) in (0..).map(Rank).zip(&self.ranks).zip(reports) {
            let events: Vec<TraceEvent> = std::mem::take(&mut report.events);
            tracks.push(TraceTrack { name: worker.name().to_owned(), rank: Some(rank), events });
        }
        let layers = self.setup.program.program.layers.iter().map(|layer| layer.name.clone()).collect();
        JobTrace { tracks, layers }
    }
}
