//! Weights packed into panels.

use super::layout::Layout;
use super::spec::ConvolutionSpec;
use crate::ModelError;
use crate::kernels::floats::Floats;

/// Packs weights of PyTorch's order for the direct product; `unit` makes one of the channels from `channel` on.
///
/// # Shapes
/// - `weight`: `[out_channels, in_channels, kernel, kernel]`
pub(crate) fn pack(spec: &ConvolutionSpec, layout: &Layout, weight: &[f32]) -> Result<Floats, ModelError> {
    let mut packed = Floats::zeros(layout.packed_floats())?;
    let taps = spec.kernel * spec.kernel;
    let all_channels = spec.in_channels();
    let mut panels = &mut packed[..];
    for panel in 0..layout.panels() {
        let columns = layout.columns_of(panel);
        let first = panel * layout.panel_columns();
        for segment in &layout.segments {
            let before: usize = spec.sources[..segment.source].iter().sum();
            let tap = segment.tap[0] * spec.kernel + segment.tap[1];
            for unit in segment.start..segment.start + segment.units {
                let (place, rest) = panels.split_at_mut(columns);
                panels = rest;
                for (column, place) in place.iter_mut().enumerate() {
                    let Some(out) = layout.channel(spec, first + column) else { continue };
                    let value = |channel: usize| match channel < spec.sources[segment.source] {
                        true => weight[(out * all_channels + before + channel) * taps + tap],
                        false => 0.0,
                    };
                    *place = match layout.unit_channels {
                        1 => value(unit),
                        _ => super::half::pair(value(2 * unit), value(2 * unit + 1)),
                    };
                }
            }
        }
    }
    Ok(packed)
}

/// The bias by column; zero where there is none.
pub(crate) fn pack_bias(spec: &ConvolutionSpec, layout: &Layout, bias: Option<&[f32]>) -> Vec<f32> {
    let value = |column| bias.zip(layout.channel(spec, column)).map_or(0.0, |(bias, channel)| bias[channel]);
    (0..layout.columns).map(value).collect()
}
