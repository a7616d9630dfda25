//! What travels between coordinator and workers: control messages, tensor headers, failures.
//!
//! History of the wire's version ([`VERSION`]), which is part of every handshake:
//! - 1: the first.
//! - 2: what a denoiser is computed in; keys and values of cross attentions are layers of the program;
//!   hidden states are channels last.
//! - 3: workers measure their links to each other: probes, and a message that they have arrived.
//! - 4: the acceptor of a link may offer to share memory; hidden states may travel as f16, bf16 or quantised differences; a ResNet
//!   block and a transformer are several layers each.
//! - 5: components may be loaded ahead of the assignment that uses them; a worker that is to leave says so, and is told when no job
//!   needs it any more.
//! - 6: workers have parameters of each other: they say what they hold, and are told whom to ask.
//! - 7: devices have names.
//! - 8: hidden states may go from GPU to GPU over NCCL, announced on the link; elsewhere what a GPU made may come in parts, and as the elements that
//!   it computes with; a denoiser may be computed in f16; a report says what was taken of a GPU's memory.

mod control;
mod device;
mod failure;
mod report;
mod tensor;
mod weights;

pub use control::{
    Assignment, DenoiserSpec, Endpoint, Hello, LayerCost, LinkMeasurement, PROBE_LIMIT_BYTES, PartSpec, Peer,
    ToCoordinator, ToPeer, ToWorker, Tracing, WorkerReply, WorkerRequest,
};
pub use device::DeviceInfo;
pub use failure::WorkerFailure;
pub use report::{RankReport, TraceEvent, TraceKind};
pub use tensor::{ComputeType, DType, MAX_AXES, TENSOR_LIMIT_BYTES, TensorHeader, TensorName, TensorPart, byte_count};
pub use weights::{FailedPeer, HELD_WEIGHTS_LIMIT, PeerFault, WEIGHTS_IN_FLIGHT, WantedWeight, WeightEntry};

/// The wire's version: raised whenever a message, a header or a handshake changes its bytes.
pub const VERSION: u16 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    /// Whoever changes these raises [`VERSION`].
    #[test]
    fn probes_and_messages_about_parameters_have_the_bytes_of_version_eight() {
        assert_eq!(VERSION, 8);
        let types = [ComputeType::Bf16, ComputeType::F32, ComputeType::F16];
        assert_eq!(types.map(|compute| codec::encode(&compute).unwrap()), [[0], [1], [2]]);
        let reason = "r".to_owned();
        assert_eq!(codec::encode(&ToCoordinator::WantsToLeave { reason: reason.clone() }).unwrap(), [6, 1, b'r']);
        assert_eq!(codec::encode(&ToWorker::MayLeave { reason }).unwrap(), [4, 1, b'r']);
        assert_eq!(codec::encode(&TensorName::Probe(9)).unwrap(), [6, 9]);
        assert_eq!(codec::encode(&ToPeer::ProbeArrived { number: 9 }).unwrap(), [0, 9]);
        let (ticket, digests) = (7, vec![[1; 32]]);
        let asked = ToPeer::WeightsNotHeld { digests: digests.clone() };
        assert_eq!(codec::encode(&asked).unwrap(), [&[2, 1][..], &[1; 32]].concat());
        assert_eq!(codec::encode(&ToCoordinator::WeightsArrived { ticket }).unwrap(), [8, 7]);
        assert_eq!(codec::encode(&ToPeer::NcclOffered { id: vec![5, 6] }).unwrap(), [3, 2, 5, 6]);
        assert_eq!(codec::encode(&ToPeer::NcclReady).unwrap(), [5]);
        let instead_of = Some(FailedPeer { name: "w".to_owned(), fault: PeerFault::NotHeld });
        let wanted = ToCoordinator::WantWeights { job: asyncdiff_plan::JobId(2), ticket, digests, instead_of };
        assert_eq!(codec::encode(&wanted).unwrap(), [&[3, 2, 7, 1][..], &[1; 32], &[1, 1, b'w', 1]].concat());
        let endpoint = Endpoint { host: "h".to_owned(), control_port: 1, data_port: 2 };
        let request = WorkerRequest::MeasureLink { peer: "w".to_owned(), endpoint };
        assert_eq!(codec::encode(&request).unwrap(), [4, 1, b'w', 1, b'h', 1, 2]);
        let measured = LinkMeasurement {
            latency_seconds: 0.0,
            bytes_per_second: 2.0,
            busy_seconds_per_byte: 0.0,
            busy_seconds_per_tensor: 0.0,
        };
        let reply = codec::encode(&WorkerReply::LinkMeasured(measured)).unwrap();
        assert_eq!((reply[0], &reply[9..17]), (3, &2.0f64.to_le_bytes()[..]));
    }
}
