//! What the actor does at each message: preparation and finish are tasks that it owns, the loop between them is its
//! own.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_plan::{Choice, DenoiseEngine, Epoch, Event, StepIndex};
use ractor::{ActorId, ActorRef};
use tokio::sync::watch;
use tokio::time::Instant;

use super::actor::{DenoiserArguments, DenoiserMessage, FinishResult, JobLife, PrepareResult};
use super::candidates::{Candidates, NotEnough, Offer};
use super::decoder::DecoderState;
use super::denoising::{Denoising, Progress};
use super::finish::{Decoding, Finishing};
use super::hanging::Look;
use super::moving::{Moving, Ready};
use super::prepare::{JobConditions, Placing, Preparation, Prepared};
use super::recorder::{Recorded, Recorder};
use super::recovery::Recoveries;
use super::saving::Saving;
use super::start::Start;
use crate::actors::Limits;
use crate::actors::job_reporter::JobReporter;
use crate::actors::session::WorkerHandle;
use crate::denoise::{DenoiseLoop, Denoised};
use crate::failure::JobFailed;
use crate::job::JobRequest;
use crate::job_spec::{JobOutcome, Product};
use crate::model_store::{CheckedJob, DenoiseSetup, ModelStore};
use asyncdiff_common::owned_task::OwnedTask;

/// How often the engine is told the time, and devices are looked after if nothing comes.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// What the actor knows of its job.
pub(crate) struct DenoiserState {
    pub(super) setup: DenoiseSetup,
    request: JobRequest,
    pub(super) product: Product,
    pub(super) reporter: JobReporter,
    /// Who may be used; tasks see changes.
    pub(super) offer: watch::Sender<Offer>,
    /// Who was ever offered, and is still there.
    pub(super) met: Vec<WorkerHandle>,
    pub(super) store: Arc<ModelStore>,
    pub(super) limits: Limits,
    started: Instant,
    /// Of the placement that is followed or prepared; before the first one, of none.
    pub(super) epoch: Epoch,
    /// The newest that was given away.
    pub(super) newest_epoch: Epoch,
    pub(super) life: JobLife,
    pub(super) saving: Saving,
    timesteps: Arc<[f64]>,
    conditions: JobConditions,
    /// The first plan in one line: what the picture's file says.
    outline: Option<String>,
    pub(super) phase: Phase,
    pub(super) decoder: DecoderState,
    /// Who could not load the decoder.
    pub(super) not_decoders: HashSet<ActorId>,
    pub(super) recoveries: Recoveries,
    /// A placement that is made ready.
    pub(super) moving: Option<Moving>,
    /// Sessions that were thought of when the newest plan was made.
    pub(super) planned_with: HashSet<ActorId>,
    /// Sessions that are known to have ended.
    pub(super) lost: HashSet<ActorId>,
    pub(super) not_enough: NotEnough,
    /// How long it waits for somebody.
    pub(super) patience: Duration,
    /// Waits for a suspicion to be confirmed.
    pub(super) suspicion: Option<OwnedTask>,
    /// Looks whether devices hang.
    pub(super) look: Look,
    span: tracing::Span,
}

pub(super) enum Phase {
    /// Before [`DenoiserMessage::Begin`].
    New(Box<CheckedJob>),
    /// Until the workers of a placement wait for latents.
    Preparing {
        start: Start,
        _task: OwnedTask,
    },
    /// Until all steps are taken, or a fault.
    Denoising {
        denoising: Box<Denoising>,
        choice: Box<Choice>,
        /// What a step is predicted to take.
        step_seconds: f64,
        _ticking: OwnedTask,
    },
    /// All steps are taken and the decoder is still loading.
    AwaitingDecoder {
        finishing: Box<Finishing>,
    },
    /// Until the product is made.
    Finishing {
        _task: OwnedTask,
    },
    Ended,
}

