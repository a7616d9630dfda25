//! Carries a story out on a cluster in this process, and checks what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use asyncdiff_coordinator::job::{JobRecord, JobState};
use asyncdiff_coordinator::local_workers::SimulatedWorker;
use asyncdiff_coordinator::{Cluster, ClusterConfig, JobHandle, JobSpec, Limits, ModelStore, run_replanned_in_process};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::faulty::Faults;
use asyncdiff_transport::network::SimulatedNetwork;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::super::support::{tensor_job, tiny_store};
use super::story::{Happening, Job, LinkState, Process, Story, WORKERS};

/// How long jobs may take once everything is healed: a request that was under way may have to come to its deadline first.
const ENDS_WITHIN: Duration = Duration::from_secs(1200);

/// By what factor a device that hangs is slower: a layer that it has begun takes seconds, a step half a minute. Not more, for a simulated device sleeps to the
/// end of a layer even if it is healed meanwhile.
const HANGING: f64 = 200.0;

struct World {
    hub: SimulatedNetwork,
    store: Arc<ModelStore>,
    cluster: Cluster,
    /// By worker: its processes; of several of one name the last is the newest.
    processes: [Vec<SimulatedWorker>; WORKERS.len()],
    devices: [Device; WORKERS.len()],
    jobs: Vec<(JobSpec, JobHandle)>,
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
        sleep_until(start + *when).await;
        world.carry_out(what).await?;
    }
    world.heal()?;
    world.check().await
}

impl World {
    async fn start(story: &Story) -> Result<Self, String> {
        let hub = SimulatedNetwork::with_faults(story.seed);
        let store = Arc::new(tiny_store());
        let network = hub.process(PeerName::Coordinator);
        let config = ClusterConfig { network, store: Arc::clone(&store), jobs: None, limits: Limits::default() };
        let cluster = Cluster::start(config).await.map_err(|error| error.to_string())?;
        let devices = story.rates.map(|rate| Device { rate, now: Arc::new(AtomicU64::new(rate as u64)) });
        let processes = WORKERS.map(|_| Vec::new());
        let mut world = Self {
            hub,
            store,
            cluster,
            processes,
            devices,
            jobs: Vec::new(),
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
            Happening::Drain(worker) => {
                let drained = self.cluster.drain(WORKERS[*worker]).await.map_err(|error| error.to_string())?;
                if drained {
                    self.drained.append(&mut self.processes[*worker]);
                }
            }
            Happening::Hang(worker, time) => {
                let Device { rate, now } = self.devices[*worker].clone();
                now.store((rate / HANGING) as u64, Ordering::Relaxed);
                let time = *time;
                self.leaving.spawn(async move {
                    tokio::time::sleep(time).await;
                    now.store(rate as u64, Ordering::Relaxed);
                });
            }
            Happening::Join(worker) => self.join(*worker)?,
            Happening::Leave(worker) => {
                for process in self.processes[*worker].drain(..) {
                    self.leaving.spawn(process.leave());
                }
            }
            Happening::Link { from, to, state } => self.hub.set_faults(&name(*from), &name(*to), &faults(*state)),
            Happening::Submit(job) => self.submit(job).await?,
            Happening::Vanish(worker) => {
                self.hub.vanish(&name(Process::Worker(*worker)));
                self.processes[*worker].clear();
            }
        }
        Ok(())
    }

    fn join(&mut self, worker: usize) -> Result<(), String> {
        let now = Arc::clone(&self.devices[worker].now);
        let pace = move || now.load(Ordering::Relaxed) as f64;
        let process = SimulatedWorker::with_changing_pace(&self.hub, WORKERS[worker], pace);
        self.processes[worker].push(process.map_err(|error| error.to_string())?);
        Ok(())
    }

    async fn submit(&mut self, job: &Job) -> Result<(), String> {
        let mut spec = tensor_job(job.steps, job.guidance_scale, job.wishes.clone());
        spec.settings.scheduler = Some(job.scheduler.to_owned());
        let handle = self.cluster.submit(spec.clone()).await.map_err(|error| format!("a job was refused: {error}"))?;
        self.jobs.push((spec, handle));
        Ok(())
    }

    /// From now on nothing goes wrong, and somebody is there.
    fn heal(&mut self) -> Result<(), String> {
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
        Ok(())
    }

    async fn check(mut self) -> Result<(), String> {
        let deadline = Instant::now() + ENDS_WITHIN;
        let jobs = std::mem::take(&mut self.jobs);
        let expected = jobs.len();
        for (spec, handle) in jobs {
            let id = handle.id;
            let Ok(ended) = timeout_at(deadline, handle.ended()).await else {
                let job = self.cluster.job(id).await;
                return Err(format!("{id} does not end: {job:#?}"));
            };
            let record = ended.map_err(|error| format!("{id}: {error}"))?;
            let outcome = self.cluster.outcome(id).await.map_err(|error| format!("{id}: {error}"))?;
            let latents = outcome.as_ref().map(|outcome| outcome.latents.1.as_slice());
            self.check_job(spec, &record, latents).map_err(|failure| format!("{id}: {failure}\n{record:#?}"))?;
        }
        let known = self.cluster.jobs().await.map_err(|error| error.to_string())?;
        if known.len() == expected { Ok(()) } else { Err(format!("{} jobs of {expected} are known", known.len())) }
    }

    fn check_job(&self, spec: JobSpec, record: &JobRecord, latents: Option<&[f32]>) -> Result<(), String> {
        let latents = latents.filter(|_| record.state == JobState::Done).ok_or("it has no latents")?;
        let recovered = record.recoveries.iter().map(|recovery| recovery.step);
        let moved = record.moves.iter().map(|to| to.step);
        let mut replanned_after: Vec<u32> = recovered.chain(moved).collect();
        replanned_after.sort_unstable();
        let denoised = run_replanned_in_process(&self.store, spec, WORKERS.len(), &replanned_after);
        let denoised = denoised.map_err(|error| error.to_string())?;
        if denoised.latents == latents { Ok(()) } else { Err("its latents are not those of its plans".to_owned()) }
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
        LinkState::Slow { bytes_per_second, delay } => {
            Faults { bytes_per_second: Some(bytes_per_second), delay, ..Faults::default() }
        }
    }
}
