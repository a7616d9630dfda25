//! Everything before the first step: conditions, a plan, components in their places.

use std::sync::Arc;

use asyncdiff_common::wire::{Assignment, DType, Peer, TensorHeader, TensorName, Tracing, WorkerReply, WorkerRequest};
use asyncdiff_model::families::ENCODER_HIDDEN_STATES;
use asyncdiff_plan::{Choice, JobId, LayerId, PlacedPlan, Rank};
use asyncdiff_transport::link::TensorFrame;
use bytes::Bytes;
use futures_util::future::try_join_all;
use ractor::ActorRef;

use super::EPOCH;
use super::actor::DenoiserMessage;
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
    pub(super) tokens: Option<Vec<Vec<u32>>>,
    pub(super) conditions: Conditions,
    pub(super) timesteps: Vec<f64>,
    pub(super) reporter: JobReporter,
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) store: Arc<ModelStore>,
    pub(super) limits: Limits,
    pub(super) denoiser: ActorRef<DenoiserMessage>,
}

/// A job whose workers wait for latents.
pub(super) struct Prepared {
    pub(super) choice: Choice,
    /// By rank.
    pub(super) ranks: Vec<WorkerHandle>,
}

type ConditionFrame = (String, Vec<u32>, Bytes);

impl Preparation {
    /// Prepares the job. Aborted with the actor.
    pub(super) async fn run(mut self) -> Result<Prepared, JobFailed> {
        self.setup.settle_compute(self.workers.iter().map(WorkerHandle::fastest));
        let conditions = self.conditions().await?;
        self.reporter.phase("planning");
        let planned = make_plan(&self.workers, &self.setup, &self.settings.wishes, &self.limits).await?;
        let choice = planned.choice;
        self.reporter.warnings(choice.notes.clone());
        tracing::info!(job = %self.job(), plan = choice.reason, "planned");
        self.reporter.phase("loading components");
        let ranks: Vec<WorkerHandle> =
            self.workers.iter().take(usize::from(choice.placed.world_size)).cloned().collect();
        let assignments = self.assignments(&choice.placed, &ranks).await?;
        self.open_doors(&choice.placed, &ranks);
        let assigning = assignments.into_iter().map(|(rank, assignment)| self.assign(&ranks[rank.index()], assignment));
        try_join_all(assigning).await?;
        let readers = choice.placed.ranks().filter(|&rank| has_runs(&choice.placed, rank));
        let sending = readers.map(|rank| self.send_conditions(&ranks[rank.index()], &conditions));
        try_join_all(sending).await?;
        Ok(Prepared { choice, ranks })
    }

    fn job(&self) -> JobId {
        self.reporter.job
    }

    /// The conditions as they travel: encoded by the first worker, or as they were given.
    async fn conditions(&self) -> Result<Vec<ConditionFrame>, JobFailed> {
        let Some(tokens) = &self.tokens else {
            let Conditions::Tensors(tensors) = &self.conditions else { return Ok(Vec::new()) };
            let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let frames =
                tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone(), bytes(&tensor.values)));
            return Ok(frames.collect());
        };
        self.reporter.phase("encoding the prompt");
        let what = "encoding the prompt";
        let Some(worker) = self.workers.first() else { return Ok(Vec::new()) };
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
        Ok(vec![(ENCODER_HIDDEN_STATES.to_owned(), shape, encoded)])
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
        let (job, setup, timesteps) = (self.job(), self.setup.clone(), self.timesteps.clone());
        let (store, placed) = (Arc::clone(&self.store), placed.clone());
        let trace = if self.settings.trace { Tracing::On } else { Tracing::Off };
        blocking(move || {
            let busy = placed.ranks().filter(|&rank| has_runs(&placed, rank));
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
                    epoch: EPOCH,
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

    fn open_doors(&self, placed: &PlacedPlan, ranks: &[WorkerHandle]) {
        for (rank, worker) in placed.ranks().zip(ranks) {
            let (settings, denoiser) = (self.setup.settings, self.denoiser.clone());
            worker.open_job(JobDoor { job: self.job(), rank, placed, settings, denoiser });
        }
    }

    async fn assign(&self, worker: &WorkerHandle, assignment: Assignment) -> Result<(), JobFailed> {
        let what = "loading its components";
        let body = WorkerRequest::Assign(Box::new(assignment));
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
                epoch: EPOCH,
                name,
                shape: shape.clone(),
                dtype: DType::F32,
                delta: None,
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

fn has_runs(placed: &PlacedPlan, rank: Rank) -> bool {
    placed.plan.runs.iter().any(|run| placed.rank_of(run) == rank)
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
