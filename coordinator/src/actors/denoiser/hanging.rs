//! Finds the device that hangs while its process lives and beats: nothing arrives for too long, and of the ranks one does not answer a request
//! that its device has to carry out between two layers.

use std::time::Duration;

use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_common::wire::WorkerRequest;
use futures_util::future::join_all;
use ractor::ActorRef;

use super::actor::{DenoiserMessage, Hanging};
use super::state::{DenoiserState, Phase};
use crate::actors::session::WorkerHandle;
use crate::failure::JobFailed;

/// The least time without progress that counts as hanging: devices are shared with others, and pause.
const LEAST: Duration = Duration::from_secs(2);

/// How many predicted steps without one are too long; a layer takes less than a step.
const STEPS: f64 = 5.0;

impl DenoiserState {
    /// Asks the ranks' devices for a sign of life if none came for long.
    pub(super) fn look_for_hanging(&mut self, myself: &ActorRef<DenoiserMessage>) {
        let Phase::Denoising { denoising, step_seconds, .. } = &self.phase else { return };
        let limit = Duration::try_from_secs_f64(STEPS * step_seconds).map_or(LEAST, |limit| limit.max(LEAST));
        let heard = denoising.heard();
        // A device that loads what comes next, or the decoder, has a reason.
        let has_reason = self.moving.is_some() || self.decoder.is_loading();
        if heard.elapsed() < limit || has_reason || self.look.is_some() {
            return;
        }
        let ranks: Vec<WorkerHandle> = denoising.serving().cloned().collect();
        let (epoch, denoiser) = (self.epoch, myself.clone());
        let body = WorkerRequest::Measure { denoiser: self.setup.denoiser.clone(), rows: 1, layers: Vec::new() };
        self.look = Some(OwnedTask::spawn(async move {
            let answers = ranks.iter().map(|rank| rank.request("a look at its device", body.clone(), limit));
            let answers = join_all(answers).await.into_iter().zip(&ranks);
            let silent = answers.filter(|(answer, _)| matches!(answer, Err(JobFailed::RequestOverdue { .. })));
            let workers: Vec<WorkerHandle> = silent.map(|(_, rank)| rank.clone()).collect();
            // A denoiser that has ended needs no device.
            let _ = denoiser.send_message(DenoiserMessage::Hanging(Hanging { epoch, heard, workers }));
        }));
    }

    /// Goes on without those who do not answer, if anybody is left.
    pub(super) fn handle_hanging(&mut self, myself: &ActorRef<DenoiserMessage>, hanging: Hanging) {
        self.look = None;
        let Hanging { epoch, heard, workers } = hanging;
        let Phase::Denoising { denoising, .. } = &self.phase else { return };
        let Some(first) = workers.first().filter(|_| epoch == self.epoch && denoising.heard() == heard) else { return };
        let hangs = |worker: &WorkerHandle| workers.iter().any(|other| other.session_id() == worker.session_id());
        if self.candidates().now().iter().all(hangs) {
            return;
        }
        for worker in &workers {
            self.recoveries.set_aside(worker.session_id());
        }
        let waited = heard.elapsed();
        self.meet(myself, JobFailed::DeviceHangs { worker: first.name().to_owned(), waited });
    }
}
