//! Everything before the first step of a placement: workers, conditions, a plan, components in their places.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use asyncdiff_common::wire::{
    Assignment, DType, DeviceInfo, Peer, TensorHeader, TensorName, Tracing, WorkerReply, WorkerRequest,
};
use asyncdiff_model::families::ENCODER_HIDDEN_STATES;
use asyncdiff_plan::{Choice, Epoch, JobId, LayerId, PlacedPlan, Rank, StepIndex};
use asyncdiff_transport::link::TensorFrame;
use bytes::Bytes;
use futures_util::future::try_join_all;
use ractor::{ActorId, ActorRef};

use super::actor::DenoiserMessage;
use super::candidates::Candidates;
use super::moving::Ready;
use crate::actors::Limits;
use crate::actors::job_reporter::JobReporter;
use crate::actors::planning::make_plan;
use crate::actors::session::{JobDoor, TensorSpec, WorkerHandle};
use crate::failure::JobFailed;
use crate::job::JobSettings;
use crate::job_spec::Conditions;
use crate::model_store::{DenoiseSetup, ModelStore};
use asyncdiff_common::owned_task;

/// What a job is prepared from; a part of the actor's arguments that a task can take along.
pub(super) struct Preparation {
    pub(super) setup: DenoiseSetup,
    pub(super) settings: JobSettings,
    pub(super) conditions: JobConditions,
    pub(super) timesteps: Arc<[f64]>,
    pub(super) reporter: JobReporter,
    pub(super) candidates: Candidates,
    pub(super) placing: Placing,
    /// The placement, if its components are loaded.
    pub(super) ready: Option<Ready>,
    pub(super) store: Arc<ModelStore>,
    pub(super) limits: Limits,
    pub(super) denoiser: ActorRef<DenoiserMessage>,
}

/// What the denoiser is conditioned on, as far as it is known.
#[derive(Clone)]
pub(super) enum JobConditions {
    /// As it travels.
    Ready(Arc<[ConditionFrame]>),
    /// To be encoded.
    Tokens(Vec<Vec<u32>>),
}

/// Which placement of the job is prepared.
#[derive(Clone, Copy)]
pub(super) struct Placing {
    pub(super) epoch: Epoch,
    /// The step from which on is planned.
    pub(super) first: StepIndex,
}

/// A job whose workers wait for latents.
pub(super) struct Prepared {
    pub(super) choice: Choice,
    /// By rank.
    pub(super) ranks: Vec<WorkerHandle>,
    /// With what the denoiser is computed in.
    pub(super) setup: DenoiseSetup,
    pub(super) conditions: Arc<[ConditionFrame]>,
    /// Whom the plan could have used.
    pub(super) considered: HashSet<ActorId>,
}

pub(super) type ConditionFrame = (String, Vec<u32>, Bytes);

impl Preparation {
    /// Prepares the job. Aborted with the actor.
    pub(super) async fn run(mut self) -> Result<Prepared, JobFailed> {
        let workers = self.candidates.wait(&self.reporter).await?;
        if self.placing.first == StepIndex(0) {
            // Once a step is taken, the rest of the picture is computed in the same.
            let devices: Vec<&DeviceInfo> = workers.iter().flat_map(WorkerHandle::devices).collect();
            self.setup.settle_compute(&devices)?;
        }
        let conditions = self.conditions(&workers).await?;
        let considered = workers.iter().map(WorkerHandle::session_id).collect();
        let (choice, ranks) = match self.ready.take() {
            Some(ready) => (self.brought_here(ready.choice)?, ready.ranks),
            None => {
                self.reporter.phase("planning");
                let choice = self.choose(&workers).await?;
                self.reporter.warnings(choice.notes.clone());
                let names: BTreeSet<String> = workers.iter().map(|worker| worker.name().to_owned()).collect();
                let ranks = ranks_of(&choice, workers);
                let users = serving(&choice.placed, &ranks).map(|(_, worker)| worker.name().to_owned());
                // Other jobs need not wait with the rest of them until everything is loaded.
                self.reporter.settled(names, Some(users.collect()));
                (choice, ranks)
            }
        };
        self.reporter.phase("loading components");
        let assignments = self.assignments(&choice.placed, &ranks).await?;
        self.open_doors(&choice, &ranks);
        let assigning = assignments.into_iter().map(|(rank, assignment)| {
            self.ask_to_load(&ranks[rank.index()], WorkerRequest::Assign(Box::new(assignment)))
        });
        try_join_all(assigning).await?;
        let sending = serving(&choice.placed, &ranks).map(|(_, worker)| self.send_conditions(worker, &conditions));
        try_join_all(sending).await?;
        Ok(Prepared { choice, ranks, setup: self.setup, conditions, considered })
    }

