//! The kernels' sources, as one translation unit, and the options that it is compiled with.

use crate::kernels::Format;

/// All kernels. Compiled once for each format that is used.
pub(super) const SOURCE: &str = concat!(
    include_str!("source/prelude.cuh"),
    include_str!("source/pointwise.cu"),
    include_str!("source/norm.cu"),
    include_str!("source/convolution.cu"),
    include_str!("source/attention.cu"),
    include_str!("source/tiles.cuh"),
    include_str!("source/tile_attention.cu"),
);

/// What the sources are told of the format.
pub(super) fn options(format: Format) -> &'static [&'static str] {
    match format {
        Format::Bf16 => &["-DELEMENT_BF16"],
        Format::F16 => &["-DELEMENT_F16"],
        Format::F32 => &[],
    }
}
