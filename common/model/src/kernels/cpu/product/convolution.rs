//! A convolution with its weights packed: what a layer holds and runs.

use pulp::{Simd, WithSimd};

use super::algorithm::{Algorithm, algorithm};
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::direct::{Direct, SOURCES};
use super::epilogue::Epilogue;
use super::form::Form;
use super::geometry::Geometry;
#[cfg(target_arch = "x86_64")]
use super::half::native::Pairs;
use super::half::round_pixels;
use super::multiply::{Expanded, Single};
use super::pack;
use super::shared::Shared;
use super::spec::{ConvolutionSpec, CpuFormat};
use super::winograd::{self, Winograd};
use crate::ModelError;
use crate::kernels::cpu::isa::Isa;
use crate::kernels::floats::Floats;

/// A convolution or linear layer, ready to run.
pub(crate) struct Convolution {
    form: Form,
    geometry: Geometry,
    weights: Floats,
    bias: Vec<f32>,
}

/// What one run reads and writes.
///
/// # Shapes
/// - `sources`: each `[rows, source height, source width, channels]`
/// - `row_bias`: `[rows or 1, out_channels]`
/// - `residual`, `output`: `[rows, height, width, written channels]`
pub(crate) struct Call<'a> {
    /// Rows of the batch.
    pub rows: usize,
    /// The inputs.
    pub sources: &'a [&'a [f32]],
    /// Added to every pixel of a row, before the activation. Not with GEGLU.
    pub row_bias: Option<&'a [f32]>,
    /// Added last, after the activation.
    pub residual: Option<&'a [f32]>,
    /// At least [`Convolution::scratch_floats`]; its content means nothing before or after.
    pub scratch: &'a mut [f32],
    /// The result.
    pub output: &'a mut [f32],
}

impl Convolution {
    /// Packs the weights for the algorithm that [`algorithm`] chooses.
    ///
    /// # Shapes
    /// - `weight`: `[out_channels, in_channels, kernel, kernel]`
    /// - `bias`: `[out_channels]`
    pub(crate) fn prepare(
        spec: ConvolutionSpec,
        isa: Isa,
        format: CpuFormat,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Self, ModelError> {
        let (algorithm, format) = algorithm(&spec, isa, format);
        Self::with_algorithm((spec, algorithm), isa, format, weight, bias)
    }

    /// Packs the weights for a given algorithm: [`Self::prepare`] for measurements and tests.
    pub(crate) fn with_algorithm(
        (spec, algorithm): (ConvolutionSpec, Algorithm),
        isa: Isa,
        format: CpuFormat,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Self, ModelError> {
        let form = Form::new(spec, algorithm, isa, format);
        let spec = &form.spec;
        // Tests emulate AMX.
        assert!(cfg!(test) || Isa::available().contains(&isa), "this CPU has no {isa:?}");
        assert!(spec.sources.len() <= SOURCES, "a convolution has at most {SOURCES} sources");
        let taps = spec.kernel * spec.kernel;
        assert_eq!(weight.len(), spec.out_channels * spec.in_channels() * taps, "weights do not fit their layer");
        assert!(bias.is_none_or(|bias| bias.len() == spec.out_channels), "the bias does not fit its layer");
        let weights = match &form.tiling {
            None => pack::pack(spec, &form.layout, weight)?,
            Some(tiling) => winograd::pack(tiling.side, &form.layout, weight)?,
        };
        let bias = pack::pack_bias(spec, &form.layout, bias);
        let geometry = Geometry::new(spec);
        Ok(Self { form, geometry, weights, bias })
    }

    /// Bytes of the packed weights and the bias.
    pub(crate) fn packed_bytes(&self) -> usize {
        (self.weights.len() + self.bias.len()) * size_of::<f32>()
    }

    /// The algorithm that runs.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.form.algorithm
    }

    /// The format that is multiplied; not the one that was asked for where another is faster.
    pub(crate) fn format(&self) -> CpuFormat {
        self.form.format
    }

    /// f32 of scratch that a run over so many rows needs, with as many threads as rayon has where this is called.
    pub(crate) fn scratch_floats(&self, rows: usize) -> usize {
        self.form.scratch_floats(rows, rayon::current_num_threads())
    }

    /// Computes the layer. Allocates nothing; the result's bits do not depend on the number of threads.
    pub(crate) fn run(&self, call: Call<'_>) {
        self.check(&call);
        let mut sources = [&[][..]; SOURCES];
        sources[..call.sources.len()].copy_from_slice(call.sources);
        let mut scratch = call.scratch;
        if self.form.format == CpuFormat::Bf16 {
            scratch = self.round_sources(call.rows, &mut sources, scratch);
        }
        let scratch = Shared::new(scratch);
        let epilogue = Epilogue {
            store: self.form.spec.store,
            channels: self.form.spec.written_channels(),
            pixels: self.geometry.output_pixels(),
            bias: &self.bias,
            row_bias: call.row_bias.map(|bias| (bias, bias.len() / self.form.spec.out_channels)),
            residual: call.residual,
            output: Shared::new(call.output),
        };
        let (geometry, layout, weights) = (&self.geometry, &self.form.layout, &self.weights[..]);
        if let Some(tiling) = &self.form.tiling {
            let (channels, rows) = (&self.form.spec.sources[..], call.rows);
            let call = Winograd { tiling, geometry, layout, channels, weights, sources, rows, epilogue, scratch };
            return self.form.isa.dispatch(RunWinograd(call));
        }
        let pixels = call.rows * self.geometry.output_pixels();
        self.run_direct(Direct { geometry, layout, weights, sources, pixels, epilogue, scratch });
    }

    /// Rounds the sources into the scratch, and returns what is left of it.
    fn round_sources<'a>(
        &self,
        rows: usize,
        sources: &mut [&'a [f32]; SOURCES],
        mut scratch: &'a mut [f32],
    ) -> &'a mut [f32] {
        let pixels = rows * self.geometry.source_pixels();
        let channels = self.form.spec.sources.iter().zip(&self.form.layout.source_units);
        for (source, (&channels, units)) in sources.iter_mut().zip(channels) {
            let (rounded, rest) = scratch.split_at_mut(pixels * units);
            round_pixels(self.form.isa, channels, source, rounded);
            (*source, scratch) = (rounded, rest);
        }
        scratch
    }

