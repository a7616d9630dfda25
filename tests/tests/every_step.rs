//! Four worker processes, and kill -9 of one of them at each step of a job: every picture is made, and shows what it is to show.
//!
//! Usually some of the steps, drawn from a seed that is printed; all with
//! `ASYNCDIFF_EVERY_STEP=1 cargo test -p asyncdiff-tests --test every_step -- --nocapture`.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::io::Write;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_coordinator::job::{Dtype, JobEvent, JobRecord, JobRequest, JobSettings, JobState};
use asyncdiff_coordinator::{
    JobHandle, LOCAL_WORKER, LocalCluster, LocalClusterConfig, ModelStore, ProcessSettings, WorkerProcesses,
    demo_checkpoint,
};
use asyncdiff_plan::{Cut, Encoding, JobId, Wishes};
use asyncdiff_tests::{Picture, Scene, SeededStream, check_picture, psnr};
use tokio::sync::broadcast::error::RecvError;

/// Another one with `ASYNCDIFF_TEST_SEED`.
const SEED: u64 = 20_261_123;

const WORKERS: usize = 4;
const STEPS: u32 = 20;

/// Steps at which somebody is killed if it is not all.
const SOME: usize = 4;

const CAPTION: &str = "a large green heart on a white background";

/// What a picture of which a part was made by another plan keeps. AsyncDiff itself changes 37 dB and more; a picture of something else has 15 dB
/// or less.
const ALIKE_DECIBELS: f64 = 25.0;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A coordinator in this process, and workers that it did not start.
struct Place {
    local: LocalCluster,
    workers: WorkerProcesses,
}

impl Place {
    async fn start() -> Self {
        let store = Arc::new(ModelStore::open(&demo_checkpoint().unwrap()).unwrap());
        let local = LocalCluster::start(LocalClusterConfig::new(store, 0)).await.unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_test-cluster-process"));
        let workers = WorkerProcesses::start(&ProcessSettings {
            program: Some((program, vec![OsString::from(LOCAL_WORKER)])),
            ..ProcessSettings::new(local.join_line().to_owned(), WORKERS)
        })
        .unwrap();
        local.cluster().wait_for_workers(WORKERS, PATIENCE).await.unwrap();
        Self { local, workers }
    }

    /// One component for each worker, by a cut that is the same for all pictures once it is known.
    async fn settings(&self) -> JobSettings {
        let wishes = Wishes {
            components: Some(WORKERS as u16),
            stride: Some(NonZeroU32::MIN),
            warm_up: Some(1),
            split_guidance: Some(false),
            encoding: Some(Encoding::Full),
            ..Wishes::default()
        };
        let settings = JobSettings {
            steps: NonZeroU32::new(STEPS).unwrap(),
            seed: 3,
            guidance_scale: 5.0,
            dtype: Dtype::F32,
            wishes: wishes.clone(),
            ..JobSettings::default()
        };
        let planned = self.local.cluster().plan(&settings).await.unwrap();
        let cut = Cut::Modules(planned.choice.placed.plan.partition.module_lists(&planned.program));
        JobSettings { wishes: Wishes { cut: Some(cut), ..wishes }, ..settings }
    }

    async fn submit(&self, settings: &JobSettings) -> JobHandle {
        let (prompt, negative_prompt) = (CAPTION.to_owned(), String::new());
        let request = JobRequest { prompt, negative_prompt, settings: settings.clone() };
        self.local.cluster().submit(request.into()).await.unwrap()
    }

    async fn picture(&self, job: JobId) -> Picture {
        let files = self.local.cluster().files(job).await.unwrap().unwrap();
        Picture::from_png(&files.picture.unwrap()).unwrap()
    }

    /// Gets ready to kill a worker: the start of what does it is not to take the time of steps.
    fn killer(&self, worker: usize) -> Killer {
        let (name, id) = self.workers.ids().iter().nth(worker).unwrap();
        let script = format!("read line && kill -9 {id}");
        let shell = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        Killer { name: name.clone(), shell }
    }

