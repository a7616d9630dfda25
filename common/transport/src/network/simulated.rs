//! Many named processes in one program, joined by in-process links: a cluster that runs under a paused clock.
//!
//! Links can be delayed, slowed and cut between any two processes, and a process can vanish or fall silent. Chance comes from one seed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use asyncdiff_common::wire::Endpoint;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

use super::{BoxFuture, DialError, Incoming, Network};
use crate::PeerName;
use crate::faulty::{self, Direction, FaultScript, Faults, FaultyNetwork};
use crate::in_process::{self, End};
use crate::link::{Admission, CloseReason, Core, Link};

/// Diallers that may wait for one process to accept them. A cluster's processes all dial one coordinator at once; more than this is a mistake.
const WAITING_DIALS: usize = 64;

/// How long a dialler waits to be accepted, as over QUIC.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// What all processes of a simulated cluster share.
#[derive(Clone)]
pub struct SimulatedNetwork(Arc<Mutex<Hub>>);

/// One process's place in a simulated cluster.
pub struct SimulatedProcess {
    name: PeerName,
    number: u16,
    hub: SimulatedNetwork,
    dials: AsyncMutex<mpsc::Receiver<Dial>>,
}

struct Hub {
    /// `None`: links are perfect and carried directly.
    seed: Option<u64>,
    next_number: u16,
    processes: HashMap<PeerName, mpsc::Sender<Dial>>,
    /// Faults of links yet to come, by sender and receiver.
    faults: HashMap<(PeerName, PeerName), Faults>,
    links: Vec<Joined>,
}

/// A link between two processes, with the knobs of its faults.
struct Joined {
    first: PeerName,
    second: PeerName,
    cores: [Arc<Core>; 2],
    faulty: Option<FaultyNetwork>,
    /// One end's power is gone: what is set for the names of its ends is not for this link any more.
    is_silent: bool,
}

/// A process that asks to be accepted.
struct Dial {
    from: PeerName,
    admission: Arc<dyn Admission>,
    answer: oneshot::Sender<Link>,
}

impl SimulatedNetwork {
    /// A perfect network.
    #[must_use]
    pub fn new() -> Self {
        Self::from_seed(None)
    }

    /// A network whose links can be given faults; chance starts at `seed`.
    #[must_use]
    pub fn with_faults(seed: u64) -> Self {
        Self::from_seed(Some(seed))
    }

    fn from_seed(seed: Option<u64>) -> Self {
        let (processes, faults) = (HashMap::new(), HashMap::new());
        Self(Arc::new(Mutex::new(Hub { seed, next_number: 0, processes, faults, links: Vec::new() })))
    }

    /// Adds a process. A name that is there already is taken over, as by a process that was started again.
    #[must_use]
    pub fn process(&self, name: PeerName) -> Arc<SimulatedProcess> {
        let (sender, receiver) = mpsc::channel(WAITING_DIALS);
        let mut hub = self.hub();
        hub.next_number = hub.next_number.wrapping_add(1);
        let number = hub.next_number;
        hub.processes.insert(name.clone(), sender);
        Arc::new(SimulatedProcess { name, number, hub: self.clone(), dials: AsyncMutex::new(receiver) })
    }

    /// Sets the faults from one process to another, of the links that exist and of those to come.
    ///
    /// Only links of a network made by [`with_faults`](Self::with_faults) have any.
    pub fn set_faults(&self, from: &PeerName, to: &PeerName, faults: &Faults) {
        let mut hub = self.hub();
        hub.faults.insert((from.clone(), to.clone()), faults.clone());
        for link in hub.links.iter().filter(|link| link.joins(from, to) && !link.is_silent) {
            if let Some(network) = &link.faulty {
                network.set(link.direction(from), faults.clone());
            }
        }
    }

