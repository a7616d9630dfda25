//! Sees every noise prediction that a coordinator takes, and says what should not have been taken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use asyncdiff_common::wire::{Endpoint, TensorHeader, TensorName};
use asyncdiff_plan::{Epoch, JobId};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::link::{Admission, Refusal, TensorFrame};
use asyncdiff_transport::network::{BoxFuture, DialError, Incoming, Network};

use asyncdiff_transport::link::Link;

/// What was taken over all lives of the coordinator.
#[derive(Default)]
pub(super) struct Witness {
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// In which life an epoch of a job was seen.
    lives: BTreeMap<(JobId, Epoch), u32>,
    /// Each job's newest.
    newest: BTreeMap<JobId, Epoch>,
    wrong: Vec<String>,
}

impl Witness {
    /// What should not have been taken.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = &self.taken.lock().unwrap().wrong;
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// A coordinator's network, with this looking on.
    pub(super) fn watch(self: &Arc<Self>, network: Arc<dyn Network>, life: u32) -> Arc<dyn Network> {
        Arc::new(Watched { network, witness: Arc::clone(self), life })
    }

    fn note(&self, life: u32, header: &TensorHeader) {
        let TensorHeader { job, epoch, name: TensorName::NoisePrediction(..), .. } = *header else { return };
        let mut taken = self.taken.lock().unwrap();
        let first = *taken.lives.entry((job, epoch)).or_insert(life);
        if first != life {
            taken.wrong.push(format!("{epoch} of {job} was in life {first} and is in life {life} of the coordinator"));
        }
        let newest = taken.newest.insert(job, epoch).unwrap_or_default();
        if epoch < newest {
            taken.wrong.push(format!("a noise prediction of {job} is taken in {epoch} after {newest}"));
        }
    }
}

struct Watched {
    network: Arc<dyn Network>,
    witness: Arc<Witness>,
    life: u32,
}

impl Network for Watched {
    fn endpoint(&self) -> Endpoint {
        self.network.endpoint()
    }

    fn connect<'a>(
        &'a self,
        peer: &'a PeerName,
        endpoint: &'a Endpoint,
        admission: Arc<dyn Admission>,
    ) -> BoxFuture<'a, Result<Link, DialError>> {
        self.network.connect(peer, endpoint, admission)
    }

    fn accept(&self) -> BoxFuture<'_, Option<Incoming>> {
        Box::pin(async move {
            let incoming = self.network.accept().await?;
            let (witness, life) = (Arc::clone(&self.witness), self.life);
            Some(Incoming::new(incoming.peer().clone(), move |admission| {
                incoming.accept(Arc::new(WatchedAdmission { admission, witness, life }))
            }))
        })
    }
}

struct WatchedAdmission {
    admission: Arc<dyn Admission>,
    witness: Arc<Witness>,
    life: u32,
}

impl Admission for WatchedAdmission {
    fn admit(&self, peer: &PeerName, header: &TensorHeader) -> Result<(), Refusal> {
        self.admission.admit(peer, header)?;
        self.witness.note(self.life, header);
        Ok(())
    }

    fn take(&self, frame: TensorFrame) -> Option<TensorFrame> {
        self.admission.take(frame)
    }
}
