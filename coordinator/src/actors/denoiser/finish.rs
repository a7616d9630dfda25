//! Everything after the last step: pixels, a picture, the workers' reports.

use asyncdiff_common::wire::{DType, RankReport, TensorHeader, TensorName, TraceEvent, WorkerReply, WorkerRequest};
use asyncdiff_plan::{Choice, Epoch, Prediction, Rank, StepIndex};
use asyncdiff_transport::link::TensorFrame;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::candidates::Candidates;
use super::decoder::{Decoder, DecoderOrder};
use super::prepare::blocking;
use super::recorder::Recorded;
use super::recovery::is_curable;
use super::summary::{computes_whole_batches, summarize};
use crate::actors::Limits;
use crate::actors::job_reporter::JobReporter;
use crate::actors::session::WorkerHandle;
use crate::denoise::Denoised;
use crate::failure::JobFailed;
use crate::job::{JobRecord, JobRequest, JobState, JobTimes, Recovery};
use crate::job_spec::{JobOutcome, JobTrace, TraceTrack};
use crate::model_store::DenoiseSetup;
use crate::picture::encode_png;

/// Devices that are this nearly as busy as the busiest one wait for the coordinator alone.
const NEARLY: f64 = 0.95;

/// A job of fewer rounds corrects nothing of what is known: in its first round memory is touched for the first time, and the median of two or three
/// is still chance.
const TELLING_ROUNDS: u32 = 4;

/// Workers that may fail to decode before the job does: the latents are final, so that what one cannot do another one might.
const DECODERS: u32 = 4;

/// Workers that may be lost while they decode before the job fails. Being lost says nothing of the decoding, and each costs a heartbeat's deadline at most;
/// more than these are a cluster that does not hold still.
const LOST_DECODERS: u32 = 32;

/// A job whose steps are all taken.
pub(super) struct Finishing {
    pub(super) choice: Choice,
    pub(super) setup: DenoiseSetup,
    pub(super) request: JobRequest,
    /// If a picture is wanted.
    pub(super) decoding: Option<Decoding>,
    /// The newest plan's first words on the job, or an earlier one's.
    pub(super) outline: String,
    /// What the job survived.
    pub(super) recoveries: Vec<Recovery>,
    pub(super) denoised: Denoised,
    pub(super) recorded: Recorded,
    /// By rank.
    pub(super) ranks: Vec<WorkerHandle>,
    pub(super) reporter: JobReporter,
    pub(super) limits: Limits,
    pub(super) started: Instant,
}

/// Who makes the picture.
pub(super) struct Decoding {
    /// A decoder that waits already.
    pub(super) ready: Option<Decoder>,
    pub(super) order: DecoderOrder,
    /// Who else can do it.
    pub(super) candidates: Candidates,
}

