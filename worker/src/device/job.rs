//! One job on the device: its inbox, its conditions, and the arithmetic between the two.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::{TensorName, WorkerFailure};
use asyncdiff_model::ModelError;
use asyncdiff_model::component::Component;
use asyncdiff_model::encodings::{Decoder, Encoder};
use asyncdiff_model::kernels::{Kernels, LentMemory, Value};
use asyncdiff_plan::{
    ComponentId, Epoch, Inbox, InputId, InputKind, Instance, Lane, Operand, Program, Rank, Source, Work,
};
use bytes::Bytes;
use tokio::time::Instant;

use super::statistics::Recorder;
use super::{JobInput, JobOutcome, JobStart, JobStatistics, JobTensor, Outlets};
use crate::clock::Clock;
use crate::config::LayerTime;
use crate::failure::layer_failure;
use crate::tensor_bytes;

/// A job that runs here.
pub(super) struct DeviceJob {
    epoch: Epoch,
    rows: u32,
    program: Arc<Program>,
    inbox: Inbox<Value>,
    components: BTreeMap<ComponentId, Arc<Component>>,
    /// The conditions that its layers read and that have not arrived: nothing is computed before they are there.
    missing: BTreeSet<InputId>,
    /// By input: `[rows, ..]`
    conditions: HashMap<InputId, Value>,
    timesteps: Vec<f64>,
    /// Encodes what leaves through the outlets.
    encoder: Encoder,
    outlets: Outlets,
    /// Decodes what peers send, before the inbox sees it.
    decoder: Decoder,
    recorder: Recorder,
    kernels: Kernels,
    report: Option<Box<dyn FnOnce(JobOutcome) + Send>>,
}

impl DeviceJob {
    pub(super) fn new(start: JobStart, clock: Clock, kernels: Kernels) -> Self {
        let layers = start.components.values().flat_map(|component| component.layers());
        let reads = layers.flat_map(|layer| &start.program.layer(*layer).reads);
        let is_condition =
            |input: &InputId| matches!(start.program.inputs[input.index()].kind, InputKind::Condition(_));
        let missing = reads.filter_map(|operand| match operand {
            Operand::Input(input) => Some(*input).filter(is_condition),
            Operand::Value(_) => None,
        });
        Self {
            missing: missing.collect(),
            epoch: start.epoch,
            rows: start.rows,
            encoder: Encoder::new(&start.plan, start.rows as usize),
            decoder: Decoder::new(&start.plan),
            inbox: Inbox::new(Arc::clone(&start.program), start.plan),
            program: start.program,
            components: start.components,
            conditions: HashMap::new(),
            timesteps: start.timesteps,
            outlets: start.outlets,
            recorder: Recorder::new(clock, start.trace),
            kernels,
            report: Some(start.report),
        }
    }

    /// Takes a tensor that the plan expects, once.
    pub(super) fn take(&mut self, tensor: JobTensor) -> Result<(), WorkerFailure> {
        let JobTensor { input, shape, payload, .. } = tensor;
        let name = match input {
            JobInput::Condition(name) => {
                let value = self.plain_value(&payload, &shape)?;
                self.take_condition(&name, value)?;
                TensorName::Condition(name)
            }
            JobInput::HiddenState { instance, from } => {
                self.take_hidden_state(instance, from, &shape, payload)?;
                TensorName::HiddenState(instance)
            }
            JobInput::Latents(step) => {
                let value = self.plain_value(&payload, &shape)?;
                self.inbox.insert_latents(step, value).map_err(|error| unexpected(&error))?;
                TensorName::Latents(step)
            }
        };
        self.recorder.received(name);
        Ok(())
    }

    /// The next layer that can be computed.
    pub(super) fn poll_work(&mut self) -> Option<Work<Value>> {
        if self.missing.is_empty() { self.inbox.poll_work() } else { None }
    }

    /// Computes a layer.
    pub(super) fn compute(&self, work: &Work<Value>) -> Result<Value, WorkerFailure> {
        let name = &self.program.layer(work.layer).name;
        let operands = work.operands.iter().map(|source| self.operand(work, source));
        let operands: Vec<Value> = operands.collect::<Result<_, _>>().map_err(|error| layer_failure(name, error))?;
        let operands: Vec<&Value> = operands.iter().collect();
        let component = self.components.get(&work.run.component).ok_or_else(|| WorkerFailure::BadAssignment {
            reason: format!("a run of {} is planned, which is not assigned here", work.run.component),
        })?;
        let computed = component.run_layer_into(work.layer, &operands, self.lent(work));
        computed.map_err(|error| layer_failure(name, error))
    }

