//! What carries tensors how fast on this machine, without the rest of the program: as `coordinator bench links`.
//!
//! `cargo bench -p asyncdiff-transport --bench links -- [SECONDS [CARRIERS [SIZES]]]`, with names as JSON has them and sizes in KiB, by commas.

use std::time::Duration;

use asyncdiff_transport::bench::{BenchCarrier, LinkBench};

const SIZES_KIB: &str = "64,1024,5120,30720";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let seconds = arguments.next().map_or(Ok(3.0), |seconds| seconds.parse())?;
    let name = |carrier: &BenchCarrier| serde_json::to_string(carrier).unwrap_or_default().replace('"', "");
    let carriers = match arguments.next() {
        Some(names) => {
            BenchCarrier::ALL.into_iter().filter(|it| names.split(',').any(|wanted| wanted == name(it))).collect()
        }
        None => BenchCarrier::ALL.to_vec(),
    };
    let sizes = arguments.next().unwrap_or(SIZES_KIB.to_owned());
    let sizes: Result<Vec<usize>, _> = sizes.split(',').map(|kib| kib.parse::<usize>().map(|kib| kib << 10)).collect();
    let bench = LinkBench { sizes: sizes?, carriers, time: Duration::from_secs_f64(seconds) };
    bench.run(&|line| println!("{line}"))?;
    Ok(())
}
