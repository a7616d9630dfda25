//! The ways that are compared.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A way for tensors from one end to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BenchCarrier {
    /// One copy from memory to memory by one thread: what nothing that copies can beat.
    Copy,
    /// A reference within a process.
    InProcess,
    /// QUIC over loopback.
    Quic,
    /// Shared memory into which the sender's tensor is copied, and which the receiver uses in place.
    SharedMemoryCopied,
    /// Shared memory that the sender was lent and writes its tensor to, and which the receiver uses in place.
    SharedMemoryLent,
    /// TCP over loopback with the TLS that QUIC has, from one blocking thread to another.
    TcpTls,
}

impl BenchCarrier {
    /// In the order of tables.
    pub const ALL: [Self; 6] =
        [Self::Copy, Self::InProcess, Self::SharedMemoryLent, Self::SharedMemoryCopied, Self::Quic, Self::TcpTls];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Copy => "one copy",
            Self::InProcess => "in-process",
            Self::Quic => "QUIC",
            Self::SharedMemoryCopied => "shared memory, copied in",
            Self::SharedMemoryLent => "shared memory, lent",
            Self::TcpTls => "TCP + TLS",
        }
    }
}

impl fmt::Display for BenchCarrier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