impl DenoiserState {
    pub(super) fn new(arguments: DenoiserArguments) -> Self {
        let DenoiserArguments { checked, reporter, offer, store, limits, life } = arguments;
        let span = tracing::info_span!("denoiser", job = %reporter.job);
        let started = Instant::now();
        let wait_for_workers =
            checked.spec.settings.wait_for_workers_seconds.map(|seconds| Duration::from_secs(seconds.into()));
        Self {
            setup: checked.setup.clone(),
            patience: wait_for_workers.unwrap_or(limits.wait_for_workers),
            request: checked.spec.request(),
            product: checked.spec.product,
            saving: Saving::new(life.is_kept.then(|| reporter.clone()), limits.saving_percent),
            epoch: Epoch(life.first_epoch.0.saturating_sub(1)),
            newest_epoch: Epoch(life.first_epoch.0.saturating_sub(1)),
            life,
            reporter,
            met: offer.workers.clone(),
            offer: watch::Sender::new(offer),
            store,
            limits,
            started,
            timesteps: Arc::new([]),
            conditions: JobConditions::Ready(Arc::new([])),
            outline: None,
            phase: Phase::New(checked),
            decoder: DecoderState::NotAsked,
            not_decoders: HashSet::new(),
            recoveries: Recoveries::new(started),
            moving: None,
            planned_with: HashSet::new(),
            lost: HashSet::new(),
            not_enough: NotEnough::default(),
            suspicion: None,
            look: Look::default(),
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
        self.timesteps = scheduler.timesteps().into();
        self.conditions = JobConditions::new(tokens, &spec.conditions);
        let start = self.start(scheduler, noise);
        self.prepare(myself, start, None);
    }

    /// Prepares a placement in a new epoch. What comes of older ones is late from now on.
    pub(super) fn prepare(&mut self, myself: &ActorRef<DenoiserMessage>, start: Start, ready: Option<Ready>) {
        self.epoch = self.next_epoch();
        (self.suspicion, self.moving, self.look) = (None, None, Look::default());
        for worker in self.met.iter().filter(|_| !self.is_first_placement()) {
            worker.close_job(self.reporter.job);
        }
        let epoch = self.epoch;
        let mut preparation = self.preparation(myself, epoch, start.step());
        preparation.ready = ready;
        let report = reporting(myself, move |result| {
            DenoiserMessage::Prepared(PrepareResult { epoch, result: result.map(Box::new) })
        });
        let task = OwnedTask::spawn_reporting(preparation.run(), report);
        self.phase = Phase::Preparing { start, _task: task };
    }

    /// Epochs are given away once, also to placements that come to nothing.
    pub(super) fn next_epoch(&mut self) -> Epoch {
        self.newest_epoch = Epoch(self.newest_epoch.0 + 1);
        self.newest_epoch
    }

    pub(super) fn preparation(
        &self,
        myself: &ActorRef<DenoiserMessage>,
        epoch: Epoch,
        first: StepIndex,
    ) -> Preparation {
        Preparation {
            setup: self.setup.clone(),
            settings: self.request.settings.clone(),
            conditions: self.conditions.clone(),
            timesteps: Arc::clone(&self.timesteps),
            reporter: self.reporter.clone(),
            candidates: Candidates { not_enough: self.not_enough.clone(), ..self.candidates() },
            placing: Placing { epoch, first },
            ready: None,
            store: Arc::clone(&self.store),
            limits: self.limits.clone(),
            denoiser: myself.clone(),
        }
    }

    pub(super) fn handle_prepared(&mut self, myself: &ActorRef<DenoiserMessage>, prepared: PrepareResult) {
        if prepared.epoch != self.epoch || !matches!(self.phase, Phase::Preparing { .. }) {
            return;
        }
        match prepared.result {
            Ok(prepared) => self.start_denoising(myself, *prepared),
            Err(failed) => self.meet_or_suspect(myself, failed),
        }
    }

    fn start_denoising(&mut self, myself: &ActorRef<DenoiserMessage>, prepared: Prepared) {
        // Not `Ended`, so that what goes wrong in between can end the job.
        let nothing = Phase::Finishing { _task: OwnedTask::spawn(async {}) };
        let Phase::Preparing { start, .. } = std::mem::replace(&mut self.phase, nothing) else { return };
        let Prepared { mut choice, ranks, setup, conditions, considered } = prepared;
        self.planned_with.extend(considered);
        (self.setup, self.conditions) = (setup, JobConditions::Ready(conditions));
        self.not_enough = NotEnough::default();
        self.release_others(&choice.placed, &ranks);
        self.reporter.phase("denoising");
        let evaluations = self.setup.evaluations.get();
        let steps = choice.placed.plan.schedule.remaining_steps().max(1);
        let step_seconds = choice.prediction.seconds / f64::from(steps);
        let limit = self.limits.step_limit(step_seconds);
        let engine = DenoiseEngine::new(choice.placed.clone(), limit, Instant::now().into_std());
        let denoising = match start {
            Start::Fresh(start) => {
                let (scheduler, noise) = *start;
                let denoise_loop = DenoiseLoop::new(engine, scheduler, self.setup.settings, &noise);
                let recorder = Recorder::new(&self.request.settings, evaluations);
                Box::new(Denoising::new(denoise_loop, (self.reporter.job, self.epoch), ranks, recorder))
            }
            Start::Saved(saved) => {
                let (scheduler, progress) = *saved;
                let resumed = DenoiseLoop::resume(engine, scheduler, self.setup.settings, progress);
                let recorder = Recorder::new(&self.request.settings, evaluations);
                match resumed {
                    Ok(denoise_loop) => {
                        Box::new(Denoising::new(denoise_loop, (self.reporter.job, self.epoch), ranks, recorder))
                    }
                    Err(error) => return self.fail_start(myself, error.to_string()),
                }
            }
            Start::Interrupted(mut denoising) => {
                // What had passed and what is left: the prediction of a job that was planned anew.
                choice.prediction.seconds += denoising.seconds();
                if let Err(failed) = denoising.replan(engine, self.epoch, ranks) {
                    return self.end(myself, Err(failed));
                }
                denoising
            }
        };
        self.outline.get_or_insert_with(|| choice.outline.clone());
        let ticking = OwnedTask::spawn(tick(myself.clone()));
        self.phase = Phase::Denoising { denoising, choice: Box::new(choice), step_seconds, _ticking: ticking };
        self.settle_users();
        self.denoise(myself, |denoising| denoising.handle_event(Event::Ready));
        self.consider_moving(myself);
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
            self.reporter.recovered(self.recoveries.stepped(Instant::now()));
            self.ask_for_decoder(myself, taken);
            self.save(myself);
        }
        match progress {
            Progress::Failed(failed) => self.meet(myself, failed),
            Progress::Finished => self.finish(myself),
            Progress::Going if taken != before => self.move_if_ready(myself),
            Progress::Going => {}
        }
    }

