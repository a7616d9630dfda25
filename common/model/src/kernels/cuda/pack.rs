//! A graph's parameters as kernels read them, one behind the other in one buffer.

use crate::ModelError;
use crate::checkpoint::Weights;
use crate::graph::Graph;
use crate::kernels::Format;

/// Where each node's parameters lie; from the graph and the format alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    bytes: usize,
}

impl Layout {
    pub(super) fn new(_graph: &Graph, _format: Format) -> Self {
        Self { bytes: 0 }
    }

    /// Bytes of all parameters.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The parameters, where the layout says.
pub(super) fn pack(_graph: &Graph, layout: &Layout, _weights: &dyn Weights) -> Result<Vec<u8>, ModelError> {
    Ok(vec![0; layout.bytes])
}
