//! What carries tensors how fast on this machine: every way that links have, against copying memory and against TCP with
//! the same TLS.
//!
//! Both ends are in this process, each QUIC node on a thread of its own, so that one clock times both and the CPU's time
//! is that of both. The ways take turns in short slices and medians are reported: a machine that is shared is slow for all of
//! them alike.

mod carrier;
mod figures;
mod links;
mod plain;
mod tcp;

use std::io;
use std::time::Duration;

use thiserror::Error;

pub use carrier::BenchCarrier;
pub use figures::LinkFigures;

use crate::identity::IdentityError;
use crate::link::LinkError;
use crate::quic::{ConnectError, StartError};
use figures::Slices;
use links::LinkSubject;
use plain::CopySubject;
use tcp::TcpSubject;

/// Tensors in flight while throughput is measured.
pub const IN_FLIGHT: usize = 4;

/// Slices of each figure's time: enough for a median, and each long enough for a tenth of a second of bulk.
const SLICES: u32 = 7;

/// What is measured.
#[derive(Clone, Debug)]
pub struct LinkBench {
    /// Bytes of a tensor, one after the other.
    pub sizes: Vec<usize>,
    /// Which carriers.
    pub carriers: Vec<BenchCarrier>,
    /// How long each carrier is measured at each size.
    pub time: Duration,
}

/// Why nothing was measured.
#[derive(Debug, Error)]
pub enum BenchError {
    /// A QUIC link was not made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The operating system refused something.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A link did not take a frame, or closed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The two ends do not share memory.
    #[error("this system does not let two processes share memory")]
    NoSharedMemory,
    /// A QUIC node did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// One way, ready to be measured.
trait Subject {
    /// Sends tensors of that size for that long, some of them always in flight.
    fn stream(&mut self, bytes: usize, time: Duration) -> Result<Streamed, BenchError>;

    /// Sends tensors one after the other for that long. Returns how long each took from one end to the other.
    fn one_by_one(&mut self, bytes: usize, time: Duration) -> Result<Vec<Duration>, BenchError>;
}

/// What came through in a slice.
#[derive(Debug, Default)]
struct Streamed {
    tensors: u64,
    elapsed: Duration,
    /// Round trips of control frames meanwhile.
    heartbeats: Vec<Duration>,
}

impl LinkBench {
    /// Measures everything; blocks for about as long as its times say.
    pub fn run(&self, note: &(dyn Fn(&str) + Sync)) -> Result<Vec<LinkFigures>, BenchError> {
        let mut subjects = Vec::new();
        for &carrier in &self.carriers {
            subjects.push((carrier, subject(carrier)?));
        }
        let mut figures = Vec::new();
        for &bytes in &self.sizes {
            let mut slices: Vec<Slices> = subjects.iter().map(|_| Slices::default()).collect();
            // The first slice warms pages, windows and packet sizes up and is not counted.
            for slice in 0..=SLICES {
                for ((_, subject), slices) in subjects.iter_mut().zip(&mut slices) {
                    let measured = measure(subject.as_mut(), bytes, self.time / SLICES)?;
                    if slice > 0 {
                        slices.add(measured);
                    }
                }
            }
            for ((carrier, _), slices) in subjects.iter().zip(slices) {
                let found = slices.figures(*carrier, bytes);
                note(&found.line());
                figures.push(found);
            }
        }
        Ok(figures)
    }
}

fn subject(carrier: BenchCarrier) -> Result<Box<dyn Subject>, BenchError> {
    Ok(match carrier {
        BenchCarrier::Copy => Box::new(CopySubject::default()),
        BenchCarrier::TcpTls => Box::new(TcpSubject::new()?),
        _ => Box::new(LinkSubject::new(carrier)?),
    })
}

/// Two thirds of the time for throughput, a third for latency.
fn measure(subject: &mut dyn Subject, bytes: usize, time: Duration) -> Result<figures::Slice, BenchError> {
    let cpu = figures::cpu_time();
    let streamed = subject.stream(bytes, time * 2 / 3)?;
    let cpu = figures::cpu_time().saturating_sub(cpu);
    let latencies = subject.one_by_one(bytes, time / 3)?;
    Ok(figures::Slice { streamed, cpu, latencies })
}
