//! A GPU for tests: carries out what a graph was lowered to, with the very sources that a GPU is given, compiled as C++.
//!
//! ```text
//!   SOURCE + cuda.hpp ──c++──► Library: a function for each kernel
//!   Lowered ──► Emulator::run: memory with guards ──► launches by the library; products, convolutions and attention by plain loops
//! ```
//!
//! It refuses what a GPU would not forgive, and a part of what it would: accesses outside of what a launch names, reads of what nobody
//! wrote (they are NaN), barriers that not all threads reach, launches beyond the limits of every GPU.

mod fused;
mod library;
pub(super) mod limits;
mod memory;
pub(super) mod product;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use super::launch::{Argument, Kernel, Launch, Lowered, Memory, Step};
use super::source;
use crate::kernels::Format;

pub(super) use library::Order;

use library::{Call, Library, Range};
use memory::Memories;

/// Kernels of one format.
pub(super) struct Emulator {
    format: Format,
    library: Library,
}

impl Emulator {
    /// Compiled by the first test that asks. `None` where there is no C++ compiler; in CI there must be one.
    pub(super) fn of(format: Format) -> Option<&'static Self> {
        static BF16: OnceLock<Option<Emulator>> = OnceLock::new();
        static F16: OnceLock<Option<Emulator>> = OnceLock::new();
        static F32: OnceLock<Option<Emulator>> = OnceLock::new();
        let place = match format {
            Format::Bf16 => &BF16,
            Format::F16 => &F16,
            Format::F32 => &F32,
        };
        let compile = || {
            let names: Vec<&str> = Kernel::all(format).map(Kernel::name).collect();
            Some(Self { format, library: Library::compile(source::SOURCE, &names, source::options(format))? })
        };
        place.get_or_init(compile).as_ref()
    }

    /// The outputs of the graph, in the element type of the format.
    ///
    /// # Shapes
    /// - `inputs`: each `[rows, pixels, channels]`, in the type that is read
    pub(super) fn run(&self, lowered: &Lowered, parameters: &[u8], inputs: &[Vec<u8>], order: Order) -> Vec<Vec<u8>> {
        let mut memories = Memories::new(lowered, parameters, inputs);
        let mut previous = None;
        for (node, step) in &lowered.steps {
            if previous.replace(node) != Some(node) {
                memories.forget_scratch();
            }
            match step {
                Step::Attention(attention) => fused::attend(attention, &mut memories),
                Step::Convolution(convolution) => fused::convolve(convolution, &mut memories),
                Step::Launch(launch) => self.launch(launch, &mut memories, order),
                Step::Product(product) => product::run(product, self.format, &mut memories),
            }
            memories.check_guards(step);
        }
        (0..lowered.outputs.len()).map(|output| memories.bytes(Memory::Output(output)).to_vec()).collect()
    }

    /// # Panics
    /// When the launch does what a GPU would not forgive.
    pub(super) fn launch(&self, launch: &Launch, memories: &mut Memories, order: Order) {
        limits::check(launch);
        let mut ranges = Vec::new();
        let mut call = Call::default();
        for argument in &launch.arguments {
            match *argument {
                Argument::Place(place) => {
                    let (begin, bytes) = memories.region(place.memory);
                    assert!(place.offset < bytes, "{place:?} of {bytes} bytes in {launch:?}");
                    let writable = !matches!(place.memory, Memory::Input(_) | Memory::Parameters);
                    ranges.push(Range::new((begin, bytes), writable));
                    call.push_pointer(begin.wrapping_add(place.offset));
                }
                Argument::Null => call.push_pointer(std::ptr::null()),
                Argument::Int(value) => call.push_int(value),
                Argument::Float(value) => call.push_float(value),
            }
        }
        if let Err(error) = self.library.run(launch.kernel.name(), launch, &ranges, call, order) {
            panic!("{error} in {launch:?}");
        }
    }
}
