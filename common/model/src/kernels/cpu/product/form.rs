//! What follows from specification, instruction set and number format alone: how weights are packed, and how much memory that takes.

use super::algorithm::{Algorithm, algorithm};
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::layout::Layout;
use super::spec::{ConvolutionSpec, CpuFormat};
use super::winograd::{self, Tiling};
use crate::kernels::cpu::isa::Isa;

/// A convolution without its weights.
pub(crate) struct Form {
    pub(crate) spec: ConvolutionSpec,
    pub(crate) algorithm: Algorithm,
    pub(crate) isa: Isa,
    pub(crate) format: CpuFormat,
    pub(crate) layout: Layout,
    /// With Winograd's algorithms.
    pub(crate) tiling: Option<Tiling>,
}

/// Bytes that [`super::Convolution::packed_bytes`] will be.
pub(crate) fn packed_bytes(spec: &ConvolutionSpec, isa: Isa, format: CpuFormat) -> usize {
    let (algorithm, format) = algorithm(spec, isa, format);
    Form::new(spec.clone(), algorithm, isa, format).packed_bytes()
}

/// f32 of scratch that a run over so many rows needs with so many threads: what [`super::Convolution::scratch_floats`] will be.
pub(crate) fn scratch_floats(
    spec: &ConvolutionSpec,
    isa: Isa,
    format: CpuFormat,
    rows: usize,
    threads: usize,
) -> usize {
    let (algorithm, format) = algorithm(spec, isa, format);
    Form::new(spec.clone(), algorithm, isa, format).scratch_floats(rows, threads)
}

impl Form {
    pub(crate) fn new(spec: ConvolutionSpec, algorithm: Algorithm, isa: Isa, format: CpuFormat) -> Self {
        spec.check();
        let Some(side) = algorithm.side() else {
            let layout = Layout::new(&spec, isa, format);
            return Self { spec, algorithm, isa, format, layout, tiling: None };
        };
        assert!(winograd::applies(&spec, format), "not a layer for Winograd's algorithm");
        let layout = winograd::weights_layout(&spec, isa);
        let tiling = Some(Tiling::new(side, spec.output_size(), &layout));
        Self { spec, algorithm, isa, format, layout, tiling }
    }

    pub(crate) fn packed_bytes(&self) -> usize {
        let weights = match &self.tiling {
            None => self.layout.packed_floats(),
            Some(tiling) => tiling.elements() * self.layout.packed_floats(),
        };
        (weights + self.layout.columns) * size_of::<f32>()
    }

    pub(crate) fn scratch_floats(&self, rows: usize, threads: usize) -> usize {
        match (&self.tiling, self.format) {
            (Some(tiling), _) => tiling.scratch_floats(rows) * threads,
            (None, CpuFormat::F32) => 0,
            #[cfg(target_arch = "x86_64")]
            (None, CpuFormat::Bf16) if self.isa == Isa::Amx => {
                self.rounded_floats(rows) + amx::scratch_floats(&self.layout) * threads
            }
            (None, CpuFormat::Bf16) => self.rounded_floats(rows),
        }
    }

    /// f32 that the sources take as bf16.
    fn rounded_floats(&self, rows: usize) -> usize {
        let [height, width] = self.spec.source_size;
        rows * height * width * self.layout.source_units.iter().sum::<usize>()
    }
}
