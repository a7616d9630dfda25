//! `picture-rates COORDINATOR [CAPTIONS] [FOLDER]`: how many pictures of the demo model are right, sequentially and split.
//!
//! Makes a picture of each of the 40 rated captions in every setting, by worker processes that join over QUIC as a
//! user's do, checks it, compares it with the sequential one, and prints the README's table in Markdown. `COORDINATOR`
//! is the built program, which the workers are; with fewer captions it is a quick look; pictures are kept in `FOLDER`
//! if one is given. The splits are the published ones of SD 2.1, so that the figures compare with others'.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use asyncdiff_coordinator::job::{Dtype, JobRequest, JobSettings};
use asyncdiff_coordinator::{
    Cluster, JobSpec, LOCAL_WORKER, LocalCluster, LocalClusterConfig, ModelStore, demo_checkpoint,
};
use asyncdiff_plan::{Cut, Encoding, TimeShift, Wishes};
use asyncdiff_tests::{Picture, RATED_CAPTIONS, Scene, check_picture, psnr, rated_scenes};

/// Where the published splits are: the golden data names them by module, for each number of components.
const PUBLISHED_SPLITS: &str = include_str!("../../golden/sd21/runs.json");

/// What the demo model was made for.
const GUIDANCE_SCALE: f64 = 5.0;
const STEPS: NonZeroU32 = NonZeroU32::new(50).expect("50 is not zero");
const SCHEDULER: &str = "ddim";

/// How long a cluster may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A way to make the pictures.
#[derive(Clone, Copy)]
struct Setting {
    name: &'static str,
    components: usize,
    stride: u32,
    warm_up: u32,
    dtype: Dtype,
    encoding: Encoding,
}

/// The rows of the table; the first is what the others are compared with.
const SETTINGS: [Setting; 11] = [
    Setting::new("sequential", 1, 1, 1),
    Setting { dtype: Dtype::Bf16, ..Setting::new("sequential, bf16", 1, 1, 1) },
    Setting::new("N=2 S=1", 2, 1, 1),
    Setting { encoding: Encoding::F16, ..Setting::new("N=2 S=1, f16 edges", 2, 1, 1) },
    Setting { encoding: Encoding::Bf16, ..Setting::new("N=2 S=1, bf16 edges", 2, 1, 1) },
    Setting { encoding: Encoding::Delta8, ..Setting::new("N=2 S=1, delta8 edges", 2, 1, 1) },
    Setting { encoding: Encoding::Delta4, ..Setting::new("N=2 S=1, delta4 edges", 2, 1, 1) },
    Setting::new("N=3 S=1", 3, 1, 1),
    Setting::new("N=4 S=1", 4, 1, 1),
    Setting::new("N=2 S=2", 2, 2, 1),
    Setting::new("N=3 S=2 warm-up 5", 3, 2, 5),
];

/// What the program is started with.
struct Arguments {
    coordinator: PathBuf,
    captions: usize,
    folder: Option<PathBuf>,
}

/// How many pictures are right.
#[derive(Default)]
struct Rates {
    background: usize,
    place: usize,
    shape: usize,
    /// In decibels, to the sequential picture.
    psnr: Vec<f64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    let scenes: Vec<Scene> = rated_scenes().into_iter().take(arguments.captions).collect();
    let open = || -> Result<ModelStore> { Ok(ModelStore::open(&demo_checkpoint()?)?) };
    let store = Arc::new(tokio::task::spawn_blocking(open).await??);
    println!(
        "| of {} captions | background | colour, place | shape | PSNR | to unencoded |\n|---|---|---|---|---|---|",
        scenes.len()
    );
    let mut sequential: Vec<Picture> = Vec::new();
    let mut full: Vec<Picture> = Vec::new();
    for setting in SETTINGS {
        let pictures = setting.make_pictures(&arguments, &store, &scenes).await?;
        let rates = Rates::of(setting, &scenes, &pictures, &sequential)?;
        let encoded = setting.encoding != Encoding::Full;
        let to_full = if encoded { mean_psnr(&pictures, &full)? } else { String::new() };
        println!("{} {to_full} |", rates.row(setting));
        if sequential.is_empty() {
            sequential.clone_from(&pictures);
        }
        if !encoded {
            full = pictures;
        }
    }
    Ok(())
}

impl Arguments {
    fn parse() -> Result<Self> {
        let mut arguments = std::env::args().skip(1);
        let usage = "hint: picture-rates COORDINATOR [CAPTIONS] [FOLDER]";
        let coordinator = arguments.next().with_context(|| format!("the built program is missing\n{usage}"))?;
        let coordinator = PathBuf::from(&coordinator);
        ensure!(coordinator.is_file(), "there is no program {}\n{usage}", coordinator.display());
        let captions = match arguments.next() {
            Some(text) => text.parse().with_context(|| format!("{text:?} is no number of captions\n{usage}"))?,
            None => RATED_CAPTIONS,
        };
        let folder = arguments.next().map(PathBuf::from);
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        ensure!(arguments.next().is_none(), "too many arguments\n{usage}");
        Ok(Self { coordinator, captions, folder })
    }
}

impl Setting {
    const fn new(name: &'static str, components: usize, stride: u32, warm_up: u32) -> Self {
        Self { name, components, stride, warm_up, dtype: Dtype::F32, encoding: Encoding::Full }
    }

    /// Slots of the plan: each gets a worker of one thread.
    fn workers(self) -> usize {
        self.components + self.stride as usize - 1
    }

