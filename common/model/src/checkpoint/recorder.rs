//! Which parameters a model asks for: found by building it on weights that only note what was asked.

use std::sync::{Mutex, PoisonError};

use asyncdiff_plan::WeightSpec;
use candle_core::{DType, Device, Tensor};

use super::{StoredTensor, Weights, WeightsError};
use crate::ModelError;

/// Names and shapes of all parameters that `build` asks for, in order; so no second list has to agree with the code that loads.
///
/// The tensors that `build` is given are zeros that share one element, so that a model of any size costs no memory.
pub fn requested_weights<T>(
    build: impl FnOnce(&dyn Weights) -> Result<T, ModelError>,
) -> Result<Vec<WeightSpec>, ModelError> {
    let recorder = WeightRecorder { requested: Mutex::new(Vec::new()) };
    build(&recorder)?;
    Ok(recorder.requested.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct WeightRecorder {
    requested: Mutex<Vec<WeightSpec>>,
}

impl WeightRecorder {
    fn record(&self, name: &str, shape: &[usize]) {
        let shape = shape.iter().map(|&axis| axis as u32).collect();
        let mut requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        requested.push(WeightSpec { name: name.to_owned(), shape });
    }
}

impl Weights for WeightRecorder {
    fn stored(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError> {
        self.record(name, shape);
        let elements = shape.iter().product();
        Ok(StoredTensor::from_f32(shape.iter().map(|&axis| axis as u32).collect(), &vec![0.0; elements]))
    }

    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn source(&self) -> String {
        "no weights".to_owned()
    }

    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, WeightsError> {
        self.record(name, shape);
        Tensor::zeros((), DType::F32, device)
            .and_then(|zero| zero.broadcast_as(shape))
            .map_err(|error| WeightsError::Device { name: name.to_owned(), reason: error.to_string() })
    }
}
