//! Weights that only their time is asked for.

use asyncdiff_model::checkpoint::{StoredTensor, Weights, WeightsError};
use asyncdiff_model::formula;

/// One block of noise, again and again: the 860 million parameters of a UNet cost a copy each and no computation.
pub(in crate::bench) struct RepeatedWeights {
    block: Vec<f32>,
}

/// A prime, so that the rows of a matrix differ.
const BLOCK: usize = 65_521;

/// Spread of vectors; [`formula::weight`] has the same.
const VECTOR_SPREAD: f32 = 0.17;

impl RepeatedWeights {
    pub(in crate::bench) fn new() -> Self {
        Self { block: formula::noise("repeated", &[BLOCK], 1) }
    }

    /// As [`formula::weight`] scales them: hidden states keep their variance and never become denormal, which would cost time.
    pub(in crate::bench) fn values(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let elements: usize = shape.iter().product();
        let mut values = Vec::with_capacity(elements);
        while values.len() < elements {
            values.extend_from_slice(&self.block[..BLOCK.min(elements - values.len())]);
        }
        let (centre, spread) = match shape {
            [outputs, _, ..] => (0.0, (3.0 * *outputs as f32 / elements.max(1) as f32).sqrt()),
            _ if name.ends_with("weight") => (1.0, VECTOR_SPREAD),
            _ => (0.0, VECTOR_SPREAD),
        };
        values.iter_mut().for_each(|value| *value = centre + spread * *value);
        values
    }
}

impl Weights for RepeatedWeights {
    fn stored(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError> {
        let axes = shape.iter().map(|&axis| axis as u32).collect();
        Ok(StoredTensor::from_f32(axes, &self.values(name, shape)))
    }

    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn source(&self) -> String {
        "repeated noise".to_owned()
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        Ok(self.values(name, shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_keeps_the_variance_of_what_it_is_multiplied_with() {
        let weights = RepeatedWeights::new();
        let matrix = weights.floats("m.weight", &[300, 400]).unwrap();
        let row_power = matrix.iter().map(|value| value * value).sum::<f32>() / 300.0;
        assert!((row_power - 1.0).abs() < 0.05, "{row_power}");
        assert_eq!(matrix.len(), 120_000);
    }

    #[test]
    fn norms_scale_by_about_one_and_shift_by_about_zero() {
        let weights = RepeatedWeights::new();
        let mean = |name: &str| weights.floats(name, &[1000]).unwrap().iter().sum::<f32>() / 1000.0;
        assert!((mean("norm.weight") - 1.0).abs() < 0.05);
        assert!(mean("norm.bias").abs() < 0.05);
    }
}
