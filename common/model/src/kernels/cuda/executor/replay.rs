//! A layer that was computed before in the same memory, as one launch: a CUDA graph of what was handed over then.
//!
//! ```text
//!   addresses seen for the first time ──► handed over step by step
//!            for the second time      ──► handed over to a stream that only records ──► graph ──► launched
//!            again                    ──► graph launched
//! ```
//!
//! Values come from few buffers that are used again, so a layer meets the same addresses every step or two. Nothing is allocated while a
//! recording goes on, and nobody else uses its stream, so whatever other threads do on the GPU meanwhile is no part of it.

use std::collections::VecDeque;
use std::sync::Arc;

use cudarc::driver::sys::{CUgraphInstantiate_flags as Flags, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaGraph, CudaStream, result};

use super::attempt::Attempt;
use crate::kernels::cuda::error::CudaError;

/// `off` to hand over every step by itself: so that profilers and watchers see them one by one.
const VARIABLE: &str = "ASYNCDIFF_CUDA_GRAPHS";

/// The fewest steps that are worth a graph.
const STEPS_MIN: usize = 3;

/// Memories that a layer remembers: those of a few lanes and of steps in flight. A graph of a dozen kernels takes some ten KiB.
const REMEMBERED: usize = 8;

/// What records for a GPU's layers.
#[derive(Debug)]
pub(super) struct Recorder {
    stream: Arc<CudaStream>,
    /// Once a recording has failed there is none again: the next would too.
    works: bool,
}

/// What one layer was computed in, the latest last.
#[derive(Debug, Default)]
pub(super) struct Replays(VecDeque<(Vec<u64>, Option<Graph>)>);

/// A recording.
pub(super) struct Graph(CudaGraph, Arc<CudaStream>);

// SAFETY: the driver allows one thread after the other; a graph is behind its layer's lock.
unsafe impl Send for Graph {}

/// How a layer was met before.
pub(super) enum Sight<'a> {
    New,
    /// In this memory, and nothing was recorded.
    Again,
    Recorded(&'a Graph),
}

impl Recorder {
    /// `None` where graphs are not wanted, or the driver has none.
    pub(super) fn new(computing: &CudaStream) -> Result<Option<Self>, CudaError> {
        if std::env::var_os(VARIABLE).is_some_and(|value| value == "off") || !super::libraries::can_record() {
            return Ok(None);
        }
        let stream = computing.context().new_stream().failed_to("make a stream that records")?;
        Ok(Some(Self { stream, works: true }))
    }

    /// Whether so many steps should be recorded.
    pub(super) fn wants(&self, steps: usize) -> bool {
        self.works && steps >= STEPS_MIN
    }

    /// Records what is handed over to the stream that `hand_over` is given.
    pub(super) fn record<E: From<CudaError> + std::fmt::Display>(
        &mut self,
        hand_over: impl FnOnce(&Arc<CudaStream>) -> Result<(), E>,
    ) -> Option<Graph> {
        let recorded = self.try_record(hand_over);
        if let Err(error) = &recorded {
            tracing::warn!(%error, "CUDA graphs do not work here: layers are handed over step by step");
            self.works = false;
        }
        recorded.ok()
    }

    fn try_record<E: From<CudaError>>(
        &self,
        hand_over: impl FnOnce(&Arc<CudaStream>) -> Result<(), E>,
    ) -> Result<Graph, E> {
        let what = "record a layer";
        self.stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).failed_to(what)?;
        let handed_over = hand_over(&self.stream);
        // Ended in any case: nothing was computed, and the stream is as before.
        let ended = self.stream.end_capture(Flags(0)).failed_to(what);
        handed_over?;
        let nothing = || CudaError::Call { what: what.to_owned(), reason: "nothing was recorded".to_owned() };
        Ok(Graph(ended?.ok_or_else(nothing)?, Arc::clone(&self.stream)))
    }
}

impl Replays {
    /// Whether the layer was computed with these sizes and addresses before; it has been from now on.
    pub(super) fn meet(&mut self, memory: &[u64]) -> Sight<'_> {
        if let Some(place) = self.0.iter().position(|(known, _)| known == memory) {
            let known = self.0.remove(place).expect("it is there");
            self.0.push_back(known);
            return match &self.0[self.0.len() - 1].1 {
                Some(graph) => Sight::Recorded(graph),
                None => Sight::Again,
            };
        }
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((memory.to_vec(), None));
        Sight::New
    }

    /// Keeps what was recorded of what was met last.
    pub(super) fn keep(&mut self, graph: Graph) {
        if let Some((_, place)) = self.0.back_mut() {
            *place = Some(graph);
        }
    }
}

impl Graph {
    /// Hands all of it over.
    pub(super) fn launch(&self, stream: &CudaStream) -> Result<(), CudaError> {
        // SAFETY: the graph lives, and whoever launches it has the memory that it was recorded with, for that is what it is found by.
        unsafe { result::graph::launch(self.0.cu_graph_exec(), stream.cu_stream()) }.failed_to("start a recorded layer")
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Graph")
    }
}

impl Drop for Graph {
    /// Layers are dropped by whoever drops a component last, on a thread that has never seen the GPU.
    fn drop(&mut self) {
        // Should it fail the context is lost, and with it all graphs.
        let _ = self.1.context().bind_to_thread();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_met_again_as_long_as_few_others_were_met_since() {
        let mut replays = Replays::default();
        let mut is_new = |memory: u64| matches!(replays.meet(&[memory, 7]), Sight::New);
        assert!(is_new(0) && !is_new(0));
        for memory in 1..REMEMBERED as u64 {
            assert!(is_new(memory));
        }
        // It was the oldest, and is the latest now.
        assert!(!is_new(0));
        assert!(is_new(100) && is_new(1) && !is_new(0));
    }
}
