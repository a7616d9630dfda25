//! The receiving end of all edges: widens, or adds differences to the newest version that is here.

use std::collections::HashMap;

use asyncdiff_plan::{Chain, DeltaBits, Encoding, Instance, Lane, Rank, RankPlan, Transfer, ValueId};
use bytes::Bytes;

use super::{EncodingError, Half, decode_delta, decode_half};
use crate::kernels::{Isa, Kernels, Value};

/// Decodes what one rank receives.
#[derive(Debug, Default)]
pub struct Decoder {
    transfers: HashMap<Instance, Transfer>,
    edges: HashMap<(Rank, ValueId), ReceivingEnd>,
}

/// One value of one sender, if differences of it come.
#[derive(Debug)]
struct ReceivingEnd {
    chain: Chain<Arrived>,
    /// The newest version of each lane.
    registers: Vec<(Lane, Value)>,
}

#[derive(Debug)]
struct Arrived {
    shape: Vec<usize>,
    payload: Bytes,
}

impl Decoder {
    /// For a rank's part of a plan.
    #[must_use]
    pub fn new(plan: &RankPlan) -> Self {
        let new = || ReceivingEnd { chain: Chain::new(plan.run_ahead), registers: Vec::new() };
        let mut decoder = Self::default();
        for transfer in &plan.receives {
            decoder.transfers.insert(transfer.instance, *transfer);
            if transfer.encoding.delta_bits().is_some() {
                decoder.edges.entry((transfer.from, transfer.instance.value)).or_insert_with(new);
            }
        }
        decoder
    }

    /// Whether an instance comes as it was computed, and nothing is based on it.
    #[must_use]
    pub fn is_as_computed(&self, instance: Instance) -> bool {
        self.transfers.get(&instance).is_some_and(|transfer| {
            transfer.encoding == Encoding::Full && !self.edges.contains_key(&(transfer.from, instance.value))
        })
    }

    /// Decodes what arrived. Nothing if an older version comes first; then more than one with that.
    ///
    /// # Shapes
    /// - `shape`: all axes of the value, the batch axis first
    /// - returns: values of that shape
    pub fn decode(
        &mut self,
        instance: Instance,
        shape: Vec<usize>,
        payload: Bytes,
        kernels: &Kernels,
    ) -> Result<Vec<(Instance, Value)>, EncodingError> {
        let transfer = self.transfers.remove(&instance).ok_or(EncodingError::Unplanned(instance))?;
        let Some(edge) = self.edges.get_mut(&(transfer.from, instance.value)) else {
            return Ok(vec![(instance, decode_alone(transfer.encoding, &shape, &payload, kernels)?)]);
        };
        edge.chain.insert(transfer, Arrived { shape, payload })?;
        let mut decoded = Vec::new();
        while let Some((transfer, arrived)) = edge.chain.poll_next() {
            decoded.push((transfer.instance, edge.decode(transfer, &arrived, kernels)?));
        }
        Ok(decoded)
    }
}

impl ReceivingEnd {
    fn decode(&mut self, transfer: Transfer, arrived: &Arrived, kernels: &Kernels) -> Result<Value, EncodingError> {
        let Arrived { shape, payload } = arrived;
        let value = match transfer.delta() {
            Some(delta) => {
                let base = self.base(transfer.instance)?;
                add(&base, delta.bits, shape, payload, kernels)?
            }
            None => decode_alone(transfer.encoding, shape, payload, kernels)?,
        };
        let lane = transfer.instance.lane;
        self.registers.retain(|(other, _)| !(lane == Lane::Whole || *other == lane || *other == Lane::Whole));
        self.registers.push((lane, value.clone()));
        Ok(value)
    }

    /// The newest version of an instance's rows: of one lane, or of both halves.
    fn base(&self, instance: Instance) -> Result<Value, EncodingError> {
        let of = |lane| self.registers.iter().find(|(known, _)| *known == lane).map(|(_, value)| value.clone());
        let halves = || Lane::HALVES.map(of).into_iter().collect::<Option<Vec<Value>>>();
        match (of(instance.lane), instance.lane) {
            (Some(value), _) => Ok(value),
            (None, Lane::Whole) => match halves() {
                Some(halves) => Ok(Value::concatenate(&halves)?),
                None => Err(EncodingError::Register(instance)),
            },
            (None, _) => Err(EncodingError::Register(instance)),
        }
    }
}

fn add(
    base: &Value,
    bits: DeltaBits,
    shape: &[usize],
    payload: &[u8],
    kernels: &Kernels,
) -> Result<Value, EncodingError> {
    base.with_elements(|base| {
        kernels.value_filled(shape, |elements| decode_delta(isa(kernels), bits, base, payload, elements))
    })?
}

fn decode_alone(
    encoding: Encoding,
    shape: &[usize],
    payload: &Bytes,
    kernels: &Kernels,
) -> Result<Value, EncodingError> {
    let half = |half| kernels.value_filled(shape, |elements| decode_half(isa(kernels), half, payload, elements));
    match encoding {
        Encoding::Bf16 => half(Half::Bf16),
        Encoding::F16 => half(Half::F16),
        // Differences without a base do not pass the check of an assignment.
        Encoding::Full | Encoding::Delta4 | Encoding::Delta8 => Ok(kernels.value_from_bytes(shape, payload)?),
    }
}

fn isa(kernels: &Kernels) -> Isa {
    kernels.isa().unwrap_or_else(Isa::best)
}