    async fn end(self) {
        self.local.shutdown(PATIENCE).await;
        self.workers.stop(PATIENCE).await;
    }
}

struct Killer {
    name: String,
    shell: Child,
}

impl Killer {
    /// Kills, and gives whom.
    fn kill(mut self) -> String {
        self.shell.stdin.take().unwrap().write_all(b"now\n").unwrap();
        assert!(self.shell.wait().unwrap().success());
        self.name
    }
}

/// Follows a job to its end, and kills a worker as soon as that step is taken.
async fn kill_at(place: &Place, mut handle: JobHandle, step: u32, worker: usize) -> JobRecord {
    let (mut killed, mut killer) = (None, Some(place.killer(worker)));
    let ended = async {
        loop {
            match handle.events.recv().await {
                Ok(JobEvent::Changed { job }) => {
                    let has_begun = job.state == JobState::Running && job.phase == "denoising";
                    if has_begun
                        && job.progress.0 >= step
                        && let Some(killer) = killer.take()
                    {
                        killed = Some((killer.kill(), job.progress.0));
                    }
                }
                Ok(JobEvent::Ended { job }) => return *job,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => panic!("the coordinator has ended"),
            }
        }
    };
    let record = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    println!("killed (worker, at step): {killed:?}");
    assert!(killed.is_some(), "the job ended before step {step}");
    record
}

/// A number below a bound.
fn below(stream: &mut SeededStream, bound: u32) -> u32 {
    (stream.next_bits() % u64::from(bound)) as u32
}

/// The steps to kill at.
fn steps(stream: &mut SeededStream) -> Vec<u32> {
    if std::env::var_os("ASYNCDIFF_EVERY_STEP").is_some() {
        return (0..STEPS).collect();
    }
    // One of each quarter.
    let quarter = STEPS / SOME as u32;
    (0..SOME as u32).map(|index| index * quarter + below(stream, quarter)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_made_at_whichever_step_one_of_four_workers_is_killed() {
    let seed = std::env::var("ASYNCDIFF_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("ASYNCDIFF_TEST_SEED={seed}");
    let mut stream = SeededStream::new(seed);
    let scene: Scene = CAPTION.parse().unwrap();
    let place = Place::start().await;
    let settings = place.settings().await;
    let undisturbed = place.submit(&settings).await.ended().await.unwrap();
    assert_eq!(undisturbed.state, JobState::Done, "{:?}", undisturbed.error);
    let reference = place.picture(undisturbed.id).await;
    assert!(check_picture(&reference, &scene).is_right(), "{}", check_picture(&reference, &scene));
    place.end().await;
    let (mut found, mut missed) = (Vec::new(), 0);
    for step in steps(&mut stream) {
        let place = Place::start().await;
        let worker = below(&mut stream, WORKERS as u32) as usize;
        let record = kill_at(&place, place.submit(&settings).await, step, worker).await;
        assert_eq!(record.state, JobState::Done, "step {step}: {:?}", record.error);
        let picture = place.picture(record.id).await;
        let (report, decibels) = (check_picture(&picture, &scene), psnr(&picture, &reference).unwrap());
        println!("step {step}: {decibels:.1} dB, {:?}", record.recoveries);
        assert!(report.is_right(), "step {step}: {report}");
        assert!(decibels >= ALIKE_DECIBELS, "step {step}: {decibels} dB");
        missed += record.recoveries.len();
        found.push(decibels);
        place.end().await;
    }
    // Near the end, or when this machine was slow to kill, the killed one may have had nothing more to do.
    assert!(missed * 2 >= found.len(), "{missed} of {} were missed", found.len());
    found.sort_by(f64::total_cmp);
    println!(
        "killed (SIGKILL): {} pictures, PSNR least {:.1} dB, median {:.1} dB",
        found.len(),
        found[0],
        found[found.len() / 2]
    );
}