    /// A plan for workers from this placement's first step on.
    pub(super) async fn choose(&self, workers: &[WorkerHandle]) -> Result<Choice, JobFailed> {
        let (wishes, first) = (&self.settings.wishes, self.placing.first);
        let choice = make_plan(workers, &self.setup, wishes, &self.limits, first).await?.choice;
        tracing::info!(job = %self.job(), epoch = %self.placing.epoch, plan = choice.reason, "planned");
        Ok(choice)
    }

    /// Has ranks load what a placement gives them, while they go on with another.
    pub(super) async fn load(&self, placed: &PlacedPlan, ranks: &[WorkerHandle]) -> Result<(), JobFailed> {
        let assignments = self.assignments(placed, ranks).await?;
        let loading = assignments.into_iter().map(|(rank, assignment)| {
            self.ask_to_load(&ranks[rank.index()], WorkerRequest::Preload(Box::new(assignment)))
        });
        try_join_all(loading).await.map(|_| ())
    }

    /// A choice that was made some steps ago, from this placement's first step on.
    fn brought_here(&self, choice: Choice) -> Result<Choice, JobFailed> {
        let planned = f64::from(choice.placed.plan.schedule.remaining_steps().max(1));
        let bug = |error: asyncdiff_plan::FromStepError| JobFailed::Bug { what: error.to_string() };
        let placed = choice.placed.from_step(&self.setup.program.program, self.placing.first).map_err(bug)?;
        let mut prediction = choice.prediction;
        prediction.seconds *= f64::from(placed.plan.schedule.remaining_steps()) / planned;
        Ok(Choice { placed, prediction, ..choice })
    }

    fn job(&self) -> JobId {
        self.reporter.job
    }

    /// The conditions as they travel: encoded by the first worker, unless they are there.
    async fn conditions(&self, workers: &[WorkerHandle]) -> Result<Arc<[ConditionFrame]>, JobFailed> {
        let tokens = match &self.conditions {
            JobConditions::Ready(frames) => return Ok(Arc::clone(frames)),
            JobConditions::Tokens(tokens) => tokens,
        };
        self.reporter.phase("encoding the prompt");
        let what = "encoding the prompt";
        let Some(worker) = workers.first() else { return Ok(Arc::new([])) };
        let store = Arc::clone(&self.store);
        let model = blocking(move || Ok(store.text_encoder()?)).await?;
        let width = self
            .setup
            .program
            .program
            .inputs
            .iter()
            .find(|input| input.kind == asyncdiff_plan::InputKind::Condition(ENCODER_HIDDEN_STATES.to_owned()));
        let rows = tokens.len() as u32;
        let axes = width.into_iter().flat_map(|input| input.value.shape.iter().copied());
        let shape: Vec<u32> = std::iter::once(rows).chain(axes).collect();
        let tensor = TensorSpec { shape: shape.clone(), dtype: DType::F32 };
        let body = WorkerRequest::EncodeText { job: self.job(), tokens: tokens.clone(), model };
        let (reply, promise) = worker.request_tensor(what, body, tensor, self.limits.encode_within).await?;
        if reply != WorkerReply::Encoded {
            return Err(JobFailed::UnexpectedReply { worker: worker.name().to_owned(), what });
        }
        let encoded = worker.promised(what, promise, self.limits.encode_within).await?;
        Ok(Arc::new([(ENCODER_HIDDEN_STATES.to_owned(), shape, encoded)]))
    }

