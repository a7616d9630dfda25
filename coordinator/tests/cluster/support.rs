//! A cluster on simulated links, a tiny denoiser with weights by formula, and jobs for it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_coordinator::job::{Dtype, JobRecord, JobSettings};
use asyncdiff_coordinator::local_workers::{Pace, SimulatedWorker};
use asyncdiff_coordinator::{
    Cluster, ClusterConfig, ConditionTensor, Conditions, FormulaModel, InitialLatents, JobHandle, JobSpec, Limits,
    ModelStore, Product,
};
use asyncdiff_model::formula;
use asyncdiff_plan::{Cut, Encoding, TimeShift, Wishes};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::network::SimulatedNetwork;

/// Long enough for every job of these tests; a paused clock does not wait for it.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// A rate at which a step of the tiny denoiser takes some tenths of a second on the paused clock.
pub(crate) const SLOW: Pace = Pace::FlopsPerSecond(3.0e7);

const TOKENS: u32 = 7;
const CROSS: u32 = 32;

pub(crate) struct TestCluster {
    pub(crate) hub: SimulatedNetwork,
    pub(crate) cluster: Cluster,
    pub(crate) workers: Vec<SimulatedWorker>,
}

impl TestCluster {
    pub(crate) async fn start(names: &[&str], pace: Pace) -> Self {
        Self::with_store(tiny_store(), names, pace, Limits::default()).await
    }

    pub(crate) async fn with_store(store: ModelStore, names: &[&str], pace: Pace, limits: Limits) -> Self {
        Self::on(SimulatedNetwork::new(), store, names, pace, limits).await
    }

    pub(crate) async fn on(
        hub: SimulatedNetwork,
        store: ModelStore,
        names: &[&str],
        pace: Pace,
        limits: Limits,
    ) -> Self {
        let network = hub.process(PeerName::Coordinator);
        let cluster =
            Cluster::start(ClusterConfig { network, store: Arc::new(store), jobs: None, limits }).await.unwrap();
        let workers: Vec<_> = names.iter().map(|name| SimulatedWorker::start(&hub, name, pace).unwrap()).collect();
        cluster.wait_for_workers(names.len(), LONG).await.unwrap();
        Self { hub, cluster, workers }
    }

    pub(crate) async fn submit(&self, spec: JobSpec) -> JobHandle {
        self.cluster.submit(spec).await.unwrap()
    }

    /// Submits a job and waits for its end.
    pub(crate) async fn run(&self, spec: JobSpec) -> JobRecord {
        ended(self.submit(spec).await).await
    }

    /// Waits until a job has taken some steps.
    pub(crate) async fn wait_for_steps(&self, handle: &JobHandle, steps: u32) {
        let reached = async {
            while self.cluster.job(handle.id).await.unwrap().progress.0 < steps {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LONG, reached).await.unwrap();
    }
}

pub(crate) async fn ended(handle: JobHandle) -> JobRecord {
    tokio::time::timeout(LONG, handle.ended()).await.unwrap().unwrap()
}

pub(crate) fn golden(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/sd21");
    std::fs::read_to_string(folder.join(file)).unwrap()
}

pub(crate) fn tiny_model() -> FormulaModel {
    FormulaModel {
        name: "tiny".to_owned(),
        denoiser_config: golden("unet/config.json"),
        scheduler_config: golden("scheduler/scheduler_config.json"),
        seed: 1,
    }
}

pub(crate) fn tiny_store() -> ModelStore {
    ModelStore::formula(tiny_model()).unwrap()
}

/// The published splits of the tiny denoiser.
pub(crate) fn published_split(components: usize) -> Option<Cut> {
    let runs: serde_json::Value = serde_json::from_str(&golden("runs.json")).unwrap();
    let lists = runs["components"].get(format!("n{components}"))?.clone();
    Some(Cut::Modules(serde_json::from_value(lists).unwrap()))
}

/// N components, stride, warm-up, time shift.
pub(crate) fn wishes(components: usize, stride: u32, warm_up: u32, time_shift: TimeShift) -> Wishes {
    Wishes {
        components: Some(components as u16),
        cut: published_split(components),
        stride: NonZeroU32::new(stride),
        warm_up: Some(warm_up),
        time_shift: Some(time_shift),
        // What `auto` chooses depends on how fast this machine is.
        encoding: Some(Encoding::Full),
        ..Wishes::default()
    }
}

/// A job of 64x64 pixels whose conditions and latents are tensors by formula.
pub(crate) fn tensor_job(steps: u32, guidance_scale: f64, wishes: Wishes) -> JobSpec {
    let rows = if guidance_scale > 1.0 { 2 } else { 1 };
    let shape = [rows, TOKENS, CROSS];
    let values = formula::input("prompt_embeds", &shape.map(|axis| axis as usize), 1);
    let tensor = ConditionTensor { shape: shape.to_vec(), values };
    JobSpec {
        conditions: Conditions::Tensors(BTreeMap::from([("encoder_hidden_states".to_owned(), tensor)])),
        latents: InitialLatents::Values(formula::input("latents", &[1, 4, 8, 8], 1)),
        settings: JobSettings {
            steps: NonZeroU32::new(steps).unwrap(),
            guidance_scale,
            size: Some((64, 64)),
            wishes,
            dtype: Dtype::F32,
            ..JobSettings::default()
        },
        product: Product::Latents,
    }
}

/// A job of that many steps on one component per worker.
pub(crate) fn plain_job(steps: u32) -> JobSpec {
    tensor_job(steps, 7.5, Wishes { warm_up: Some(1), encoding: Some(Encoding::Full), ..Wishes::default() })
}
