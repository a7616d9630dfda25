//! What `bench links` reports: what carries tensors how fast on this machine.

mod markdown;

use std::time::Duration;

use asyncdiff_transport::bench::{BenchCarrier, BenchError, IN_FLIGHT, LinkBench, LinkFigures};
use serde::Serialize;

use super::hardware::hardware;

/// Bytes of the tensors: a small hidden state, a middling one, the largest of Stable Diffusion at 512×512 and batch 2, and the
/// largest of a 1024×1024 picture at batch 2.
const SIZES: [usize; 4] = [64 << 10, 1 << 20, 5 << 20, 30 << 20];

/// What [`measure_links`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinksReport {
    /// The processor, and how many of its cores there are.
    pub hardware: String,
    /// The version of this program.
    pub version: &'static str,
    /// Tensors in flight while throughput was measured.
    pub in_flight: usize,
    /// How long each carrier was measured at each size.
    pub seconds: f64,
    /// By size and carrier.
    pub figures: Vec<LinkFigures>,
}

/// Measures every carrier at every size for that long; blocks meanwhile.
pub fn measure_links(time: Duration, note: &(dyn Fn(&str) + Sync)) -> Result<LinksReport, BenchError> {
    let bench = LinkBench { sizes: SIZES.to_vec(), carriers: BenchCarrier::ALL.to_vec(), time };
    Ok(LinksReport {
        hardware: hardware(),
        version: env!("CARGO_PKG_VERSION"),
        in_flight: IN_FLIGHT,
        seconds: time.as_secs_f64(),
        figures: bench.run(note)?,
    })
}
