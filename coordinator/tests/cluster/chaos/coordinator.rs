//! The coordinator of a story: it may crash, at a moment or in the middle of a write, and is started again on its disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use asyncdiff_coordinator::{Cluster, ClusterConfig, ClusterError, JobStore, Limits, ModelStore};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::network::SimulatedNetwork;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep_until};

use super::disk::{Storage, Unsynced};
use super::story::{Crash, Death, Kept};
use super::witness::Witness;

pub(super) struct Coordinator {
    hub: SimulatedNetwork,
    store: Arc<ModelStore>,
    kept: Kept,
    storage: Arc<Storage>,
    pub(super) witness: Arc<Witness>,
    /// None while it is down.
    cluster: Option<Arc<Cluster>>,
    /// While it is down.
    up_again: Instant,
    /// Counts crashes; shared with those who listen.
    life: Arc<AtomicU32>,
    /// What happens at the write that a crash is set for.
    armed: Option<Crash>,
    chance: StdRng,
}

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The time is there.
    Done,
    /// The coordinator was started again meanwhile.
    Restarted,
}

impl Coordinator {
    pub(super) fn new(hub: &SimulatedNetwork, store: Arc<ModelStore>, kept: Kept, seed: u64) -> Self {
        Self {
            hub: hub.clone(),
            store,
            kept,
            storage: Arc::default(),
            witness: Arc::default(),
            cluster: None,
            up_again: Instant::now(),
            life: Arc::default(),
            armed: None,
            chance: StdRng::seed_from_u64(seed),
        }
    }

    /// The model that it serves.
    pub(super) fn store(&self) -> &ModelStore {
        &self.store
    }

    /// Says whether it still lives as it does now. What is left of one that crashed may go on for a moment in this process, but
    /// nobody hears of it.
    pub(super) fn living(&self) -> impl Fn() -> bool + Send + use<> {
        let (life, now) = (Arc::clone(&self.life), self.life.load(Ordering::Relaxed));
        move || life.load(Ordering::Relaxed) == now
    }

    /// Waits until a time, or until the coordinator is there again.
    pub(super) async fn wait_until(&mut self, time: Instant) -> Result<Waited, String> {
        loop {
            let (is_down, storage) = (self.cluster.is_none(), Arc::clone(&self.storage));
            let next = if is_down { time.min(self.up_again) } else { time };
            tokio::select! {
                biased;
                () = storage.struck() => self.crash_armed(),
                () = sleep_until(next) => {
                    if is_down && self.up_again <= next && self.start().await? {
                        return Ok(Waited::Restarted);
                    }
                    if next == time {
                        return Ok(Waited::Done);
                    }
                }
            }
        }
    }

    /// Asks it; none if it is down or crashes over that.
    pub(super) async fn ask<T, F>(&mut self, request: impl FnOnce(Arc<Cluster>) -> F) -> Result<Option<T>, ClusterError>
    where
        F: Future<Output = Result<T, ClusterError>>,
    {
        let Some(cluster) = self.cluster.clone() else { return Ok(None) };
        let storage = Arc::clone(&self.storage);
        tokio::select! {
            biased;
            () = storage.struck() => {}
            answer = request(cluster) => return answer.map(Some),
        }
        self.crash_armed();
        Ok(None)
    }

    /// Lets it crash, now or later.
    pub(super) fn crash(&mut self, crash: Crash) {
        match crash.in_write {
            Some(writes) => {
                self.armed = Some(crash);
                self.storage.crash_in(Some(writes));
            }
            None => self.die(crash),
        }
    }

    /// From now on it does not crash; it is up.
    pub(super) async fn heal(&mut self) -> Result<(), String> {
        self.up_again = Instant::now();
        loop {
            if self.cluster.is_none() && !self.start().await? {
                // It crashed once more.
                self.up_again = Instant::now();
                continue;
            }
            let storage = Arc::clone(&self.storage);
            // A write that was set for a crash may be waiting for it.
            let struck = tokio::time::timeout(Duration::from_millis(1), storage.struck()).await;
            match struck {
                Ok(()) => self.crash_armed(),
                Err(_) => {
                    self.armed = None;
                    self.storage.crash_in(None);
                    return Ok(());
                }
            }
        }
    }

    /// Starts it; false if it crashes over that.
    async fn start(&mut self) -> Result<bool, String> {
        let storage = Arc::clone(&self.storage);
        let started = tokio::select! {
            biased;
            () = storage.struck() => None,
            started = self.try_start() => Some(started),
        };
        match started {
            Some(cluster) => self.cluster = Some(Arc::new(cluster?)),
            None => self.crash_armed(),
        }
        Ok(self.cluster.is_some())
    }

    async fn try_start(&self) -> Result<Cluster, String> {
        let jobs = match self.kept {
            Kept::InMemory => None,
            Kept::OnDisk => {
                let disk = self.storage.attach();
                let opened = tokio::task::spawn_blocking(move || JobStore::open_on(disk)).await;
                let opened = opened.map_err(|error| error.to_string())?;
                Some(opened.map_err(|error| format!("the database is lost: {error}"))?)
            }
        };
        let network = self.witness.watch(self.hub.process(PeerName::Coordinator), self.life.load(Ordering::Relaxed));
        let config = ClusterConfig { network, store: Arc::clone(&self.store), jobs, limits: Limits::default() };
        Cluster::start(config).await.map_err(|error| error.to_string())
    }

    fn crash_armed(&mut self) {
        if let Some(crash) = self.armed.take() {
            self.die(crash);
        }
    }

    fn die(&mut self, crash: Crash) {
        let unsynced = match crash.death {
            Death::Killed => {
                self.hub.vanish(&PeerName::Coordinator);
                Unsynced::Kept
            }
            Death::PowerCut => {
                self.hub.fall_silent(&PeerName::Coordinator);
                Unsynced::LostByChance
            }
        };
        self.storage.crash(unsynced, &mut self.chance);
        self.armed = None;
        self.cluster = None;
        self.life.fetch_add(1, Ordering::Relaxed);
        self.up_again = Instant::now() + crash.down_for;
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // A write that waits for a crash would keep the runtime from ending.
        self.storage.crash(Unsynced::Kept, &mut self.chance);
    }
}
