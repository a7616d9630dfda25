//! What is particular to shared memory: how it comes about, hostile peers, bounds, and the way back to QUIC.

mod descriptors;
mod handshake;
mod hostile;
mod links;

use asyncdiff_common::wire::{DType, TensorHeader, TensorName};
use asyncdiff_plan::{Epoch, Instance, JobId, Lane as GuidanceLane, StepIndex, ValueId};

use super::{Channel, Offer, take_up};
use crate::link::TensorFrame;

/// Both ends of shared memory: the acceptor's and the dialler's.
async fn channels() -> (Channel, Channel) {
    let offer = Offer::new().unwrap();
    let wire = offer.to_wire();
    let (accepted, dialled) = tokio::join!(offer.accept(), take_up(&wire));
    (accepted.unwrap(), dialled.unwrap())
}

/// A hidden state of bytes, told from others by its number: what is lent in place.
fn hidden_state(number: u32, bytes: usize) -> TensorFrame {
    let instance = Instance { value: ValueId(number as u16), step: StepIndex(1), lane: GuidanceLane::Whole };
    let header = TensorHeader {
        job: JobId(1),
        epoch: Epoch(1),
        name: TensorName::HiddenState(instance),
        shape: vec![1, bytes as u32],
        dtype: DType::U8,
        delta: None,
        part: None,
    };
    // Cheaper than noise, since some tests send hundreds of mebibytes.
    let mut payload = vec![number as u8; bytes];
    for (byte, mark) in payload.iter_mut().rev().zip(number.to_le_bytes()) {
        *byte = mark;
    }
    TensorFrame { header, payload: payload.into() }
}
