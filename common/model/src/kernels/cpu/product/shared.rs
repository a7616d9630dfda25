//! Slices that several threads write to, each its own elements.

use std::marker::PhantomData;

/// A slice of which every thread may write the elements that are its share.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    pointer: *mut f32,
    length: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a `&mut [f32]`, which is `Send`; whoever takes a part promises that no other thread has it.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self { pointer: slice.as_mut_ptr(), length: slice.len(), lifetime: PhantomData }
    }

    /// Panics if the part lies outside.
    ///
    /// # Safety
    /// While the part is in use nothing else reads or writes its elements.
    #[inline(always)]
    pub(crate) unsafe fn part(self, start: usize, length: usize) -> &'a mut [f32] {
        assert!(start <= self.length && length <= self.length - start, "a part lies outside of its slice");
        // SAFETY: inside by the assertion; alone by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), length) }
    }
}
