//! Transfers from GPU to GPU cannot wait for each other in a circle, whatever the plans, of several jobs, and whatever the order of events.
//!
//! A GPU does what it is given in order: kernels in one stream, and in one for each direction to another GPU the transfers. A transfer happens when both ends
//! have come to it, and NCCL matches them by their order. The rule that is carried out here: a sender hands a transfer over when it has handed over the
//! layer that makes it, and announces it; a receiver hands its part over in the order of the announcements, before whatever reads it. So everything depends on
//! what was handed over before, and the order in which that happened is one order of all transfers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_plan::{
    Command, ComponentId, DenoiseEngine, Event, Inbox, Instance, Lane, Output, Partition, PlacedPlan, Rank, Source,
    StepIndex, Work,
};
use proptest::prelude::*;

use crate::invariants::{any_case, chooser, place};
use crate::support::{Case, origin, schedule, u_program};

/// A transfer, counted over all jobs.
type Transfer = usize;

/// A value as the host knows it: what the device has to wait for before it reads it.
type Token = Option<Transfer>;

/// How transfers between two GPUs share streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    /// One for both directions, which nobody keeps in order: what must not be.
    BothWays,
    /// One for each direction.
    OneWay,
}

/// Which end of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Receives,
    Sends,
}

/// A stream of transfers: whose, with whom, and for which end where the directions have streams of their own.
type StreamKey = (Rank, Rank, Option<End>);

struct Kernel {
    waits_for: Vec<Transfer>,
    prediction: Option<(usize, StepIndex, Lane)>,
}

/// One end of a transfer that was handed over.
#[derive(Clone, Copy)]
struct HandedOver {
    transfer: Transfer,
    end: End,
    /// Kernels of the same GPU that come before it.
    behind: usize,
}

#[derive(Default)]
struct Gpu {
    kernels: VecDeque<Kernel>,
    given: usize,
    done: usize,
}

struct Job {
    engine: DenoiseEngine,
    inboxes: BTreeMap<Rank, Inbox<Token>>,
    finished: bool,
}

enum Happening {
    /// A host learns of a transfer and hands over its part.
    Announced {
        job: usize,
        instance: Instance,
        from: Rank,
        to: Rank,
        transfer: Transfer,
    },
    Latents {
        job: usize,
        step: StepIndex,
        to: Rank,
    },
    /// A host hands a layer over.
    Launch {
        job: usize,
        rank: Rank,
        work: Box<Work<Token>>,
    },
    Prediction {
        job: usize,
        step: StepIndex,
        lane: Lane,
        from: Rank,
    },
}

struct World {
    streams: Streams,
    jobs: Vec<Job>,
    gpus: BTreeMap<Rank, Gpu>,
    sides: BTreeMap<StreamKey, VecDeque<HandedOver>>,
    /// Announcements of a direction are heard in their order.
    said: BTreeMap<(Rank, Rank), VecDeque<Happening>>,
    happenings: Vec<Happening>,
    done: Vec<bool>,
}

impl World {
    fn new(jobs: &[(Case, PlacedPlan)], streams: Streams) -> Self {
        let job = |(case, placed): &(Case, PlacedPlan)| {
            let inbox = |rank| (rank, Inbox::new(Arc::clone(&case.program), placed.part(rank)));
            let engine = DenoiseEngine::new(placed.clone(), Duration::from_secs(1), origin());
            Job { engine, inboxes: placed.ranks().map(inbox).collect(), finished: false }
        };
        let jobs: Vec<Job> = jobs.iter().map(job).collect();
        let ranks = jobs.iter().flat_map(|job| job.inboxes.keys());
        let gpus = ranks.map(|&rank| (rank, Gpu::default())).collect();
        let (sides, said) = (BTreeMap::new(), BTreeMap::new());
        Self { streams, jobs, gpus, sides, said, happenings: Vec::new(), done: Vec::new() }
    }

