//! What carries a link's tensors.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What carries a link's tensors. Control frames of a link between processes always go over QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// A reference, within one process.
    InProcess,
    /// QUIC, between hosts or where memory cannot be shared.
    Quic,
    /// Shared memory, between two processes of one host.
    SharedMemory,
}

impl LinkKind {
    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
            Self::Quic => "QUIC",
            Self::SharedMemory => "shared memory",
        }
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
