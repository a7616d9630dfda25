//! What more devices bring, up to numbers that this machine does not have: simulated devices that take the published time of a real one, real
//! tensors of the real sizes over the real links, and the real coordinator.
//!
//! ```text
//!   this process: coordinator ══ QUIC, shared memory; limited where a network is simulated ══ worker processes
//!                                                                          each: stub kernels, and the time of layers' operations
//! ```

mod capacity;
mod ideal;
mod markdown;
mod model;
mod network;
mod plot;
mod row;

use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::Context;
use asyncdiff_plan::Wishes;
use serde::Serialize;

pub use capacity::Capacity;
pub use model::SimulatedModel;
pub use network::Network;
pub use row::ScalingRow;

use super::hardware::hardware;
use crate::model_store::ModelStore;
use ideal::Pace;

/// What is measured: every combination that makes sense.
#[derive(Clone, Debug)]
pub struct ScalingBench {
    /// Models.
    pub models: Vec<SimulatedModel>,
    /// Networks between the devices.
    pub networks: Vec<Network>,
    /// Numbers of devices within a host.
    pub devices: Vec<u16>,
    /// Numbers of devices over limited links.
    pub linked_devices: Vec<u16>,
    /// Steps served by one round.
    pub strides: Vec<NonZeroU32>,
    /// Ways of guidance within a host.
    pub guidances: Vec<GuidanceWay>,
    /// Ways of guidance over limited links.
    pub linked_guidances: Vec<GuidanceWay>,
    /// Denoising steps of each job.
    pub steps: NonZeroU32,
    /// By what factor all times are dilated. `None`: by as much as this machine needs, see [`Capacity`].
    pub dilation: Option<f64>,
    /// How often each row is measured; the one with the median time is reported.
    pub repeats: NonZeroU32,
}

/// How the halves of guidance are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GuidanceWay {
    /// As one batch.
    Batched,
    /// In lanes of their own.
    Split,
}

/// What [`ScalingBench`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScalingReport {
    /// The processor, and how many of its cores there are.
    pub hardware: String,
    /// The version of this program.
    pub version: &'static str,
    /// Denoising steps of each job.
    pub steps: u32,
    /// What this machine can carry; none where the dilation was given.
    pub capacity: Option<Capacity>,
    /// By model, network, stride, guidance and number of devices.
    pub rows: Vec<ScalingRow>,
}

/// One combination.
#[derive(Clone, Copy, Debug)]
struct Case {
    model: SimulatedModel,
    network: Network,
    devices: u16,
    stride: NonZeroU32,
    guidance: GuidanceWay,
}

/// A model, ready to be planned and made.
struct Subject {
    store: Arc<ModelStore>,
    pace: Pace,
}

impl GuidanceWay {
    /// All, in the order of tables.
    pub const ALL: [Self; 2] = [Self::Batched, Self::Split];

    /// Its name on the command line and in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Batched => "batched",
            Self::Split => "split",
        }
    }
}

impl Case {
    /// What the planner is asked for: a network that is fast enough leaves it the choice.
    fn wishes(&self) -> Wishes {
        Wishes {
            components: (self.devices == 1).then_some(1),
            cut: self.network.cut().filter(|_| self.devices > 1),
            stride: Some(self.stride),
            warm_up: Some(1),
            split_guidance: Some(self.guidance == GuidanceWay::Split),
            encoding: Some(self.network.encoding()),
            ..Wishes::default()
        }
    }

    /// Whether it is different from the others: one device has no links, and lanes come in pairs.
    fn makes_sense(&self) -> bool {
        match (self.network, self.guidance) {
            (_, GuidanceWay::Split) => self.devices.is_multiple_of(2),
            (Network::Inside, GuidanceWay::Batched) => self.devices > 1 || self.stride.get() == 1,
            (Network::Links { .. }, GuidanceWay::Batched) => self.devices > 1,
        }
    }
}

impl ScalingBench {
    /// Measures row by row.
    pub async fn run(&self, on_progress: &mut (dyn FnMut(String) + Send)) -> anyhow::Result<ScalingReport> {
        let capacity = match self.dilation {
            Some(_) => None,
            None => Some(tokio::task::spawn_blocking(Capacity::measure).await??),
        };
        let cases = self.cases();
        let mut rows = Vec::new();
        for model in self.models.iter().copied() {
            let subject = Subject::new(model)?;
            for case in cases.iter().filter(|case| case.model == model) {
                let row = subject.measure(self, case, capacity.as_ref()).await;
                let row = row.with_context(|| format!("{case:?} failed"))?;
                on_progress(format!("{}/{}: {}", rows.len() + 1, cases.len(), row.line()));
                rows.push(row);
            }
        }
        Ok(ScalingReport {
            hardware: hardware(),
            version: env!("CARGO_PKG_VERSION"),
            steps: self.steps.get(),
            capacity,
            rows,
        })
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for &model in &self.models {
            for &network in &self.networks {
                let (devices, guidances) = match network {
                    Network::Inside => (&self.devices, &self.guidances),
                    Network::Links { .. } => (&self.linked_devices, &self.linked_guidances),
                };
                for &guidance in guidances {
                    for &stride in &self.strides {
                        let case = |&devices: &u16| Case { model, network, devices, stride, guidance };
                        cases.extend(devices.iter().map(case).filter(Case::makes_sense));
                    }
                }
            }
        }
        cases
    }
}

impl Subject {
    fn new(model: SimulatedModel) -> anyhow::Result<Self> {
        let store = model.store()?;
        let program = model.program(&store)?;
        let flops_per_second = model.flops_per_second(&program);
        Ok(Self { store: Arc::new(store), pace: Pace { program, flops_per_second } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_measured_twice_or_in_vain() {
        let bench = ScalingBench {
            models: vec![SimulatedModel::Sd21],
            networks: vec![Network::Inside, Network::Links { gbit_per_s: 1.0, delay_ms: 2.0 }],
            devices: vec![1, 2, 3],
            linked_devices: vec![1, 2],
            strides: [1, 2].map(|stride| NonZeroU32::new(stride).unwrap()).to_vec(),
            guidances: GuidanceWay::ALL.to_vec(),
            linked_guidances: vec![GuidanceWay::Batched],
            steps: NonZeroU32::MIN,
            dilation: None,
            repeats: NonZeroU32::MIN,
        };
        let cases = bench.cases();
        let count = |network, guidance| {
            cases.iter().filter(|case| (case.network, case.guidance) == (network, guidance)).count()
        };
        let [inside, linked] = [bench.networks[0], bench.networks[1]];
        assert_eq!([count(inside, GuidanceWay::Batched), count(inside, GuidanceWay::Split)], [5, 2]);
        assert_eq!([count(linked, GuidanceWay::Batched), count(linked, GuidanceWay::Split)], [2, 0]);
    }
}
