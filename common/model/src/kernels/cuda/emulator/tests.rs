//! The emulator refuses what it should, and computes what it does not refuse.

use super::super::launch::{Argument, Kernel, Launch, Lowered, Memory, Place};
use super::library::{Call, Library, Order, Range};
use super::memory::Memories;
use super::product::{decode, encode};
use super::{Emulator, limits};
use crate::kernels::Format;

/// Kernels that do one thing wrong each, or right.
const SOURCE: &str = r#"
template <typename T> T load(const T* source) { CHECK_LOAD(source, sizeof(T)); return *source; }
template <typename T> void store(T* target, T value) { CHECK_STORE(target, sizeof(T)); *target = value; }
extern "C" void sums_of_warps(float* values) { store(values + threadIdx.x, __shfl_xor_sync(0xffffffffu, load(values + threadIdx.x), 1)); }
extern "C" void turned_round(float* values) {
    SHARED(all);
    all[threadIdx.x] = load(values + threadIdx.x);
    __syncthreads();
    store(values + threadIdx.x, all[blockDim.x - 1 - threadIdx.x]);
}
extern "C" void raced(float* values) {
    SHARED(all);
    all[threadIdx.x] = load(values + threadIdx.x);
    store(values + threadIdx.x, all[blockDim.x - 1 - threadIdx.x]);
}
extern "C" void half_at_a_barrier(float* values) {
    if (threadIdx.x < blockDim.x / 2) __syncthreads();
    store(values + threadIdx.x, 1.0f);
}
extern "C" void beyond(float* values) { store(values + threadIdx.x + 1, 1.0f); }
extern "C" void before(float* values) { store(values + threadIdx.x, load(values + threadIdx.x - 1)); }
extern "C" void behind_shared(float*) { SHARED(all); all[blockDim.x + threadIdx.x] = 1.0f; }
extern "C" void askew(float* values) { store(reinterpret_cast<double*>(values + 1), 1.0); }
"#;

const KERNELS: [&str; 8] =
    ["sums_of_warps", "turned_round", "raced", "half_at_a_barrier", "beyond", "before", "behind_shared", "askew"];

const THREADS: u32 = 64;

/// What a kernel makes of the numbers from 0 on, or what it did wrong.
fn run(library: &Library, kernel: &str, writable: bool, order: Order) -> Result<Vec<f32>, String> {
    let mut values: Vec<f32> = (0..THREADS).map(|thread| thread as f32).collect();
    let bytes = size_of_val(&values[..]);
    let pointer = values.as_mut_ptr().cast::<u8>();
    let mut call = Call::default();
    call.push_pointer(pointer);
    let ranges = [Range::new((pointer, bytes), writable)];
    let launch = Launch { shared_bytes: THREADS * 4, ..launch(THREADS) };
    library.run(kernel, &launch, &ranges, call, order).map(|()| values)
}

fn launch(block: u32) -> Launch {
    Launch { kernel: Kernel::ToFloats, grid: [1; 3], block, shared_bytes: 0, arguments: Vec::new() }
}

#[test]
fn barriers_and_shuffles_wait_for_all_threads() {
    let Some(library) = Library::compile(SOURCE, &KERNELS, &[]) else { return };
    for order in [Order::Forwards, Order::Backwards] {
        let neighbours: Vec<f32> = (0..THREADS).map(|thread| (thread ^ 1) as f32).collect();
        assert_eq!(run(&library, "sums_of_warps", true, order).unwrap(), neighbours);
        let backwards: Vec<f32> = (0..THREADS).rev().map(|thread| thread as f32).collect();
        assert_eq!(run(&library, "turned_round", true, order).unwrap(), backwards);
    }
    let raced = |order| format!("{:?}", run(&library, "raced", true, order).unwrap());
    assert_ne!(raced(Order::Forwards), raced(Order::Backwards));
}

