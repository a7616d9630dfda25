//! One job on the device: its inbox, its conditions, and the arithmetic between the two.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::{DType, TensorName, TensorPart, WorkerFailure};
use asyncdiff_model::ModelError;
use asyncdiff_model::component::Component;
use asyncdiff_model::encodings::{Decoder, Encoder};
use asyncdiff_model::kernels::{Assembly, Kernels, LentMemory, Value};
use asyncdiff_plan::{
    ComponentId, Epoch, Inbox, InputId, InputKind, Instance, JobId, Lane, Operand, Output, Program, Rank, Source, Work,
};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::compute::element_format;
use super::departures::{Departures, Report};
use super::statistics::Recorder;
use super::stopwatch::{DeviceClock, Lap};
use super::{DeviceCommand, JobInput, JobOutcome, JobStart, JobStatistics, Payload, ReportOutcome};
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
    /// What goes to peers as it was computed, into memory of the link where it lends some.
    as_computed: HashSet<(Instance, Rank)>,
    departures: Departures,
    /// Decodes what peers send, before the inbox sees it.
    decoder: Decoder,
    /// Hidden states of which parts have come.
    assemblies: HashMap<Instance, Assembly>,
    recorder: Recorder,
    kernels: Kernels,
    report: Option<ReportOutcome>,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    AllSent,
    /// Something is still to be computed or sent.
    GoesOn,
}

/// A tensor that has arrived.
pub(super) enum Arrived {
    Bytes {
        bytes: Bytes,
        dtype: DType,
        part: Option<TensorPart>,
    },
    /// From another GPU; what is computed with it waits for it there.
    Value(Value),
}

impl Arrived {
    pub(super) fn of(payload: Payload, shape: &[u32]) -> Result<Self, WorkerFailure> {
        match payload {
            Payload::Bytes { bytes, dtype, part } => Ok(Self::Bytes { bytes, dtype, part }),
            Payload::Nccl { path, dtype } => {
                let failed = |reason: String| WorkerFailure::PeerFailed { peer: path.peer().to_string(), reason };
                let format = element_format(dtype).ok_or_else(|| failed(format!("it sent elements of {dtype:?}")))?;
                let received = path.receive(&axes(shape), format);
                received.map(Self::Value).map_err(|error| failed(error.to_string()))
            }
        }
    }
}

impl DeviceJob {
    /// Fails if something that works for the job in the background cannot be started.
    pub(super) fn start(
        start: JobStart,
        clock: Clock,
        kernels: Kernels,
        commands: mpsc::WeakSender<DeviceCommand>,
    ) -> Result<Self, (WorkerFailure, ReportOutcome)> {
        let device = match DeviceClock::start(&kernels) {
            Ok(device) => device,
            Err(failure) => return Err((failure, start.report)),
        };
        let layers = start.components.values().flat_map(|component| component.layers());
        let reads = layers.flat_map(|layer| &start.program.layer(*layer).reads);
        let is_condition =
            |input: &InputId| matches!(start.program.inputs[input.index()].kind, InputKind::Condition(_));
        let missing = reads.filter_map(|operand| match operand {
            Operand::Input(input) => Some(*input).filter(is_condition),
            Operand::Value(_) => None,
        });
        let missing = missing.collect();
        let encoder = Encoder::new(&start.plan, start.rows as usize);
        let sends = start.plan.sends.iter().map(|transfer| (transfer.instance, transfer.to));
        let as_computed = sends.filter(|&(instance, to)| encoder.sends_as_computed(instance, to)).collect();
        let departures = match &device {
            Some(_) => {
                let report = departed(start.job, start.epoch, commands);
                match Departures::behind(start.outlets, (encoder, &start.plan.sends), report) {
                    Ok(departures) => departures,
                    Err(failure) => return Err((failure, start.report)),
                }
            }
            None => Departures::here(start.outlets, encoder),
        };
        Ok(Self {
            missing,
            epoch: start.epoch,
            rows: start.rows,
            as_computed,
            departures,
            assemblies: HashMap::new(),
            decoder: Decoder::new(&start.plan),
            inbox: Inbox::new(Arc::clone(&start.program), start.plan),
            program: start.program,
            components: start.components,
            conditions: HashMap::new(),
            timesteps: start.timesteps,
            recorder: Recorder::new(clock, start.trace, device),
            kernels,
            report: Some(start.report),
        })
    }

