//! The coordinator and its workers, each on a host of its own, and the pictures that they make.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Ended, PATIENCE, Place, Running};
use crate::likeness::{ALIKE_DECIBELS, decibels};
use crate::network::Network;

const PROMPT: &str = "a large green heart on a white background";

/// Of two parts, however fast either worker seems to be on a busy machine.
const PICTURE: [&str; 7] = ["submit", PROMPT, "--steps", "40", "--seed", "3", "--components=2"];

/// One cluster at a time: what is said about seconds is said of a machine that does nothing else.
static ALONE: Mutex<()> = Mutex::new(());

/// Fields end in order: processes before what they stand on.
pub(crate) struct Cluster {
    server: Option<Running>,
    _workers: Vec<Running>,
    place: Place,
    pub(crate) network: Network,
    reference: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

/// A picture in the making.
pub(crate) struct Picture {
    name: &'static str,
    submitted: Running,
}

impl Cluster {
    /// A cluster with these workers, which has made the picture undisturbed. None where there can be no hosts.
    pub(crate) fn start(workers: &[&'static str]) -> Option<Self> {
        // One that failed has left nothing behind.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let network = Network::of(&[&["coordinator"], workers].concat())?;
        let place = Place::new();
        place.write("my.toml", &format!("[cluster]\nadvertise = \"{}\"\n", network.address("coordinator")));
        let reference = place.path("reference.png");
        let mut cluster = Self { server: None, _workers: Vec::new(), place, network, reference, _alone: alone };
        let line = cluster.start_coordinator();
        for worker in workers {
            let started = cluster.join(&line, worker);
            cluster._workers.push(started);
        }
        cluster.command(&[&PICTURE[..], &["-o", "reference.png"]].concat()).expect(0, &[]);
        Some(cluster)
    }

    /// Gives the line that workers join with.
    pub(crate) fn start_coordinator(&mut self) -> String {
        let server = self.start_on("coordinator", &["serve", "--config", "my.toml"]);
        let line = server.wait_for("worker join adj1.");
        self.server = Some(server);
        self.wait_until("the coordinator answers", PATIENCE, |cluster| cluster.command(&["jobs"]).code == Some(0));
        line.trim().strip_prefix("worker join ").unwrap().to_owned()
    }

    /// Kills it with -9: no handler runs, nothing is flushed.
    pub(crate) fn kill_coordinator(&mut self) {
        drop(self.server.take());
    }

    fn join(&self, line: &str, name: &str) -> Running {
        let join = ["local-worker", "join", line, "--name", name, "--threads", "1", "--state-dir", name];
        let worker = self.start_on(name, &join);
        worker.wait_for("is a member");
        worker
    }

    /// A client's command, on the coordinator's host.
    pub(crate) fn command(&self, arguments: &[&str]) -> Ended {
        let words = self.network.on("coordinator");
        self.place.run_after(&words.each_ref().map(String::as_str), arguments)
    }

    fn start_on(&self, host: &str, arguments: &[&str]) -> Running {
        let words = self.network.on(host);
        self.place.start_after(&words.each_ref().map(String::as_str), arguments)
    }

    /// Begins the picture and waits until some steps are taken.
    pub(crate) fn begin(&self, name: &'static str) -> Picture {
        let submitted = self.start_on("coordinator", &[&PICTURE[..], &["-o", name]].concat());
        submitted.wait_for("step 1");
        Picture { name, submitted }
    }

    /// Names of the workers that are members now.
    pub(crate) fn workers(&self) -> Vec<String> {
        let listed = self.command(&["workers", "--json"]).json();
        listed.as_array().unwrap().iter().map(|worker| worker["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Asks until it is so, and gives how long that took.
    pub(crate) fn wait_until(&self, what: &str, at_most: Duration, is_so: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while !is_so(self) {
            assert!(began.elapsed() < at_most, "not within {at_most:?}: {what}; {:?}", self.command(&["workers"]));
        }
        began.elapsed()
    }

    /// Checks that the picture was made, and is the picture: it gives the record.
    pub(crate) fn check(&self, picture: Picture, job: &str) -> Value {
        let Picture { name, submitted } = picture;
        assert_eq!(submitted.end(), Some(0));
        let record = self.command(&["job", job, "--json"]).json();
        assert_eq!(record["state"], "done", "{record}");
        let found = decibels(&self.path(name), &self.reference);
        println!("{name}: {found:.1} dB, {}", record["recoveries"]);
        assert!(found >= ALIKE_DECIBELS, "{found} dB");
        record
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.place.path(name);
        assert!(Path::exists(&path), "{name} was not written");
        path
    }
}

impl Picture {
    /// How long after a moment its user is told that a worker is lost.
    pub(crate) fn noticed(&self, worker: &str, after: Instant) -> Duration {
        self.told(&format!("worker {worker} was lost"), after)
    }

    /// How long after a moment its user is told something.
    pub(crate) fn told(&self, part: &str, after: Instant) -> Duration {
        let said = self.submitted.wait_for(part);
        let noticed = after.elapsed();
        println!("{}: after {noticed:.2?}: {said}", self.name);
        noticed
    }
}
