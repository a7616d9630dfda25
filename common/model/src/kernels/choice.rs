//! Naming a device, as options of programs do.

use std::fmt;
use std::str::FromStr;

/// A device of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU: `cpu`.
    #[default]
    Cpu,
    /// A GPU of NVIDIA's by its number, the first where none is given: `cuda`, `cuda:1`.
    Cuda(usize),
}

/// Which devices of this machine compute, where there may be several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSet {
    /// Every visible GPU of NVIDIA's: `cuda`.
    AllGpus,
    /// The CPU: `cpu`.
    #[default]
    Cpu,
    /// One GPU by its number: `cuda:1`.
    Gpu(usize),
}

impl DeviceSet {
    /// The only one, or the first of them.
    #[must_use]
    pub fn first(self) -> DeviceChoice {
        match self {
            Self::AllGpus => DeviceChoice::Cuda(0),
            Self::Cpu => DeviceChoice::Cpu,
            Self::Gpu(ordinal) => DeviceChoice::Cuda(ordinal),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.split_once(':') {
            None if text == "cpu" => return Ok(Self::Cpu),
            None if text == "cuda" => Some(0),
            Some(("cuda", number)) => number.parse().ok(),
            _ => None,
        };
        number.map(Self::Cuda).ok_or_else(|| "write it like cpu, cuda or cuda:1".to_owned())
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(ordinal) => write!(formatter, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse()? {
            DeviceChoice::Cpu => Ok(Self::Cpu),
            DeviceChoice::Cuda(_) if text == "cuda" => Ok(Self::AllGpus),
            DeviceChoice::Cuda(ordinal) => Ok(Self::Gpu(ordinal)),
        }
    }
}

impl fmt::Display for DeviceSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllGpus => formatter.write_str("cuda"),
            Self::Cpu | Self::Gpu(_) => self.first().fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_and_numbered() {
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        assert_eq!(DeviceChoice::Cuda(3).to_string().parse(), Ok(DeviceChoice::Cuda(3)));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cpu:0", "CUDA"] {
            assert!(text.parse::<DeviceChoice>().is_err() && text.parse::<DeviceSet>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_set_without_a_number_is_all_gpus() {
        for (text, set) in [("cpu", DeviceSet::Cpu), ("cuda", DeviceSet::AllGpus), ("cuda:0", DeviceSet::Gpu(0))] {
            assert_eq!((text.parse(), set.to_string()), (Ok(set), text.to_owned()));
        }
        assert_eq!(DeviceSet::AllGpus.first(), DeviceChoice::Cuda(0));
    }
}
