//! The names of the noise schedulers: ours on the command line, diffusers' in a config.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SchedulerError;

/// A noise scheduler by the name that a user types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulerKind {
    /// Denoising diffusion implicit models (arXiv 2010.02502), without noise of its own.
    Ddim,
    /// DPM-Solver++ (arXiv 2211.01095), multistep of second order.
    #[serde(rename = "dpmpp-2m")]
    DpmSolver,
    /// The same on the sigmas of Karras et al.
    #[serde(rename = "dpmpp-2m-karras")]
    DpmSolverKarras,
    /// Euler's method (Algorithm 2 of arXiv 2206.00364 without its second order and churn).
    Euler,
    /// Euler's method that goes further down and adds noise back.
    EulerAncestral,
    /// Euler's method on the sigmas of Karras et al.
    EulerKarras,
    /// Heun's method (Algorithm 2 of arXiv 2206.00364 without churn): two evaluations per step.
    Heun,
    /// Linear multistep method of fourth order.
    Lms,
    /// Pseudo numerical methods for diffusion models (arXiv 2202.09778).
    Pndm,
    /// Unified predictor and corrector (arXiv 2302.04867).
    Unipc,
}

impl SchedulerKind {
    /// All of them, in the order in which they are listed to a user.
    pub const ALL: [Self; 10] = [
        Self::Ddim,
        Self::DpmSolver,
        Self::DpmSolverKarras,
        Self::Euler,
        Self::EulerAncestral,
        Self::EulerKarras,
        Self::Heun,
        Self::Lms,
        Self::Pndm,
        Self::Unipc,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::DpmSolver => "dpmpp-2m",
            Self::DpmSolverKarras => "dpmpp-2m-karras",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler-ancestral",
            Self::EulerKarras => "euler-karras",
            Self::Heun => "heun",
            Self::Lms => "lms",
            Self::Pndm => "pndm",
            Self::Unipc => "unipc",
        }
    }

    /// All names, for messages and help.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// What diffusers calls the class, and whether it is run on Karras sigmas; `None` where the name leaves that to
    /// the config.
    pub(super) const fn class(self) -> (SchedulerClass, Option<bool>) {
        match self {
            Self::Ddim => (SchedulerClass::Ddim, None),
            Self::DpmSolver => (SchedulerClass::DpmSolver, Some(false)),
            Self::DpmSolverKarras => (SchedulerClass::DpmSolver, Some(true)),
            Self::Euler => (SchedulerClass::Euler, Some(false)),
            Self::EulerAncestral => (SchedulerClass::EulerAncestral, None),
            Self::EulerKarras => (SchedulerClass::Euler, Some(true)),
            Self::Heun => (SchedulerClass::Heun, None),
            Self::Lms => (SchedulerClass::Lms, None),
            Self::Pndm => (SchedulerClass::Pndm, None),
            Self::Unipc => (SchedulerClass::Unipc, None),
        }
    }
}

impl FromStr for SchedulerKind {
    type Err = SchedulerError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| SchedulerError::UnknownName { name: name.to_owned() })
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A class of diffusers that is built here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SchedulerClass {
    Ddim,
    DpmSolver,
    Euler,
    EulerAncestral,
    Heun,
    Lms,
    Pndm,
    Unipc,
}

impl SchedulerClass {
    const ALL: [Self; 8] = [
        Self::Ddim,
        Self::DpmSolver,
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun,
        Self::Lms,
        Self::Pndm,
        Self::Unipc,
    ];

    pub(super) fn from_diffusers(class: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.diffusers() == class)
    }

    /// The class's name in `scheduler_config.json`.
    pub(super) const fn diffusers(self) -> &'static str {
        match self {
            Self::Ddim => "DDIMScheduler",
            Self::DpmSolver => "DPMSolverMultistepScheduler",
            Self::Euler => "EulerDiscreteScheduler",
            Self::EulerAncestral => "EulerAncestralDiscreteScheduler",
            Self::Heun => "HeunDiscreteScheduler",
            Self::Lms => "LMSDiscreteScheduler",
            Self::Pndm => "PNDMScheduler",
            Self::Unipc => "UniPCMultistepScheduler",
        }
    }

    pub(super) const fn kind(self, karras: bool) -> SchedulerKind {
        match (self, karras) {
            (Self::Ddim, _) => SchedulerKind::Ddim,
            (Self::DpmSolver, false) => SchedulerKind::DpmSolver,
            (Self::DpmSolver, true) => SchedulerKind::DpmSolverKarras,
            (Self::Euler, false) => SchedulerKind::Euler,
            (Self::Euler, true) => SchedulerKind::EulerKarras,
            (Self::EulerAncestral, _) => SchedulerKind::EulerAncestral,
            (Self::Heun, _) => SchedulerKind::Heun,
            (Self::Lms, _) => SchedulerKind::Lms,
            (Self::Pndm, _) => SchedulerKind::Pndm,
            (Self::Unipc, _) => SchedulerKind::Unipc,
        }
    }
}

/// Other classes of diffusers whose configs describe the same kind of noise, so that a user may choose one of ours by
/// name for them. Flow matching and EDM are of another kind: their configs have no betas.
pub(super) const COMPATIBLE_CLASSES: [&str; 9] = [
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_to_its_kind_and_serialises_as_it() {
        for kind in SchedulerKind::ALL {
            assert_eq!(kind.name().parse::<SchedulerKind>().unwrap(), kind);
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            let (class, karras) = kind.class();
            assert_eq!(class.kind(karras.unwrap_or(false)), kind);
            assert_eq!(SchedulerClass::from_diffusers(class.diffusers()), Some(class));
        }
    }

    #[test]
    fn unknown_name_is_answered_with_the_list() {
        let message = "dpm++".parse::<SchedulerKind>().unwrap_err().to_string();
        for kind in SchedulerKind::ALL {
            assert!(message.contains(kind.name()), "{message}");
        }
    }
}
