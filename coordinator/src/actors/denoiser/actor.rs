//! The actor: what it is started with, what it hears, and to whom each message goes.

use std::sync::Arc;

use asyncdiff_common::wire::WorkerFailure;
use asyncdiff_plan::{Epoch, Event, Lane, Rank, StepIndex};
use bytes::Bytes;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use super::candidates::Offer;
use super::decoder::Decoder;
use super::moving::Outcome;
use super::prepare::Prepared;
use super::state::DenoiserState;
use crate::actors::Limits;
use crate::actors::job_reporter::JobReporter;
use crate::actors::session::WorkerHandle;
use crate::failure::JobFailed;
use crate::job_spec::JobOutcome;
use crate::job_store::Progress;
use crate::model_store::{CheckedJob, ModelStore};

/// The denoiser of one job.
///
/// Started by the Queue when it is the job's turn; ends with the job, and reports its end before that. Messages left
/// over are noise predictions of a job that has ended.
pub(crate) struct Denoiser;

pub(crate) struct DenoiserArguments {
    pub(crate) checked: Box<CheckedJob>,
    pub(crate) reporter: JobReporter,
    pub(crate) offer: Offer,
    pub(crate) store: Arc<ModelStore>,
    pub(crate) limits: Limits,
    pub(crate) life: JobLife,
}

/// What a job has to do with earlier and later lives of the coordinator.
pub(crate) struct JobLife {
    /// The first placement's.
    pub(crate) first_epoch: Epoch,
    /// Whether an earlier life began with it.
    pub(crate) was_begun: bool,
    /// How far that one came.
    pub(crate) progress: Option<Progress>,
    /// Whether its progress is kept on disk.
    pub(crate) is_kept: bool,
}

/// A noise prediction as the task that receives tensors hands it over.
pub(crate) struct ArrivedPrediction {
    pub(crate) epoch: Epoch,
    pub(crate) step: StepIndex,
    pub(crate) lane: Lane,
    pub(crate) from: Rank,
    pub(crate) payload: Bytes,
    pub(crate) arrived: Instant,
}

pub(crate) enum DenoiserMessage {
    Begin,
    DecoderPrepared(DecoderPrepared),
    Finished(FinishResult),
    /// The job is to end now, with what is said of the steps that it has taken.
    GiveUp(Box<dyn FnOnce(u32) -> JobFailed + Send>),
    /// Devices were looked at.
    Hanging(Hanging),
    Moved(Moved),
    Prediction(ArrivedPrediction),
    Prepared(PrepareResult),
    /// What was saved of the progress is on disk, or could not be written.
    ProgressKept,
    /// A worker that another one could not reach was not lost meanwhile.
    SuspicionExpired(SuspicionExpired),
    Tick,
    /// A worker cannot go on with its part of a placement.
    WorkerFailed {
        worker: WorkerHandle,
        epoch: Epoch,
        failure: WorkerFailure,
    },
    /// A session that the job counted on has ended.
    WorkerLost {
        worker: WorkerHandle,
        /// The newer session of its name that takes its place.
        successor: Option<WorkerHandle>,
        reason: String,
    },
    /// Who may be used from now on.
    Offered(Offer),
}

/// What the decoder's task came back with; only this module can look inside.
pub(crate) struct DecoderPrepared {
    /// Who was asked.
    pub(super) session: ActorId,
    pub(super) result: Result<Decoder, JobFailed>,
}
/// Workers whose device did not answer.
pub(crate) struct Hanging {
    pub(super) epoch: Epoch,
    /// The newest noise prediction when it was asked.
    pub(super) heard: Instant,
    pub(super) workers: Vec<WorkerHandle>,
}

/// What came of another placement that was to be made ready.
pub(crate) struct Moved {
    /// Of its preload.
    pub(super) epoch: Epoch,
    pub(super) result: Result<Outcome, JobFailed>,
}

/// What the finishing task came back with.
pub(crate) struct FinishResult(pub(super) Result<Box<JobOutcome>, JobFailed>);
/// What the preparing task came back with.
pub(crate) struct PrepareResult {
    /// Which placement was prepared.
    pub(super) epoch: Epoch,
    pub(super) result: Result<Box<Prepared>, JobFailed>,
}

/// What a worker said of another one that it could not reach.
pub(crate) struct SuspicionExpired {
    pub(super) epoch: Epoch,
    pub(super) fault: JobFailed,
}

impl Actor for Denoiser {
    type Msg = DenoiserMessage;
    type State = DenoiserState;
    type Arguments = DenoiserArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<DenoiserMessage>,
        arguments: DenoiserArguments,
    ) -> Result<DenoiserState, ActorProcessingErr> {
        // Not begun here: a panic in what follows is the job's and must find the actor supervised.
        myself.send_message(DenoiserMessage::Begin)?;
        Ok(DenoiserState::new(arguments))
    }

    async fn handle(
        &self,
        myself: ActorRef<DenoiserMessage>,
        message: DenoiserMessage,
        state: &mut DenoiserState,
    ) -> Result<(), ActorProcessingErr> {
        let span = state.span();
        let _entered = span.enter();
        match message {
            DenoiserMessage::Prediction(prediction) => {
                state.denoise(&myself, |denoising| denoising.handle_prediction(prediction));
            }
            DenoiserMessage::Hanging(hanging) => state.handle_hanging(&myself, hanging),
            DenoiserMessage::Tick => {
                state.denoise(&myself, |denoising| denoising.handle_event(Event::Tick));
                state.look_for_hanging(&myself);
            }
            DenoiserMessage::Begin => state.begin(&myself),
            DenoiserMessage::DecoderPrepared(prepared) => state.handle_decoder(&myself, prepared),
            DenoiserMessage::Finished(FinishResult(result)) => state.end(&myself, result),
            DenoiserMessage::GiveUp(failed) => {
                let failed = failed(state.steps_taken());
                state.end(&myself, Err(failed));
            }
            DenoiserMessage::Moved(moved) => {
                state.handle_moved(&myself, moved);
                state.consider_moving(&myself);
            }
            DenoiserMessage::Prepared(prepared) => state.handle_prepared(&myself, prepared),
            DenoiserMessage::ProgressKept => state.saving.handle_kept(Instant::now()),
            DenoiserMessage::SuspicionExpired(suspicion) => state.handle_suspicion(&myself, suspicion),
            DenoiserMessage::WorkerFailed { worker, epoch, failure } => {
                state.handle_worker_failed(&myself, worker, epoch, failure);
            }
            DenoiserMessage::WorkerLost { worker, successor, reason } => {
                state.handle_successor(successor);
                state.handle_worker_lost(&myself, &worker, reason);
            }
            DenoiserMessage::Offered(offer) => state.handle_offer(&myself, offer),
        }
        Ok(())
    }
}
