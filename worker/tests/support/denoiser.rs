//! A tiny denoiser with weights by formula: assignments for it, a loop over a cluster, and the same loop in one thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_common::wire::{
    Assignment, ComputeType, DenoiserSpec, Peer, TensorName, Tracing, WorkerFailure, WorkerReply, WorkerRequest,
};
use asyncdiff_model::checkpoint::FormulaWeights;
use asyncdiff_model::component::Component;
use asyncdiff_model::encodings::{Decoder, Encoded, Encoder};
use asyncdiff_model::families::{self, DenoiserConfig, DenoiserProgram, DenoiserShape, ENCODER_HIDDEN_STATES};
use asyncdiff_model::formula;
use asyncdiff_model::kernels::{Kernels, Value};
use asyncdiff_plan::{
    Command, CutShape, DenoiseEngine, Encoding, Epoch, Event as EngineEvent, Inbox, JobId, Lane, Output, Partition,
    PlacedPlan, Plan, Rank, Schedule, Source, StepIndex, Work,
};
use asyncdiff_transport::PeerName;
use candle_core::Device;

use super::fake_coordinator::{Event, FakeCoordinator, floats};

const CONFIG: &str = include_str!("../../../tests/golden/sd21/unet/config.json");
const WEIGHTS: FormulaWeights = FormulaWeights { seed: 3 };
const SIDE: u32 = 8;
const TOKENS: u32 = 7;
const CROSS_WIDTH: u32 = 32;
pub(crate) const ROWS: u32 = 2;
pub(crate) const LATENTS: [u32; 4] = [ROWS, 4, SIDE, SIDE];
pub(crate) const CONDITION: [u32; 3] = [ROWS, TOKENS, CROSS_WIDTH];

/// A placed plan of the tiny denoiser.
pub(crate) struct TinyJob {
    pub(crate) program: DenoiserProgram,
    pub(crate) placed: PlacedPlan,
}

/// Predictions by step, rows joined.
pub(crate) type Predictions = BTreeMap<StepIndex, Vec<f32>>;

pub(crate) fn spec() -> DenoiserSpec {
    DenoiserSpec { config: CONFIG.to_owned(), height: SIDE, width: SIDE, tokens: TOKENS, compute: ComputeType::F32 }
}

pub(crate) fn program() -> DenoiserProgram {
    let shape = DenoiserShape { height: SIDE, width: SIDE, tokens: TOKENS };
    families::build(&DenoiserConfig::from_json(CONFIG).unwrap(), &shape).unwrap()
}

/// Stride and warm-up over `steps` steps.
pub(crate) fn schedule(steps: u32, stride: u32, warm_up: u32) -> Schedule {
    let number = |number| NonZeroU32::new(number).unwrap();
    Schedule { stride: number(stride), warm_up, ..Schedule::sequential(number(steps)) }
}

impl TinyJob {
    /// `components` of a shape on `ranks` workers.
    pub(crate) fn new(components: usize, ranks: usize, shape: CutShape, schedule: Schedule) -> Self {
        let program = program();
        let costs: Vec<f64> = program.program.layers.iter().map(|layer| layer.flops as f64).collect();
        let partition = Partition::balanced(&program.program, &costs, &vec![1.0; components], shape).unwrap();
        let plan = Plan::new(&program.program, &partition, schedule).unwrap();
        let component_costs = partition.component_costs(&costs);
        let devices: Vec<(Rank, f64)> = (0..ranks).map(|rank| (Rank(rank as u16), 1.0)).collect();
        let placed = PlacedPlan::spread(plan, &component_costs, &devices).unwrap();
        Self { program, placed }
    }

    /// The same with hidden states that travel in an encoding.
    pub(crate) fn encoded(self, encoding: Encoding) -> Self {
        Self { placed: self.placed.encoded(|_, _| encoding), ..self }
    }

    pub(crate) fn steps(&self) -> u32 {
        self.placed.plan.schedule.steps.get()
    }

    pub(crate) fn timesteps(&self) -> Vec<f64> {
        (0..self.steps()).map(|step| 981.0 - 40.0 * f64::from(step)).collect()
    }

