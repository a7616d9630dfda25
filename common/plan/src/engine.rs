//! The denoising loop's decisions: event in, commands out, time passed in.
//!
//! ```text
//!   NoisePredictionArrived ──►┌────────┐──► SendLatents { step, to }
//!   StepTaken ───────────────►│ engine │──► TakeStep { step }        guidance and noise scheduler, done by the actor
//!   WorkerLost ──────────────►│        │──► Finish | Fail { failure }
//!   Tick ────────────────────►└────────┘
//! ```
//!
//! The engine never sees a tensor. Bounded by construction: latents of a round leave only when every step before it was taken, and a component
//! reads what others made one round before, so nobody runs further ahead than there are components.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::{Lane, PlacedPlan, Rank, StepIndex};

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A rank delivered a noise prediction; the actor keeps the tensor.
    NoisePredictionArrived {
        /// The step that it serves.
        step: StepIndex,
        /// Its rows.
        lane: Lane,
        /// Who sent it.
        from: Rank,
    },
    /// All ranks hold their components and conditions.
    Ready,
    /// The actor has carried out [`Command::TakeStep`]: latents of the next step exist.
    StepTaken {
        /// The step.
        step: StepIndex,
    },
    /// Time passed.
    Tick,
    /// A rank is gone.
    WorkerLost {
        /// Which one.
        rank: Rank,
    },
}

/// What the actor is to do.
#[must_use]
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Send scaled latents of a step to ranks.
    SendLatents {
        /// The version of the latents.
        step: StepIndex,
        /// Who reads them.
        to: Vec<Rank>,
    },
    /// Apply guidance and the noise scheduler's step with the prediction made at `prediction` in these lanes; then report [`Event::StepTaken`].
    TakeStep {
        /// The step to take.
        step: StepIndex,
        /// The step whose noise prediction is used; `step` itself but for the reference's odd-step rounds.
        prediction: StepIndex,
        /// The lanes that make up the prediction, in batch order.
        lanes: &'static [Lane],
        /// Whether the prediction is of no further use.
        last_use: bool,
    },
    /// All steps are taken: the latents are final.
    Finish,
    /// The job cannot go on.
    Fail {
        /// Why.
        failure: JobFailure,
    },
}

/// Why a denoising loop ended without final latents.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JobFailure {
    /// A rank was lost.
    #[error("{rank} was lost at step {step}")]
    WorkerLost {
        /// Who.
        rank: Rank,
        /// Steps taken so far.
        step: StepIndex,
    },
    /// A rank sent a noise prediction that the plan does not expect of it.
    #[error("{from} sent a noise prediction of step {step}, lane {lane:?}, that the plan does not expect")]
    UnexpectedPrediction {
        /// Who.
        from: Rank,
        /// The step it claims.
        step: StepIndex,
        /// The lane it claims.
        lane: Lane,
    },
    /// No noise prediction arrived for too long.
    #[error("no noise prediction of step {step} for {waited:?}; waiting for {waiting_for}")]
    StepOverdue {
        /// The step that is waited for.
        step: StepIndex,
        /// How long nothing arrived.
        waited: Duration,
        /// Who should have sent it.
        waiting_for: Rank,
    },
}

/// Decides the denoising loop of one job in one epoch.
#[derive(Debug)]
pub struct DenoiseEngine {
    placed: PlacedPlan,
    /// By step: who reads its latents. Looked up while everybody waits, so not searched for among all runs.
    latents_readers: HashMap<StepIndex, Vec<Rank>>,
    /// By step and lane of the run that makes it: who makes the noise prediction.
    predictors: HashMap<(StepIndex, Lane), Rank>,
    /// Steps taken, those before the plan's first included: the latents of this step are the newest.
    taken: StepIndex,
    state: State,
    arrived: BTreeMap<StepIndex, BTreeSet<Lane>>,
    step_limit: Duration,
    progress_at: Instant,
    commands: VecDeque<Command>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Components are loading.
    Preparing,
    /// Waiting for noise predictions.
    Waiting,
    /// The actor takes a step.
    Stepping,
    /// Finished or failed.
    Ended,
}

impl DenoiseEngine {
    /// An engine for a placed plan. `step_limit`: how long nothing may arrive before the job counts as stuck.
    #[must_use]
    pub fn new(placed: PlacedPlan, step_limit: Duration, now: Instant) -> Self {
        Self {
            latents_readers: placed.latents_readers(),
            predictors: placed.predictors(),
            taken: placed.plan.schedule.first,
            placed,
            state: State::Preparing,
            arrived: BTreeMap::new(),
            step_limit,
            progress_at: now,
            commands: VecDeque::new(),
        }
    }

