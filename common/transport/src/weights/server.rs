//! The server: reads parameters and sends them, as turns and pace say.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_common::wire::{TensorHeader, TensorName, WantedWeight};
use asyncdiff_plan::{Epoch, JobId};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pace::Pace;
use super::turns::{AskerNumber, InFlightLimits, TooManyAsked, Turn, Turns};
use crate::link::{LinkKind, LinkSender, TensorFrame};

/// What may be in flight. One asker's fills a link of 10 Gbit/s for 13 ms, several round trips, and delays what cannot overtake it by no more;
/// all together are eight askers, and bound the memory.
const IN_FLIGHT: InFlightLimits = InFlightLimits { asker_bytes: 16 << 20, asker_parameters: 16, all_bytes: 128 << 20 };

/// Where a server's parameters are read.
pub trait WeightSource: Send + Sync + 'static {
    /// The stored bytes of a parameter. Called on a thread that may wait for the disk. The error says why there are none.
    fn read(&self, wanted: &WantedWeight) -> Result<Bytes, String>;
}

/// Serves parameters to any number of askers, on the runtime that it was started on. Dropping it ends that.
#[must_use]
pub struct WeightServer {
    shared: Arc<Shared>,
    _task: OwnedTask,
}

/// One who asks. Dropping it forgets what it waits for.
#[must_use]
pub struct WeightAsker {
    shared: Arc<Shared>,
    number: AskerNumber,
}

/// Told which parameter cannot be read, and why.
type Unreadable = Box<dyn Fn(&WantedWeight, String) + Send + Sync>;

struct Client {
    link: LinkSender,
    unreadable: Unreadable,
}

struct Shared {
    source: Arc<dyn WeightSource>,
    state: Mutex<State>,
    /// Told when somebody asks and when something is not in flight any more.
    changed: Notify,
}

struct State {
    turns: Turns<WantedWeight>,
    clients: HashMap<AskerNumber, Arc<Client>>,
    pace: Pace,
}

/// A parameter in flight.
struct InFlight {
    shared: Arc<Shared>,
    asker: AskerNumber,
    bytes: u64,
}

/// Bytes that are in flight for as long as the link has them.
struct Held {
    bytes: Bytes,
    _in_flight: InFlight,
}

impl WeightServer {
    /// Starts to serve, at no more than a rate if there is one.
    pub fn start(source: Arc<dyn WeightSource>, bytes_per_second: Option<NonZeroU64>) -> Self {
        let state = State { turns: Turns::new(IN_FLIGHT), clients: HashMap::new(), pace: Pace::new(bytes_per_second) };
        let shared = Arc::new(Shared { source, state: Mutex::new(state), changed: Notify::new() });
        let task = OwnedTask::spawn(serve(Arc::clone(&shared)));
        Self { shared, _task: task }
    }

    /// Somebody who may ask, and is sent what it asks for on a link.
    pub fn asker(
        &self,
        link: LinkSender,
        unreadable: impl Fn(&WantedWeight, String) + Send + Sync + 'static,
    ) -> WeightAsker {
        let mut state = self.shared.state();
        let number = state.turns.add();
        state.clients.insert(number, Arc::new(Client { link, unreadable: Box::new(unreadable) }));
        WeightAsker { shared: Arc::clone(&self.shared), number }
    }
}

