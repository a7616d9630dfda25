//! Encoding and decoding hidden states on one thread: bytes of f32 per second.
//!
//! ```text
//! taskset -c 0 cargo bench -p asyncdiff-model --bench encodings
//! ```
//!
//! 5 MiB is the largest hidden state that crosses a contiguous cut of SD 1.5 at 512×512, two rows: 320 channels of 64×64. The smaller tensor stays in
//! a core's own cache.

use std::hint::black_box;
use std::time::Duration;

use asyncdiff_model::encodings::{Half, decode_delta, decode_half, encode_delta, encode_half};
use asyncdiff_model::formula;
use asyncdiff_model::kernels::Isa;
use asyncdiff_plan::DeltaBits;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Elements, and what they are called.
const SIZES: [(usize, &str); 2] = [(32 * 1024, "128 KiB"), (1280 * 1024, "5 MiB")];

fn encodings(criterion: &mut Criterion) {
    let isa = Isa::best();
    for (count, size) in SIZES {
        let elements = formula::input("latents", &[count], 1);
        let mut group = criterion.benchmark_group(size);
        group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1));
        group.throughput(Throughput::Bytes(4 * count as u64));
        let (mut bytes, mut decoded) = (vec![0; 2 * count], vec![0.0; count]);
        for half in [Half::F16, Half::Bf16] {
            group.bench_function(format!("{half:?} encode"), |bencher| {
                bencher.iter(|| encode_half(isa, half, black_box(&elements), &mut bytes));
            });
            group.bench_function(format!("{half:?} decode"), |bencher| {
                bencher.iter(|| decode_half(isa, half, black_box(&bytes), &mut decoded));
            });
        }
        for bits in [DeltaBits::Eight, DeltaBits::Four] {
            let (mut register, base) = (vec![0.5; count], vec![0.5; count]);
            let mut bytes = vec![0; bits.bytes(count as u64) as usize];
            group.bench_function(format!("delta {bits:?} encode"), |bencher| {
                bencher.iter(|| encode_delta(isa, bits, black_box(&elements), &mut register, &mut bytes));
            });
            group.bench_function(format!("delta {bits:?} decode"), |bencher| {
                bencher.iter(|| decode_delta(isa, bits, black_box(&base), &bytes, &mut decoded));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, encodings);
criterion_main!(benches);
