//! What it costs to carry bytes between the processes of a job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Rank;

/// What a link costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkCost {
    /// Seconds that a tensor is under way beside its bytes' time.
    pub latency_seconds: f64,
    /// Throughput of one link.
    pub bytes_per_second: f64,
    /// Seconds that a byte takes from the devices at both of its ends: their cores also encrypt, copy and carry it.
    pub busy_seconds_per_byte: f64,
    /// Seconds that a tensor takes from them beside its bytes: threads wake, headers are read.
    pub busy_seconds_per_tensor: f64,
}

/// The links of a job, each direction by itself: between ranks, and between the coordinator and a rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Links {
    usual: LinkCost,
    others: BTreeMap<(Option<Rank>, Option<Rank>), LinkCost>,
}

impl LinkCost {
    /// A link that costs nothing.
    pub const FREE: Self = Self {
        latency_seconds: 0.0,
        bytes_per_second: f64::INFINITY,
        busy_seconds_per_byte: 0.0,
        busy_seconds_per_tensor: 0.0,
    };

    /// What a link is priced at that carries nothing: so much that every plan without it is faster.
    pub const UNUSABLE: Self = Self { latency_seconds: 1.0, bytes_per_second: 1.0, ..Self::FREE };

    /// Seconds that a tensor of so many bytes takes from the device at either end.
    #[must_use]
    pub fn busy_seconds(&self, bytes: f64) -> f64 {
        self.busy_seconds_per_tensor + bytes * self.busy_seconds_per_byte
    }
}

impl Links {
    /// Links that all cost the same.
    #[must_use]
    pub fn uniform(cost: LinkCost) -> Self {
        Self { usual: cost, others: BTreeMap::new() }
    }

    /// Says what one direction costs; `None` is the coordinator.
    pub fn set(&mut self, from: Option<Rank>, to: Option<Rank>, cost: LinkCost) {
        self.others.insert((from, to), cost);
    }

    /// What carrying from one process to another costs; `None` is the coordinator.
    #[must_use]
    pub fn cost(&self, from: Option<Rank>, to: Option<Rank>) -> LinkCost {
        self.others.get(&(from, to)).copied().unwrap_or(self.usual)
    }

    /// Whether one rank can send to another at all.
    #[must_use]
    pub fn can_carry(&self, from: Rank, to: Rank) -> bool {
        self.cost(Some(from), Some(to)) != LinkCost::UNUSABLE
    }
}
