//! Control messages: what a coordinator asks of a worker and what a worker reports.
//!
//! ```text
//!   worker                                   coordinator
//!     Hello ─────────────────────────────────►
//!            ◄───────────────────────────────── Welcome
//!     Heartbeat (every 250 ms) ───────────────►
//!            ◄───────────────────────────────── Request { Assign … }
//!     WantWeights ────────────────────────────►   (the parameters follow on the data connection)
//!            ◄───────────────────────────────── AskPeer  (some of them are to be had of another worker)
//!     WeightsArrived, HoldsWeights ───────────►
//!     Reply { Assigned … } ───────────────────►
//!            ◄ conditions, latents ─ ─ ─ ─ ─ ─    (data connection)
//!       ─ ─ noise predictions ─ ─ ─ ─ ─ ─ ─ ─ ►   (data connection)
//!            ◄───────────────────────────────── Request { ReleaseJob }
//!     Reply { Released { report } } ──────────►
//!
//!   worker that dialled                      worker that accepted
//!       ─ ─ hidden states, probes ─ ─ ─ ─ ─ ─ ►   (data connection)
//!            ◄───────────────────────────────── ProbeArrived
//!     WantWeights ────────────────────────────►
//!            ◄ ─ ─ parameters ─ ─ ─ ─ ─ ─ ─ ─ ─    (data connection)
//!            ◄───────────────────────────────── WeightsNotHeld
//!     NcclOffered ────────────────────────────►   (if both have GPUs of one host)
//!            ◄───────────────────────────────── NcclJoining, NcclReady, or NcclRefused
//!     NcclSent ───────────────────────────────►   (the hidden state goes from GPU to GPU)
//! ```

use std::time::Duration;

use asyncdiff_plan::{Epoch, JobId, LayerId, Rank, RankPlan, StepIndex};
use serde::{Deserialize, Serialize};

use super::{ComputeType, DeviceInfo, FailedPeer, RankReport, TensorHeader, WantedWeight, WeightEntry, WorkerFailure};

/// Coordinator to worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Answers `Hello`: the worker is a member.
    Welcome {
        /// How often the worker sends `Heartbeat`.
        heartbeat_interval: Duration,
    },
    /// The worker cannot be a member; the link closes after this.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// Something to do; answered by `Reply` with the same number.
    Request {
        /// Counts up within a session.
        request: u64,
        /// What to do.
        body: Box<WorkerRequest>,
    },
    /// The coordinator ends the session on purpose.
    Goodbye {
        /// Why.
        reason: String,
    },
    /// No job needs the worker any more, which asked to leave or was asked to: its process ends. The link closes after this.
    MayLeave {
        /// Why.
        reason: String,
    },
    /// Part of the answer to `WantWeights`: these are to be asked of another worker. If that fails, `WantWeights` says so.
    AskPeer {
        /// Of the `WantWeights`.
        ticket: u64,
        /// The name in the other worker's certificate.
        peer: String,
        /// Where it listens.
        endpoint: Endpoint,
        /// BLAKE3 digests of the stored bytes.
        digests: Vec<[u8; 32]>,
    },
}

