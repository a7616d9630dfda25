//! What the actor does at each message: preparation and finish are tasks that it owns, the loop between them is its
//! own.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::WorkerFailure;
use asyncdiff_model::noise_scheduler::NoiseScheduler;
use asyncdiff_plan::{Choice, DenoiseEngine, Event, StepIndex};
use ractor::ActorRef;
use tokio::time::Instant;

use super::actor::{
    DecoderPrepared, DenoiserArguments, DenoiserMessage, FinishResult, PrepareResult, SuspicionExpired,
};
use super::denoising::{Denoising, Progress};
use super::finish::{Decoder, Finishing, prepare_decoder};
use super::prepare::{Preparation, Prepared};
use super::recorder::{Recorded, Recorder};
use crate::actors::Limits;
use crate::actors::job_reporter::JobReporter;
use crate::actors::session::WorkerHandle;
use crate::denoise::{DenoiseLoop, Denoised};
use crate::failure::JobFailed;
use crate::job::JobRequest;
use crate::job_spec::{JobOutcome, Product};
use crate::model_store::{CheckedJob, DenoiseSetup, ModelStore};
use asyncdiff_common::owned_task::OwnedTask;

/// How often the engine is told the time: it counts in tens of seconds.
const TICK: Duration = Duration::from_secs(1);

/// What the actor knows of its job.
pub(crate) struct DenoiserState {
    setup: DenoiseSetup,
    request: JobRequest,
    product: Product,
    reporter: JobReporter,
    workers: Vec<WorkerHandle>,
    store: Arc<ModelStore>,
    limits: Limits,
    started: Instant,
    phase: Phase,
    /// Waits for a suspicion to be confirmed.
    suspicion: Option<OwnedTask>,
    span: tracing::Span,
}

enum Phase {
    /// Before [`DenoiserMessage::Begin`].
    New(Box<CheckedJob>),
    /// Until all workers wait for latents.
    Preparing {
        start: Box<(NoiseScheduler, Vec<f32>)>,
        _task: OwnedTask,
    },
    /// Until all steps are taken.
    Denoising {
        denoising: Box<Denoising>,
        choice: Box<Choice>,
        ranks: Vec<WorkerHandle>,
        decoder: DecoderState,
        _ticking: OwnedTask,
    },
    /// All steps are taken and the decoder is still loading.
    AwaitingDecoder {
        finishing: Box<Finishing>,
        _loading: OwnedTask,
    },
    /// Until the product is made.
    Finishing {
        _task: OwnedTask,
    },
    Ended,
}

enum DecoderState {
    Loading(OwnedTask),
    NotAsked,
    Ready(Decoder),
}

impl DenoiserState {
    pub(super) fn new(arguments: DenoiserArguments) -> Self {
        let DenoiserArguments { checked, reporter, workers, store, limits } = arguments;
        let span = tracing::info_span!("denoiser", job = %reporter.job);
        Self {
            setup: checked.setup.clone(),
            request: checked.spec.request(),
            product: checked.spec.product,
            reporter,
            workers,
            store,
            limits,
            started: Instant::now(),
            phase: Phase::New(checked),
            suspicion: None,
            span,
        }
    }

    pub(super) fn span(&self) -> tracing::Span {
        self.span.clone()
    }

    pub(super) fn begin(&mut self, myself: &ActorRef<DenoiserMessage>) {
        let Phase::New(checked) = std::mem::replace(&mut self.phase, Phase::Ended) else { return };
        let noise = checked.noise();
        let CheckedJob { spec, tokens, scheduler, .. } = *checked;
        let preparation = Preparation {
            setup: self.setup.clone(),
            settings: spec.settings,
            tokens,
            conditions: spec.conditions,
            timesteps: scheduler.timesteps().to_vec(),
            reporter: self.reporter.clone(),
            workers: self.workers.clone(),
            store: Arc::clone(&self.store),
            limits: self.limits.clone(),
            denoiser: myself.clone(),
        };
        let report = reporting(myself, |result| DenoiserMessage::Prepared(PrepareResult(result.map(Box::new))));
        let task = OwnedTask::spawn_reporting(preparation.run(), report);
        self.phase = Phase::Preparing { start: Box::new((scheduler, noise)), _task: task };
    }

