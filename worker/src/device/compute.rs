//! Between what travels and the format that kernels know.

use asyncdiff_common::wire::{ComputeType, DType};
use asyncdiff_model::kernels::Format;

pub(crate) fn format(compute: ComputeType) -> Format {
    match compute {
        ComputeType::Bf16 => Format::Bf16,
        ComputeType::F16 => Format::F16,
        ComputeType::F32 => Format::F32,
    }
}

pub(super) fn compute_type(format: Format) -> ComputeType {
    match format {
        Format::Bf16 => ComputeType::Bf16,
        Format::F16 => ComputeType::F16,
        Format::F32 => ComputeType::F32,
    }
}

/// What elements are on a device that computes in a format.
pub(super) fn element_type(format: Format) -> DType {
    match format {
        Format::Bf16 => DType::Bf16,
        Format::F16 => DType::F16,
        Format::F32 => DType::F32,
    }
}

/// The format that has such elements.
pub(super) fn element_format(dtype: DType) -> Option<Format> {
    [Format::Bf16, Format::F16, Format::F32].into_iter().find(|&format| element_type(format) == dtype)
}