    /// A rank's assignment, its parameters kept to be served; `workers` by rank.
    pub(crate) fn assignment(
        &self,
        coordinator: &mut FakeCoordinator,
        job: JobId,
        rank: Rank,
        workers: &[PeerName],
    ) -> Assignment {
        let plan = self.placed.part(rank);
        let layers: Vec<_> = plan.components.iter().flat_map(|(_, layers)| layers.clone()).collect();
        let transfers = plan.sends.iter().chain(&plan.receives);
        let others: BTreeSet<Rank> =
            transfers.flat_map(|transfer| [transfer.from, transfer.to]).filter(|other| *other != rank).collect();
        let peer = |rank: Rank| {
            let PeerName::Worker(name) = &workers[rank.index()] else { panic!("a coordinator as a worker") };
            Peer { rank, name: name.to_string(), endpoint: coordinator.endpoint_of(&workers[rank.index()]) }
        };
        Assignment {
            job,
            epoch: Epoch(1),
            denoiser: spec(),
            rows: ROWS,
            timesteps: self.timesteps(),
            peers: others.into_iter().map(peer).collect(),
            weights: coordinator.weights.list(&self.program.program, &layers, &WEIGHTS),
            trace: Tracing::On,
            plan,
        }
    }

    /// Assigns all ranks at the same time.
    pub(crate) async fn assign(
        &self,
        coordinator: &mut FakeCoordinator,
        job: JobId,
        workers: &[PeerName],
    ) -> Vec<Result<WorkerReply, WorkerFailure>> {
        let mut requests = Vec::new();
        for rank in self.placed.ranks() {
            let assignment = Box::new(self.assignment(coordinator, job, rank, workers));
            let worker = &workers[rank.index()];
            requests.push((worker, coordinator.ask(worker, WorkerRequest::Assign(assignment)).await));
        }
        let mut answers = Vec::new();
        for (worker, request) in requests {
            answers.push(coordinator.answer(worker, request).await);
        }
        answers
    }

    /// Runs an assigned job to its end, or until a worker fails it.
    pub(crate) async fn denoise(
        &self,
        coordinator: &mut FakeCoordinator,
        job: JobId,
        workers: &[PeerName],
    ) -> Result<Predictions, (PeerName, WorkerFailure)> {
        for worker in &workers[..usize::from(self.placed.world_size)] {
            let name = TensorName::Condition(ENCODER_HIDDEN_STATES.to_owned());
            coordinator.send(worker, job, name, &CONDITION, &condition()).await;
        }
        let mut toy = ToyLoop::new(self);
        loop {
            for (step, to, latents) in toy.poll_sends() {
                for rank in to {
                    let worker = &workers[rank.index()];
                    coordinator.send(worker, job, TensorName::Latents(step), &LATENTS, &latents).await;
                }
            }
            if let Some(predictions) = toy.finished() {
                return Ok(predictions);
            }
            let arrived = coordinator.wait_for(|from, event| arrival(job, from, event)).await;
            let (from, step, lane, values) = arrived?;
            let rank = Rank(workers.iter().position(|worker| *worker == from).unwrap() as u16);
            toy.take(rank, step, lane, values);
        }
    }

    /// The same loop in one thread, without links: what every cluster must equal bit for bit.
    pub(crate) fn in_process(&self) -> Predictions {
        let mut ranks: Vec<Local> = self.placed.ranks().map(|rank| Local::new(self, rank)).collect();
        let mut toy = ToyLoop::new(self);
        loop {
            for (step, to, latents) in toy.poll_sends() {
                for rank in to {
                    let latents = ranks[rank.index()].value(&latents, &LATENTS);
                    ranks[rank.index()].inbox.insert_latents(step, latents).unwrap();
                }
            }
            if let Some(predictions) = toy.finished() {
                return predictions;
            }
            for index in 0..ranks.len() {
                match ranks[index].compute_one() {
                    Some(Output::HiddenState { instance, to, tensor }) => {
                        for rank in to {
                            for encoded in ranks[index].encoder.encode(instance, rank, tensor.clone()).unwrap() {
                                ranks[rank.index()].take(Rank(index as u16), encoded);
                            }
                        }
                    }
                    Some(Output::NoisePrediction { step, lane, tensor }) => {
                        let values = tensor.to_elements().unwrap();
                        toy.take(Rank(index as u16), step, lane, values);
                    }
                    None => {}
                }
            }
        }
    }
}

type Arrived = Result<(PeerName, StepIndex, Lane, Vec<f32>), (PeerName, WorkerFailure)>;

fn arrival(job: JobId, from: &PeerName, event: &Event) -> Option<Arrived> {
    use asyncdiff_common::wire::ToCoordinator;
    match event {
        Event::Tensor(frame) if frame.header.job == job => match frame.header.name {
            TensorName::NoisePrediction(step, lane) => Some(Ok((from.clone(), step, lane, floats(&frame.payload)))),
            _ => None,
        },
        Event::Control(ToCoordinator::JobFailed { job: failed, failure, .. }) if *failed == job => {
            Some(Err((from.clone(), failure.clone())))
        }
        _ => None,
    }
}

/// The engine with a noise scheduler of one line.
struct ToyLoop {
    engine: DenoiseEngine,
    latents: Vec<f32>,
    arrived: BTreeMap<(StepIndex, Lane), Vec<f32>>,
    sends: VecDeque<(StepIndex, Vec<Rank>, Vec<f32>)>,
    predictions: Predictions,
    is_finished: bool,
}