    pub(super) fn start_denoising(&mut self, myself: &ActorRef<DenoiserMessage>, prepared: Prepared) {
        let Phase::Preparing { start, .. } = std::mem::replace(&mut self.phase, Phase::Ended) else { return };
        let ((scheduler, noise), Prepared { choice, ranks }) = (*start, prepared);
        self.reporter.phase("denoising");
        let evaluations = self.setup.evaluations.get();
        let limit = self.limits.step_limit(choice.prediction.seconds / f64::from(evaluations));
        let engine = DenoiseEngine::new(choice.placed.clone(), limit, Instant::now().into_std());
        let denoise_loop = DenoiseLoop::new(engine, scheduler, self.setup.settings, &noise);
        let recorder = Recorder::new(&self.request.settings, evaluations);
        let denoising = Denoising::new(denoise_loop, ranks.clone(), self.reporter.job, recorder);
        self.phase = Phase::Denoising {
            denoising: Box::new(denoising),
            choice: Box::new(choice),
            ranks,
            decoder: DecoderState::NotAsked,
            _ticking: OwnedTask::spawn(tick(myself.clone())),
        };
        self.denoise(myself, |denoising| denoising.handle_event(Event::Ready));
    }

    /// Lets the loop take an event and sees to what comes of it.
    pub(super) fn denoise(
        &mut self,
        myself: &ActorRef<DenoiserMessage>,
        event: impl FnOnce(&mut Denoising) -> Progress,
    ) {
        let Phase::Denoising { denoising, .. } = &mut self.phase else { return };
        let before = denoising.steps_taken();
        let progress = event(denoising);
        let taken = denoising.steps_taken();
        if taken != before {
            self.reporter.steps(taken);
            self.ask_for_decoder(myself, taken);
        }
        match progress {
            Progress::Failed(failed) => self.end(myself, Err(failed)),
            Progress::Finished => self.finish(myself),
            Progress::Going => {}
        }
    }

    /// Half of the steps are enough to load the decoder meanwhile, and late enough not to hold its weights for long.
    fn ask_for_decoder(&mut self, myself: &ActorRef<DenoiserMessage>, taken: u32) {
        let evaluations = self.setup.evaluations.get();
        if self.product == Product::Latents || taken < evaluations / 2 {
            return;
        }
        let Phase::Denoising { ranks, decoder: decoder @ DecoderState::NotAsked, .. } = &mut self.phase else { return };
        // A worker without a part if there is one, else the first rank: at the end it has nothing to do, the last one
        // makes the last prediction.
        let idle = self.workers.iter().find(|worker| !ranks.iter().any(|rank| rank.name() == worker.name()));
        let Some(worker) = idle.or(ranks.first()).cloned() else { return };
        let job_and_step = (self.reporter.job, StepIndex(evaluations));
        let store = Arc::clone(&self.store);
        let preparing = prepare_decoder(worker, store, job_and_step, self.setup.clone(), self.limits.clone());
        let report = reporting(myself, |result| DenoiserMessage::DecoderPrepared(DecoderPrepared(result)));
        *decoder = DecoderState::Loading(OwnedTask::spawn_reporting(preparing, report));
    }

