//! Carries a story out on a cluster in this process, and checks what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use asyncdiff_coordinator::job::JobRequest;
use asyncdiff_coordinator::local_workers::SimulatedWorker;
use asyncdiff_coordinator::{JobSpec, Product};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::faulty::Faults;
use asyncdiff_transport::network::SimulatedNetwork;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::support::{tensor_job, tiny_store};
use super::clients::Clients;
use super::coordinator::{Coordinator, Waited};
use super::small_model::small_model;
use super::story::{Crash, Death, Happening, Job, Kept, LinkState, Process, Story, WORKERS};

/// How long jobs may take once everything is healed: a request that was under way may have to come to its deadline first.
const ENDS_WITHIN: Duration = Duration::from_secs(1200);

/// By what factor a device that hangs is slower: a layer that it has begun takes seconds, a step half a minute. Not more, for a simulated device sleeps to the
/// end of a layer even if it is healed meanwhile.
const HANGING: f64 = 200.0;

struct World {
    hub: SimulatedNetwork,
    kept: Kept,
    coordinator: Coordinator,
    clients: Clients,
    /// By worker: its processes; of several of one name the last is the newest.
    processes: [Vec<SimulatedWorker>; WORKERS.len()],
    devices: [Device; WORKERS.len()],
    leaving: JoinSet<()>,
    /// Processes that end by themselves, or have.
    drained: Vec<SimulatedWorker>,
}

/// The operations per second that a worker's device makes now.
#[derive(Clone)]
struct Device {
    rate: f64,
    now: Arc<AtomicU64>,
}

/// Plays a story; the error says what should not have happened.
pub(super) async fn play(story: &Story) -> Result<(), String> {
    let mut world = World::start(story).await?;
    let start = Instant::now();
    for (when, what) in &story.events {
        while world.coordinator.wait_until(start + *when).await? == Waited::Restarted {
            world.clients.return_to(&mut world.coordinator).await?;
        }
        world.carry_out(what).await?;
    }
    world.heal().await?;
    world.check().await
}

impl World {
    async fn start(story: &Story) -> Result<Self, String> {
        let hub = SimulatedNetwork::with_faults(story.seed);
        let store = match story.kept {
            Kept::InMemory => Arc::new(tiny_store()),
            Kept::OnDisk => Arc::clone(&small_model().store),
        };
        let mut coordinator = Coordinator::new(&hub, store, story.kept, story.seed);
        coordinator.heal().await?;
        let devices = story.rates.map(|rate| Device { rate, now: Arc::new(AtomicU64::new(rate as u64)) });
        let mut world = Self {
            hub,
            kept: story.kept,
            coordinator,
            clients: Clients::default(),
            processes: WORKERS.map(|_| Vec::new()),
            devices,
            leaving: JoinSet::new(),
            drained: Vec::new(),
        };
        for worker in 0..story.at_first {
            world.join(worker)?;
        }
        Ok(world)
    }

    async fn carry_out(&mut self, what: &Happening) -> Result<(), String> {
        match what {
            Happening::Cancel(which) => self.clients.cancel(&mut self.coordinator, *which).await?,
            Happening::Crash(crash) => self.coordinator.crash(*crash),
            Happening::Drain(worker) => {
                let drain = self.coordinator.ask(|cluster| async move { cluster.drain(WORKERS[*worker]).await });
                if drain.await.map_err(|error| error.to_string())? == Some(true) {
                    self.drained.append(&mut self.processes[*worker]);
                }
            }
            Happening::Hang(worker, time) => self.hang(*worker, *time),
            Happening::Join(worker) => self.join(*worker)?,
            Happening::Leave(worker) => {
                for process in self.processes[*worker].drain(..) {
                    self.leaving.spawn(process.leave());
                }
            }
            Happening::Link { from, to, state } => self.hub.set_faults(&name(*from), &name(*to), &faults(*state)),
            Happening::PowerCut(worker) => {
                self.hub.fall_silent(&name(Process::Worker(*worker)));
                self.processes[*worker].clear();
            }
            Happening::Submit(job) => self.clients.want(&mut self.coordinator, self.kept.spec(job)).await?,
            Happening::SubmitAgain(which) => self.clients.submit_again(&mut self.coordinator, *which).await?,
            Happening::Vanish(worker) => {
                self.hub.vanish(&name(Process::Worker(*worker)));
                self.processes[*worker].clear();
            }
        }
        Ok(())
    }

    fn hang(&mut self, worker: usize, time: Duration) {
        let Device { rate, now } = self.devices[worker].clone();
        now.store((rate / HANGING) as u64, Ordering::Relaxed);
        self.leaving.spawn(async move {
            tokio::time::sleep(time).await;
            now.store(rate as u64, Ordering::Relaxed);
        });
    }

    fn join(&mut self, worker: usize) -> Result<(), String> {
        let now = Arc::clone(&self.devices[worker].now);
        let pace = move || now.load(Ordering::Relaxed) as f64;
        let process = SimulatedWorker::with_changing_pace(&self.hub, WORKERS[worker], pace);
        self.processes[worker].push(process.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// From now on nothing goes wrong, and somebody is there.
    async fn heal(&mut self) -> Result<(), String> {
        let all: Vec<Process> =
            std::iter::once(Process::Coordinator).chain((0..WORKERS.len()).map(Process::Worker)).collect();
        for (from, to) in all.iter().flat_map(|from| all.iter().map(move |to| (*from, *to))) {
            self.hub.set_faults(&name(from), &name(to), &faults(LinkState::Healed));
        }
        for Device { rate, now } in &self.devices {
            now.store(*rate as u64, Ordering::Relaxed);
        }
        if self.processes.iter().all(Vec::is_empty) {
            self.join(0)?;
        }
        self.coordinator.heal().await?;
        self.clients.return_to(&mut self.coordinator).await
    }

    async fn check(mut self) -> Result<(), String> {
        let until = Instant::now() + ENDS_WITHIN;
        self.clients.check(&mut self.coordinator, until).await?;
        if self.kept == Kept::OnDisk {
            // Whatever was told is on disk.
            self.coordinator.crash(Crash { death: Death::PowerCut, in_write: None, down_for: Duration::ZERO });
            self.coordinator.heal().await?;
            self.clients.return_to(&mut self.coordinator).await?;
            self.clients.check(&mut self.coordinator, until).await?;
        }
        self.coordinator.witness.check()
    }
}

impl Kept {
    /// A job of the kind that is kept so.
    fn spec(self, job: &Job) -> JobSpec {
        let mut spec = tensor_job(job.steps, job.guidance_scale, job.wishes.clone());
        spec.settings.scheduler = Some(job.scheduler.to_owned());
        if self == Self::InMemory {
            return spec;
        }
        let request = JobRequest {
            prompt: "a red circle".to_owned(),
            negative_prompt: "blue".to_owned(),
            settings: spec.settings,
        };
        JobSpec { product: Product::Picture, ..request.into() }
    }
}

fn name(process: Process) -> PeerName {
    match process {
        Process::Coordinator => PeerName::Coordinator,
        Process::Worker(worker) => PeerName::worker(WORKERS[worker]).unwrap(),
    }
}

fn faults(state: LinkState) -> Faults {
    match state {
        LinkState::Cut => Faults { cut: true, ..Faults::default() },
        LinkState::Healed => Faults::default(),
        LinkState::Slow { bytes_per_second, delay, jitter } => {
            Faults { bytes_per_second: Some(bytes_per_second), delay, jitter, ..Faults::default() }
        }
    }
}
