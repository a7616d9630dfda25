//! A graph on a GPU: its parameters, resident, and what carries it out for the rows that it is given.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::CudaStream;

use super::cudnn::Cudnn;
use super::device::{Cuda, Functions, State};
use super::elements::Elements;
use super::memory::Buffer;
use super::products::Products;
use super::replay::{Replays, Sight};
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::graph::Graph;
use crate::kernels::cuda::launch::{Lowered, Memory as Named, Place, Step};
use crate::kernels::cuda::lower::lower;
use crate::kernels::cuda::pack::{Layout, pack};
use crate::kernels::{Computed, Format, Value};

/// Row counts that a graph is kept lowered for: a layer is run for the lanes of a batch, which are two or three.
const LOWERED_MAX: usize = 8;

/// Why a library's step has its library.
const NO_LIBRARY: &str = "lowering makes such a step where the device has said that there is a plan for it";

/// A graph, ready to run on a GPU.
pub(in crate::kernels) struct Steps {
    /// Dropped before the libraries whose kernels it launches.
    replays: Mutex<Replays>,
    cuda: Arc<Cuda>,
    format: Format,
    functions: Arc<Functions>,
    layout: Layout,
    parameters: Buffer,
    /// By rows of each operand, the newest last.
    lowered: Mutex<Vec<(Vec<usize>, Arc<Lowered>)>>,
}

/// Memory that a run's steps name, as addresses.
struct Addresses {
    inputs: Vec<u64>,
    outputs: Vec<u64>,
    registers: Vec<u64>,
    scratch: u64,
    parameters: u64,
}

/// Who carries out what is no kernel of ours.
type Libraries<'a> = (&'a mut Products, &'a mut Option<Cudnn>);

impl Steps {
    pub(in crate::kernels) fn load(
        (cuda, format): (&Arc<Cuda>, Format),
        graph: &Graph,
        weights: &dyn Weights,
    ) -> Result<Self, ModelError> {
        let functions = cuda.functions(format)?;
        let layout = Layout::new(graph, format);
        let parameters = cuda.load(&pack(graph, &layout, weights)?)?;
        Ok(Self {
            replays: Mutex::default(),
            cuda: Arc::clone(cuda),
            format,
            functions,
            layout,
            parameters,
            lowered: Mutex::default(),
        })
    }

    /// Hands all steps over, without waiting for them, and hands out each output with its place and rows; `watch` is told of each node
    /// once its steps are handed over: of all at once where they are replayed.
    ///
    /// # Shapes
    /// - `operands`: shapes checked
    pub(in crate::kernels) fn run(
        &self,
        graph: &Graph,
        operands: &[&Value],
        hand_out: &mut dyn FnMut(usize, usize, Elements),
        watch: &mut dyn FnMut(Computed),
    ) -> Result<(), ModelError> {
        self.cuda.bind()?;
        let rows: Vec<usize> = operands.iter().map(|operand| operand.rows()).collect();
        let lowered = self.lowered(graph, &rows);
        let operands: Vec<Elements> = operands
            .iter()
            .zip(&lowered.inputs)
            .map(|(operand, &format)| operand.on_its_gpu()?.to_format(format))
            .collect::<Result<_, _>>()?;
        let state = &mut *self.cuda.state();
        state.memory.reserve(lowered.working_bytes())?;
        let take = |&bytes| state.memory.take_value(bytes);
        let outputs: Vec<Arc<Buffer>> = lowered.outputs.iter().map(take).collect::<Result<_, _>>()?;
        self.run_steps((&lowered, &rows), (&operands, &outputs), state, watch)?;
        for (index, buffer) in outputs.into_iter().enumerate() {
            let slot = graph.outputs()[index];
            // Every output is written by a node.
            let Some(node) = slot.index().checked_sub(graph.inputs().len()) else { continue };
            let rows = lowered.rows[node];
            let len = rows * graph.extent(slot).elements();
            hand_out(index, rows, Elements::new(Arc::clone(&self.cuda), buffer, (self.format, len)));
        }
        Ok(())
    }

    pub(in crate::kernels) fn resident_bytes(&self) -> u64 {
        self.parameters.bytes() as u64
    }

    pub(in crate::kernels) fn kernel_name(&self, kind: &str) -> String {
        format!("{kind}, {}", self.format.name())
    }