    fn run_direct(&self, direct: Direct<'_>) {
        match self.form.format {
            CpuFormat::F32 => self.form.isa.dispatch(RunDirect(direct)),
            #[cfg(target_arch = "x86_64")]
            CpuFormat::Bf16 if self.form.isa == Isa::Amx => amx::run(&direct),
            #[cfg(target_arch = "x86_64")]
            CpuFormat::Bf16 if self.form.isa >= Isa::Avx512Bf16 => match Pairs::try_new() {
                Some(pairs) => direct.run(pairs),
                None => unreachable!("the CPU had bf16 when the layer was prepared"),
            },
            CpuFormat::Bf16 => self.form.isa.dispatch(RunExpanded(direct)),
        }
    }

    /// Panics if a slice has not the length that the specification gives it.
    fn check(&self, call: &Call<'_>) {
        let spec = &self.form.spec;
        let pixels = call.rows * self.geometry.source_pixels();
        let fits = call.sources.iter().zip(&spec.sources).all(|(source, channels)| source.len() == pixels * channels);
        assert!(fits && call.sources.len() == spec.sources.len(), "the sources do not fit their layer");
        let written = call.rows * self.geometry.output_pixels() * spec.written_channels();
        assert_eq!(call.output.len(), written, "the output does not fit its layer");
        assert!(call.residual.is_none_or(|residual| residual.len() == written), "the residual does not fit the output");
        let row_bias = call.row_bias.map_or(spec.out_channels, <[f32]>::len);
        let rows = row_bias / spec.out_channels;
        assert!(
            row_bias.is_multiple_of(spec.out_channels) && (rows == 1 || rows == call.rows),
            "the rows' bias does not fit"
        );
        assert!(call.row_bias.is_none() || spec.store != crate::graph::Store::Geglu, "GEGLU has no rows' bias");
        assert!(call.scratch.len() >= self.scratch_floats(call.rows), "the scratch is too small");
    }
}

struct RunDirect<'a>(Direct<'a>);

impl WithSimd for RunDirect<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run(Single(simd));
    }
}

struct RunExpanded<'a>(Direct<'a>);

impl WithSimd for RunExpanded<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run(Expanded(simd));
    }
}

struct RunWinograd<'a>(Winograd<'a>);

impl WithSimd for RunWinograd<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run(Single(simd));
    }
}
