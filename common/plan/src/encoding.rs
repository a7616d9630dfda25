//! How hidden states travel on the edges of a plan, and which version each difference is based on.
//!
//! Warm-up steps travel as computed, so that they stay exact. After the warm-up an edge may carry rounded elements, or differences from what
//! it carried before: consecutive versions of a value hardly differ, so that their differences need few bits. The sender keeps what the receiver
//! made of its differences and takes the next one from there, so that the error of one step is made good by the next.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{Lane, Rank, StepIndex, Transfer, ValueId};

/// Consecutive elements (channels last) that share the scale of their differences. Half as many would add 3 % to the bytes of `Delta8` and 6 % to
/// those of `Delta4`; twice as many would let one outlier coarsen the steps of 127 others.
pub const DELTA_GROUP: u64 = 64;

/// Bytes of a group's scale: a bf16.
pub const DELTA_SCALE_BYTES: u64 = 2;

/// How hidden states travel on an edge. The least lossy first, as measured by the pictures that come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// As computed: f32.
    #[default]
    Full,
    /// IEEE half precision; what is beyond it becomes its largest number.
    F16,
    /// 8-bit differences from the version before.
    Delta8,
    /// bfloat16: as many bytes as `F16`, the range of f32, 8 bits of mantissa.
    Bf16,
    /// 4-bit differences from the version before.
    Delta4,
}

/// Bits of one quantised difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeltaBits {
    /// -7 to 7 times the scale.
    Four,
    /// -127 to 127 times the scale.
    Eight,
}

/// What a tensor of differences is, beside its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Delta {
    /// Bits of each difference.
    pub bits: DeltaBits,
    /// The version that they are differences from.
    pub base: StepIndex,
}

impl Encoding {
    /// All of them, the least lossy first.
    pub const ALL: [Self; 5] = [Self::Full, Self::F16, Self::Delta8, Self::Bf16, Self::Delta4];

    /// Its name on the command line, in JSON and in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::F16 => "f16",
            Self::Delta8 => "delta8",
            Self::Bf16 => "bf16",
            Self::Delta4 => "delta4",
        }
    }

    /// The bits of its differences, if it is one of differences.
    #[must_use]
    pub fn delta_bits(self) -> Option<DeltaBits> {
        match self {
            Self::Delta4 => Some(DeltaBits::Four),
            Self::Delta8 => Some(DeltaBits::Eight),
            Self::Bf16 | Self::F16 | Self::Full => None,
        }
    }

    /// Bytes that so many elements take.
    #[must_use]
    pub fn bytes(self, elements: u64) -> u64 {
        match self {
            Self::Full => elements.saturating_mul(4),
            Self::Bf16 | Self::F16 => elements.saturating_mul(2),
            Self::Delta4 => DeltaBits::Four.bytes(elements),
            Self::Delta8 => DeltaBits::Eight.bytes(elements),
        }
    }
}

impl DeltaBits {
    /// Bytes that so many differences take: first the scales of all groups, then the differences group by group.
    #[must_use]
    pub fn bytes(self, elements: u64) -> u64 {
        self.code_bytes(elements).saturating_add(elements.div_ceil(DELTA_GROUP) * DELTA_SCALE_BYTES)
    }

    /// Bytes of the differences alone. Each group begins with a byte of its own.
    #[must_use]
    pub fn code_bytes(self, elements: u64) -> u64 {
        match self {
            // Whole groups have an even number of elements, so rounding up concerns only the last.
            Self::Four => elements.div_ceil(2),
            Self::Eight => elements,
        }
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.name())
    }
}

impl Transfer {
    /// The differences that it carries; `None` if it carries all of its elements.
    #[must_use]
    pub fn delta(&self) -> Option<Delta> {
        Some(Delta { bits: self.encoding.delta_bits()?, base: self.base? })
    }

    /// Whether it makes sense by itself: differences are from an earlier version.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        match self.base {
            Some(base) => base < self.instance.step,
            None => self.encoding.delta_bits().is_none(),
        }
    }
}

/// Gives each transfer its encoding and base. `transfers` by value and step; `encoding`: what its edge shall have.
pub(crate) fn encode(transfers: &mut [Transfer], warm_up_steps: u32, encoding: impl Fn(&Transfer) -> Encoding) {
    let mut newest: HashMap<(Rank, Rank, ValueId), [Option<StepIndex>; 2]> = HashMap::new();
    for transfer in transfers {
        let wanted = encoding(transfer);
        let in_warm_up = transfer.instance.step.0 < warm_up_steps;
        transfer.encoding = if in_warm_up { Encoding::Full } else { wanted };
        transfer.base = None;
        if wanted.delta_bits().is_none() {
            continue;
        }
        let newest = newest.entry((transfer.from, transfer.to, transfer.instance.value)).or_default();
        let before = &mut newest[transfer.instance.lane.halves()];
        transfer.base = before[0].filter(|_| before.iter().all(|version| *version == before[0]));
        if transfer.base.is_none() {
            transfer.encoding = Encoding::Full;
        }
        before.fill(Some(transfer.instance.step));
    }
}

impl Lane {
    /// Which halves of the batch it covers.
    pub(crate) fn halves(self) -> std::ops::Range<usize> {
        match self {
            Self::Unconditional => 0..1,
            Self::Conditional => 1..2,
            Self::Whole => 0..2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_scales_and_codes() {
        for (encoding, elements, bytes) in [
            (Encoding::Full, 100, 400),
            (Encoding::F16, 100, 200),
            (Encoding::Bf16, 100, 200),
            (Encoding::Delta8, 64, 66),
            (Encoding::Delta8, 65, 69),
            (Encoding::Delta4, 64, 34),
            (Encoding::Delta4, 65, 37),
            (Encoding::Delta4, 0, 0),
        ] {
            assert_eq!(encoding.bytes(elements), bytes, "{encoding} of {elements}");
        }
        assert!(Encoding::Delta8.bytes(u64::MAX) >= u64::MAX / 2, "a size that overflows stays large");
    }
}
