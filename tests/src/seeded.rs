//! A stream of numbers that a seed alone decides.

/// `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
///
/// Written out here so that the captions that a published table was made with never change with a dependency.
#[derive(Clone, Debug)]
pub struct SeededStream {
    state: u64,
}

impl SeededStream {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number from 0 up to, but not including, 1.
    pub fn unit(&mut self) -> f32 {
        // The upper 24 bits: as many as an f32 holds exactly.
        (self.next_bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// A number between two bounds.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// A number around zero with a standard deviation of one, never beyond ±3.47 (a sum of twelve uniform numbers
    /// would reach ±6; four, scaled, are enough for noise on pixels).
    pub fn bell(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| self.unit()).sum();
        (sum - 2.0) * 3f32.sqrt()
    }

    /// One of a list.
    ///
    /// # Panics
    /// If the list is empty.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[(self.next_bits() % list.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_are_those_of_the_published_generator() {
        // The reference values of SplitMix64 for the seed 1234567.
        let mut stream = SeededStream::new(1_234_567);
        let found = [stream.next_bits(), stream.next_bits(), stream.next_bits()];
        assert_eq!(found, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn units_stay_below_one_and_spread_evenly() {
        let mut stream = SeededStream::new(7);
        let values: Vec<f32> = (0..10_000).map(|_| stream.unit()).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        // Five standard errors: 5 / sqrt(12 * 10000).
        assert!((mean - 0.5).abs() < 0.0145, "{mean}");
    }
}
