//! The decoder: loaded by a worker while the last steps are made, and by another one if that worker is lost.

use std::sync::Arc;

use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_common::wire::{DType, WorkerReply, WorkerRequest};
use asyncdiff_plan::{JobId, StepIndex};
use ractor::{ActorId, ActorRef};

use super::actor::{DecoderPrepared, DenoiserMessage};
use super::prepare::blocking;
use super::recovery::is_curable;
use super::state::{DenoiserState, Phase, reporting};
use crate::actors::Limits;
use crate::actors::session::{TensorPromise, TensorSpec, WorkerHandle};
use crate::failure::JobFailed;
use crate::job_spec::Product;
use crate::model_store::{DenoiseSetup, ModelStore};

/// A worker whose decoder waits for latents.
pub(super) struct Decoder {
    pub(super) worker: WorkerHandle,
    pub(super) pixels: TensorPromise,
}

pub(super) enum DecoderState {
    Loading { worker: WorkerHandle, _task: OwnedTask },
    NotAsked,
    Ready(Decoder),
}

/// What a decoder is asked for with.
#[derive(Clone)]
pub(super) struct DecoderOrder {
    pub(super) job: JobId,
    /// The version of the final latents.
    pub(super) step: StepIndex,
    pub(super) setup: DenoiseSetup,
    pub(super) store: Arc<ModelStore>,
    pub(super) limits: Limits,
}

impl DecoderOrder {
    /// Asks a worker to load the decoder.
    pub(super) async fn prepare(self, worker: WorkerHandle) -> Result<Decoder, JobFailed> {
        let what = "loading the decoder";
        let Self { job, step, setup, store, limits } = self;
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
}

impl DecoderState {
    pub(super) fn is_loading(&self) -> bool {
        matches!(self, Self::Loading { .. })
    }

    /// The session whose it is, or is to be.
    pub(super) fn worker(&self) -> Option<ActorId> {
        self.handle().map(WorkerHandle::session_id)
    }

    /// Whose it is, or is to be.
    pub(super) fn handle(&self) -> Option<&WorkerHandle> {
        match self {
            Self::Loading { worker, .. } | Self::Ready(Decoder { worker, .. }) => Some(worker),
            Self::NotAsked => None,
        }
    }
}

impl DenoiserState {
    pub(super) fn decoder_order(&self) -> DecoderOrder {
        DecoderOrder {
            job: self.reporter.job,
            step: StepIndex(self.setup.evaluations.get()),
            setup: self.setup.clone(),
            store: Arc::clone(&self.store),
            limits: self.limits.clone(),
        }
    }

    /// Half of the steps are enough to load the decoder meanwhile, and late enough not to hold its weights for long.
    pub(super) fn ask_for_decoder(&mut self, myself: &ActorRef<DenoiserMessage>, taken: u32) {
        let evaluations = self.setup.evaluations.get();
        let is_asked = !matches!(self.decoder, DecoderState::NotAsked);
        if is_asked || self.product == Product::Latents || taken < evaluations / 2 {
            return;
        }
        let Phase::Denoising { denoising, .. } = &self.phase else { return };
        // A worker without a part if there is one, else the first rank: at the end it has nothing to do, the last one
        // makes the last prediction.
        let ranks = denoising.ranks();
        let is_idle = |worker: &&WorkerHandle| {
            let session = worker.session_id();
            let is_busy = denoising.serving().any(|rank| rank.session_id() == session);
            worker.is_connected() && !is_busy && !self.recoveries.is_excluded(session)
        };
        let can = |worker: &&WorkerHandle| !self.not_decoders.contains(&worker.session_id());
        let idle = self.offer.borrow().workers.iter().filter(can).find(is_idle).cloned();
        let Some(worker) = idle.or_else(|| ranks.iter().find(can).cloned()) else { return };
        let preparing = self.decoder_order().prepare(worker.clone());
        let session = worker.session_id();
        let report =
            reporting(myself, move |result| DenoiserMessage::DecoderPrepared(DecoderPrepared { session, result }));
        self.decoder = DecoderState::Loading { worker, _task: OwnedTask::spawn_reporting(preparing, report) };
        self.settle_users();
    }

    /// A decoder that could not be loaded is asked for again elsewhere: after the next step, or when all steps are taken.
    pub(super) fn handle_decoder(&mut self, myself: &ActorRef<DenoiserMessage>, prepared: DecoderPrepared) {
        let DecoderPrepared { session, result } = prepared;
        if self.decoder.worker() != Some(session) {
            return;
        }
        let decoder = match result {
            Ok(decoder) => DecoderState::Ready(decoder),
            Err(failed) => {
                if !is_curable(&failed) {
                    return self.end(myself, Err(failed));
                }
                tracing::warn!(%failed, "the decoder is not loaded; it will be elsewhere");
                self.not_decoders.insert(session);
                DecoderState::NotAsked
            }
        };
        self.decoder = decoder;
        if let Phase::AwaitingDecoder { .. } = self.phase
            && let Phase::AwaitingDecoder { finishing } = std::mem::replace(&mut self.phase, Phase::Ended)
        {
            self.run_finishing(myself, *finishing);
        }
    }

    /// A decoder of somebody who is not to be used again is not either.
    pub(super) fn drop_excluded_decoder(&mut self) {
        if self.decoder.worker().is_some_and(|session| self.recoveries.is_excluded(session)) {
            self.decoder = DecoderState::NotAsked;
        }
    }

    /// The worker of the decoder is lost.
    pub(super) fn drop_decoder_of(&mut self, session: ActorId) {
        if let DecoderState::Ready(decoder) = &self.decoder
            && decoder.worker.session_id() == session
        {
            self.decoder = DecoderState::NotAsked;
        }
    }
}