    /// Takes an event; the commands that follow are handed out by [`Self::poll_command`].
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        if self.state == State::Ended {
            return;
        }
        match event {
            Event::NoisePredictionArrived { step, lane, from } => self.handle_prediction(step, lane, from, now),
            Event::Ready => self.handle_ready(now),
            Event::StepTaken { step } => self.handle_step_taken(step, now),
            Event::Tick => self.handle_tick(now),
            Event::WorkerLost { rank } => self.fail(JobFailure::WorkerLost { rank, step: self.taken }),
        }
        debug_assert!(self.validate().is_ok(), "{:?}", self.validate());
    }

    /// The next command, oldest first.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When a [`Event::Tick`] is due, if the engine waits for somebody.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.progress_at.checked_add(self.step_limit).filter(|_| self.state == State::Waiting)
    }

    /// Steps taken so far.
    #[must_use]
    pub fn steps_taken(&self) -> StepIndex {
        self.taken
    }

    /// The plan that it follows.
    #[must_use]
    pub fn placed(&self) -> &PlacedPlan {
        &self.placed
    }

    /// Checks the engine's invariants; the error says which one is broken.
    pub fn validate(&self) -> Result<(), &'static str> {
        if self.taken.0 > self.steps() {
            return Err("more steps taken than the plan has");
        }
        if self.arrived.keys().any(|step| step.next() < self.taken) {
            return Err("a noise prediction of a step long past is kept");
        }
        if self.arrived.keys().any(|&step| step > self.horizon()) {
            return Err("a noise prediction arrived from too far ahead");
        }
        Ok(())
    }

    fn steps(&self) -> u32 {
        self.placed.plan.schedule.steps.get()
    }

    /// The newest step whose noise prediction can exist.
    fn horizon(&self) -> StepIndex {
        StepIndex(self.taken.0.saturating_add(self.placed.plan.run_ahead()))
    }

    fn handle_ready(&mut self, now: Instant) {
        if self.state == State::Preparing {
            self.progress_at = now;
            self.advance();
        }
    }

    fn handle_prediction(&mut self, step: StepIndex, lane: Lane, from: Rank, now: Instant) {
        let expected = step >= self.taken
            && step.0 < self.steps()
            && self.state != State::Preparing
            && step <= self.horizon()
            && self.predictor(step, lane) == Some(from);
        if !expected || !self.arrived.entry(step).or_default().insert(lane) {
            return self.fail(JobFailure::UnexpectedPrediction { from, step, lane });
        }
        self.progress_at = now;
        self.take_step_if_complete();
    }

    fn handle_step_taken(&mut self, step: StepIndex, now: Instant) {
        if self.state != State::Stepping || step != self.taken {
            return;
        }
        let keep = self.placed.plan.prediction_step(step.next());
        self.arrived.retain(|&arrived, _| arrived >= keep.min(step.next()));
        self.taken = step.next();
        self.progress_at = now;
        self.advance();
    }

    fn handle_tick(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.progress_at);
        if self.state != State::Waiting || waited < self.step_limit {
            return;
        }
        let step = self.taken;
        let missing = self.placed.plan.prediction_lanes(step).iter().find(|lane| !self.has(step, **lane));
        let waiting_for = missing.and_then(|&lane| self.predictor(step, lane)).unwrap_or_default();
        self.fail(JobFailure::StepOverdue { step, waited, waiting_for });
    }

    /// After a step: sends the latents of a round that begins here and goes on if the next prediction is there already.
    fn advance(&mut self) {
        if self.taken.0 == self.steps() {
            self.state = State::Ended;
            self.commands.push_back(Command::Finish);
            return;
        }
        self.state = State::Waiting;
        // Each step's latents are sent once.
        if let Some(to) = self.latents_readers.remove(&self.taken) {
            self.commands.push_back(Command::SendLatents { step: self.taken, to });
        }
        self.take_step_if_complete();
    }

    fn take_step_if_complete(&mut self) {
        let step = self.taken;
        let prediction = self.placed.plan.prediction_step(step);
        let lanes = self.placed.plan.prediction_lanes(step);
        if self.state != State::Waiting || !lanes.iter().all(|&lane| self.has(prediction, lane)) {
            return;
        }
        self.state = State::Stepping;
        let last_use = self.placed.plan.prediction_step(step.next()) != prediction;
        self.commands.push_back(Command::TakeStep { step, prediction, lanes, last_use });
    }

    /// The rank that makes the noise prediction that a step uses.
    fn predictor(&self, step: StepIndex, lane: Lane) -> Option<Rank> {
        self.predictors.get(&(self.placed.plan.prediction_step(step), lane)).copied()
    }

    fn has(&self, step: StepIndex, lane: Lane) -> bool {
        self.arrived.get(&step).is_some_and(|lanes| lanes.contains(&lane))
    }

    fn fail(&mut self, failure: JobFailure) {
        self.state = State::Ended;
        self.commands.push_back(Command::Fail { failure });
    }
}