    /// Memory of the link that what a layer writes will be sent on as it is. Other readers get a copy.
    fn lent(&self, work: &Work<Value>) -> Option<LentMemory> {
        let instance = Instance { value: work.layer.value(), step: work.run.step, lane: work.run.lane };
        let mut readers = self.inbox.readers_elsewhere(work).iter();
        let to = readers.find(|&&to| self.encoder.sends_as_computed(instance, to))?;
        let rows = work.run.lane.rows(self.rows as usize).len();
        let bytes = self.program.layer(work.layer).writes.row_bytes() as usize * rows;
        Some(Box::new(self.outlets.peers.get(to)?.lend(bytes)?))
    }

    /// How long a simulated device takes for a layer.
    pub(super) fn simulated_time(&self, work: &Work<Value>, time: &LayerTime) -> Duration {
        time.of(self.program.layer(work.layer), work.run.lane.rows(self.rows as usize).len() as u32)
    }

    /// Hands on what a layer wrote, at once.
    pub(super) fn complete(&mut self, work: &Work<Value>, value: Value, started: Instant) -> Result<(), WorkerFailure> {
        self.recorder.computed(work, started);
        let Some(output) = self.inbox.complete(work, value) else { return Ok(()) };
        let sent = self.outlets.send(output, &mut self.encoder)?;
        self.recorder.sent(work.run, sent);
        Ok(())
    }

    pub(super) fn note_waited(&mut self, since: Instant) {
        if !self.inbox.is_finished() {
            self.recorder.waited(since);
        }
    }

    /// Says how the job ended; only the first outcome is told.
    pub(super) fn report(&mut self, outcome: JobOutcome) {
        if let Some(report) = self.report.take() {
            report(outcome);
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.inbox.is_finished()
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn into_statistics(self) -> JobStatistics {
        self.recorder.finish()
    }

    fn plain_value(&self, payload: &[u8], shape: &[u32]) -> Result<Value, WorkerFailure> {
        tensor_bytes::from_bytes(payload, shape, &self.kernels).map_err(|error| unexpected(&error))
    }

    /// Decodes what a peer sent, with later versions that waited for it, before the inbox sees it.
    fn take_hidden_state(
        &mut self,
        instance: Instance,
        from: Rank,
        shape: &[u32],
        payload: Bytes,
    ) -> Result<(), WorkerFailure> {
        let shape = shape.iter().map(|&axis| axis as usize).collect();
        let decoded = self.decoder.decode(instance, shape, payload, &self.kernels);
        for (instance, value) in decoded.map_err(|error| unexpected(&error))? {
            self.inbox.insert(instance, from, value).map_err(|error| unexpected(&error))?;
        }
        Ok(())
    }

    fn take_condition(&mut self, name: &str, value: Value) -> Result<(), WorkerFailure> {
        let is_it = |kind: &InputKind| matches!(kind, InputKind::Condition(known) if known == name);
        let place = self.program.inputs.iter().position(|input| is_it(&input.kind));
        // Ids count inputs by u16; the program was checked when it was made.
        let input = place.map(|index| InputId(index as u16));
        let again = || WorkerFailure::Unexpected { reason: format!("the condition {name} is unknown or came twice") };
        let input = input.filter(|input| !self.conditions.contains_key(input)).ok_or_else(again)?;
        self.missing.remove(&input);
        self.conditions.insert(input, value);
        Ok(())
    }

    /// # Shapes
    /// - returns: `[rows of the run's lane, ..]`; `[1]` for the timestep
    fn operand(&self, work: &Work<Value>, source: &Source<Value>) -> Result<Value, ModelError> {
        match source {
            Source::Condition(input) => match self.conditions.get(input) {
                Some(condition) => Ok(self.lane_rows(work.run.lane, condition)),
                None => Err(ModelError::MissingCondition { name: format!("{input:?}") }),
            },
            Source::Latents(latents) => Ok(self.lane_rows(work.run.lane, latents)),
            Source::Timestep => {
                // One row for all, as the oracle does it: the time embedding's bits do not depend on the batch.
                let timestep = self.timesteps.get(work.timestep.index()).copied().unwrap_or_default();
                self.kernels.value(&[1], &[timestep as f32])
            }
            Source::Value(pieces) => Value::concatenate(pieces),
        }
    }

    fn lane_rows(&self, lane: Lane, value: &Value) -> Value {
        value.narrow(lane.rows(self.rows as usize))
    }
}

fn unexpected(error: &dyn std::error::Error) -> WorkerFailure {
    WorkerFailure::Unexpected { reason: error.to_string() }
}
