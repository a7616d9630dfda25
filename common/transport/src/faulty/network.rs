//! The wrapped link: two outer ends, four stages, and whoever turns the knobs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;

use super::stage::{Ordering, Stage};
use super::{Change, Direction, FaultScript, Faults};
use crate::link::{
    AdmitEverything, CloseReason, ControlReceiver, Core, Delivery, Incoming, Link, LinkError, LinkSender, Outgoing,
    OutgoingTensor, Pump, TensorReceiver, open_end,
};

/// Turns the knobs of a wrapped link while it runs. Dropping it leaves the faults as they are.
#[must_use]
pub struct FaultyNetwork {
    seed: u64,
    first_to_second: watch::Sender<Faults>,
    second_to_first: watch::Sender<Faults>,
}

/// Wraps both ends of a link. The inner link keeps its own admission and counters; the outer ends count for themselves.
///
/// Must be called on a tokio runtime, whose time the faults follow. The tasks end when the link closes.
pub fn wrap(first: Link, second: Link, script: FaultScript) -> (Link, Link, FaultyNetwork) {
    // Not through tracing: whoever reads a failed test's output needs the seed, with or without a subscriber.
    eprintln!("faulty link from {} to {}: seed {}", second.peer(), first.peer(), script.seed);
    let network = FaultyNetwork {
        seed: script.seed,
        first_to_second: watch::Sender::new(Faults::default()),
        second_to_first: watch::Sender::new(Faults::default()),
    };
    let (first_outer, first_outgoing, first_incoming) = open_around(&first);
    let (second_outer, second_outgoing, second_incoming) = open_around(&second);
    let cores = [Arc::clone(&first_outgoing.core), Arc::clone(&second_outgoing.core)];
    let mut seeds = ChaCha8Rng::seed_from_u64(script.seed);

    let out = network.first_to_second.subscribe();
    tokio::spawn(send(first_outgoing, first.sender, out.clone(), ChaCha8Rng::from_rng(&mut seeds)));
    tokio::spawn(receive(first.control, first.tensors, first_incoming));
    let back = network.second_to_first.subscribe();
    tokio::spawn(send(second_outgoing, second.sender, back.clone(), ChaCha8Rng::from_rng(&mut seeds)));
    tokio::spawn(receive(second.control, second.tensors, second_incoming));
    tokio::spawn(lose(cores.clone(), out, script.lost_after));
    tokio::spawn(lose(cores.clone(), back, script.lost_after));
    network.play(script.changes, cores);
    (first_outer, second_outer, network)
}

impl FaultyNetwork {
    /// Where chance started.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Sets the faults of one direction from now on.
    pub fn set(&self, direction: Direction, faults: Faults) {
        self.knob(direction).send_replace(faults);
    }

    /// Cuts one direction.
    pub fn cut(&self, direction: Direction) {
        self.knob(direction).send_modify(|faults| faults.cut = true);
    }

    /// Cuts both directions.
    pub fn cut_both(&self) {
        self.cut(Direction::FirstToSecond);
        self.cut(Direction::SecondToFirst);
    }

    /// Ends the cuts.
    pub fn heal(&self) {
        for direction in [Direction::FirstToSecond, Direction::SecondToFirst] {
            self.knob(direction).send_modify(|faults| faults.cut = false);
        }
    }

    fn knob(&self, direction: Direction) -> &watch::Sender<Faults> {
        match direction {
            Direction::FirstToSecond => &self.first_to_second,
            Direction::SecondToFirst => &self.second_to_first,
        }
    }

    /// Makes the changes that are due at once, and leaves the others to a task.
    fn play(&self, changes: Vec<Change>, cores: [Arc<Core>; 2]) {
        let (at_once, mut later): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.after.is_zero());
        for change in at_once {
            self.set(change.direction, change.faults);
        }
        if later.is_empty() {
            return;
        }
        later.sort_by_key(|change| change.after);
        let (out, back) = (self.first_to_second.clone(), self.second_to_first.clone());
        let start = tokio::time::Instant::now();
        tokio::spawn(async move {
            let [first, second] = cores;
            for change in later {
                tokio::select! {
                    () = tokio::time::sleep_until(start + change.after) => {}
                    _ = first.closed() => return,
                    _ = second.closed() => return,
                }
                match change.direction {
                    Direction::FirstToSecond => out.send_replace(change.faults),
                    Direction::SecondToFirst => back.send_replace(change.faults),
                };
            }
        });
    }
}