    /// Makes the pictures, on as many clusters side by side as the processor has room for.
    async fn make_pictures(
        self,
        arguments: &Arguments,
        store: &Arc<ModelStore>,
        scenes: &[Scene],
    ) -> Result<Vec<Picture>> {
        let cores = std::thread::available_parallelism()?.get();
        let next = Arc::new(AtomicUsize::new(0));
        let mut lanes = tokio::task::JoinSet::new();
        for _ in 0..(cores / self.workers()).max(1) {
            let program = Some((arguments.coordinator.clone(), vec![LOCAL_WORKER.into()]));
            let config = LocalClusterConfig { program, ..LocalClusterConfig::new(Arc::clone(store), self.workers()) };
            let (scenes, next, folder) = (scenes.to_vec(), Arc::clone(&next), arguments.folder.clone());
            lanes.spawn(async move {
                let local = LocalCluster::start(config).await?;
                let made = self.make_in_turn(local.cluster(), &scenes, &next, folder.as_deref()).await;
                local.shutdown(STOP_WITHIN).await;
                made
            });
        }
        let mut made = Vec::new();
        while let Some(lane) = lanes.join_next().await {
            made.extend(lane??);
        }
        made.sort_by_key(|(index, _)| *index);
        Ok(made.into_iter().map(|(_, picture)| picture).collect())
    }

    /// Makes the pictures that no other cluster has begun.
    async fn make_in_turn(
        self,
        cluster: &Cluster,
        scenes: &[Scene],
        next: &AtomicUsize,
        folder: Option<&Path>,
    ) -> Result<Vec<(usize, Picture)>> {
        let mut made = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(scene) = scenes.get(index) else { return Ok(made) };
            let file = self.make(cluster, scene, index).await.with_context(|| format!("{}: {scene}", self.name))?;
            if let Some(folder) = folder {
                let path = folder.join(format!("{index:02}-{}.png", self.name.replace([' ', '='], "-")));
                std::fs::write(&path, &file).with_context(|| format!("cannot write {}", path.display()))?;
            }
            let picture = Picture::from_png(&file)?;
            eprintln!("{}, {index}: {scene}: {}", self.name, check_picture(&picture, scene));
            made.push((index, picture));
        }
    }

    async fn make(self, cluster: &Cluster, scene: &Scene, index: usize) -> Result<Vec<u8>> {
        let settings = JobSettings {
            steps: STEPS,
            seed: index as u64,
            guidance_scale: GUIDANCE_SCALE,
            scheduler: Some(SCHEDULER.to_owned()),
            wishes: self.wishes()?,
            dtype: self.dtype,
            ..JobSettings::default()
        };
        let request = JobRequest { prompt: scene.to_string(), negative_prompt: String::new(), settings };
        let job = cluster.submit(JobSpec::from(request)).await?;
        let id = job.id;
        if let Some(error) = job.ended().await?.error {
            bail!("{}\nhint: {}", error.message, error.hint);
        }
        let outcome = cluster.outcome(id).await?.context("the job ended without an outcome")?;
        Ok(outcome.picture.clone().context("the job ended without a picture")?.to_vec())
    }

    fn wishes(self) -> Result<Wishes> {
        let sequential = self.components == 1;
        Ok(Wishes {
            components: sequential.then_some(1),
            cut: if sequential { None } else { Some(Cut::Modules(published_split(self.components)?)) },
            stride: NonZeroU32::new(self.stride),
            warm_up: Some(self.warm_up),
            time_shift: Some(TimeShift::Off),
            split_guidance: Some(false),
            encoding: Some(self.encoding),
            ..Wishes::default()
        })
    }
}

/// The published split of SD 2.1 into so many components.
fn published_split(components: usize) -> Result<Vec<Vec<String>>> {
    let description: serde_json::Value = serde_json::from_str(PUBLISHED_SPLITS)?;
    let lists = &description["components"][format!("n{components}")];
    serde_json::from_value(lists.clone()).with_context(|| format!("no published split into {components} components"))
}

impl Rates {
    fn of(setting: Setting, scenes: &[Scene], pictures: &[Picture], sequential: &[Picture]) -> Result<Self> {
        let (found, expected) = (pictures.len(), scenes.len());
        ensure!(found == expected, "{}: {found} pictures were made of {expected} captions", setting.name);
        let mut rates = Self::default();
        for (index, (scene, picture)) in scenes.iter().zip(pictures).enumerate() {
            let report = check_picture(picture, scene);
            rates.background += usize::from(report.background_is_right());
            rates.place += usize::from(report.place_is_right());
            rates.shape += usize::from(report.is_right());
            if let Some(sequential) = sequential.get(index) {
                rates.psnr.push(psnr(picture, sequential)?);
            }
        }
        Ok(rates)
    }

    fn row(&self, setting: Setting) -> String {
        let psnr = decibels(&self.psnr);
        format!("| {} | {} | {} | {} | {psnr} |", setting.name, self.background, self.place, self.shape)
    }
}

/// How close pictures are to those of another setting.
fn mean_psnr(pictures: &[Picture], others: &[Picture]) -> Result<String> {
    let each = pictures.iter().zip(others).map(|(picture, other)| Ok(psnr(picture, other)?));
    Ok(decibels(&each.collect::<Result<Vec<f64>>>()?))
}

fn decibels(psnr: &[f64]) -> String {
    let mean = psnr.iter().sum::<f64>() / psnr.len() as f64;
    if psnr.is_empty() { String::new() } else { format!("{mean:.1} dB") }
}
