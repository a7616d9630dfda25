//! Protocol names and the wire's version, which the TLS handshake compares so that versions never mix.

/// The version of everything that peers say to each other: control messages, tensor headers, enrolment. Its history is where it is counted.
pub const WIRE_VERSION: u16 = asyncdiff_common::wire::VERSION;

/// Bytes of the number that joins a link's two connections.
pub(super) const LINK_NUMBER_BYTES: usize = 16;

/// What the acceptor answers on the control stream once a link is made.
pub(super) const LINK_MADE: u8 = 1;

/// The same, followed by an offer to share memory.
pub(super) const LINK_MADE_WITH_OFFER: u8 = 2;

/// What a connection is for; each kind has a protocol name (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Control,
    Data,
    Enrol,
}

impl Protocol {
    /// The name in the TLS handshake. Peers of different versions have none in common and the handshake fails.
    pub(super) fn name(self, version: u16) -> Vec<u8> {
        let kind = match self {
            Self::Control => "control",
            Self::Data => "data",
            Self::Enrol => "enrol",
        };
        format!("asyncdiff-{kind}/{version}").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_names_are_golden() {
        assert_eq!(Protocol::Control.name(WIRE_VERSION), b"asyncdiff-control/8");
        assert_eq!(Protocol::Data.name(WIRE_VERSION), b"asyncdiff-data/8");
        assert_eq!(Protocol::Enrol.name(WIRE_VERSION), b"asyncdiff-enrol/8");
    }
}