impl ToyLoop {
    fn new(job: &TinyJob) -> Self {
        let now = Instant::now();
        let mut engine = DenoiseEngine::new(job.placed.clone(), Duration::from_secs(3600), now);
        engine.handle_event(EngineEvent::Ready, now);
        let mut toy = Self {
            engine,
            latents: formula::input("latents", &axes(&LATENTS), 5),
            arrived: BTreeMap::new(),
            sends: VecDeque::new(),
            predictions: BTreeMap::new(),
            is_finished: false,
        };
        toy.run_commands();
        toy
    }

    fn take(&mut self, from: Rank, step: StepIndex, lane: Lane, values: Vec<f32>) {
        self.arrived.insert((step, lane), values);
        self.engine.handle_event(EngineEvent::NoisePredictionArrived { step, lane, from }, Instant::now());
        self.run_commands();
    }

    fn run_commands(&mut self) {
        while let Some(command) = self.engine.poll_command() {
            match command {
                Command::SendLatents { step, to } => self.sends.push_back((step, to, self.latents.clone())),
                Command::TakeStep { step, prediction, lanes, .. } => {
                    let joined: Vec<f32> =
                        lanes.iter().flat_map(|&lane| self.arrived[&(prediction, lane)].clone()).collect();
                    for (latent, noise) in self.latents.iter_mut().zip(&joined) {
                        *latent -= 0.1 * noise;
                    }
                    self.predictions.insert(step, joined);
                    self.engine.handle_event(EngineEvent::StepTaken { step }, Instant::now());
                }
                Command::Finish => self.is_finished = true,
                Command::Fail { failure } => panic!("{failure}"),
            }
        }
    }

    fn poll_sends(&mut self) -> Vec<(StepIndex, Vec<Rank>, Vec<f32>)> {
        self.sends.drain(..).collect()
    }

    fn finished(&mut self) -> Option<Predictions> {
        self.is_finished.then(|| std::mem::take(&mut self.predictions))
    }
}

/// One rank without links.
struct Local {
    inbox: Inbox<Value>,
    encoder: Encoder,
    decoder: Decoder,
    components: BTreeMap<asyncdiff_plan::ComponentId, Component>,
    timesteps: Vec<f64>,
    kernels: Kernels,
}

impl Local {
    fn new(job: &TinyJob, rank: Rank) -> Self {
        let plan = job.placed.part(rank);
        let kernels = Kernels::for_device(&Device::Cpu);
        let load = |layers| Component::load(&job.program, layers, &WEIGHTS, &kernels).unwrap();
        let components = plan.components.iter().map(|(component, layers)| (*component, load(layers))).collect();
        let (encoder, decoder) = (Encoder::new(&plan, ROWS as usize), Decoder::new(&plan));
        let inbox = Inbox::new(Arc::clone(&job.program.program), plan);
        Self { inbox, encoder, decoder, components, timesteps: job.timesteps(), kernels }
    }

    fn take(&mut self, from: Rank, encoded: Encoded) {
        let Encoded { transfer, shape, payload } = encoded;
        for (instance, value) in self.decoder.decode(transfer.instance, shape, payload, &self.kernels).unwrap() {
            self.inbox.insert(instance, from, value).unwrap();
        }
    }

    fn compute_one(&mut self) -> Option<Output<Value>> {
        let work = self.inbox.poll_work()?;
        let operands: Vec<Value> = work.operands.iter().map(|source| self.operand(&work, source)).collect();
        let operands: Vec<&Value> = operands.iter().collect();
        let value = self.components[&work.run.component].run_layer(work.layer, &operands).unwrap();
        self.inbox.complete(&work, value)
    }

    fn value(&self, elements: &[f32], shape: &[u32]) -> Value {
        self.kernels.value(&axes(shape), elements).unwrap()
    }

    fn operand(&self, work: &Work<Value>, source: &Source<Value>) -> Value {
        let rows = work.run.lane.rows(ROWS as usize);
        let lane = |value: &Value| value.narrow(rows.clone());
        match source {
            Source::Condition(_) => lane(&self.value(&condition(), &CONDITION)),
            Source::Latents(latents) => lane(latents),
            Source::Timestep => self.value(&[self.timesteps[work.timestep.index()] as f32], &[1]),
            Source::Value(pieces) => Value::concatenate(pieces).unwrap(),
        }
    }
}

fn condition() -> Vec<f32> {
    formula::input(ENCODER_HIDDEN_STATES, &axes(&CONDITION), 5)
}

fn axes(shape: &[u32]) -> Vec<usize> {
    shape.iter().map(|&axis| axis as usize).collect()
}
