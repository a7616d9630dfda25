//! How outputs leave: at once by the thread that computes, or, where a device computes in the background, by one that waits for the device instead of it.
//!
//! ```text
//!   CPU    device's thread: computes, encodes, hands to the link
//!   GPU    device's thread: hands over kernels ── and what goes over NCCL
//!                              │ bounded queue: values that are on their way to the host
//!          departures' thread: waits for the copy, encodes, hands to the link
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use asyncdiff_common::wire::{DType, TensorHeader, TensorName, TensorPart, WorkerFailure};
use asyncdiff_model::encodings::Encoder;
use asyncdiff_model::kernels::{Part, Value};
use asyncdiff_plan::{Instance, Output, Rank, Transfer};

use super::compute::element_type;
use super::outlets::{Outlets, cannot_be_sent};
use super::panics::guarded;
use crate::nccl::NcclPath;
use crate::tensor_bytes;

/// Bytes that are copied and sent at a time: a tenth of a millisecond on PCIe, and a hundred times what a header takes.
const PART_BYTES: usize = 1 << 20;

/// Parts of a hidden state at most: a link has room for a few hundred tensors.
const PARTS_MAX: usize = 16;

/// Outputs that may wait to be copied and sent: a component's of several steps, and it is at most a few ahead.
const WAITING_OUTPUTS: usize = 512;

/// What is told when all is sent, or when something cannot be.
pub(super) type Report = Box<dyn Fn(Result<(), WorkerFailure>) + Send>;

/// The way out of a job.
pub(super) struct Departures {
    outlets: Arc<Outlets>,
    way: Way,
    bytes: Arc<Counters>,
}

enum Way {
    /// By the thread that computes.
    Here(Box<Encoder>),
    /// By a thread that ends when this is dropped, but for what goes to a peer as it was computed and may go over NCCL.
    Behind { queue: SyncSender<Departure>, as_computed: HashSet<(Instance, Rank)> },
}

enum Departure {
    /// As it was computed, to links.
    AsComputed {
        instance: Instance,
        to: Vec<Rank>,
        shape: Vec<u32>,
        dtype: DType,
        parts: Vec<Part>,
    },
    /// Everything is computed.
    End,
    Output(Output<Value>),
}

/// Bytes of hidden states that were sent.
#[derive(Debug, Default)]
struct Counters {
    /// Headers and payloads, as links count them, and what went over NCCL.
    all: AtomicU64,
    /// Over NCCL.
    nccl: AtomicU64,
}

impl Departures {
    pub(super) fn here(outlets: Outlets, encoder: Encoder) -> Self {
        Self { outlets: Arc::new(outlets), way: Way::Here(Box::new(encoder)), bytes: Arc::default() }
    }

    /// Sends from a thread of its own. `report` is called by it.
    pub(super) fn behind(
        outlets: Outlets,
        (encoder, sends): (Encoder, &[Transfer]),
        report: Report,
    ) -> Result<Self, WorkerFailure> {
        let sends = sends.iter().map(|transfer| (transfer.instance, transfer.to));
        let as_computed = sends.filter(|&(instance, to)| encoder.sends_as_computed(instance, to)).collect();
        let (queue, outputs) = sync_channel(WAITING_OUTPUTS);
        let (outlets, bytes) = (Arc::new(outlets), Arc::<Counters>::default());
        let sending = Sending { outlets: Arc::clone(&outlets), encoder, bytes: Arc::clone(&bytes) };
        let thread = std::thread::Builder::new().name("departures".to_owned());
        let started = thread.spawn(move || sending.run(&outputs, &report));
        started
            .map_err(|error| WorkerFailure::Unexpected { reason: format!("a thread cannot be started: {error}") })?;
        Ok(Self { outlets, way: Way::Behind { queue, as_computed }, bytes })
    }

    pub(super) fn outlets(&self) -> &Outlets {
        &self.outlets
    }

    /// Sends an output to everybody who reads it, or sees to it that it is sent. A queue that is full means that the peer does not keep up with the plan, which bounds
    /// what is in flight: the link counts as failed.
    ///
    /// Where the CPU computes, hidden states are encoded here, on the device's own thread, although whoever reads them waits meanwhile: the registers of
    /// differences follow the order of versions, a few hundred microseconds for the largest tensor are less than a core that another thread would
    /// take from the kernels, and what is encoded is still in this core's cache.
    pub(super) fn send(&mut self, output: Output<Value>) -> Result<(), WorkerFailure> {
        match &mut self.way {
            Way::Here(encoder) => {
                let sent = self.outlets.send(output, encoder)?;
                self.bytes.all.fetch_add(sent, Ordering::Relaxed);
                Ok(())
            }
            Way::Behind { .. } => self.send_from_device(output),
        }
    }

    /// Nothing more comes. Whether all is sent already; else `report` is called when it is.
    pub(super) fn finish(&mut self) -> Result<bool, WorkerFailure> {
        match &self.way {
            Way::Here(_) => Ok(true),
            Way::Behind { queue, .. } => enqueue(queue, Departure::End).map(|()| false),
        }
    }

