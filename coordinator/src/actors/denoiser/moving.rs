//! A running job moves: another placement is made ready while the old one goes on, and the two change at the end of a step.
//!
//! ```text
//!   a rank is leaving, or somebody joined ──► measure ► plan ► load the components (task) ──► Moved
//!   Moved, then a step is taken ───────────► assign ► send conditions ► go on with a refresh
//! ```

use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_plan::{Choice, Epoch, Switch};
use ractor::{ActorId, ActorRef};

use super::actor::{DenoiserMessage, Moved};
use super::denoising::Denoising;
use super::prepare::serving;
use super::start::Start;
use super::state::{DenoiserState, Phase, reporting};
use crate::actors::session::WorkerHandle;
use crate::failure::JobFailed;
use crate::job::Move;

/// A placement whose components are loaded.
#[derive(Clone)]
pub(super) struct Ready {
    pub(super) choice: Choice,
    /// By rank.
    pub(super) ranks: Vec<WorkerHandle>,
}

/// Why a job moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Somebody joined, with whom the job may end sooner.
    Joined,
    /// Workers that have a part leave.
    Leaving(Vec<String>),
}

/// A move that is under way.
pub(super) struct Moving {
    /// Of its preload.
    epoch: Epoch,
    reason: Reason,
    /// When its components are there.
    ready: Option<Ready>,
    _task: OwnedTask,
}

/// What comes of a move that was to be made ready.
pub(super) enum Outcome {
    /// It would not pay.
    Stay,
    Ready(Box<Ready>),
}

/// What the plan that is followed takes for what is left, to compare others with; `None` if it is left in any case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staying {
    pub(super) steps: u32,
    pub(super) seconds: f64,
}

impl Staying {
    /// Whether it pays to go on by another plan of the same steps.
    pub(super) fn is_worse_than(&self, choice: &Choice) -> bool {
        let planned = choice.placed.plan.schedule.remaining_steps().max(1);
        // Both are per step, so that it may be asked again when fewer are left.
        let going_seconds = choice.prediction.seconds * f64::from(self.steps) / f64::from(planned);
        Switch { steps: self.steps, staying_seconds: self.seconds, going_seconds }.pays()
    }
}

impl DenoiserState {
    /// Begins a move if there is a reason.
    pub(super) fn consider_moving(&mut self, myself: &ActorRef<DenoiserMessage>) {
        let Phase::Denoising { denoising, .. } = &self.phase else {
            // While another placement is prepared everybody is thought of; afterwards nobody is needed any more.
            if !matches!(self.phase, Phase::Preparing { .. } | Phase::New(_)) {
                self.settle(None);
            }
            return;
        };
        let leaving = leaving(denoising);
        let candidates = self.candidates().now();
        let stay: Vec<ActorId> =
            candidates.iter().filter(|worker| !worker.is_leaving()).map(WorkerHandle::session_id).collect();
        if self.decoder_is_leaving() && !stay.is_empty() {
            self.decoder = super::decoder::DecoderState::NotAsked;
        }
        let under_way = self.moving.as_ref().map(|moving| &moving.reason);
        if !leaving.is_empty() {
            let reason = Reason::Leaving(leaving);
            // With nobody else to go to they stay until somebody joins, or the job has ended.
            if !stay.is_empty() && under_way != Some(&reason) {
                self.begin_moving(myself, reason);
            }
        } else if under_way.is_none() && stay.iter().any(|session| !self.planned_with.contains(session)) {
            self.begin_moving(myself, Reason::Joined);
        } else if under_way.is_none() {
            self.settle(None);
        }
    }

    fn begin_moving(&mut self, myself: &ActorRef<DenoiserMessage>, reason: Reason) {
        let Phase::Denoising { denoising, step_seconds, .. } = &self.phase else { return };
        let (start, steps) = (denoising.steps_taken(), self.setup.evaluations.get() - denoising.steps_taken());
        let staying = match reason {
            Reason::Joined => Some(Staying { steps, seconds: step_seconds * f64::from(steps) }),
            Reason::Leaving(_) => None,
        };
        let epoch = self.next_epoch();
        let preparation = self.preparation(myself, epoch, asyncdiff_plan::StepIndex(start));
        self.planned_with = preparation.candidates.clone().now().iter().map(WorkerHandle::session_id).collect();
        tracing::info!(?reason, step = start, "making another placement ready");
        let report = reporting(myself, move |result| DenoiserMessage::Moved(Moved { epoch, result }));
        let task = OwnedTask::spawn_reporting(preparation.preload(staying), report);
        self.moving = Some(Moving { epoch, reason, ready: None, _task: task });
    }

