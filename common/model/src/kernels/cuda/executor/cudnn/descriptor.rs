//! Descriptors: whatever the library is told, it is told by attributes of one, and a descriptor may name others.

use std::ffi::{c_int, c_void};

pub(super) use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type, cudnnBackendDescriptorType_t as Kind,
};

use super::library::{Failure, Functions, Handle};

/// Descriptors that are given back together, the newest first: those that name others before those that they name.
#[derive(Debug)]
pub(super) struct Descriptors {
    functions: &'static Functions,
    made: Vec<Descriptor>,
}

/// One of [`Descriptors`], for as long as they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor(pub(super) *mut c_void);

/// What an attribute is set to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Boolean(bool),
    Descriptors(&'a [Descriptor]),
    /// One of a C enumeration, of this type.
    Enumerator(Type, u32),
    Float(f32),
    Handle(Handle),
    Integers(&'a [i64]),
    Pointers(&'a [*mut c_void]),
    /// Letters, the zero behind them included. For what is only tested without a GPU.
    #[cfg(test)]
    Text(&'a std::ffi::CStr),
}

impl Descriptors {
    pub(super) fn new(functions: &'static Functions) -> Self {
        Self { functions, made: Vec::new() }
    }

    /// One of this kind, with these attributes, that others may name.
    pub(super) fn make(&mut self, kind: Kind, attributes: &[(Name, Value<'_>)]) -> Result<Descriptor, Failure> {
        let descriptor = self.make_empty(kind)?;
        for &(name, value) in attributes {
            self.set(descriptor, name, value)?;
        }
        // SAFETY: it was made by the library and lives.
        self.functions.check(unsafe { (self.functions.finalize)(descriptor.0) })?;
        Ok(descriptor)
    }

    /// One that the library will write to.
    pub(super) fn make_empty(&mut self, kind: Kind) -> Result<Descriptor, Failure> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes a pointer to where it is told.
        self.functions.check(unsafe { (self.functions.create)(kind as c_int, &raw mut raw) })?;
        self.made.push(Descriptor(raw));
        Ok(Descriptor(raw))
    }

    /// Has the library write to as many descriptors as it has results for, and says how many.
    pub(super) fn get_into(&self, of: Descriptor, name: Name, results: &[Descriptor]) -> Result<usize, Failure> {
        let mut raw: Vec<*mut c_void> = results.iter().map(|descriptor| descriptor.0).collect();
        let kind = Type::CUDNN_TYPE_BACKEND_DESCRIPTOR;
        // SAFETY: an array of descriptors is read, and no more of them are written to than it has.
        unsafe { self.get(of, name, kind, (raw.len(), raw.as_mut_ptr().cast())) }
    }

    /// The numbers of an attribute, as many as there are and fit.
    ///
    /// # Panics
    /// When the type has no enumerators.
    pub(super) fn enumerators<const MOST: usize>(
        &self,
        of: Descriptor,
        name: Name,
        kind: Type,
    ) -> Result<Vec<u32>, Failure> {
        assert_eq!(kind, Type::CUDNN_TYPE_NUMERICAL_NOTE, "an enumeration that is asked for");
        let mut found = [0_u32; MOST];
        // SAFETY: the elements are C enumerators, 32 bits each, and no more are written than there is room for.
        let count = unsafe { self.get(of, name, kind, (MOST, found.as_mut_ptr().cast())) }?;
        Ok(found[..count.min(MOST)].to_vec())
    }

    /// An integer.
    pub(super) fn integer(&self, of: Descriptor, name: Name) -> Result<i64, Failure> {
        let mut found = 0_i64;
        // SAFETY: one integer is written.
        unsafe { self.get(of, name, Type::CUDNN_TYPE_INT64, (1, (&raw mut found).cast())) }?;
        Ok(found)
    }

    pub(super) fn set(&self, of: Descriptor, name: Name, value: Value<'_>) -> Result<(), Failure> {
        let (kind, count, elements): (Type, usize, *const c_void) = match &value {
            Value::Boolean(value) => (Type::CUDNN_TYPE_BOOLEAN, 1, (&raw const *value).cast()),
            // Transparent to the library: a pointer each.
            Value::Descriptors(values) => {
                let raw: Vec<*mut c_void> = values.iter().map(|descriptor| descriptor.0).collect();
                return self.set_raw(of, name, (Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, raw.len(), raw.as_ptr().cast()));
            }
            Value::Enumerator(kind, value) => (*kind, 1, (&raw const *value).cast()),
            Value::Float(value) => (Type::CUDNN_TYPE_FLOAT, 1, (&raw const *value).cast()),
            Value::Handle(value) => (Type::CUDNN_TYPE_HANDLE, 1, (&raw const *value).cast()),
            Value::Integers(values) => (Type::CUDNN_TYPE_INT64, values.len(), values.as_ptr().cast()),
            Value::Pointers(values) => (Type::CUDNN_TYPE_VOID_PTR, values.len(), values.as_ptr().cast()),
            #[cfg(test)]
            Value::Text(text) => (Type::CUDNN_TYPE_CHAR, text.to_bytes_with_nul().len(), text.as_ptr().cast()),
        };
        self.set_raw(of, name, (kind, count, elements))
    }

    fn set_raw(
        &self,
        of: Descriptor,
        name: Name,
        (kind, count, elements): (Type, usize, *const c_void),
    ) -> Result<(), Failure> {
        // SAFETY: the descriptor lives; elements of this type, as many, are behind the pointer, and are copied.
        let status = unsafe { (self.functions.set)(of.0, name as c_int, kind as c_int, count as i64, elements) };
        self.functions.check(status)
    }

    /// # Safety
    /// Behind the pointer there is room for so many elements of the type.
    unsafe fn get(
        &self,
        of: Descriptor,
        name: Name,
        kind: Type,
        (room, elements): (usize, *mut c_void),
    ) -> Result<usize, Failure> {
        let mut count = 0_i64;
        // SAFETY: the descriptor lives, and callers have the room that they say.
        let status =
            unsafe { (self.functions.get)(of.0, name as c_int, kind as c_int, room as i64, &raw mut count, elements) };
        self.functions.check(status)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        for descriptor in self.made.iter().rev() {
            // SAFETY: it was made by the library and is not used afterwards. Should it fail there is nothing to be done.
            let _ = unsafe { (self.functions.destroy)(descriptor.0) };
        }
    }
}