    fn run_steps(
        &self,
        (lowered, operand_rows): (&Lowered, &[usize]),
        (operands, outputs): (&[Elements], &[Arc<Buffer>]),
        state: &mut State,
        watch: &mut dyn FnMut(Computed),
    ) -> Result<(), ModelError> {
        let State { memory, products, cudnn, recorder, .. } = state;
        let working = memory.working_address();
        let (registers, scratch) = lowered.offsets();
        let addresses = Addresses {
            inputs: operands.iter().map(Elements::address).collect(),
            outputs: outputs.iter().map(|buffer| buffer.address()).collect(),
            registers: registers.into_iter().map(|offset| working + offset as u64).collect(),
            scratch: working + scratch as u64,
            parameters: self.parameters.address(),
        };
        let mut libraries = (products, cudnn);
        let Some(recorder) = recorder.as_mut().filter(|recorder| recorder.wants(lowered.steps.len())) else {
            return self.hand_over((lowered, &addresses), &mut libraries, self.cuda.stream(), watch);
        };
        let mut replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
        match replays.meet(&addresses.all(operand_rows)) {
            Sight::New => return self.hand_over((lowered, &addresses), &mut libraries, self.cuda.stream(), watch),
            Sight::Recorded(graph) => graph.launch(self.cuda.stream())?,
            Sight::Again => {
                let record = |stream: &Arc<CudaStream>| {
                    self.hand_over((lowered, &addresses), &mut libraries, stream, &mut |_| ())
                };
                let Some(graph) = recorder.record(record) else {
                    return self.hand_over((lowered, &addresses), &mut libraries, self.cuda.stream(), watch);
                };
                graph.launch(self.cuda.stream())?;
                replays.keep(graph);
            }
        }
        lowered.rows.iter().enumerate().for_each(|(node, &rows)| watch(Computed { node, rows }));
        Ok(())
    }

    /// To a stream, one step after the other.
    fn hand_over(
        &self,
        (lowered, addresses): (&Lowered, &Addresses),
        (products, cudnn): &mut Libraries<'_>,
        stream: &Arc<CudaStream>,
        watch: &mut dyn FnMut(Computed),
    ) -> Result<(), ModelError> {
        if let Some(cudnn) = cudnn {
            cudnn.set_stream(stream)?;
        }
        let address = |place| addresses.of(place);
        let mut steps = lowered.steps.iter().peekable();
        for (node, &rows) in lowered.rows.iter().enumerate() {
            while let Some((_, step)) = steps.next_if(|(of, _)| *of == node) {
                match step {
                    Step::Attention(attention) => {
                        let cudnn = cudnn.as_mut().expect(NO_LIBRARY);
                        cudnn.attend(attention, products.workspace(), address)?;
                    }
                    Step::Convolution(convolution) => {
                        let cudnn = cudnn.as_mut().expect(NO_LIBRARY);
                        cudnn.convolve(convolution, products.workspace(), address)?;
                    }
                    Step::Launch(launch) => self.cuda.launch(stream, &self.functions, launch, address)?,
                    Step::Product(product) => {
                        let places = [product.left, product.right, product.target].map(address);
                        products.multiply(stream, [product.m, product.n, product.k], self.format, places)?;
                    }
                }
            }
            watch(Computed { node, rows });
        }
        Ok(())
    }

    /// For the rows of these operands: made once and kept.
    fn lowered(&self, graph: &Graph, rows: &[usize]) -> Arc<Lowered> {
        let mut known = self.lowered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lowered)) = known.iter().find(|(known, _)| known == rows) {
            return Arc::clone(lowered);
        }
        let lowered = Arc::new(lower(graph, &self.layout, self.format, rows, &*self.cuda));
        if known.len() >= LOWERED_MAX {
            known.remove(0);
        }
        known.push((rows.to_vec(), Arc::clone(&lowered)));
        lowered
    }
}

impl Addresses {
    /// With the rows of the operands, all that a recording depends on: the steps follow from these, and parameters stay where they are.
    fn all(&self, rows: &[usize]) -> Vec<u64> {
        let Self { inputs, outputs, registers, scratch, .. } = self;
        let addresses = inputs.iter().chain(outputs).chain(registers).chain([scratch]).copied();
        rows.iter().map(|&rows| rows as u64).chain(addresses).collect()
    }

    fn of(&self, place: Place) -> u64 {
        let begin = match place.memory {
            Named::Input(input) => self.inputs[input],
            Named::Output(output) => self.outputs[output],
            Named::Parameters => self.parameters,
            Named::Register(register) => self.registers[register],
            Named::Scratch => self.scratch,
        };
        begin + place.offset as u64
    }
}
