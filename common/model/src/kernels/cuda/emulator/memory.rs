//! The memory that steps name, between guards, filled with NaN where nothing was written.

use super::super::launch::{Lowered, Memory, Step};

/// NaN in every format.
const NOTHING: u8 = 0xff;

/// Bytes before and behind what may be accessed.
const GUARD: usize = 256;

/// What memory begins at a multiple of.
const ALIGNMENT: usize = 256;

/// All memory of a run.
pub(crate) struct Memories {
    inputs: Vec<Region>,
    outputs: Vec<Region>,
    registers: Vec<Region>,
    scratch: Region,
    parameters: Region,
}

/// Bytes between guards.
struct Region {
    all: Vec<u8>,
    first: usize,
    len: usize,
}

impl Memories {
    pub(super) fn new(lowered: &Lowered, parameters: &[u8], inputs: &[Vec<u8>]) -> Self {
        let unwritten = |bytes: &[usize]| bytes.iter().map(|&bytes| Region::unwritten(bytes)).collect();
        Self {
            inputs: inputs.iter().map(|bytes| Region::holding(bytes)).collect(),
            outputs: unwritten(&lowered.outputs),
            registers: unwritten(&lowered.registers),
            scratch: Region::unwritten(lowered.scratch_bytes),
            parameters: Region::holding(parameters),
        }
    }

    pub(super) fn bytes(&self, memory: Memory) -> &[u8] {
        let region = match memory {
            Memory::Input(index) => &self.inputs[index],
            Memory::Output(index) => &self.outputs[index],
            Memory::Register(index) => &self.registers[index],
            Memory::Scratch => &self.scratch,
            Memory::Parameters => &self.parameters,
        };
        &region.all[region.first..][..region.len]
    }

    /// For a product.
    pub(super) fn bytes_mut(&mut self, memory: Memory) -> &mut [u8] {
        let region = self.find(memory);
        &mut region.all[region.first..][..region.len]
    }

    /// For a launch, whose kernel may write there: where the memory begins, and how long it is.
    pub(super) fn region(&mut self, memory: Memory) -> (*mut u8, usize) {
        let region = self.find(memory);
        (region.all.as_mut_ptr().wrapping_add(region.first), region.len)
    }

    fn find(&mut self, memory: Memory) -> &mut Region {
        match memory {
            Memory::Input(index) => &mut self.inputs[index],
            Memory::Output(index) => &mut self.outputs[index],
            Memory::Register(index) => &mut self.registers[index],
            Memory::Scratch => &mut self.scratch,
            Memory::Parameters => &mut self.parameters,
        }
    }

    /// What one node left there is nothing to the next.
    pub(super) fn forget_scratch(&mut self) {
        self.bytes_mut(Memory::Scratch).fill(NOTHING);
    }

    /// # Panics
    /// When a step has written beside its memory.
    pub(super) fn check_guards(&self, step: &Step) {
        let regions = self.inputs.iter().chain(&self.outputs).chain(&self.registers);
        for Region { all, first, len } in regions.chain([&self.scratch, &self.parameters]) {
            let guards = [&all[..*first], &all[first + len..]];
            assert!(guards.into_iter().flatten().all(|&byte| byte == NOTHING), "a write beside memory by {step:?}");
        }
    }
}

impl Region {
    fn unwritten(len: usize) -> Self {
        let all = vec![NOTHING; len + 2 * GUARD + ALIGNMENT];
        let first = GUARD + all[GUARD..].as_ptr().align_offset(ALIGNMENT);
        Self { all, first, len }
    }

    fn holding(bytes: &[u8]) -> Self {
        let mut region = Self::unwritten(bytes.len());
        region.all[region.first..][..bytes.len()].copy_from_slice(bytes);
        region
    }
}
