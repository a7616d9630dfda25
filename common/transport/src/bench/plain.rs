//! One copy: the bound for everything that copies.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::{BenchError, Streamed, Subject};

/// Copies between two buffers.
#[derive(Default)]
pub(super) struct CopySubject {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl CopySubject {
    fn copy(&mut self, bytes: usize) {
        if self.from.len() != bytes {
            (self.from, self.to) = (vec![7; bytes], vec![0; bytes]);
        }
        self.to.copy_from_slice(black_box(&self.from));
        black_box(&mut self.to);
    }
}

impl Subject for CopySubject {
    fn stream(&mut self, bytes: usize, time: Duration) -> Result<Streamed, BenchError> {
        let (start, mut tensors) = (Instant::now(), 0);
        while start.elapsed() < time {
            self.copy(bytes);
            tensors += 1;
        }
        Ok(Streamed { tensors, elapsed: start.elapsed(), heartbeats: Vec::new() })
    }

    fn one_by_one(&mut self, bytes: usize, time: Duration) -> Result<Vec<Duration>, BenchError> {
        let (start, mut latencies) = (Instant::now(), Vec::new());
        while start.elapsed() < time {
            let begin = Instant::now();
            self.copy(bytes);
            latencies.push(begin.elapsed());
        }
        Ok(latencies)
    }
}
