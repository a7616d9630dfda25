//! A coordinator that ends in the middle of a job, in order or not, and another one on its database.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asyncdiff_coordinator::job::{Dtype, JobRecord, JobRequest, JobSettings, JobState};
use asyncdiff_coordinator::local_workers::{Pace, SimulatedWorker};
use asyncdiff_coordinator::{
    Cluster, ClusterConfig, Disk, JobHandle, JobSpec, JobStore, JobStoreError, Limits, ModelStore, demo_checkpoint,
};
use asyncdiff_plan::{JobId, Prefer, Wishes};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::network::SimulatedNetwork;
use bytes::Bytes;

use super::support::{LONG, ended};

/// A network, workers that outlive coordinators, and a database.
struct Site {
    hub: SimulatedNetwork,
    model: Arc<ModelStore>,
    folder: tempfile::TempDir,
    _workers: Vec<SimulatedWorker>,
}

impl Site {
    fn new() -> Self {
        let hub = SimulatedNetwork::new();
        let model = Arc::new(ModelStore::open(&demo_checkpoint().unwrap()).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let start = |name: &&str| SimulatedWorker::start(&hub, name, Pace::Instant).unwrap();
        let workers = ["a", "b"].iter().map(start).collect();
        Self { hub, model, folder, _workers: workers }
    }

    async fn coordinator(&self) -> Cluster {
        let jobs = Some(opened(self.folder.path()).await);
        let limits = Limits { saving_percent: 100, ..Limits::default() };
        let network = self.hub.process(PeerName::Coordinator);
        Cluster::start(ClusterConfig { network, store: Arc::clone(&self.model), jobs, limits }).await.unwrap()
    }
}

/// A disk that is full for a while.
#[derive(Debug, Default)]
struct FullDisk {
    bytes: Mutex<Vec<u8>>,
    is_full: AtomicBool,
}

impl FullDisk {
    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        change(&mut self.bytes.lock().unwrap());
        Ok(())
    }
}