    /// Takes a tensor that the plan expects, once.
    pub(super) fn take(&mut self, input: JobInput, shape: &[u32], arrived: Arrived) -> Result<(), WorkerFailure> {
        let name = match input {
            JobInput::Condition(name) => {
                let value = self.plain_value(arrived, shape)?;
                self.take_condition(&name, value)?;
                TensorName::Condition(name)
            }
            JobInput::HiddenState { instance, from } => {
                self.take_hidden_state(instance, from, shape, arrived)?;
                TensorName::HiddenState(instance)
            }
            JobInput::Late => return Ok(()),
            JobInput::Latents(step) => {
                let value = self.plain_value(arrived, shape)?;
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
        let to = readers.find(|&&to| self.as_computed.contains(&(instance, to)))?;
        let rows = work.run.lane.rows(self.rows as usize).len();
        let bytes = self.program.layer(work.layer).writes.row_bytes() as usize * rows;
        Some(Box::new(self.departures.outlets().peers.get(to)?.link.lend(bytes)?))
    }

    /// How long a simulated device takes for a layer.
    pub(super) fn simulated_time(&self, work: &Work<Value>, time: &LayerTime) -> Duration {
        time.of(self.program.layer(work.layer), work.run.lane.rows(self.rows as usize).len() as u32)
    }

    /// Hands on what a layer wrote, at once.
    pub(super) fn complete(&mut self, work: &Work<Value>, value: Value, lap: Lap) -> Result<Progress, WorkerFailure> {
        self.recorder.computed(work, lap);
        if let Some(output) = self.inbox.complete(work, value) {
            let name = name_of(&output);
            self.departures.send(output)?;
            self.recorder.sent(work.run, name);
        }
        let all_sent = self.inbox.is_finished() && self.departures.finish()?;
        Ok(if all_sent { Progress::AllSent } else { Progress::GoesOn })
    }

    pub(super) fn note_waited(&mut self, since: Instant) {
        if !self.inbox.is_finished() {
            self.recorder.waited(since);
        }
    }

    /// Takes note of what a device that computes in the background has done since the last look. Returns how many layers.
    pub(super) fn look_at_given(&mut self) -> usize {
        self.recorder.look_at_given()
    }

    /// Whether such a device had come past all that it was given, at the last look.
    pub(super) fn has_nothing_given(&self) -> bool {
        self.recorder.is_idle()
    }

    /// Says how the job ended; only the first outcome is told.
    pub(super) fn report(&mut self, outcome: JobOutcome) {
        if let Some(report) = self.report.take() {
            report(outcome);
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn into_statistics(self) -> JobStatistics {
        self.recorder.finish(self.departures.bytes())
    }

    fn plain_value(&self, arrived: Arrived, shape: &[u32]) -> Result<Value, WorkerFailure> {
        match arrived {
            Arrived::Bytes { bytes: payload, .. } => {
                tensor_bytes::from_bytes(&payload, shape, &self.kernels).map_err(|error| unexpected(&error))
            }
            Arrived::Value(value) => Ok(value),
        }
    }

    /// Decodes what a peer sent, with later versions that waited for it, before the inbox sees it.
    fn take_hidden_state(
        &mut self,
        instance: Instance,
        from: Rank,
        shape: &[u32],
        arrived: Arrived,
    ) -> Result<(), WorkerFailure> {
        let payload = match arrived {
            // As it was computed: nothing is to be decoded, and nothing is based on it.
            Arrived::Value(value) => {
                return self.inbox.insert(instance, from, value).map_err(|error| unexpected(&error));
            }
            Arrived::Bytes { bytes, dtype, part } if self.decoder.is_as_computed(instance) => {
                if dtype != DType::F32 || part.is_some() {
                    return self.take_elements((instance, from), &axes(shape), (&bytes, dtype, part));
                }
                bytes
            }
            Arrived::Bytes { bytes, .. } => bytes,
        };
        let decoded = self.decoder.decode(instance, axes(shape), payload, &self.kernels);
        for (instance, value) in decoded.map_err(|error| unexpected(&error))? {
            self.inbox.insert(instance, from, value).map_err(|error| unexpected(&error))?;
        }
        Ok(())
    }

    /// Takes elements as a GPU computed them, all or some, until all are there.
    fn take_elements(
        &mut self,
        (instance, from): (Instance, Rank),
        shape: &[usize],
        (bytes, dtype, part): (&Bytes, DType, Option<TensorPart>),
    ) -> Result<(), WorkerFailure> {
        let wrong = || WorkerFailure::Unexpected { reason: format!("{instance:?} came as elements of {dtype:?}") };
        let format = element_format(dtype).ok_or_else(wrong)?;
        let mut assembly = match self.assemblies.remove(&instance) {
            Some(assembly) if assembly.format() == format => assembly,
            Some(_) => return Err(wrong()),
            None => self.kernels.assemble(shape, format).map_err(|error| unexpected(&error))?,
        };
        let first = part.map_or(0, |part| part.first as usize);
        if !assembly.put(first, bytes).map_err(|error| unexpected(&error))? {
            self.assemblies.insert(instance, assembly);
            return Ok(());
        }
        let value = self.kernels.assembled(assembly).map_err(|error| unexpected(&error))?;
        self.inbox.insert(instance, from, value).map_err(|error| unexpected(&error))
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

fn axes(shape: &[u32]) -> Vec<usize> {
    shape.iter().map(|&axis| axis as usize).collect()
}

fn name_of(output: &Output<Value>) -> TensorName {
    match output {
        Output::HiddenState { instance, .. } => TensorName::HiddenState(*instance),
        Output::NoisePrediction { step, lane, .. } => TensorName::NoisePrediction(*step, *lane),
    }
}

/// Tells the device what became of a job's outputs. A device that has ended needs no word.
fn departed(job: JobId, epoch: Epoch, commands: mpsc::WeakSender<DeviceCommand>) -> Report {
    Box::new(move |result| {
        if let Some(commands) = commands.upgrade() {
            drop(commands.blocking_send(DeviceCommand::Departed { job, epoch, result }));
        }
    })
}

fn unexpected(error: &dyn std::error::Error) -> WorkerFailure {
    WorkerFailure::Unexpected { reason: error.to_string() }
}
