//! Weights transformed and packed: `[panel][element][channel][column]`.

use super::transform;
use crate::ModelError;
use crate::kernels::cpu::isa::Isa;
use crate::kernels::cpu::product::layout::Layout;
use crate::kernels::cpu::product::spec::{ConvolutionSpec, CpuFormat};
use crate::kernels::floats::Floats;

/// The panels of one element's product: those of a linear layer with the same channels.
pub(crate) fn weights_layout(spec: &ConvolutionSpec, isa: Isa) -> Layout {
    let linear = ConvolutionSpec::linear(spec.in_channels(), spec.out_channels, 1, spec.store);
    Layout::new(&linear, isa, CpuFormat::F32)
}

/// Transforms and packs.
///
/// # Shapes
/// - `weight`: `[out_channels, in_channels, 3, 3]`
pub(crate) fn pack(side: usize, layout: &Layout, weight: &[f32]) -> Result<Floats, ModelError> {
    let elements = (side + 2) * (side + 2);
    let mut packed = Floats::zeros(elements * layout.packed_floats())?;
    let place = &mut packed[..];
    for (index, taps) in weight.as_chunks::<9>().0.iter().enumerate() {
        let (column, channel) = (index / layout.depth, index % layout.depth);
        let panel = column / layout.panel_columns();
        let columns = layout.columns_of(panel);
        let start = panel * layout.panel_columns() * layout.depth * elements;
        let within = channel * columns + column % layout.panel_columns();
        for element in 0..elements {
            place[start + element * layout.depth * columns + within] = transformed(side, element, taps);
        }
    }
    Ok(packed)
}

/// One element of `G w G^T`.
fn transformed(side: usize, element: usize, taps: &[f32; 9]) -> f32 {
    let rows = transform::weights(side);
    let (down, right) = (rows[element / (side + 2)], rows[element % (side + 2)]);
    let term = |tap: usize| down[tap / 3] * right[tap % 3] * f64::from(taps[tap]);
    (0..9).map(term).sum::<f64>() as f32
}