impl Disk for FullDisk {
    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, found: &mut [u8]) -> io::Result<()> {
        let (bytes, offset) = (self.bytes.lock().unwrap(), offset as usize);
        found.copy_from_slice(bytes.get(offset..offset + found.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, written: &[u8]) -> io::Result<()> {
        self.change(|bytes| bytes[offset as usize..offset as usize + written.len()].copy_from_slice(written))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(|bytes| bytes.resize(length as usize, 0))
    }

    fn sync(&self) -> io::Result<()> {
        self.change(|_| {})
    }
}

/// A coordinator that ended closes its database a moment later.
async fn opened(folder: &Path) -> JobStore {
    let opening = async {
        loop {
            match JobStore::open(folder) {
                Ok(store) => return store,
                Err(JobStoreError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(LONG, opening).await.unwrap()
}

/// All steps exact: whatever is computed twice comes to the same.
fn exact_picture(steps: u32) -> JobSpec {
    let settings = JobSettings {
        steps: NonZeroU32::new(steps).unwrap(),
        size: Some((64, 64)),
        dtype: Dtype::F32,
        wishes: Wishes { prefer: Prefer::Exact, split_guidance: Some(false), ..Wishes::default() },
        ..JobSettings::default()
    };
    JobRequest { prompt: "a red circle".to_owned(), negative_prompt: String::new(), settings }.into()
}

async fn wait_for_steps(handle: &mut JobHandle, steps: u32) {
    let reached = async {
        loop {
            match handle.events.recv().await.unwrap() {
                asyncdiff_coordinator::job::JobEvent::Changed { job } if job.progress.0 >= steps => return,
                asyncdiff_coordinator::job::JobEvent::Changed { .. } => {}
                asyncdiff_coordinator::job::JobEvent::Ended { job } => panic!("it ended too soon: {job:?}"),
            }
        }
    };
    tokio::time::timeout(LONG, reached).await.unwrap();
}

async fn picture(cluster: &Cluster, job: JobId) -> Bytes {
    cluster.files(job).await.unwrap().unwrap().picture.unwrap()
}

/// The job after a restart, with its picture and that of a job that nothing disturbed.
async fn finished(site: &Site, job: JobId) -> (JobRecord, Bytes, Bytes) {
    let cluster = site.coordinator().await;
    let record = ended(cluster.events(job).await.unwrap()).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    let undisturbed = ended(cluster.submit(exact_picture(30)).await.unwrap()).await;
    let pictures = (picture(&cluster, job).await, picture(&cluster, undisturbed.id).await);
    cluster.shutdown(Duration::from_secs(5)).await;
    (record, pictures.0, pictures.1)
}

/// The pixels alone: the file says more, such as the plan.
fn pixels(file: &[u8]) -> Vec<u8> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

#[tokio::test]
async fn a_job_goes_on_where_it_was_when_the_coordinator_is_stopped_and_started_again() {
    let site = Site::new();
    let cluster = site.coordinator().await;
    let mut handle = cluster.submit(exact_picture(30)).await.unwrap();
    wait_for_steps(&mut handle, 5).await;
    cluster.shutdown(Duration::from_secs(5)).await;
    let (record, found, expected) = finished(&site, handle.id).await;
    assert_eq!(record.recoveries.len(), 1, "{record:?}");
    assert!(record.recoveries[0].step >= 1, "{record:?}");
    assert!(pixels(&found) == pixels(&expected), "the picture is another one");
}

#[tokio::test]
async fn a_job_goes_on_from_its_saved_step_when_the_coordinator_vanishes() {
    let site = Site::new();
    let cluster = site.coordinator().await;
    let mut handle = cluster.submit(exact_picture(30)).await.unwrap();
    let waiting = cluster.submit(exact_picture(2)).await.unwrap();
    wait_for_steps(&mut handle, 5).await;
    site.hub.vanish(&PeerName::Coordinator);
    drop(cluster);
    let (record, found, expected) = finished(&site, handle.id).await;
    assert!(record.recoveries.iter().any(|recovery| recovery.what.contains("coordinator ended")), "{record:?}");
    assert!(pixels(&found) == pixels(&expected), "the picture is another one");
    let cluster = site.coordinator().await;
    assert_eq!(cluster.job(waiting.id).await.unwrap().state, JobState::Done);
    assert_eq!(pixels(&picture(&cluster, handle.id).await), pixels(&found), "a picture is kept over restarts");
}

#[tokio::test]
async fn a_job_that_was_answered_for_goes_on_if_the_disk_is_full_when_it_is_submitted_again() {
    let (disk, hub) = (Arc::new(FullDisk::default()), SimulatedNetwork::new());
    let jobs = Some(JobStore::open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap());
    let store = Arc::new(ModelStore::open(&demo_checkpoint().unwrap()).unwrap());
    let (network, limits) = (hub.process(PeerName::Coordinator), Limits::default());
    let cluster = Cluster::start(ClusterConfig { network, store, jobs, limits }).await.unwrap();
    let submit = |key: &str| cluster.submit_once(exact_picture(3), Some(key.to_owned()));
    let first = submit("first").await.unwrap();
    disk.is_full.store(true, Ordering::Relaxed);
    assert!(submit("first").await.is_err() && submit("second").await.is_err());
    disk.is_full.store(false, Ordering::Relaxed);
    assert_eq!(submit("first").await.unwrap().id, first.id);
    let states: Vec<JobState> = cluster.jobs().await.unwrap().iter().map(|job| job.state).collect();
    // Nobody was told of the second.
    assert_eq!(states, [JobState::Queued, JobState::Cancelled]);
}

#[tokio::test]
async fn another_model_begins_a_job_again_and_says_so() {
    let site = Site::new();
    let cluster = site.coordinator().await;
    let mut handle = cluster.submit(exact_picture(30)).await.unwrap();
    wait_for_steps(&mut handle, 5).await;
    cluster.shutdown(Duration::from_secs(5)).await;
    let tiny = super::support::tiny_store();
    let (hub, jobs) = (SimulatedNetwork::new(), Some(opened(site.folder.path()).await));
    let network = hub.process(PeerName::Coordinator);
    let limits = Limits::default();
    let other = Cluster::start(ClusterConfig { network, store: Arc::new(tiny), jobs, limits }).await.unwrap();
    let record = ended(other.events(handle.id).await.unwrap()).await;
    // A model without a text encoder makes no pictures of prompts at all.
    assert_eq!(record.state, JobState::Failed);
    assert!(record.error.unwrap().message.contains("text encoder"), "{:?}", record.warnings);
    assert!(record.warnings.iter().any(|warning| warning.contains("another model")), "{:?}", record.warnings);
    other.shutdown(Duration::from_secs(5)).await;
}