    /// Bytes of hidden states that were sent: all, and those that went over NCCL.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.bytes.all.load(Ordering::Relaxed), self.bytes.nccl.load(Ordering::Relaxed))
    }

    fn send_from_device(&self, output: Output<Value>) -> Result<(), WorkerFailure> {
        let Way::Behind { queue, as_computed } = &self.way else { return Ok(()) };
        let reading =
            |tensor: &Value, name: TensorName| tensor.start_reading().map_err(|error| cannot_be_sent(&name, &error));
        let output = match output {
            Output::HiddenState { instance, to, tensor } => {
                let may_go = |rank: &Rank| as_computed.contains(&(instance, *rank));
                let to = self.send_by_nccl(instance, to, &tensor, may_go)?;
                if to.is_empty() {
                    return Ok(());
                }
                let (plain, encoded): (Vec<Rank>, Vec<Rank>) = to.into_iter().partition(may_go);
                if !plain.is_empty() {
                    enqueue(queue, as_computed_parts(instance, plain, &tensor)?)?;
                }
                if encoded.is_empty() {
                    return Ok(());
                }
                let tensor = reading(&tensor, TensorName::HiddenState(instance))?;
                Output::HiddenState { instance, to: encoded, tensor }
            }
            Output::NoisePrediction { step, lane, tensor } => {
                let tensor = reading(&tensor, TensorName::NoisePrediction(step, lane))?;
                Output::NoisePrediction { step, lane, tensor }
            }
        };
        enqueue(queue, Departure::Output(output))
    }

    /// Sends to those whom a way from GPU to GPU leads to, and returns the others.
    fn send_by_nccl(
        &self,
        instance: Instance,
        to: Vec<Rank>,
        tensor: &Value,
        may_go: impl Fn(&Rank) -> bool,
    ) -> Result<Vec<Rank>, WorkerFailure> {
        let Some(dtype) = tensor.gpu_format().map(element_type) else { return Ok(to) };
        let mut others = Vec::new();
        for rank in to {
            match self.outlets.nccl(rank).filter(|_| may_go(&rank)) {
                Some(path) => self.send_over(path, (instance, rank), tensor, dtype)?,
                None => others.push(rank),
            }
        }
        Ok(others)
    }

    /// Announces a tensor and hands it over. In this order, so that the receiver's part is on its way meanwhile.
    fn send_over(
        &self,
        path: &NcclPath,
        (instance, to): (Instance, Rank),
        tensor: &Value,
        dtype: DType,
    ) -> Result<(), WorkerFailure> {
        let name = TensorName::HiddenState(instance);
        let shape = tensor_bytes::shape_of(&tensor.shape());
        let header = TensorHeader { dtype, ..self.outlets.header(name, shape) };
        self.outlets.announce(to, header)?;
        let failed = |reason: String| WorkerFailure::PeerFailed { peer: path.peer().to_string(), reason };
        let bytes = path.send(tensor).map_err(|error| failed(error.to_string()))? as u64;
        self.bytes.all.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.nccl.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// What the thread works with.
struct Sending {
    outlets: Arc<Outlets>,
    encoder: Encoder,
    bytes: Arc<Counters>,
}

impl Sending {
    /// Sends each part when it has come to the host: the next one is copied meanwhile.
    fn send_parts(&self, header: &TensorHeader, to: &[Rank], parts: Vec<Part>) -> Result<u64, WorkerFailure> {
        let is_whole = parts.len() == 1;
        let mut bytes = 0;
        for part in parts {
            let elements = part.elements();
            let payload = part.wait().map_err(|error| cannot_be_sent(&header.name, &error))?;
            // What is larger than a tensor may be is refused by the link.
            let [first, count] = [elements.start, elements.len()].map(|at| u32::try_from(at).unwrap_or(u32::MAX));
            let part = (!is_whole).then_some(TensorPart { first, elements: count });
            for &rank in to {
                bytes += self.outlets.send_to(rank, TensorHeader { part, ..header.clone() }, payload.clone())?;
            }
        }
        Ok(bytes)
    }

    /// Until there is nothing more to send, nobody who wants it, or something cannot be sent.
    fn run(mut self, outputs: &Receiver<Departure>, report: &Report) {
        while let Ok(departure) = outputs.recv() {
            let sent = match departure {
                Departure::AsComputed { instance, to, shape, dtype, parts } => {
                    let header = self.outlets.header(TensorName::HiddenState(instance), shape);
                    guarded(|| self.send_parts(&TensorHeader { dtype, ..header }, &to, parts))
                }
                Departure::End => return report(Ok(())),
                Departure::Output(output) => guarded(|| self.outlets.send(output, &mut self.encoder)),
            };
            match sent {
                Ok(sent) => {
                    self.bytes.all.fetch_add(sent, Ordering::Relaxed);
                }
                Err(failure) => return report(Err(failure)),
            }
        }
    }
}

/// Begins to read a hidden state as it is on the GPU.
fn as_computed_parts(instance: Instance, to: Vec<Rank>, tensor: &Value) -> Result<Departure, WorkerFailure> {
    let name = TensorName::HiddenState(instance);
    let (shape, dtype) = (tensor.shape(), tensor.gpu_format().map_or(DType::F32, element_type));
    let bytes = shape.iter().product::<usize>() * dtype.bytes() as usize;
    let parts = tensor.start_reading_parts(PART_BYTES.max(bytes.div_ceil(PARTS_MAX)));
    let parts = parts.map_err(|error| cannot_be_sent(&name, &error))?;
    let shape = tensor_bytes::shape_of(&shape);
    Ok(Departure::AsComputed { instance, to, shape, dtype, parts: parts.unwrap_or_default() })
}

fn enqueue(queue: &SyncSender<Departure>, departure: Departure) -> Result<(), WorkerFailure> {
    queue.try_send(departure).map_err(|error| {
        let reason = match error {
            TrySendError::Disconnected(_) => "what sends its outputs has ended",
            TrySendError::Full(_) => "more outputs wait to be sent than a plan lets be in flight",
        };
        WorkerFailure::Unexpected { reason: reason.to_owned() }
    })
}