    /// Whether all jobs come to their end.
    fn comes_to_an_end(mut self, mut choose: impl FnMut(usize) -> usize) -> bool {
        for job in 0..self.jobs.len() {
            self.tell(job, Event::Ready);
        }
        loop {
            self.look_for_work();
            let gpus: Vec<Rank> = self.gpus.keys().copied().filter(|&rank| self.can_go_on(rank)).collect();
            let pairs: Vec<(StreamKey, StreamKey)> = self.meeting();
            let heard: Vec<(Rank, Rank)> =
                self.said.iter().filter(|(_, said)| !said.is_empty()).map(|(&key, _)| key).collect();
            let all = self.happenings.len() + gpus.len() + pairs.len() + heard.len();
            if all == 0 {
                return self.jobs.iter().all(|job| job.finished);
            }
            let index = choose(all);
            if let Some(&rank) = gpus.get(index) {
                self.finish_kernel(rank);
            } else if let Some(&(one, other)) = pairs.get(index.wrapping_sub(gpus.len())) {
                self.transfer(one, other);
            } else if let Some(key) = heard.get(index.wrapping_sub(gpus.len() + pairs.len())) {
                let said = self.said.get_mut(key).and_then(VecDeque::pop_front).unwrap();
                self.happen(said);
            } else {
                let happening = self.happenings.swap_remove(index - gpus.len() - pairs.len() - heard.len());
                self.happen(happening);
            }
        }
    }

    /// Each host hands over whatever is ready: it waits for no device.
    fn look_for_work(&mut self) {
        for (number, job) in self.jobs.iter_mut().enumerate() {
            for (&rank, inbox) in &mut job.inboxes {
                let is_busy = |happening: &Happening| matches!(happening, Happening::Launch { job, rank: at, .. } if (*job, *at) == (number, rank));
                if self.happenings.iter().any(is_busy) {
                    continue;
                }
                if let Some(work) = inbox.poll_work() {
                    self.happenings.push(Happening::Launch { job: number, rank, work: Box::new(work) });
                }
            }
        }
    }

    fn can_go_on(&self, rank: Rank) -> bool {
        let next = self.gpus[&rank].kernels.front();
        next.is_some_and(|kernel| kernel.waits_for.iter().all(|&transfer| self.done[transfer]))
    }

    fn finish_kernel(&mut self, rank: Rank) {
        let gpu = self.gpus.get_mut(&rank).unwrap();
        gpu.done += 1;
        if let Some((job, step, lane)) = gpu.kernels.pop_front().and_then(|kernel| kernel.prediction) {
            self.happenings.push(Happening::Prediction { job, step, lane, from: rank });
        }
    }

    /// Streams whose next transfers are the two ends of one.
    fn meeting(&self) -> Vec<(StreamKey, StreamKey)> {
        let next = |key: &StreamKey| self.sides.get(key).and_then(VecDeque::front);
        let mut meeting = Vec::new();
        for (&key, _) in self.sides.iter().filter(|(key, _)| next(key).is_some_and(|next| next.end == End::Sends)) {
            let (from, to, _) = key;
            let other = self.key(to, from, End::Receives);
            let (Some(send), Some(receive)) = (next(&key), next(&other)) else { continue };
            let (is_made, is_free) = (self.gpus[&from].done >= send.behind, self.gpus[&to].done >= receive.behind);
            if receive.end == End::Receives && is_made && is_free {
                assert!(
                    self.streams == Streams::BothWays || send.transfer == receive.transfer,
                    "bytes would be mixed up"
                );
                if send.transfer == receive.transfer {
                    meeting.push((key, other));
                }
            }
        }
        meeting
    }

    fn transfer(&mut self, one: StreamKey, other: StreamKey) {
        for key in [one, other] {
            let handed_over = self.sides.get_mut(&key).and_then(VecDeque::pop_front).unwrap();
            self.done[handed_over.transfer] = true;
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Announced { job, instance, from, to, transfer } => {
                // Memory is written that kernels may still read which were handed over before.
                self.hand_over((to, from), End::Receives, transfer);
                self.jobs[job].inboxes.get_mut(&to).unwrap().insert(instance, from, Some(transfer)).unwrap();
            }
            Happening::Latents { job, step, to } => {
                self.jobs[job].inboxes.get_mut(&to).unwrap().insert_latents(step, None).unwrap();
            }
            Happening::Launch { job, rank, work } => self.launch(job, rank, &work),
            Happening::Prediction { job, step, lane, from } => {
                self.tell(job, Event::NoisePredictionArrived { step, lane, from });
            }
        }
    }