    /// Makes a process vanish without a word, as `kill -9` does: its links are lost at once and nobody reaches it any more.
    pub fn vanish(&self, name: &PeerName) {
        let mut hub = self.hub();
        hub.processes.remove(name);
        for link in hub.links.iter().filter(|link| link.first == *name || link.second == *name) {
            for core in &link.cores {
                core.finish(CloseReason::PeerLost { detail: format!("{name} vanished") });
            }
        }
        hub.links.retain(|link| link.first != *name && link.second != *name);
    }

    /// Makes a process fall silent, as when its computer's power goes: nobody reaches it any more, and those who have a link
    /// to it hear nothing on it, not even that it is closed. A process that takes its name over later has links of its own.
    ///
    /// On a perfect network, whose links cannot be cut, it vanishes instead.
    pub fn fall_silent(&self, name: &PeerName) {
        if self.hub().seed.is_none() {
            return self.vanish(name);
        }
        let mut hub = self.hub();
        hub.processes.remove(name);
        for link in hub.links.iter_mut().filter(|link| link.first == *name || link.second == *name) {
            link.is_silent = true;
            if let Some(network) = &link.faulty {
                network.cut_both();
            }
        }
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        // Every change of the hub is complete before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, first: End, second: End) -> (Link, Link) {
        let (names, mut hub) = ([first.name.clone(), second.name.clone()], self.hub());
        let (mut first_link, mut second_link) = in_process::pair(first, second);
        let mut faulty = None;
        if let Some(seed) = hub.seed {
            let script = FaultScript::perfect(seed.wrapping_add(hub.links.len() as u64));
            let (first_outer, second_outer, network) = faulty::wrap(first_link, second_link, script);
            (first_link, second_link) = (first_outer, second_outer);
            for (from, to, direction) in
                [(&names[0], &names[1], Direction::FirstToSecond), (&names[1], &names[0], Direction::SecondToFirst)]
            {
                if let Some(faults) = hub.faults.get(&(from.clone(), to.clone())) {
                    network.set(direction, faults.clone());
                }
            }
            faulty = Some(network);
        }
        let cores = [&first_link, &second_link].map(|link| Arc::clone(link.control.core()));
        let [first, second] = names;
        hub.links.retain(|link| link.cores.iter().any(|core| core.reason().is_none()));
        hub.links.push(Joined { first, second, cores, faulty, is_silent: false });
        (first_link, second_link)
    }
}

impl Default for SimulatedNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedProcess {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &PeerName {
        &self.name
    }
}

impl Network for SimulatedProcess {
    fn endpoint(&self) -> Endpoint {
        // Peers are found by name; the number only makes endpoints differ.
        Endpoint { host: "simulated".to_owned(), control_port: self.number, data_port: self.number }
    }

    fn connect<'a>(
        &'a self,
        peer: &'a PeerName,
        _endpoint: &'a Endpoint,
        admission: Arc<dyn Admission>,
    ) -> BoxFuture<'a, Result<Link, DialError>> {
        Box::pin(async move {
            let unreachable = |reason: &str| DialError::Unreachable { peer: peer.clone(), reason: reason.to_owned() };
            let dials = self.hub.hub().processes.get(peer).cloned();
            let dials = dials.ok_or_else(|| unreachable("no process of that name"))?;
            let (answer, answered) = oneshot::channel();
            let dial = Dial { from: self.name.clone(), admission, answer };
            dials.try_send(dial).map_err(|_| unreachable("it accepts no links"))?;
            match tokio::time::timeout(DIAL_DEADLINE, answered).await {
                Ok(Ok(link)) => Ok(link),
                Ok(Err(_)) => Err(unreachable("it did not accept the link")),
                Err(_) => Err(unreachable("it did not answer in time")),
            }
        })
    }

    fn accept(&self) -> BoxFuture<'_, Option<Incoming>> {
        Box::pin(async move {
            let Dial { from, admission, answer } = self.dials.lock().await.recv().await?;
            let (hub, name, peer) = (self.hub.clone(), self.name.clone(), from.clone());
            Some(Incoming::new(from, move |our_admission| {
                let first = End { name: peer, admission };
                let (theirs, ours) = hub.join(first, End { name, admission: our_admission });
                // A dialler that gave up drops its end, which closes ours.
                drop(answer.send(theirs));
                ours
            }))
        })
    }
}