    pub(super) fn handle_moved(&mut self, myself: &ActorRef<DenoiserMessage>, moved: Moved) {
        let Some(moving) = self.moving.as_mut().filter(|moving| moving.epoch == moved.epoch) else { return };
        match (moved.result, &moving.reason) {
            (Ok(Outcome::Ready(ready)), _) => moving.ready = Some(*ready),
            (Ok(Outcome::Stay), _) => self.moving = None,
            (Err(failed), Reason::Joined) => {
                tracing::warn!(%failed, "the job stays where it is");
                self.moving = None;
            }
            (Err(failed), Reason::Leaving(_)) => {
                // Such as memory for both placements at a time: then one after the other.
                tracing::warn!(%failed, "the new placement cannot be made ready beside the old one");
                self.change_placement(myself, None);
            }
        }
    }

    /// At the end of a step: changes to a placement that is ready.
    pub(super) fn move_if_ready(&mut self, myself: &ActorRef<DenoiserMessage>) {
        let Phase::Denoising { denoising, step_seconds, .. } = &self.phase else { return };
        let steps = self.setup.evaluations.get() - denoising.steps_taken();
        let Some(moving) = self.moving.as_mut() else { return };
        let Some(ready) = moving.ready.take() else { return };
        let staying = Staying { steps, seconds: step_seconds * f64::from(steps) };
        let is_needed = moving.reason != Reason::Joined;
        let are_there = serving(&ready.choice.placed, &ready.ranks)
            .all(|(_, rank)| rank.is_connected() && !(is_needed && rank.is_leaving()));
        if steps == 0 || !(is_needed || staying.is_worse_than(&ready.choice)) {
            self.moving = None;
            self.settle(None);
        } else if are_there {
            self.change_placement(myself, Some(ready));
        } else {
            self.change_placement(myself, None);
        }
    }

    fn change_placement(&mut self, myself: &ActorRef<DenoiserMessage>, ready: Option<Ready>) {
        let Some(Moving { reason, .. }) = self.moving.take() else { return };
        let denoising = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Denoising { denoising, .. } => denoising,
            other => return self.phase = other,
        };
        let step = denoising.steps_taken();
        let why = match reason {
            Reason::Joined => "more workers are there".to_owned(),
            Reason::Leaving(names) => format!("{} leaves", names.join(", ")),
        };
        let told = format!("{why}; going on from step {step}");
        tracing::info!("{told}");
        self.reporter.warnings(vec![told]);
        self.reporter.moved(Move { why, step });
        self.prepare(myself, Start::Interrupted(denoising), ready);
    }

    fn decoder_is_leaving(&self) -> bool {
        let decoder = self.decoder.worker();
        self.offer.borrow().workers.iter().any(|worker| worker.is_leaving() && Some(worker.session_id()) == decoder)
    }
}

/// Names of the ranks that have something to do and are about to leave.
fn leaving(denoising: &Denoising) -> Vec<String> {
    let leaving = denoising.serving().filter(|rank| rank.is_leaving());
    leaving.map(|rank| format!("worker {}", rank.name())).collect()
}

impl super::prepare::Preparation {
    /// Makes another placement ready while the old one goes on. Aborted with the actor.
    pub(super) async fn preload(mut self, staying: Option<Staying>) -> Result<Outcome, JobFailed> {
        let workers = self.candidates.now();
        let choice = self.choose(&workers).await?;
        if staying.is_some_and(|staying| !staying.is_worse_than(&choice)) {
            return Ok(Outcome::Stay);
        }
        let ranks = super::prepare::ranks_of(&choice, workers);
        self.load(&choice.placed, &ranks).await?;
        Ok(Outcome::Ready(Box::new(Ready { choice, ranks })))
    }
}