impl WeightAsker {
    /// Asks for parameters. They are sent in about this order, and may arrive in any.
    pub fn ask(&self, wanted: Vec<WantedWeight>) -> Result<(), TooManyAsked> {
        // A parameter whose size overflows is refused when it is read.
        let sized = wanted.into_iter().map(|wanted| {
            let bytes = wanted.byte_count().unwrap_or_default();
            (wanted, bytes)
        });
        self.shared.state().turns.ask(self.number, sized)?;
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for WeightAsker {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.turns.remove(self.number);
        state.clients.remove(&self.number);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is next, and when.
    fn next(&self) -> Option<(Turn<WantedWeight>, Instant)> {
        let mut state = self.state();
        let turn = state.turns.next()?;
        let start = state.pace.start(Instant::now(), turn.bytes);
        Some((turn, start))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.state().turns.done(self.asker, self.bytes);
        self.shared.changed.notify_one();
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

async fn serve(shared: Arc<Shared>) {
    // As many as may be in flight.
    let mut sending = JoinSet::new();
    loop {
        while sending.try_join_next().is_some() {}
        let Some((turn, start)) = shared.next() else {
            shared.changed.notified().await;
            continue;
        };
        let Turn { asker, what, bytes } = turn;
        let in_flight = InFlight { shared: Arc::clone(&shared), asker, bytes };
        if start > Instant::now() {
            tokio::time::sleep_until(start).await;
        }
        // Who has gone meanwhile wants nothing.
        let Some(client) = shared.state().clients.get(&asker).cloned() else { continue };
        sending.spawn(send(client, what, in_flight));
    }
}

async fn send(client: Arc<Client>, wanted: WantedWeight, in_flight: InFlight) {
    let (source, asked) = (Arc::clone(&in_flight.shared.source), wanted.clone());
    let reading = tokio::task::spawn_blocking(move || source.read(&asked)).await;
    let bytes = match reading.map_err(|error| error.to_string()).and_then(|read| read) {
        Ok(bytes) => bytes,
        Err(reason) => return (client.unreadable)(&wanted, reason),
    };
    // Parameters belong to no job: the same bytes serve all.
    let header = TensorHeader {
        job: JobId(0),
        epoch: Epoch(0),
        name: TensorName::Weight(wanted.digest),
        shape: wanted.shape,
        dtype: wanted.dtype,
        delta: None,
        part: None,
    };
    let (payload, given) = match client.link.kind() {
        // The bytes themselves go to the receiver, who keeps them for as long as it likes.
        LinkKind::InProcess => (bytes, Some(in_flight)),
        LinkKind::Quic | LinkKind::SharedMemory => (Bytes::from_owner(Held { bytes, _in_flight: in_flight }), None),
    };
    if let Err(error) = client.link.send_tensor(TensorFrame { header, payload }).await {
        // Whoever owns the link learns of its end.
        tracing::debug!(%error, "a parameter was not sent");
    }
    drop(given);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use asyncdiff_common::wire::DType;

    use super::*;
    use crate::PeerName;
    use crate::in_process::{End, pair};
    use crate::link::{AdmitEverything, Link};

    /// Has parameters whose digest does not begin with 255, and tells which it reads.
    struct Numbers(Mutex<mpsc::Sender<u8>>);

    impl WeightSource for Numbers {
        fn read(&self, wanted: &WantedWeight) -> Result<Bytes, String> {
            let number = wanted.digest[0];
            self.0.lock().unwrap().send(number).unwrap();
            if number == 255 {
                Err("it is not there".to_owned())
            } else {
                Ok(vec![number; wanted.shape[0] as usize].into())
            }
        }
    }

    fn server(rate: Option<u64>) -> (WeightServer, mpsc::Receiver<u8>) {
        let (reads, read) = mpsc::channel();
        (WeightServer::start(Arc::new(Numbers(Mutex::new(reads))), rate.and_then(NonZeroU64::new)), read)
    }

    fn link() -> (LinkSender, Link) {
        let end = |name: &str| End { name: PeerName::worker(name).unwrap(), admission: Arc::new(AdmitEverything) };
        let (first, second) = pair(end("first"), end("second"));
        (first.sender, second)
    }

    fn wanted(number: u8, bytes: u32) -> WantedWeight {
        WantedWeight { digest: [number; 32], shape: vec![bytes], dtype: DType::U8 }
    }

    async fn receive(link: &mut Link, count: usize) -> Vec<u8> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            let frame = tokio::time::timeout(Duration::from_secs(60), link.tensors.tensor()).await.unwrap().unwrap();
            numbers.push(frame.payload[0]);
        }
        numbers.sort_unstable();
        numbers
    }

    #[tokio::test]
    async fn everybody_gets_what_was_asked_for_and_hears_what_is_not_there() {
        let (server, _read) = server(None);
        let (missing, missed) = mpsc::channel();
        let missing = Mutex::new(missing);
        let ((sender, mut first), (other, mut second)) = (link(), link());
        let asker = server.asker(sender, move |wanted, reason| {
            missing.lock().unwrap().send((wanted.digest[0], reason)).unwrap();
        });
        let other = server.asker(other, |_, _| panic!("all of it is there"));
        asker.ask(vec![wanted(1, 5), wanted(255, 5), wanted(2, 40 << 20), wanted(3, 7)]).unwrap();
        other.ask(vec![wanted(4, 1), wanted(5, 2)]).unwrap();
        assert_eq!(receive(&mut first, 3).await, [1, 2, 3]);
        assert_eq!(receive(&mut second, 2).await, [4, 5]);
        assert_eq!(missed.recv().unwrap(), (255, "it is not there".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_over_all_askers() {
        let (server, _read) = server(Some(1 << 20));
        let ((sender, mut first), (other, mut second)) = (link(), link());
        let askers = [sender, other].map(|link| server.asker(link, |_, _| {}));
        let begun = Instant::now();
        for asker in &askers {
            asker.ask((0..10).map(|number| wanted(number, 1 << 19)).collect()).unwrap();
        }
        tokio::join!(receive(&mut first, 10), receive(&mut second, 10));
        // The last one need only have begun.
        let least = Duration::from_millis(9_400);
        assert!(begun.elapsed() >= least && begun.elapsed() < 2 * least, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn nothing_is_read_for_who_has_gone() {
        let (server, read) = server(None);
        let (sender, _link) = link();
        let gone = server.asker(sender, |_, _| {});
        let (sender, mut link) = link();
        let stays = server.asker(sender, |_, _| {});
        gone.ask((0..200).map(|number| wanted(number, 16 << 20)).collect()).unwrap();
        drop(gone);
        stays.ask(vec![wanted(201, 1)]).unwrap();
        assert_eq!(receive(&mut link, 1).await, [201]);
        assert!(read.try_iter().count() <= 2, "one may have begun");
    }
}