fn open_around(inner: &Link) -> (Link, Outgoing, Incoming) {
    // The inner link has asked the real admission by the time a tensor comes out of it.
    open_end(Core::around(inner.control.core()), Arc::new(AdmitEverything))
}

/// Carries one outer end's frames to its inner end, then its farewell.
async fn send(outgoing: Outgoing, inner: LinkSender, faults: watch::Receiver<Faults>, mut chance: ChaCha8Rng) {
    let Outgoing { core, control, tensors } = outgoing;
    let stage = |ordering, chance| Stage { ordering, faults: faults.clone(), chance };
    let control_stage = stage(Ordering::Kept, ChaCha8Rng::from_rng(&mut chance));
    let tensor_stage = stage(Ordering::Loose, chance);
    let (mut to_control, mut to_tensors) = (ToControl(inner.clone()), ToTensors(inner.clone()));
    let frames = async {
        tokio::join!(
            control_stage.run(&core, control, Bytes::len, &mut to_control),
            tensor_stage.run(&core, tensors, |tensor| tensor.frame.payload.len(), &mut to_tensors),
        )
    };
    tokio::select! {
        _ = frames => {}
        () = closed_at_once(&core) => {}
        _ = inner.closed() => {}
    }
    let reason = core.closed().await;
    // A farewell does not pass a cut; when the cut lasts, the peer counts this side as lost.
    let mut faults = faults;
    let until_healed = async { faults.wait_for(|faults| !faults.cut).await.is_ok() };
    if let Some(farewell) = reason.farewell() {
        let is_healed = tokio::select! { healed = until_healed => healed, _ = inner.closed() => false };
        if is_healed {
            inner.close(farewell);
        }
    }
}

/// Waits until the end has closed in such a way that nothing more is to be sent.
async fn closed_at_once(core: &Core) {
    if matches!(core.closed().await, CloseReason::ClosedByUs(_)) {
        std::future::pending().await
    }
}

/// Hands what comes out of an inner end to its outer end, then the reason why it closed.
async fn receive(mut control: ControlReceiver, mut tensors: TensorReceiver, incoming: Incoming) {
    let inner_core = Arc::clone(control.core());
    let frames = async {
        let control_frames = async {
            while let Some(frame) = control.control().await {
                incoming.deliver_control(frame).await;
            }
        };
        let tensor_frames = async {
            while let Some(frame) = tensors.tensor().await {
                if let Ok(tensor) = OutgoingTensor::new(frame) {
                    incoming.deliver_tensor(tensor.frame, tensor.header_frame.len()).await;
                }
            }
        };
        tokio::join!(control_frames, tensor_frames)
    };
    tokio::select! {
        _ = frames => incoming.core.finish(inner_core.closed().await),
        // The outer end is closed: nobody takes frames any more.
        _ = incoming.core.closed() => {}
    }
}

/// Declares both ends lost when a direction is cut for too long.
async fn lose(cores: [Arc<Core>; 2], mut faults: watch::Receiver<Faults>, lost_after: Duration) {
    let [first, second] = &cores;
    let cut_for_long = async {
        loop {
            if faults.wait_for(|faults| faults.cut).await.is_err() {
                return std::future::pending().await;
            }
            let heal = async { faults.wait_for(|faults| !faults.cut).await.is_ok() };
            match tokio::time::timeout(lost_after, heal).await {
                Ok(true) => {}
                // Nobody can heal it any more.
                Ok(false) => return tokio::time::sleep(lost_after).await,
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = cut_for_long => {
            for core in &cores {
                core.finish(CloseReason::PeerLost { detail: format!("nothing heard for {lost_after:?}") });
            }
        }
        // One end alone may have closed behind the cut: the other must still lose it.
        _ = async { tokio::join!(first.closed(), second.closed()) } => {}
    }
}

struct ToControl(LinkSender);

impl Pump<Bytes> for ToControl {
    async fn pass(&mut self, frame: Bytes) -> Delivery {
        delivery(self.0.send_control(frame).await)
    }
}

struct ToTensors(LinkSender);

impl Pump<OutgoingTensor> for ToTensors {
    async fn pass(&mut self, tensor: OutgoingTensor) -> Delivery {
        delivery(self.0.send_tensor(tensor.frame).await)
    }
}

/// Frames were checked by the outer sender, so that the inner one can only refuse them because it is closed.
fn delivery(sent: Result<(), LinkError>) -> Delivery {
    if sent.is_ok() { Delivery::Passed } else { Delivery::Stopped }
}