/// Worker to coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToCoordinator {
    /// First message of a session.
    Hello(Hello),
    /// The control actor lives. Sent by the actor itself, not by the transport.
    Heartbeat {
        /// Counts up within a session.
        sequence: u64,
    },
    /// Answers a request.
    Reply {
        /// The request's number.
        request: u64,
        /// What came of it.
        result: Result<WorkerReply, WorkerFailure>,
    },
    /// Parameters that the worker lacks, by digest; they are sent on the data connection, or `AskPeer` says who has them. At most
    /// [`WEIGHTS_IN_FLIGHT`](super::WEIGHTS_IN_FLIGHT) bytes at a time.
    WantWeights {
        /// The job whose assignment listed them.
        job: JobId,
        /// Counts up within a worker's process. The same number again asks for a part once more.
        ticket: u64,
        /// BLAKE3 digests of the stored bytes.
        digests: Vec<[u8; 32]>,
        /// Who did not send them: then the coordinator does.
        instead_of: Option<FailedPeer>,
    },
    /// A job cannot go on at this worker.
    JobFailed {
        /// The job.
        job: JobId,
        /// Its epoch at the worker.
        epoch: Epoch,
        /// Why.
        failure: WorkerFailure,
    },
    /// The worker ends the session on purpose.
    Leaving {
        /// Why.
        reason: String,
    },
    /// The worker is to leave as soon as no job needs it; answered by `MayLeave`.
    WantsToLeave {
        /// Why.
        reason: String,
    },
    /// The worker can send these parameters to others: they are in its cache or in its checkpoint.
    HoldsWeights {
        /// BLAKE3 digests of the stored bytes, at most [`HELD_WEIGHTS_LIMIT`](super::HELD_WEIGHTS_LIMIT).
        digests: Vec<[u8; 32]>,
    },
    /// Everything that was wanted under a ticket has arrived.
    WeightsArrived {
        /// Of the `WantWeights`.
        ticket: u64,
    },
}

/// Who the worker is and what it has. Its name is its certificate's, never a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Distinguishes two lives of one name: microseconds since 1970 at the process's start. The newer one supersedes the older.
    pub incarnation: u64,
    /// The worker's version of this software.
    pub version: String,
    /// Its devices.
    pub devices: Vec<DeviceInfo>,
    /// Where other workers reach it: ports of its control and data endpoints, and the addresses if the operator named one.
    pub endpoint: Endpoint,
    /// Its process id; lets a coordinator that started it relate the two.
    pub process_id: u32,
}

/// Where a process is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Host name or address; empty: the one that the coordinator sees.
    pub host: String,
    /// Port of the control endpoint.
    pub control_port: u16,
    /// Port of the data endpoint.
    pub data_port: u16,
}

/// What a worker is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WorkerRequest {
    /// Load components and be ready to run them.
    Assign(Box<Assignment>),
    /// Load the VAE's decoder; then decode the latents that follow as `TensorName::Latents(step)`, and send the pixels as
    /// `TensorName::Reply` of this request. Answered by `DecoderReady` before the latents are sent.
    DecodeLatents {
        /// The job.
        job: JobId,
        /// Version of the final latents.
        step: StepIndex,
        /// Shape of the latents, batch axis first.
        shape: Vec<u32>,
        /// The VAE.
        model: PartSpec,
    },
    /// Encode tokens; the last hidden state is sent as `TensorName::Reply` of this request, then the request is answered.
    EncodeText {
        /// The job.
        job: JobId,
        /// Rows of token ids.
        tokens: Vec<Vec<u32>>,
        /// The text encoder.
        model: PartSpec,
    },
    /// Time layers, with made-up weights: what the partition is balanced by.
    Measure {
        /// The denoiser.
        denoiser: DenoiserSpec,
        /// Rows of the batch.
        rows: u32,
        /// Which layers.
        layers: Vec<LayerId>,
    },
    /// Send probes to another worker and time them: what the link to it costs.
    MeasureLink {
        /// The name in the other worker's certificate.
        peer: String,
        /// Where it listens.
        endpoint: Endpoint,
    },
    /// Forget a job: stop its runs, free what it holds, say how it went.
    ReleaseJob {
        /// The job.
        job: JobId,
    },
    /// Load the components of an assignment that is to come, while an older one of the job goes on; answered by `Assigned`. What is loaded waits
    /// for the job's next assignment, or its release.
    Preload(Box<Assignment>),
}

/// A denoiser without weights: everything that a program is built from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DenoiserSpec {
    /// The text of `unet/config.json`.
    pub config: String,
    /// Height of the latents.
    pub height: u32,
    /// Width of the latents.
    pub width: u32,
    /// Tokens of the encoder hidden states.
    pub tokens: u32,
    /// What it is computed in.
    pub compute: ComputeType,
}