impl Joined {
    fn joins(&self, one: &PeerName, other: &PeerName) -> bool {
        (self.first == *one && self.second == *other) || (self.first == *other && self.second == *one)
    }

    fn direction(&self, from: &PeerName) -> Direction {
        if self.first == *from { Direction::FirstToSecond } else { Direction::SecondToFirst }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::link::AdmitEverything;

    fn names() -> [PeerName; 2] {
        [PeerName::Coordinator, PeerName::worker("a").unwrap()]
    }

    async fn joined(network: &SimulatedNetwork) -> (Link, Link) {
        let [coordinator, worker] = names().map(|name| network.process(name));
        let accepted = async { coordinator.accept().await.unwrap().accept(Arc::new(AdmitEverything)) };
        let endpoint = coordinator.endpoint();
        let dialled = worker.connect(coordinator.name(), &endpoint, Arc::new(AdmitEverything));
        let (accepted, dialled) = tokio::join!(accepted, dialled);
        (accepted, dialled.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn processes_find_each_other_by_name() {
        let (mut accepted, dialled) = joined(&SimulatedNetwork::new()).await;
        assert_eq!([accepted.peer(), dialled.peer()], [&names()[1], &names()[0]]);
        dialled.sender.send_control(Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(accepted.control.control().await.unwrap(), "hello");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_vanishes_is_lost_to_its_peers_and_reached_by_nobody() {
        let network = SimulatedNetwork::new();
        let (accepted, dialled) = joined(&network).await;
        let [coordinator, worker] = names();
        network.vanish(&worker);
        assert!(matches!(accepted.sender.closed().await, CloseReason::PeerLost { .. }));
        drop(dialled);
        let survivor = network.process(coordinator);
        let dialled = survivor.connect(&worker, &survivor.endpoint(), Arc::new(AdmitEverything)).await;
        assert!(matches!(dialled, Err(DialError::Unreachable { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_falls_silent_is_missed_after_a_while_and_its_successor_is_heard() {
        let network = SimulatedNetwork::with_faults(7);
        let start = tokio::time::Instant::now();
        let (accepted, dialled) = joined(&network).await;
        let [coordinator, worker] = names();
        network.fall_silent(&worker);
        // Not even that it closes is heard.
        drop(dialled);
        assert!(matches!(accepted.sender.closed().await, CloseReason::PeerLost { .. }));
        assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
        network.set_faults(&worker, &coordinator, &Faults::default());
        let (mut accepted, dialled) = joined(&network).await;
        dialled.sender.send_control(Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(accepted.control.control().await.unwrap(), "hello");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_direction_is_slow_and_the_other_is_not() {
        let network = SimulatedNetwork::with_faults(7);
        let (mut accepted, mut dialled) = joined(&network).await;
        let [coordinator, worker] = names();
        let delay = Duration::from_millis(300);
        network.set_faults(&worker, &coordinator, &Faults { delay, ..Faults::default() });
        let start = tokio::time::Instant::now();
        accepted.sender.send_control(Bytes::from_static(b"down")).await.unwrap();
        dialled.control.control().await.unwrap();
        assert!(start.elapsed() < delay);
        dialled.sender.send_control(Bytes::from_static(b"up")).await.unwrap();
        accepted.control.control().await.unwrap();
        assert!(start.elapsed() >= delay);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_is_not_accepted_is_refused() {
        let network = SimulatedNetwork::new();
        let [coordinator, worker] = names().map(|name| network.process(name));
        let endpoint = coordinator.endpoint();
        let refused = async { drop(coordinator.accept().await) };
        let dialled = worker.connect(coordinator.name(), &endpoint, Arc::new(AdmitEverything));
        let ((), dialled) = tokio::join!(refused, dialled);
        assert!(matches!(dialled, Err(DialError::Unreachable { .. })));
    }
}