#[test]
fn what_a_gpu_would_not_forgive_is_refused() {
    let Some(library) = Library::compile(SOURCE, &KERNELS, &[]) else { return };
    for (kernel, complaint) in [
        ("half_at_a_barrier", "a barrier that not all threads reach"),
        ("beyond", "a write outside of the launch's memory, thread 63 of block [0, 0, 0]"),
        ("before", "a read outside of the launch's memory, thread 0 of block [0, 0, 0]"),
        ("behind_shared", "a write behind the shared memory"),
        ("askew", "an access that is not aligned"),
    ] {
        let error = run(&library, kernel, true, Order::Forwards).unwrap_err();
        assert!(error.starts_with(complaint), "{kernel}: {error}");
        // What failed leaves nothing to the next launch.
        assert!(run(&library, "turned_round", true, Order::Forwards).is_ok());
    }
    let error = run(&library, "turned_round", false, Order::Forwards).unwrap_err();
    assert!(error.starts_with("a write to what is read only"), "{error}");
}

#[test]
fn arguments_of_another_kind_are_refused() {
    let Some(library) = Library::compile(SOURCE, &KERNELS, &[]) else { return };
    let mut call = Call::default();
    call.push_int(1);
    let error = library.run("beyond", &launch(THREADS), &[], call, Order::Forwards).unwrap_err();
    assert_eq!(error, "arguments that are not the kernel's parameters");
}

#[test]
fn launches_beyond_the_limits_are_refused() {
    let refused = |launch: Launch| std::panic::catch_unwind(|| limits::check(&launch)).is_err();
    assert!(!refused(launch(1024)));
    for wrong in [
        launch(0),
        launch(33),
        launch(1056),
        Launch { grid: [0, 1, 1], ..launch(32) },
        Launch { grid: [1, 65_536, 1], ..launch(32) },
        Launch { shared_bytes: (48 << 10) + 1, ..launch(32) },
    ] {
        assert!(refused(wrong.clone()), "{wrong:?}");
    }
}

#[test]
fn elements_come_from_floats_as_they_are_rounded_elsewhere() {
    // Halves of the last digit with an even and an odd one before it, both infinities, NaN, what overflows, and the smallest numbers.
    let bits =
        [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x7f80_0000, 0xff80_0000, 0x7f80_0001, 0x7f7f_ffff, 1, 0x8000_8000];
    // The same of f16: its halves, the largest number and the first that is rounded to infinity, and numbers below its normal ones.
    let bits_of_f16 =
        [0x3f80_1000, 0x3f80_3000, 0x477f_efff, 0x477f_f000, 0xc780_0000, 0x3380_0000, 0x3300_0000, 0x3300_0001];
    let all = bits.into_iter().chain(bits_of_f16).map(f32::from_bits);
    let small = (0..3000).map(|index| index as f32 * 4.1e-8 - 6e-5);
    let floats: Vec<f32> = all.chain((0..1000).map(|index| index as f32 / 7.0)).chain(small).collect();
    for format in [Format::Bf16, Format::F16, Format::F32] {
        let Some(emulator) = Emulator::of(format) else { return };
        let elements = convert(emulator, Kernel::FromFloats, encode(Format::F32, &floats), floats.len(), format);
        let expected = encode(format, &floats);
        let is_same =
            |found: &f32, expected: &f32| found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        let (found, expected_floats) = (decode(format, &elements), decode(format, &expected));
        assert!(found.iter().zip(&expected_floats).all(|(found, expected)| is_same(found, expected)));
        let back = convert(emulator, Kernel::ToFloats, elements, floats.len(), Format::F32);
        assert!(decode(Format::F32, &back).iter().zip(&found).all(|(back, found)| is_same(back, found)));
    }
}

/// The bytes of one type as those of `to`.
fn convert(emulator: &Emulator, kernel: Kernel, from: Vec<u8>, count: usize, to: Format) -> Vec<u8> {
    let outputs = vec![encode(to, &vec![0.0; count]).len()];
    let (steps, rows, inputs, registers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let lowered = Lowered { steps, rows, inputs, registers, scratch_bytes: 0, outputs };
    let mut memories = Memories::new(&lowered, &[], &[from]);
    let place = |memory| Argument::Place(Place { memory, offset: 0 });
    let arguments = vec![place(Memory::Input(0)), place(Memory::Output(0)), Argument::Int(count as i32)];
    let grid = [count.div_ceil(256) as u32, 1, 1];
    let launch = Launch { kernel, grid, block: 256, shared_bytes: 0, arguments };
    emulator.launch(&launch, &mut memories, Order::Forwards);
    memories.bytes(Memory::Output(0)).to_vec()
}
