//! The sending end of all edges: rounds, or takes differences from what the receivers have.

use std::collections::HashMap;

use asyncdiff_plan::{Chain, Delta, Encoding, Instance, Rank, RankPlan, Transfer, ValueId};
use bytes::Bytes;

use super::buffers::Buffers;
use super::{EncodingError, Half, encode_delta, encode_half};
use crate::kernels::{Isa, Value};

/// Encodes what one rank sends.
#[derive(Debug, Default)]
pub struct Encoder {
    transfers: HashMap<(Instance, Rank), Transfer>,
    edges: HashMap<(Rank, ValueId), SendingEnd>,
    rows: usize,
    run_ahead: u32,
}

/// A tensor that is ready to be sent.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// What the plan says about it.
    pub transfer: Transfer,
    /// All axes, the batch axis first.
    pub shape: Vec<usize>,
    /// Its elements, channels last, encoded.
    pub payload: Bytes,
}

/// One value for one receiver.
#[derive(Debug)]
struct SendingEnd {
    /// `None` where nothing is based on anything.
    chain: Option<Chain<Value>>,
    /// What the receiver has: all rows of the batch. Empty before the first version.
    register: Vec<f32>,
    buffers: Buffers,
}

impl Encoder {
    /// For a rank's part of a plan and a batch of `rows`.
    #[must_use]
    pub fn new(plan: &RankPlan, rows: usize) -> Self {
        let transfers = plan.sends.iter().map(|transfer| ((transfer.instance, transfer.to), *transfer)).collect();
        let mut encoder = Self { transfers, edges: HashMap::new(), rows, run_ahead: plan.run_ahead };
        for transfer in &plan.sends {
            encoder.prepare(transfer);
        }
        encoder
    }

    /// Whether a value goes to a receiver as it was computed.
    #[must_use]
    pub fn sends_as_computed(&self, instance: Instance, to: Rank) -> bool {
        self.transfers.contains_key(&(instance, to)) && !self.edges.contains_key(&(to, instance.value))
    }

    /// Encodes a value for a receiver. Nothing if an older version comes first; then more than one with that.
    pub fn encode(&mut self, instance: Instance, to: Rank, value: Value) -> Result<Vec<Encoded>, EncodingError> {
        let unplanned = EncodingError::Unplanned(instance);
        let transfer = self.transfers.remove(&(instance, to)).ok_or(unplanned)?;
        let Some(edge) = self.edges.get_mut(&(to, instance.value)) else {
            return Ok(vec![Encoded { transfer, shape: value.shape(), payload: value.to_bytes()? }]);
        };
        let Some(chain) = &mut edge.chain else {
            return Ok(vec![edge.encode(transfer, &value, self.rows)?]);
        };
        chain.insert(transfer, value)?;
        let mut encoded = Vec::new();
        while let Some((transfer, value)) = edge.chain.as_mut().and_then(Chain::poll_next) {
            encoded.push(edge.encode(transfer, &value, self.rows)?);
        }
        Ok(encoded)
    }

    fn prepare(&mut self, transfer: &Transfer) {
        if transfer.encoding == Encoding::Full {
            return;
        }
        let new = || SendingEnd { chain: None, register: Vec::new(), buffers: Buffers::default() };
        let edge = self.edges.entry((transfer.to, transfer.instance.value)).or_insert_with(new);
        if edge.chain.is_none() && transfer.encoding.delta_bits().is_some() {
            edge.chain = Some(Chain::new(self.run_ahead));
        }
    }
}

impl SendingEnd {
    fn encode(&mut self, transfer: Transfer, value: &Value, rows: usize) -> Result<Encoded, EncodingError> {
        let shape = value.shape();
        let payload = match transfer.encoding {
            Encoding::Bf16 => self.half(Half::Bf16, value)?,
            Encoding::F16 => self.half(Half::F16, value)?,
            Encoding::Full | Encoding::Delta4 | Encoding::Delta8 => match transfer.delta() {
                Some(delta) => self.difference(transfer, delta, value, rows)?,
                None => self.whole(transfer, value, rows)?,
            },
        };
        Ok(Encoded { transfer, shape, payload })
    }

    fn half(&mut self, half: Half, value: &Value) -> Result<Bytes, EncodingError> {
        value.with_elements(|elements| {
            let length = Encoding::F16.bytes(elements.len() as u64) as usize;
            self.buffers.filled(length, |bytes| encode_half(Isa::best(), half, elements, bytes))
        })?
    }

    /// A version as computed, which differences will be from.
    fn whole(&mut self, transfer: Transfer, value: &Value, rows: usize) -> Result<Bytes, EncodingError> {
        if self.chain.is_some() {
            let keep = |elements: &[f32]| -> Result<(), EncodingError> {
                self.register(transfer, rows, elements.len())?.copy_from_slice(elements);
                Ok(())
            };
            value.with_elements(keep)??;
        }
        Ok(value.to_bytes()?)
    }

    fn difference(
        &mut self,
        transfer: Transfer,
        delta: Delta,
        value: &Value,
        rows: usize,
    ) -> Result<Bytes, EncodingError> {
        let mut buffers = std::mem::take(&mut self.buffers);
        let encoded = value.with_elements(|elements| {
            let length = delta.bits.bytes(elements.len() as u64) as usize;
            let register = self.register(transfer, rows, elements.len())?;
            buffers.filled(length, |bytes| encode_delta(Isa::best(), delta.bits, elements, register, bytes))
        })?;
        self.buffers = buffers;
        encoded
    }

    /// The rows of the register that a lane has.
    fn register(&mut self, transfer: Transfer, rows: usize, elements: usize) -> Result<&mut [f32], EncodingError> {
        let lane = transfer.instance.lane.rows(rows);
        let row = elements / lane.len().max(1);
        if self.register.is_empty() {
            // Zero pages: what is never written takes no memory.
            self.register = vec![0.0; rows * row];
        }
        let range = lane.start * row..lane.end * row;
        let misfit = EncodingError::Register(transfer.instance);
        self.register.get_mut(range).filter(|register| register.len() == elements).ok_or(misfit)
    }
}
