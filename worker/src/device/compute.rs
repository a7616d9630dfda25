//! Between what a job is computed in and the format that kernels know.

use asyncdiff_common::wire::ComputeType;
use asyncdiff_model::kernels::Format;

pub(crate) fn format(compute: ComputeType) -> Format {
    match compute {
        ComputeType::Bf16 => Format::Bf16,
        ComputeType::F32 => Format::F32,
    }
}

pub(super) fn compute_type(format: Format) -> ComputeType {
    match format {
        Format::Bf16 => ComputeType::Bf16,
        Format::F32 => ComputeType::F32,
    }
}