    fn launch(&mut self, job: usize, rank: Rank, work: &Work<Token>) {
        let tokens = work.operands.iter().flat_map(|source| match source {
            Source::Condition(_) | Source::Timestep => Vec::new(),
            Source::Latents(token) => vec![*token],
            Source::Value(pieces) => pieces.clone(),
        });
        let waits_for = tokens.flatten().collect();
        let output = self.jobs[job].inboxes.get_mut(&rank).unwrap().complete(work, None);
        let prediction = match &output {
            Some(Output::NoisePrediction { step, lane, .. }) => Some((job, *step, *lane)),
            Some(Output::HiddenState { .. }) | None => None,
        };
        let gpu = self.gpus.get_mut(&rank).unwrap();
        gpu.kernels.push_back(Kernel { waits_for, prediction });
        gpu.given += 1;
        if let Some(Output::HiddenState { instance, to, .. }) = output {
            for to in to {
                let transfer = self.done.len();
                self.done.push(false);
                self.hand_over((rank, to), End::Sends, transfer);
                let said = Happening::Announced { job, instance, from: rank, to, transfer };
                self.said.entry((rank, to)).or_default().push_back(said);
            }
        }
    }

    fn hand_over(&mut self, (rank, peer): (Rank, Rank), end: End, transfer: Transfer) {
        let (key, behind) = (self.key(rank, peer, end), self.gpus[&rank].given);
        self.sides.entry(key).or_default().push_back(HandedOver { transfer, end, behind });
    }

    fn key(&self, rank: Rank, peer: Rank, end: End) -> StreamKey {
        (rank, peer, (self.streams == Streams::OneWay).then_some(end))
    }

    fn tell(&mut self, number: usize, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let job = &mut self.jobs[number];
            job.engine.handle_event(event, origin());
            while let Some(command) = job.engine.poll_command() {
                match command {
                    Command::SendLatents { step, to } => {
                        let latents = |to| Happening::Latents { job: number, step, to };
                        self.happenings.extend(to.into_iter().map(latents));
                    }
                    Command::TakeStep { step, .. } => events.push_back(Event::StepTaken { step }),
                    Command::Finish => job.finished = true,
                    Command::Fail { failure } => panic!("{failure}"),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn devices_that_hand_over_in_the_order_of_announcements_never_wait_in_a_circle(
        first in any_case(),
        second in any_case(),
        ranks in prop::collection::vec(0u16..4, 1..8),
        others in prop::collection::vec(0u16..4, 1..8),
        order in any::<u64>(),
    ) {
        let jobs = [(first.clone(), place(&first, &ranks)), (second.clone(), place(&second, &others))];
        prop_assert!(World::new(&jobs, Streams::OneWay).comes_to_an_end(chooser(order)), "they stand still");
    }
}

/// That the world above can stand still at all.
#[test]
fn one_stream_for_both_directions_would_stand_still() {
    let program = u_program(2);
    let layers = program.owned_layers().count();
    let owners: Vec<ComponentId> = (0..layers).map(|layer| ComponentId(u16::from(layer >= layers / 2))).collect();
    let partition = Partition::from_owners(&program, 2, &owners).unwrap();
    let case = Case { program, partition, schedule: schedule(6, 1, 1) };
    let stands_still = |order: u64| {
        let jobs = [(case.clone(), place(&case, &[0, 1])), (case.clone(), place(&case, &[1, 0]))];
        !World::new(&jobs, Streams::BothWays).comes_to_an_end(chooser(order))
    };
    assert!((0..50).any(stands_still));
}
