//! What one thread of this CPU can do at best: what measured kernels are compared with.

use std::hint::black_box;
use std::time::Instant;

use pulp::{Simd, WithSimd};

use super::Isa;
use crate::ModelError;
use crate::kernels::floats::Floats;

/// What the thread that measured it reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// f32 multiplications and additions per second, fused where the CPU does that.
    pub flops_per_second: f64,
    /// Bytes per second read from memory, in order.
    pub bytes_per_second: f64,
}

/// Sums that do not wait for each other: more than latency times units of any CPU (4 × 2 on x86-64, 4 × 4 on Arm), and few enough that all stay
/// in registers (16 with AVX2, 32 on Arm).
const SUMS: usize = if cfg!(target_arch = "aarch64") { 20 } else { 12 };

/// Multiply-adds per sum in a timed run: about a millisecond, in which a busy machine most often lets one thread run.
const ROUNDS: usize = 1 << 18;

/// Timed runs. The fastest counts: whatever else runs on the machine can only lengthen one.
const RUNS: usize = 300;

/// Elements that are read: 512 MiB, many times the largest cache that one thread can fill.
const STREAM: usize = 1 << 27;

/// Elements that are timed at once: 8 MiB, some tenths of a millisecond. Not a part of it is still cached when its turn comes again.
const PIECE: usize = 1 << 21;

/// How often all is read.
const READS: usize = 5;

impl Isa {
    /// Measures this thread, with the widest vectors of this instruction set. Takes about a second and 512 MiB.
    pub fn measure_peak(self) -> Result<Peak, ModelError> {
        let mut stream = Floats::zeros(STREAM)?;
        // Pages that were never written are all the same page, and lie in the cache.
        stream.fill(1.0);
        let mut peak = Peak { flops_per_second: 0.0, bytes_per_second: 0.0 };
        for _run in 0..RUNS {
            peak.flops_per_second = peak.flops_per_second.max(per_second(|| self.dispatch(MultiplyAdds)));
        }
        for piece in (0..READS).flat_map(|_read| stream.chunks_exact(PIECE)) {
            peak.bytes_per_second = peak.bytes_per_second.max(per_second(|| self.dispatch(Read(piece))));
        }
        Ok(peak)
    }
}

/// What `run` says that it did, by the time it took.
fn per_second(run: impl FnOnce() -> usize) -> f64 {
    let start = Instant::now();
    let done = run() as f64;
    done / start.elapsed().as_secs_f64()
}

/// Independent sums in registers. Returns how many operations that were.
struct MultiplyAdds;

impl WithSimd for MultiplyAdds {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        // Sums that approach 2 and never overflow or underflow. Hidden from the compiler, which would compute the limit instead.
        let (factor, term) = (simd.splat_f32s(black_box(0.5)), simd.splat_f32s(black_box(1.0)));
        let mut sums = [simd.splat_f32s(black_box(0.0)); SUMS];
        for _round in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, term);
            }
        }
        for sum in sums {
            black_box(simd.reduce_sum_f32s(sum));
        }
        2 * S::F32_LANES * SUMS * ROUNDS
    }
}

/// The sum of everything. Returns how many bytes that were.
struct Read<'a>(&'a [f32]);

impl WithSimd for Read<'_> {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        let (vectors, _rest) = S::as_simd_f32s(self.0);
        let (blocks, _rest) = vectors.as_chunks::<8>();
        let mut sums = [simd.splat_f32s(0.0); 8];
        for block in blocks {
            for (sum, &vector) in sums.iter_mut().zip(block) {
                *sum = simd.add_f32s(*sum, vector);
            }
        }
        for sum in sums {
            black_box(simd.reduce_sum_f32s(sum));
        }
        size_of_val(self.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::kernels::cpu::testing::each_isa;

    #[test]
    fn every_instruction_set_has_a_peak_that_a_cpu_can_have() {
        each_isa(|isa| {
            let peak = isa.measure_peak().unwrap();
            // From a slow emulator to twice the widest CPU of today.
            assert!((1e7..1e12).contains(&peak.flops_per_second), "{isa:?}: {peak:?}");
            assert!((1e7..1e12).contains(&peak.bytes_per_second), "{isa:?}: {peak:?}");
        });
    }
}