    pub(super) fn handle_decoder(&mut self, myself: &ActorRef<DenoiserMessage>, result: Result<Decoder, JobFailed>) {
        let decoder = match result {
            Ok(decoder) => decoder,
            Err(failed) => return self.end(myself, Err(failed)),
        };
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Denoising { denoising, choice, ranks, _ticking, .. } => {
                let decoder = DecoderState::Ready(decoder);
                self.phase = Phase::Denoising { denoising, choice, ranks, decoder, _ticking };
            }
            Phase::AwaitingDecoder { mut finishing, .. } => {
                finishing.decoder = Some(decoder);
                self.run_finishing(myself, *finishing);
            }
            phase => self.phase = phase,
        }
    }

    fn finish(&mut self, myself: &ActorRef<DenoiserMessage>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        let Phase::Denoising { denoising, choice, ranks, decoder, .. } = phase else { return };
        let (denoised, recorded): (Denoised, Recorded) = denoising.into_results();
        let mut finishing = Finishing {
            choice: *choice,
            setup: self.setup.clone(),
            request: self.request.clone(),
            decoder: None,
            denoised,
            recorded,
            ranks,
            reporter: self.reporter.clone(),
            limits: self.limits.clone(),
            started: self.started,
        };
        match decoder {
            DecoderState::Loading(loading) => {
                self.reporter.phase("loading the decoder");
                self.phase = Phase::AwaitingDecoder { finishing: Box::new(finishing), _loading: loading };
            }
            DecoderState::NotAsked => self.run_finishing(myself, finishing),
            DecoderState::Ready(decoder) => {
                finishing.decoder = Some(decoder);
                self.run_finishing(myself, finishing);
            }
        }
    }

    fn run_finishing(&mut self, myself: &ActorRef<DenoiserMessage>, finishing: Finishing) {
        let report = reporting(myself, |result| DenoiserMessage::Finished(FinishResult(result)));
        self.phase = Phase::Finishing { _task: OwnedTask::spawn_reporting(finishing.run(), report) };
    }

    pub(super) fn cancel(&mut self, myself: &ActorRef<DenoiserMessage>) {
        match &self.phase {
            Phase::Denoising { .. } => self.denoise(myself, |denoising| denoising.handle_event(Event::Cancelled)),
            Phase::New(_) | Phase::Preparing { .. } => self.end(myself, Err(JobFailed::Cancelled { steps: 0 })),
            Phase::AwaitingDecoder { .. } | Phase::Finishing { .. } => {
                let steps = self.setup.evaluations.get();
                self.end(myself, Err(JobFailed::Cancelled { steps }));
            }
            Phase::Ended => {}
        }
    }

    /// A worker that cannot reach another one is often the first to notice that the other is lost; so the heartbeat is
    /// given the time to say so, and the user is told of the cause and not of its consequence.
    pub(super) fn handle_worker_failed(
        &mut self,
        myself: &ActorRef<DenoiserMessage>,
        worker: String,
        failure: WorkerFailure,
    ) {
        let unreachable = matches!(failure, WorkerFailure::PeerFailed { .. });
        let failed = JobFailed::WorkerFailed { worker, failure };
        if !unreachable {
            return self.end(myself, Err(failed));
        }
        let computing = matches!(self.phase, Phase::Preparing { .. } | Phase::Denoising { .. });
        if computing && self.suspicion.is_none() {
            let (denoiser, wait) = (myself.clone(), self.limits.lost_after + 2 * self.limits.heartbeat_interval);
            self.suspicion = Some(OwnedTask::spawn(async move {
                tokio::time::sleep(wait).await;
                // A denoiser that has ended knows the cause.
                let _ = denoiser.send_message(DenoiserMessage::SuspicionExpired(SuspicionExpired(failed)));
            }));
        }
    }

    pub(super) fn handle_worker_lost(&mut self, myself: &ActorRef<DenoiserMessage>, worker: String, reason: String) {
        match &self.phase {
            Phase::Denoising { .. } => {
                self.denoise(myself, |denoising| denoising.handle_worker_lost(&worker, reason));
            }
            Phase::New(_) | Phase::Preparing { .. } => {
                self.end(myself, Err(JobFailed::WorkerLost { worker, reason }));
            }
            // All steps are taken. If it was to decode, its promise of pixels fails; else it is not needed any more.
            Phase::AwaitingDecoder { .. } | Phase::Finishing { .. } | Phase::Ended => {}
        }
    }

    /// Ends the job: nothing of it is let in any more, workers forget it, the queue learns how it went.
    pub(super) fn end(&mut self, myself: &ActorRef<DenoiserMessage>, result: Result<Box<JobOutcome>, JobFailed>) {
        if matches!(std::mem::replace(&mut self.phase, Phase::Ended), Phase::Ended) {
            return;
        }
        let job = self.reporter.job;
        for worker in &self.workers {
            worker.close_job(job);
            if result.is_err() {
                worker.release(job, self.limits.release_within);
            }
        }
        self.reporter.ended(result);
        myself.stop(None);
    }
}

/// Hands a task's result to the actor; a panic of the task is a bug that ends the job.
fn reporting<T: Send + 'static>(
    myself: &ActorRef<DenoiserMessage>,
    message: impl FnOnce(Result<T, JobFailed>) -> DenoiserMessage + Send + 'static,
) -> impl FnOnce(Result<Result<T, JobFailed>, String>) + Send + 'static {
    let myself = myself.clone();
    move |result| {
        let result = result.unwrap_or_else(|what| Err(JobFailed::Bug { what }));
        // An actor that has ended aborted this task, or is about to.
        let _ = myself.send_message(message(result));
    }
}

async fn tick(denoiser: ActorRef<DenoiserMessage>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if denoiser.send_message(DenoiserMessage::Tick).is_err() {
            return;
        }
    }
}
