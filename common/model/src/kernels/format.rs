//! The formats that weights are held in and multiplied in.

/// Of packed weights, and of what is multiplied. Sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The upper half of an f32, rounded to the nearest even.
    Bf16,
    /// IEEE half precision, on GPUs. A CPU has no products of it and takes f32, which holds all of its numbers.
    F16,
    /// As it is.
    F32,
}

impl Format {
    /// Its name in options, in tables and in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// Bytes of an element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}
