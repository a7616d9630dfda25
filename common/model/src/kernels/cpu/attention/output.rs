//! The output of an attention, which tasks write at the same time: each its own head of its own tokens.

use std::marker::PhantomData;

/// A buffer `[tokens, width]` whose heads are handed out one by one. Heads of a token alternate in memory, so that no slice
/// holds those of one task alone; copying them from a buffer of the tasks would cost as much memory again.
pub(super) struct SharedOutput<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    head_width: usize,
    elements: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a mutable borrow of floats, of which `part` hands out shares that its caller keeps apart.
unsafe impl Sync for SharedOutput<'_> {}

impl<'a> SharedOutput<'a> {
    pub(super) fn new(elements: &'a mut [f32], width: usize, head_width: usize) -> Self {
        Self { start: elements.as_mut_ptr(), len: elements.len(), width, head_width, elements: PhantomData }
    }

    /// One head of the tokens from `first` up to `end`.
    ///
    /// # Safety
    /// No other part that is in use has the same head of one of these tokens.
    pub(super) unsafe fn part(&self, first: usize, end: usize, head: usize) -> OutputPart<'_> {
        assert!((head + 1) * self.head_width <= self.width && end * self.width <= self.len, "part of an output");
        OutputPart { output: self, first, end, head }
    }
}

/// One head of some tokens.
pub(super) struct OutputPart<'a> {
    output: &'a SharedOutput<'a>,
    first: usize,
    end: usize,
    head: usize,
}

impl OutputPart<'_> {
    /// The head of one token, counted from the first of this part.
    #[inline(always)]
    pub(super) fn token(&mut self, index: usize) -> &mut [f32] {
        let SharedOutput { start, width, head_width, .. } = *self.output;
        let token = self.first + index;
        assert!(token < self.end, "token of an output");
        // SAFETY: `part` has checked that the head lies within the token and the token within the buffer; the borrow of `self`
        // keeps this part's slices apart, and `part`'s caller keeps the parts apart.
        unsafe { std::slice::from_raw_parts_mut(start.add(token * width + self.head * head_width), head_width) }
    }
}
