//! Collected parameters, each given away when it is used for the last time, so that raw and loaded weights never lie side by side.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use asyncdiff_model::checkpoint::{MapWeights, StoredTensor, Weights, WeightsError};

/// Parameters as stored, with how often each will still be read.
#[derive(Debug, Default)]
pub(crate) struct ReceivedWeights(Mutex<HashMap<String, Held>>);

#[derive(Debug)]
struct Held {
    tensor: StoredTensor,
    uses_left: u32,
}

impl ReceivedWeights {
    /// `uses`: how many components read a parameter; what is not listed is read once.
    pub(crate) fn new(tensors: HashMap<String, StoredTensor>, uses: &HashMap<String, u32>) -> Self {
        let held = tensors.into_iter().map(|(name, tensor)| {
            let uses_left = uses.get(&name).copied().unwrap_or(1);
            (name, Held { tensor, uses_left })
        });
        Self(Mutex::new(held.collect()))
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        // Changed by single map operations only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Weights for ReceivedWeights {
    fn stored(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError> {
        let mut held = self.held();
        let missing = || WeightsError::Missing { source_name: self.source(), name: name.to_owned() };
        let entry = held.get_mut(name).ok_or_else(missing)?;
        entry.uses_left = entry.uses_left.saturating_sub(1);
        let tensor = entry.tensor.clone();
        if entry.uses_left == 0 {
            held.remove(name);
        }
        MapWeights::from_iter([(name.to_owned(), tensor)]).stored(name, shape)
    }

    fn contains(&self, name: &str) -> bool {
        self.held().contains_key(name)
    }

    fn source(&self) -> String {
        "the assignment".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_given_away_with_its_last_use() {
        let tensors = ["once", "twice"].map(|name| (name.to_owned(), StoredTensor::from_f32(vec![1], &[1.0])));
        let weights = ReceivedWeights::new(HashMap::from(tensors), &HashMap::from([("twice".to_owned(), 2)]));
        weights.stored("once", &[1]).unwrap();
        weights.stored("twice", &[1]).unwrap();
        assert!(matches!(weights.stored("once", &[1]), Err(WeightsError::Missing { .. })));
        assert!(weights.contains("twice"));
        assert!(matches!(weights.stored("twice", &[2]), Err(WeightsError::ShapeMismatch { .. })));
    }
}