    fn finish(&mut self, myself: &ActorRef<DenoiserMessage>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        let Phase::Denoising { denoising, choice, .. } = phase else { return };
        let ranks = denoising.ranks().to_vec();
        let (denoised, recorded): (Denoised, Recorded) = denoising.into_results();
        let order = self.decoder_order();
        let is_picture = self.product == Product::Picture;
        let decoding = is_picture.then(|| Decoding { ready: None, order, candidates: self.candidates() });
        let finishing = Finishing {
            outline: self.outline.clone().unwrap_or_else(|| choice.outline.clone()),
            choice: *choice,
            setup: self.setup.clone(),
            request: self.request.clone(),
            decoding,
            recoveries: self.recoveries.closed().to_vec(),
            denoised,
            recorded,
            ranks,
            reporter: self.reporter.clone(),
            limits: self.limits.clone(),
            started: self.started,
        };
        if matches!(self.decoder, DecoderState::Loading { .. }) {
            self.reporter.phase("loading the decoder");
            self.phase = Phase::AwaitingDecoder { finishing: Box::new(finishing) };
        } else {
            self.run_finishing(myself, finishing);
        }
    }

    pub(super) fn run_finishing(&mut self, myself: &ActorRef<DenoiserMessage>, mut finishing: Finishing) {
        let decoder = std::mem::replace(&mut self.decoder, DecoderState::NotAsked);
        if let (DecoderState::Ready(decoder), Some(decoding)) = (decoder, &mut finishing.decoding) {
            decoding.ready = Some(decoder);
        }
        let report = reporting(myself, |result| DenoiserMessage::Finished(FinishResult(result)));
        self.phase = Phase::Finishing { _task: OwnedTask::spawn_reporting(finishing.run(), report) };
    }

    pub(super) fn steps_taken(&self) -> u32 {
        match &self.phase {
            Phase::Denoising { denoising, .. } => denoising.steps_taken(),
            Phase::Preparing { start, .. } => start.step().0,
            Phase::New(_) => 0,
            Phase::AwaitingDecoder { .. } | Phase::Finishing { .. } | Phase::Ended => self.setup.evaluations.get(),
        }
    }

    /// Ends the job: nothing of it is let in any more, workers forget it, the queue learns how it went.
    pub(super) fn end(&mut self, myself: &ActorRef<DenoiserMessage>, result: Result<Box<JobOutcome>, JobFailed>) {
        if matches!(std::mem::replace(&mut self.phase, Phase::Ended), Phase::Ended) {
            return;
        }
        let job = self.reporter.job;
        for worker in &self.met {
            // Also after success, when ranks have reported: others encoded or decoded, or had a part earlier.
            worker.drop_job(job, self.limits.release_within);
        }
        self.reporter.ended(result);
        myself.stop(None);
    }
}

/// Hands a task's result to the actor; a panic of the task is a bug that ends the job.
pub(super) fn reporting<T: Send + 'static>(
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
