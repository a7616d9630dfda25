//! Finds the device that hangs while its process lives and beats: nothing arrives for too long, and of the ranks one does not answer a request
//! that its device has to carry out between two layers.

use std::time::Duration;

use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_common::wire::WorkerRequest;
use futures_util::future::join_all;
use ractor::ActorRef;
use tokio::time::Instant;

use super::actor::{DenoiserMessage, Hanging};
use super::state::{DenoiserState, Phase, TICK};
use crate::actors::session::WorkerHandle;
use crate::failure::JobFailed;

/// The least time without progress that counts as hanging: devices are shared with others, and pause.
const LEAST: Duration = Duration::from_secs(2);

/// How many times a layer's predicted time are too long: a request waits for no more than the layer that is computed.
const LAYERS: f64 = 5.0;

/// Looks at devices.
#[derive(Default)]
pub(super) struct Look {
    under_way: Option<OwnedTask>,
    /// When the last one began.
    began: Option<Instant>,
}

impl DenoiserState {
    /// Asks the ranks' devices for a sign of life if none came for long: half of the time that counts as hanging passes before, half is for the
    /// answer.
    pub(super) fn look_for_hanging(&mut self, myself: &ActorRef<DenoiserMessage>) {
        let Phase::Denoising { denoising, .. } = &self.phase else { return };
        // A device that loads what comes next, or the decoder, has a reason; so has one that does something for somebody else.
        let has_reason = self.moving.is_some() || self.decoder.is_loading();
        if has_reason || self.look.under_way.is_some() {
            return;
        }
        let half = self.hanging_after(denoising.ranks()) / 2;
        let heard = denoising.heard();
        let quiet_since = self.look.began.map_or(heard, |began| began.max(heard));
        if quiet_since.elapsed() + TICK < half {
            return;
        }
        let ranks: Vec<WorkerHandle> = denoising.serving().filter(|rank| !rank.is_asked()).cloned().collect();
        let (epoch, denoiser) = (self.epoch, myself.clone());
        let body = WorkerRequest::Measure { denoiser: self.setup.denoiser.clone(), rows: 1, layers: Vec::new() };
        let look = OwnedTask::spawn(async move {
            let answers = ranks.iter().map(|rank| rank.request("a look at its device", body.clone(), half));
            let answers = join_all(answers).await.into_iter().zip(&ranks);
            let silent = answers.filter(|(answer, _)| matches!(answer, Err(JobFailed::RequestOverdue { .. })));
            let workers: Vec<WorkerHandle> = silent.map(|(_, rank)| rank.clone()).collect();
            // A denoiser that has ended needs no device.
            let _ = denoiser.send_message(DenoiserMessage::Hanging(Hanging { epoch, heard, workers }));
        });
        self.look = Look { under_way: Some(look), began: Some(Instant::now()) };
    }

    /// After what time a device hangs that does nothing: by the longest layer of the slowest.
    fn hanging_after(&self, ranks: &[WorkerHandle]) -> Duration {
        let rows = self.setup.settings.rows();
        let measured = ranks.iter().filter_map(|rank| rank.measured(&self.setup.denoiser, rows));
        let longest = measured.flat_map(|costs| costs.iter().map(|cost| cost.seconds).max_by(f64::total_cmp));
        let longest = longest.fold(0.0, f64::max);
        Duration::try_from_secs_f64(LAYERS * longest).map_or(LEAST, |limit| limit.max(LEAST))
    }

    /// Goes on without those who do not answer, if anybody is left.
    pub(super) fn handle_hanging(&mut self, myself: &ActorRef<DenoiserMessage>, hanging: Hanging) {
        self.look.under_way = None;
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
