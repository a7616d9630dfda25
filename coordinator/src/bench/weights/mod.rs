//! `bench weights`: what it takes until workers have their parameters, wherever they come from, against a copy of the file; and what a job's steps
//! take while another worker is fed.

mod checkpoint;
mod feeding;
mod place;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use asyncdiff_common::wire::PartSpec;

use self::checkpoint::BenchCheckpoint;
use self::place::Place;
pub use self::report::{FeedingRow, WeightsReport, WeightsRow};
use super::hardware::hardware;
use super::median::median;
use crate::actors::Limits;
use crate::model_store::ModelStore;
use crate::worker_processes::WorkerProcesses;

/// Workers that begin at once.
const WORKERS: [usize; 3] = [1, 2, 3];

/// Copies of the file, of which the median counts.
const COPIES: usize = 3;

/// How parameters come to workers of this machine.
#[derive(Clone, Debug)]
pub struct WeightsBench {
    /// Size of the checkpoint.
    pub mebibytes: u32,
    /// Where it is made, and the workers' caches.
    pub folder: PathBuf,
}

/// A run of the benchmark.
struct Run<'a> {
    store: Arc<ModelStore>,
    part: PartSpec,
    bytes: u64,
    folder: &'a Path,
    rows: Vec<WeightsRow>,
    note: &'a mut dyn FnMut(String),
}

impl WeightsBench {
    /// Measures, one case after the other.
    pub async fn run(&self, note: &mut dyn FnMut(String)) -> anyhow::Result<WeightsReport> {
        let folder = tempfile::Builder::new().prefix("asyncdiff-").tempdir_in(&self.folder)?;
        let path = folder.path().join("checkpoint.safetensors");
        let (file, bytes) = (path.clone(), u64::from(self.mebibytes) << 20);
        let checkpoint = tokio::task::spawn_blocking(move || BenchCheckpoint::write(&file, bytes)).await??;
        let copy_seconds = copy(&path)?;
        note(format!("a copy takes {copy_seconds:.2} s"));
        let BenchCheckpoint { store, part, bytes } = checkpoint;
        let store = Arc::new(store);
        let mut run = Run { store, part, bytes, folder: folder.path(), rows: Vec::new(), note };
        for workers in WORKERS {
            run.without_caches(workers).await?;
        }
        for workers in WORKERS {
            run.with_caches(workers).await?;
        }
        run.late().await?;
        run.resumed().await?;
        let feeding = feeding::measure(&run.store, (&run.part, bytes), run.note).await?;
        let (rows, version) = (run.rows, env!("CARGO_PKG_VERSION"));
        Ok(WeightsReport { hardware: hardware(), version, checkpoint_bytes: bytes, copy_seconds, rows, feeding })
    }
}

impl Run<'_> {
    /// Nobody keeps anything for others.
    async fn without_caches(&mut self, workers: usize) -> anyhow::Result<()> {
        let mut place = Place::start(&self.store, Limits::default()).await?;
        let processes = place.join(workers, &[]).await?;
        self.measure(&place, &processes, "begin without a cache").await?;
        place.stop(processes).await?;
        place.end().await;
        Ok(())
    }

    /// The first time, and once more with what is on the disk then.
    async fn with_caches(&mut self, workers: usize) -> anyhow::Result<()> {
        let caches = self.caches("together", workers)?;
        let mut place = Place::start(&self.store, Limits::default()).await?;
        let processes = place.join(workers, &caches).await?;
        self.measure(&place, &processes, "begin with an empty cache each").await?;
        place.stop(processes).await?;
        let processes = place.join(workers, &caches).await?;
        self.measure(&place, &processes, "have what their caches kept").await?;
        place.stop(processes).await?;
        place.end().await;
        self.remove(&caches)
    }

    /// One worker after another.
    async fn late(&mut self) -> anyhow::Result<()> {
        let caches = self.caches("late", 2)?;
        let mut place = Place::start(&self.store, Limits::default()).await?;
        let first = place.join(1, &caches[..1]).await?;
        place.load(&first, &self.part).await?;
        let second = place.join(1, &caches[1..]).await?;
        self.measure(&place, &second, "comes when another has everything").await?;
        drop(first);
        place.stop(second).await?;
        place.end().await;
        self.remove(&caches)
    }

    /// A worker that is killed in the middle and started again.
    async fn resumed(&mut self) -> anyhow::Result<()> {
        let caches = self.caches("resumed", 1)?;
        let mut place = Place::start(&self.store, Limits::default()).await?;
        let processes = place.join(1, &caches).await?;
        place.kill_after(processes, &self.part, self.bytes / 2).await?;
        let processes = place.join(1, &caches).await?;
        self.measure(&place, &processes, "was killed after half of it").await?;
        place.stop(processes).await?;
        place.end().await;
        self.remove(&caches)
    }

    async fn measure(&mut self, place: &Place, processes: &WorkerProcesses, case: &'static str) -> anyhow::Result<()> {
        let before = place.counts(processes).await?;
        let took = place.load(processes, &self.part).await?;
        let after = place.counts(processes).await?;
        let row = WeightsRow {
            case,
            workers: processes.names().len(),
            seconds: took.as_secs_f64(),
            coordinator_bytes: after.coordinator_bytes - before.coordinator_bytes,
            peer_bytes: after.peer_bytes - before.peer_bytes,
        };
        (self.note)(format!("{} worker(s), {case}: {:.2} s", row.workers, row.seconds));
        self.rows.push(row);
        Ok(())
    }

    fn caches(&self, name: &str, count: usize) -> anyhow::Result<Vec<PathBuf>> {
        let folders: Vec<PathBuf> =
            (0..count).map(|number| self.folder.join(format!("{name}-{count}-{number}"))).collect();
        for folder in &folders {
            std::fs::create_dir(folder)?;
        }
        Ok(folders)
    }

    fn remove(&self, caches: &[PathBuf]) -> anyhow::Result<()> {
        for folder in caches {
            std::fs::remove_dir_all(folder)?;
        }
        Ok(())
    }
}

/// Copies a file onto the same file system, into a new one each time, as `cp` does.
fn copy(path: &Path) -> anyhow::Result<f64> {
    let target = path.with_extension("copy");
    let mut took = Vec::with_capacity(COPIES);
    for _ in 0..COPIES {
        let begun = Instant::now();
        std::fs::copy(path, &target)?;
        took.push(begun.elapsed().as_secs_f64());
        std::fs::remove_file(&target)?;
    }
    median(took).ok_or_else(|| anyhow::anyhow!("nothing was copied"))
}