    /// The part of each rank that has one. Hashes parameters that no job has used before.
    async fn assignments(
        &self,
        placed: &PlacedPlan,
        ranks: &[WorkerHandle],
    ) -> Result<Vec<(Rank, Assignment)>, JobFailed> {
        let peers: Vec<Peer> = placed
            .ranks()
            .zip(ranks)
            .map(|(rank, worker)| Peer { rank, name: worker.name().to_owned(), endpoint: worker.endpoint().clone() })
            .collect();
        let (job, epoch, setup) = (self.job(), self.placing.epoch, self.setup.clone());
        let timesteps = self.timesteps.to_vec();
        let (store, placed) = (Arc::clone(&self.store), placed.clone());
        let trace = if self.settings.trace { Tracing::On } else { Tracing::Off };
        blocking(move || {
            let busy = placed.ranks().filter(|&rank| placed.has_runs(rank));
            busy.map(|rank| {
                let plan = placed.part(rank);
                let layers: Vec<LayerId> = plan.components.iter().flat_map(|(_, layers)| layers).copied().collect();
                let talks_to = |peer: &&Peer| {
                    plan.sends.iter().any(|transfer| transfer.to == peer.rank)
                        || plan.receives.iter().any(|transfer| transfer.from == peer.rank)
                };
                let peers = peers.iter().filter(talks_to).cloned().collect();
                let assignment = Assignment {
                    job,
                    epoch,
                    denoiser: setup.denoiser.clone(),
                    rows: setup.settings.rows(),
                    weights: store.layer_weights(&setup.program, &layers)?,
                    plan,
                    timesteps: timesteps.clone(),
                    peers,
                    trace,
                };
                Ok((rank, assignment))
            })
            .collect()
        })
        .await
    }

    fn open_doors(&self, choice: &Choice, ranks: &[WorkerHandle]) {
        for (rank, worker) in serving(&choice.placed, ranks) {
            let (settings, denoiser) = (self.setup.settings, self.denoiser.clone());
            let (job, epoch) = (self.job(), self.placing.epoch);
            worker.open_job(JobDoor { job, epoch, rank, choice, settings, denoiser });
        }
    }

    async fn ask_to_load(&self, worker: &WorkerHandle, body: WorkerRequest) -> Result<(), JobFailed> {
        let what = "loading its components";
        match worker.request(what, body, self.limits.load_within).await? {
            WorkerReply::Assigned { resident_bytes } => {
                tracing::debug!(worker = worker.name(), resident_bytes, "assigned");
                Ok(())
            }
            _ => Err(JobFailed::UnexpectedReply { worker: worker.name().to_owned(), what }),
        }
    }

    async fn send_conditions(&self, worker: &WorkerHandle, conditions: &[ConditionFrame]) -> Result<(), JobFailed> {
        for (name, shape, payload) in conditions {
            let name = TensorName::Condition(name.clone());
            let header = TensorHeader {
                job: self.job(),
                epoch: self.placing.epoch,
                name,
                shape: shape.clone(),
                dtype: DType::F32,
                delta: None,
                part: None,
            };
            let frame = TensorFrame { header, payload: payload.clone() };
            let sending = tokio::time::timeout(self.limits.step_within, worker.link().send_tensor(frame));
            let worker = || worker.name().to_owned();
            match sending.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    return Err(JobFailed::WorkerLost { worker: worker(), reason: error.to_string() });
                }
                Err(_) => {
                    let reason = "its link takes no conditions".to_owned();
                    return Err(JobFailed::Stalled { worker: worker(), reason });
                }
            }
        }
        Ok(())
    }
}

impl JobConditions {
    /// Of a job: its prompts' tokens, or tensors as they were given.
    pub(super) fn new(tokens: Option<Vec<Vec<u32>>>, conditions: &Conditions) -> Self {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
        match (tokens, conditions) {
            (Some(tokens), _) => Self::Tokens(tokens),
            (None, Conditions::Tensors(tensors)) => {
                let frame = |(name, tensor): (&String, &crate::job_spec::ConditionTensor)| {
                    (name.clone(), tensor.shape.clone(), bytes(&tensor.values))
                };
                Self::Ready(tensors.iter().map(frame).collect())
            }
            (None, Conditions::Prompt { .. }) => Self::Ready(Arc::new([])),
        }
    }
}

/// The workers of a plan that was chosen for `workers`, by rank.
pub(super) fn ranks_of(choice: &Choice, workers: Vec<WorkerHandle>) -> Vec<WorkerHandle> {
    workers.into_iter().take(usize::from(choice.placed.world_size)).collect()
}

/// Those of a placement's ranks that have something to do. Whether the others stay makes no difference to it.
pub(super) fn serving<'a>(
    placed: &'a PlacedPlan,
    ranks: &'a [WorkerHandle],
) -> impl Iterator<Item = (Rank, &'a WorkerHandle)> {
    placed.ranks().zip(ranks).filter(|&(rank, _)| placed.has_runs(rank))
}

/// Does what reads files or computes for long on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobFailed> + Send + 'static,
) -> Result<T, JobFailed> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(JobFailed::Bug { what: owned_task::panic_message(error) }),
    }
}
