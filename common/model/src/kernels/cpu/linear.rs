//! Fully connected layers: one product, with the bias as what it is added to.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape};

use super::product::{Matrix, Sizes, Store, Target, multiply};
use super::storage::elements;
use crate::kernels::LinearSpec;

/// A fully connected layer over the last axis.
pub(in crate::kernels) struct Linear {
    pub(in crate::kernels) spec: LinearSpec,
    /// One per output feature.
    pub(in crate::kernels) bias: Option<Arc<[f32]>>,
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    /// # Shapes
    /// - first: `[.., in_features]`
    /// - second: `[out_features, in_features]`
    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let LinearSpec { in_features, out_features, .. } = self.spec;
        let input = elements(input, input_layout)?;
        let weight = elements(weight, weight_layout)?;
        let rows = input.len() / in_features.max(1);
        let (mut output, store) = match &self.bias {
            Some(bias) => (bias.repeat(rows), Store::Add),
            None => (vec![0.0; rows * out_features], Store::Overwrite),
        };
        multiply(
            Sizes { rows, columns: out_features, depth: in_features },
            Matrix { elements: input, row_stride: in_features, column_stride: 1 },
            Matrix { elements: weight, row_stride: 1, column_stride: in_features },
            Target { elements: &mut output, row_stride: out_features, store },
        );
        let mut shape = input_layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = out_features;
        }
        Ok((CpuStorage::F32(output), Shape::from(shape)))
    }
}
