//! A graph with its weights, ready to run.

use std::sync::Arc;

use candle_core::Tensor;

#[cfg(feature = "cuda")]
use super::cuda;
use super::floats::{Floats, LentMemory};
use super::value::{Axes, Data};
use super::{Backend, Value, cpu, reference};
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::graph::Graph;

/// A graph with a kernel and weights for each operation.
pub struct Prepared {
    graph: Graph,
    steps: Steps,
}

enum Steps {
    Candle(Vec<reference::Step>),
    Cpu(cpu::Steps),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Steps),
    /// Nothing is computed; the buffers of the outputs come from here.
    Stub(Arc<cpu::Cpu>),
}

/// A node of a graph was computed: what whoever watches a run is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computed {
    /// Its place among [`Graph::nodes`].
    pub node: usize,
    /// The rows of the batch that it wrote.
    pub rows: usize,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Prepared").field("graph", &self.graph).finish_non_exhaustive()
    }
}

impl Prepared {
    pub(super) fn new(backend: &Backend, graph: Graph, weights: &dyn Weights) -> Result<Self, ModelError> {
        let steps = match backend {
            Backend::Candle(device) => {
                let load = |node| reference::Step::load(node, weights, device);
                Steps::Candle(graph.nodes().iter().map(load).collect::<Result<_, _>>()?)
            }
            Backend::Cpu(cpu, format) => Steps::Cpu(cpu::Steps::load((cpu, *format), &graph, weights)?),
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda, format) => Steps::Cuda(cuda::Steps::load((cuda, *format), &graph, weights)?),
            Backend::Stub(cpu) => Steps::Stub(Arc::clone(cpu)),
        };
        Ok(Self { graph, steps })
    }

    /// What is computed.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Computes the graph's only output, or the first of several.
    ///
    /// # Shapes
    /// - `operands`: one for each input, each of the input's shape; one row counts for all
    /// - returns: with as many axes as the first operand has, and one at least behind the batch axis
    pub fn run(&self, operands: &[&Value]) -> Result<Value, ModelError> {
        self.run_watched(operands, None, &mut |_| ())
    }

    /// [`Self::run`], and `watch` is called after each node: so that a benchmark can time nodes where they run, between the others. The
    /// output is written to what is lent, if it has as many bytes and the device can write it.
    pub fn run_watched(
        &self,
        operands: &[&Value],
        lent: Option<LentMemory>,
        watch: &mut dyn FnMut(Computed),
    ) -> Result<Value, ModelError> {
        let mut outputs = [const { None }; 1];
        self.run_into(operands, lent, &mut outputs, watch)?;
        let [output] = outputs;
        output.ok_or_else(|| self.mismatch("outputs", 0))
    }

    /// Computes as many of the graph's outputs as there are places for.
    pub(crate) fn run_into(
        &self,
        operands: &[&Value],
        lent: Option<LentMemory>,
        outputs: &mut [Option<Value>],
        watch: &mut dyn FnMut(Computed),
    ) -> Result<(), ModelError> {
        self.check(operands)?;
        let like = operands.first().map_or(1, |operand| operand.axes().len());
        match &self.steps {
            Steps::Candle(steps) => {
                let slots = self.run_candle(steps, operands, watch)?;
                for (place, &slot) in outputs.iter_mut().zip(self.graph.outputs()) {
                    let tensor = slots[slot.index()].clone();
                    let axes = Axes::of(self.graph.extent(slot), like);
                    *place = Some(Value::new(axes, tensor.dims4()?.0, Data::Candle(tensor)));
                }
                Ok(())
            }
            Steps::Cpu(steps) => {
                let hand_out = &mut |index, rows, floats| {
                    if let Some(place) = outputs.get_mut(index) {
                        let extent = self.graph.extent(self.graph.outputs()[index]);
                        *place = Some(Value::new(Axes::of(extent, like), rows, Data::Host(floats)));
                    }
                };
                steps.run(operands, lent.and_then(Floats::lent), hand_out, watch)
            }
            #[cfg(feature = "cuda")]
            Steps::Cuda(steps) => {
                let hand_out = &mut |index: usize, rows, elements| {
                    if let Some(place) = outputs.get_mut(index) {
                        let extent = self.graph.extent(self.graph.outputs()[index]);
                        *place = Some(Value::new(Axes::of(extent, like), rows, Data::Gpu(elements)));
                    }
                };
                steps.run(&self.graph, operands, hand_out, watch)
            }
            Steps::Stub(cpu) => {
                let rows = operands.iter().map(|operand| operand.rows()).max().unwrap_or(1);
                let mut lent = lent.and_then(Floats::lent);
                for (place, &slot) in outputs.iter_mut().zip(self.graph.outputs()) {
                    let extent = self.graph.extent(slot);
                    let elements = rows * extent.elements();
                    let floats = match Floats::claim(&mut lent, elements) {
                        Some(lent) => lent,
                        None => cpu.filled_buffer(elements, |_| ())?,
                    };
                    *place = Some(Value::new(Axes::of(extent, like), rows, Data::Host(floats)));
                }
                Ok(())
            }
        }
    }

    /// The kernel that was chosen for a node, for tables of times.
    #[must_use]
    pub fn kernel_name(&self, node: usize) -> String {
        match &self.steps {
            Steps::Candle(_) => format!("{} by candle", self.graph.nodes()[node].op.kind()),
            Steps::Cpu(steps) => steps.kernel_name(node, &self.graph.nodes()[node].op),
            #[cfg(feature = "cuda")]
            Steps::Cuda(steps) => steps.kernel_name(self.graph.nodes()[node].op.kind()),
            Steps::Stub(_) => format!("{} left out", self.graph.nodes()[node].op.kind()),
        }
    }

    /// Bytes of the parameters as they are held.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        match &self.steps {
            Steps::Candle(steps) => steps.iter().map(reference::Step::resident_bytes).sum(),
            Steps::Cpu(steps) => steps.resident_bytes(),
            #[cfg(feature = "cuda")]
            Steps::Cuda(steps) => steps.resident_bytes(),
            Steps::Stub(_) => 0,
        }
    }

    /// # Shapes
    /// - returns: the value of every slot, `[rows, height, width, channels]`
    fn run_candle(
        &self,
        steps: &[reference::Step],
        operands: &[&Value],
        watch: &mut dyn FnMut(Computed),
    ) -> Result<Vec<Tensor>, ModelError> {
        let mut slots: Vec<Tensor> = operands.iter().map(|operand| operand.tensor()).collect::<Result<_, _>>()?;
        for (index, (node, step)) in self.graph.nodes().iter().zip(steps).enumerate() {
            let reads: Vec<Tensor> = node.reads.iter().map(|slot| slots[slot.index()].clone()).collect();
            let written = step.run(&reads)?;
            watch(Computed { node: index, rows: written.dims4()?.0 });
            slots.push(written);
        }
        Ok(slots)
    }

    fn check(&self, operands: &[&Value]) -> Result<(), ModelError> {
        let inputs = self.graph.inputs();
        if operands.len() != inputs.len() {
            return Err(self.mismatch("operands", operands.len()));
        }
        for (operand, &input) in operands.iter().zip(inputs) {
            if operand.layout().extent() != input {
                return Err(ModelError::ShapeMismatch {
                    layer: self.name().to_owned(),
                    operand: "operand".to_owned(),
                    expected: format!("{input:?}"),
                    found: operand.shape(),
                });
            }
        }
        Ok(())
    }

    fn mismatch(&self, what: &str, found: usize) -> ModelError {
        let layer = format!("{} ({what})", self.name());
        ModelError::OperandCount { layer, expected: self.graph.inputs().len(), found }
    }

    fn name(&self) -> &str {
        self.graph.nodes().first().map_or("an empty graph", |node| &node.name)
    }
}