/// A text encoder or VAE: its configuration and parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartSpec {
    /// The sub-folder in the checkpoint: `text_encoder`, `vae`.
    pub folder: String,
    /// The text of its `config.json`.
    pub config: String,
    /// Its parameters.
    pub weights: Vec<WeightEntry>,
}

/// A rank's part in a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The job.
    pub job: JobId,
    /// The epoch of its placement.
    pub epoch: Epoch,
    /// The denoiser.
    pub denoiser: DenoiserSpec,
    /// Rows of the batch: images, doubled by guidance.
    pub rows: u32,
    /// The rank's runs and transfers.
    pub plan: RankPlan,
    /// The timestep of each step.
    pub timesteps: Vec<f64>,
    /// The parameters of the rank's layers.
    pub weights: Vec<WeightEntry>,
    /// The other ranks that it sends to or receives from.
    pub peers: Vec<Peer>,
    /// Whether to record every layer run and transfer.
    pub trace: Tracing,
}

/// Another rank of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its rank.
    pub rank: Rank,
    /// The name in its certificate.
    pub name: String,
    /// Where it listens.
    pub endpoint: Endpoint,
}

/// Whether a job is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tracing {
    /// Only totals.
    Off,
    /// Every layer run, wait and transfer.
    On,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WorkerReply {
    /// Components are loaded and peers are connected.
    Assigned {
        /// Bytes of parameters that the components hold.
        resident_bytes: u64,
    },
    /// The decoder is loaded: send the latents.
    DecoderReady,
    /// The encoding was sent.
    Encoded,
    /// What the link to another worker costs.
    LinkMeasured(LinkMeasurement),
    /// What each layer asked for costs, in that order.
    Measured {
        /// The layers.
        layers: Vec<LayerCost>,
    },
    /// The job is forgotten.
    Released {
        /// How it went.
        report: Box<RankReport>,
    },
}

/// What a layer costs at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerCost {
    /// How long it takes for all rows of the batch.
    pub seconds: f64,
    /// Bytes that its parameters take as they are held.
    pub resident_bytes: u64,
    /// Bytes that it takes while it is computed; layers of one device share them.
    pub working_bytes: u64,
}

/// What a link to another worker costs, as the sending worker sees it. All figures are finite, and the throughput is above 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkMeasurement {
    /// How long a tensor is under way beside its bytes' time: half of the shortest round trip.
    pub latency_seconds: f64,
    /// Throughput.
    pub bytes_per_second: f64,
    /// Seconds that carrying a byte takes from this worker's cores.
    pub busy_seconds_per_byte: f64,
    /// Seconds that carrying a tensor takes from them beside its bytes.
    pub busy_seconds_per_tensor: f64,
}

/// Bytes of the largest probe that a worker accepts: a hidden state of a usual picture, and no more than what a link
/// reads ahead anyway.
pub const PROBE_LIMIT_BYTES: u32 = 1 << 20;

/// Between two workers, on the link that one of them dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToPeer {
    /// To who dialled: all bytes of a probe are here.
    ProbeArrived {
        /// The probe's number.
        number: u64,
    },
    /// To who accepted: parameters that are to be sent on this link.
    WantWeights {
        /// Which ones.
        wanted: Vec<WantedWeight>,
    },
    /// To who dialled: these are not here, or not any more.
    WeightsNotHeld {
        /// BLAKE3 digests of the stored bytes.
        digests: Vec<[u8; 32]>,
    },
    /// To who accepted: hidden states may go from GPU to GPU if both join a communicator of this name.
    NcclOffered {
        /// `ncclUniqueId`.
        id: Vec<u8>,
    },
    /// To who dialled: this side joins now.
    NcclJoining,
    /// To who dialled: both have joined.
    NcclReady,
    /// To who dialled: there will be no communicator.
    NcclRefused {
        /// Why.
        reason: String,
    },
    /// To who accepted: a hidden state was handed to the communicator. Messages of this kind are in the order of the transfers, and the element
    /// type is what the elements are in the sender's memory.
    NcclSent {
        /// What it is.
        header: TensorHeader,
    },
}
