//! What this machine can carry, and by what factor times are dilated where that is less than the simulated devices send.

use std::time::Duration;

use asyncdiff_transport::bench::{BenchCarrier, BenchError, LinkBench};
use serde::Serialize;

use super::network::Network;

/// How long each carrier is measured.
const MEASURED_FOR: Duration = Duration::from_millis(700);

/// Bytes of a measured tensor: a large hidden state, which no cache holds.
const TENSOR_BYTES: usize = 30 << 20;

/// The part of what QUIC carries here that this machine is asked for. All cores are busy when it carries as much as it can, and beside that they
/// have to wake devices in time; twice as much costs some percent of the ideal, half as much only time.
const USED_OF_QUIC: f64 = 0.05;

/// Devices whose host sides share a core. What they do for a step, they do at the same moments: when a component run ends and others begin.
const DEVICES_PER_CORE: f64 = 0.75;

/// The same of shared memory. Less, for what is measured is one copy and one sender: devices also copy what they receive, and a ring has room
/// for one or two of the largest hidden states.
const USED_OF_SHARED_MEMORY: f64 = 0.02;

/// What this machine can carry, with all of its cores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Capacity {
    /// Cores, which the simulated devices' host sides share.
    pub cores: usize,
    /// Bytes per second through shared memory.
    pub shared_memory_bytes_per_second: f64,
    /// Bytes per second over QUIC on loopback.
    pub quic_bytes_per_second: f64,
}

impl Capacity {
    /// Measures it; blocks meanwhile.
    pub(super) fn measure() -> Result<Self, BenchError> {
        let carriers = vec![BenchCarrier::SharedMemoryCopied, BenchCarrier::Quic];
        let figures = LinkBench { sizes: vec![TENSOR_BYTES], carriers, time: MEASURED_FOR }.run(&|_| ())?;
        let of = |carrier| {
            let found = figures.iter().find(|found| found.carrier == carrier);
            found.map_or(0.0, |found| found.gb_per_s * 1e9)
        };
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            shared_memory_bytes_per_second: of(BenchCarrier::SharedMemoryCopied),
            quic_bytes_per_second: of(BenchCarrier::Quic),
        })
    }

    /// By what factor times are dilated for so many devices that send so many bytes per second together: cores for the devices' host sides, and
    /// bytes that this machine can carry beside. At least 1.
    pub(super) fn dilation(&self, devices: usize, bytes_per_second: f64, network: Network) -> f64 {
        let used = match network {
            Network::Inside => self.shared_memory_bytes_per_second * USED_OF_SHARED_MEMORY,
            Network::Links { .. } => self.quic_bytes_per_second * USED_OF_QUIC,
        };
        let by_cores = devices as f64 / (self.cores as f64 * DEVICES_PER_CORE);
        let by_bytes = bytes_per_second / used.max(1.0);
        let needed = if devices == 1 { 1.0 } else { by_cores.max(by_bytes).max(1.0) };
        // Rounded up to a tenth, as it is reported.
        (needed * 10.0).ceil() / 10.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dilated_by_what_is_scarcer() {
        let capacity = Capacity { cores: 2, shared_memory_bytes_per_second: 5e9, quic_bytes_per_second: 1e9 };
        let network = Network::Links { gbit_per_s: 10.0, delay_ms: 2.0 };
        assert_eq!(capacity.dilation(1, 0.0, Network::Inside), 1.0);
        assert_eq!(capacity.dilation(2, 1e6, Network::Inside), 1.4);
        assert_eq!(capacity.dilation(6, 1e6, Network::Inside), 4.0);
        assert_eq!(capacity.dilation(2, 0.3e9, Network::Inside), 3.0);
        assert_eq!(capacity.dilation(2, 3e9, network), 60.0);
    }
}
