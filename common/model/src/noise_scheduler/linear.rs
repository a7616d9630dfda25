//! Linear combinations of arrays, the whole arithmetic of the solvers.

/// Elements that are summed at a time: their f64 sums fit into the first-level cache and the loops into vector
/// registers.
const BLOCK: usize = 256;

/// What a vector is made of: a multiple of the latents and one of the noise prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mix {
    pub(super) latents: f64,
    pub(super) prediction: f64,
}

impl Mix {
    pub(super) const fn new(latents: f64, prediction: f64) -> Self {
        Self { latents, prediction }
    }

    /// Writes the mixed array over whatever `target` held.
    pub(super) fn write(self, target: &mut Vec<f32>, latents: &[f32], prediction: &[f32]) {
        target.clear();
        target.resize(latents.len(), 0.0);
        combine(target, 0.0, &[(self.latents, latents), (self.prediction, prediction)]);
    }
}

/// `target = own * target + sum of weight * values`, summed in f64 and rounded once. A term of weight zero is not read,
/// so that what is meant to vanish vanishes even where it is infinite.
pub(super) fn combine(target: &mut [f32], own: f64, terms: &[(f64, &[f32])]) {
    debug_assert!(terms.iter().all(|(_, values)| values.len() == target.len()), "arrays of different lengths");
    let mut sums = [0f64; BLOCK];
    for (block, chunk) in target.chunks_mut(BLOCK).enumerate() {
        let sums = &mut sums[..chunk.len()];
        sums.fill(0.0);
        if own != 0.0 {
            add(sums, own, chunk);
        }
        for (weight, values) in terms.iter().filter(|(weight, _)| *weight != 0.0) {
            add(sums, *weight, &values[block * BLOCK..][..sums.len()]);
        }
        chunk.iter_mut().zip(sums).for_each(|(value, sum)| *value = *sum as f32);
    }
}

fn add(sums: &mut [f64], weight: f64, values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += weight * f64::from(*value);
    }
}