impl Finishing {
    /// Finishes the job. Aborted with the actor.
    pub(super) async fn run(mut self) -> Result<Box<JobOutcome>, JobFailed> {
        let picture = match self.decoding.take() {
            Some(decoding) => Some(self.picture(decoding).await?),
            None => None,
        };
        let total_seconds = self.started.elapsed().as_secs_f64();
        let mut reports = join_all(self.ranks.iter().map(|worker| self.release(worker))).await;
        if self.is_telling() {
            self.note_paces(&reports);
            self.note_turnarounds(&reports);
        }
        let trace = self.request.settings.trace.then(|| self.trace(&mut reports));
        let workers = self.ranks.iter().map(|worker| worker.name().to_owned()).collect();
        let summary = summarize(&self.choice, workers, &reports, &self.recorded, total_seconds);
        let steps = self.setup.evaluations.get();
        // The queue's record replaces this one but for the summary.
        let record = JobRecord {
            id: self.reporter.job,
            request: self.request,
            times: JobTimes::default(),
            state: JobState::Done,
            phase: String::new(),
            progress: (steps, steps),
            warnings: Vec::new(),
            recoveries: Vec::new(),
            moves: Vec::new(),
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

    /// The picture, decoded by whoever can.
    async fn picture(&mut self, mut decoding: Decoding) -> Result<Bytes, JobFailed> {
        let (mut tries, mut losses) = (0, 0);
        loop {
            let began = Instant::now();
            let worker = match &decoding.ready {
                Some(decoder) => decoder.worker.clone(),
                None => decoding.candidates.somebody(&self.reporter).await?,
            };
            let made = match decoding.ready.take() {
                Some(decoder) => self.decode(decoder).await,
                None => {
                    self.reporter.phase("loading the decoder");
                    let loaded = decoding.order.clone().prepare(worker.clone()).await;
                    match loaded {
                        Ok(decoder) => self.decode(decoder).await,
                        Err(failed) => Err(failed),
                    }
                }
            };
            let failed = match made {
                Ok(picture) => return Ok(picture),
                Err(failed) => failed,
            };
            let is_lost = !worker.is_connected();
            let (count, limit) = if is_lost { (&mut losses, LOST_DECODERS) } else { (&mut tries, DECODERS) };
            *count += 1;
            let is_over = *count == limit;
            decoding.candidates.excluded.insert(worker.session_id());
            if is_over || !is_curable(&failed) || !(is_lost || decoding.candidates.are_there()) {
                return Err(failed);
            }
            tracing::warn!(worker = worker.name(), %failed, "decoding goes on elsewhere");
            self.note_recovery(&failed, began);
        }
    }

    fn note_recovery(&mut self, failed: &JobFailed, began: Instant) {
        let recovery = Recovery {
            what: failed.to_error().message,
            step: self.setup.evaluations.get(),
            after_seconds: self.started.elapsed().as_secs_f64(),
            lost_seconds: began.elapsed().as_secs_f64(),
        };
        self.reporter.recovered(vec![recovery.clone()]);
        self.recoveries.push(recovery);
    }

    async fn decode(&self, decoder: Decoder) -> Result<Bytes, JobFailed> {
        self.reporter.phase("decoding");
        let Decoder { worker, pixels } = decoder;
        let shape = self.setup.settings.shape;
        let step = StepIndex(self.setup.evaluations.get());
        let header = TensorHeader {
            job: self.reporter.job,
            // Final latents are of no placement.
            epoch: Epoch::default(),
            name: TensorName::Latents(step),
            shape: shape.axes(shape.images),
            dtype: DType::F32,
            delta: None,
            part: None,
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
            ("plan", self.outline.clone()),
        ];
        if !self.recoveries.is_empty() {
            let told = self.recoveries.iter().map(Recovery::to_string);
            texts.push(("recoveries", told.collect::<Vec<_>>().join("; ")));
        }
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

    /// Whether what it took says something about jobs to come.
    fn is_telling(&self) -> bool {
        let schedule = &self.choice.placed.plan.schedule;
        schedule.remaining_steps() / schedule.stride >= TELLING_ROUNDS
    }

    /// What layers took here is what further plans count with.
    fn note_paces(&self, reports: &[RankReport]) {
        let rows = self.setup.settings.rows();
        let rows = if computes_whole_batches(&self.choice) { rows } else { rows / 2 };
        for (worker, report) in self.ranks.iter().zip(reports) {
            worker.note_pace(&self.setup.denoiser, rows, &report.layer_seconds);
        }
    }

    /// How long devices waited at each step is what further plans count with: those that were to wait the least, for others wait for each
    /// other.
    fn note_turnarounds(&self, reports: &[RankReport]) {
        let Prediction { seconds, busy, .. } = &self.choice.prediction;
        let schedule = &self.choice.placed.plan.schedule;
        if schedule.first > StepIndex(0) {
            // Part of the prediction is what had passed when it was planned anew.
            return;
        }
        let (steps, found_seconds) = (f64::from(schedule.steps.get()), self.recorded.plan_seconds);
        let busiest = busy.iter().copied().fold(0.0, f64::max);
        for ((worker, report), predicted) in self.ranks.iter().zip(reports).zip(busy) {
            if *predicted >= NEARLY * busiest && report.busy_seconds > 0.0 {
                let longer = (found_seconds - report.busy_seconds) - seconds * (1.0 - predicted);
                worker.note_turnaround(longer / steps);
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
