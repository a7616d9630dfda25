//! Parameters of a worker: what its requests list, and what it may be sent or referred to.

use std::collections::{HashMap, HashSet};

use asyncdiff_common::wire::{FailedPeer, ToWorker, WantedWeight, WeightEntry, WorkerFailure, WorkerRequest};
use asyncdiff_plan::JobId;
use asyncdiff_transport::weights::WeightAsker;
use ractor::ActorRef;

use super::SessionMessage;
use super::requests::{RequestFailed, job_of};
use super::state::{SessionState, out_of_order};
use crate::actors::weights::WeightDirectory;

/// Parameters that a worker asks for.
pub(super) struct WantedWeights {
    pub(super) job: JobId,
    pub(super) ticket: u64,
    pub(super) digests: Vec<[u8; 32]>,
    pub(super) instead_of: Option<FailedPeer>,
}

/// Jobs that list parameters for one worker: it has a part in a few at a time. A job that has ended is released everywhere.
const JOBS_AT_A_TIME: usize = 16;

/// What a session needs to get parameters to its worker.
pub(super) struct SessionWeights {
    /// By job: what its requests listed, so that a worker gets parameters of what it was assigned and no others.
    listed: HashMap<JobId, HashMap<[u8; 32], WantedWeight>>,
    asker: WeightAsker,
    pub(super) directory: WeightDirectory,
}

impl SessionWeights {
    pub(super) fn new(asker: WeightAsker, directory: WeightDirectory) -> Self {
        Self { listed: HashMap::new(), asker, directory }
    }

    /// Notes what a request lists, before it is sent.
    pub(super) fn note_listed(&mut self, body: &WorkerRequest) {
        let weights = match body {
            WorkerRequest::Assign(assignment) | WorkerRequest::Preload(assignment) => &assignment.weights,
            WorkerRequest::DecodeLatents { model, .. } | WorkerRequest::EncodeText { model, .. } => &model.weights,
            WorkerRequest::ReleaseJob { job } => {
                self.listed.remove(job);
                return;
            }
            WorkerRequest::Measure { .. } | WorkerRequest::MeasureLink { .. } => return,
        };
        if let Some(job) = job_of(body) {
            let entry = |entry: &WeightEntry| (entry.digest, WantedWeight::from(entry));
            self.listed.entry(job).or_default().extend(weights.iter().map(entry));
            debug_assert!(
                self.listed.len() <= JOBS_AT_A_TIME,
                "of {} jobs nobody said that they ended",
                self.listed.len()
            );
        }
    }
}

impl SessionState {
    pub(super) fn handle_want_weights(&mut self, myself: &ActorRef<SessionMessage>, wanted: WantedWeights) {
        let WantedWeights { job, ticket, digests, instead_of } = wanted;
        // A job that was released while the worker asked: it learns of the release next.
        let Some(listed) = self.weights.listed.get(&job) else { return };
        // Each once, so that what is remembered of them is bounded by what was listed.
        let is_bounded = digests.len() <= listed.len();
        let wanted = digests.iter().map(|digest| listed.get(digest).cloned()).collect::<Option<Vec<WantedWeight>>>();
        let wanted = wanted.filter(|_| is_bounded);
        let Some(wanted) = wanted else {
            return self.end(myself, "it asked for parameters that it was not assigned", out_of_order());
        };
        let (name, directory) = (self.name(), self.weights.directory.clone());
        let own = match instead_of {
            Some(failed) => {
                tracing::debug!(peer = failed.name, fault = ?failed.fault, "parameters were not to be had of a worker");
                directory.note_failed(&name, ticket, &digests, &failed);
                wanted
            }
            None => {
                let sized: Vec<([u8; 32], u64)> =
                    wanted.iter().map(|wanted| (wanted.digest, wanted.byte_count().unwrap_or_default())).collect();
                let (own, referrals) = directory.share(&name, ticket, &sized);
                for referral in referrals {
                    let (peer, endpoint, digests) = (referral.peer, referral.endpoint, referral.digests);
                    self.send(myself, &ToWorker::AskPeer { ticket, peer, endpoint, digests });
                }
                let own: HashSet<[u8; 32]> = own.into_iter().collect();
                wanted.into_iter().filter(|wanted| own.contains(&wanted.digest)).collect()
            }
        };
        if let Err(error) = self.weights.asker.ask(own) {
            self.end(myself, &error.to_string(), out_of_order());
        }
    }

    /// A parameter of the checkpoint cannot be read: whatever needs it fails.
    pub(super) fn handle_unreadable(&mut self, digest: [u8; 32], reason: &str) {
        tracing::warn!(reason, "a parameter of the checkpoint cannot be read");
        let needing = self.weights.listed.iter().filter(|(_, listed)| listed.contains_key(&digest));
        for job in needing.map(|(job, _)| *job).collect::<Vec<_>>() {
            let failure = WorkerFailure::BadWeight { name: "of the checkpoint".to_owned(), reason: reason.to_owned() };
            self.fail_requests(job, &RequestFailed::Failed(failure));
        }
    }
}
