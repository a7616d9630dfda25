//! The instruction sets that kernels are written for, what this CPU has of them, and the cap that a user may set.

use std::sync::OnceLock;

use pulp::{Scalar, Simd, WithSimd};

use crate::kernels::Format;

/// An instruction set, lesser ones first. A CPU that has one has those before it of its own architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What every CPU of the architecture has, without vectors of our own: slow, and always right.
    Portable,
    /// 128-bit vectors of Arm.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// 256-bit vectors with fused multiply-add: pulp's `V3`.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors: pulp's `V4`.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// And products of pairs of bf16 (`vdpbf16ps`).
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// And tiles of bf16 (AMX).
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// The environment's variable that caps what is used, so that every lesser path can be tested and measured on a better CPU: `portable`,
/// `neon`, `avx2`, `avx512`, `avx512-bf16` or `amx`, which is used only where it is named.
pub const CAP_VARIABLE: &str = "ASYNCDIFF_CPU";

impl Isa {
    /// All of this architecture, lesser ones first.
    #[cfg(target_arch = "x86_64")]
    pub const ALL: &[Self] = &[Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];
    /// All of this architecture, lesser ones first.
    #[cfg(target_arch = "aarch64")]
    pub const ALL: &[Self] = &[Self::Portable, Self::Neon];
    /// All of this architecture, lesser ones first.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub const ALL: &[Self] = &[Self::Portable];

    /// Runs `operation` with the widest vectors of this instruction set.
    #[inline]
    pub(crate) fn dispatch<O: WithSimd>(self, operation: O) -> O::Output {
        #[cfg(target_arch = "x86_64")]
        {
            use pulp::x86::{V3, V4};
            if self >= Self::Avx512
                && let Some(simd) = V4::try_new()
            {
                return Simd::vectorize(simd, operation);
            }
            if self >= Self::Avx2
                && let Some(simd) = V3::try_new()
            {
                return Simd::vectorize(simd, operation);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if self >= Self::Neon
            && let Some(simd) = pulp::aarch64::Neon::try_new()
        {
            return Simd::vectorize(simd, operation);
        }
        Simd::vectorize(Scalar, operation)
    }

    /// All that this CPU has, lesser ones first.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::Portable];
        #[cfg(target_arch = "aarch64")]
        if pulp::aarch64::Neon::try_new().is_some() {
            found.push(Self::Neon);
        }
        #[cfg(target_arch = "x86_64")]
        {
            if pulp::x86::V3::try_new().is_some() {
                found.push(Self::Avx2);
            }
            if pulp::x86::V4::try_new().is_some() {
                found.push(Self::Avx512);
                if std::arch::is_x86_feature_detected!("avx512bf16") {
                    found.push(Self::Avx512Bf16);
                    // The tile instructions were tested in emulation only: until they have run on a CPU that has them, they must be asked for.
                    if named_cap() == Some(Self::Amx) && super::product::amx::available() {
                        found.push(Self::Amx);
                    }
                }
            }
        }
        found
    }

    /// The greatest that this CPU has, within the cap that the environment sets in [`CAP_VARIABLE`].
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let found = Self::available();
            let cap = named_cap().or(found.last().copied()).unwrap_or(Self::Portable);
            found.into_iter().rfind(|&isa| isa <= cap).unwrap_or(Self::Portable)
        })
    }

    /// Its name in [`CAP_VARIABLE`], in tables and in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "amx",
        }
    }

    /// The format whose products are fastest.
    #[must_use]
    pub fn fastest_format(self) -> Format {
        #[cfg(target_arch = "x86_64")]
        if self >= Self::Avx512Bf16 {
            return Format::Bf16;
        }
        Format::F32
    }

    /// Whether bf16 is multiplied in tiles, many times as fast as f32.
    #[must_use]
    pub fn has_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Amx;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|isa| isa.name() == name)
    }
}

/// The instruction set that the environment names, if it names one.
fn named_cap() -> Option<Isa> {
    let text = std::env::var(CAP_VARIABLE).ok()?;
    let cap = Isa::from_name(&text);
    if cap.is_none() {
        let names: Vec<&str> = Isa::ALL.iter().map(|isa| isa.name()).collect();
        let known = names.join(", ");
        tracing::warn!(found = text, known, "{CAP_VARIABLE} names no instruction set and has no effect");
    }
    cap
}
