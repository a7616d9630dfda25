//! Lines that people copy: a prefix that says what it is and which version, then bytes in base64 with a checksum.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

/// Bytes of the checksum at the end: enough that a slip of the hand passes once in four thousand million times. It
/// keeps no attacker out.
const CHECKSUM_BYTES: usize = 4;

/// The most characters of a line. The longest that this program makes, a token with eight addresses, has below 3000.
const LINE_LIMIT_CHARS: usize = 4096;

/// A kind of line.
#[derive(Clone, Copy, Debug)]
pub(super) struct LineKind {
    pub(super) name: &'static str,
    pub(super) prefix: &'static str,
    pub(super) version: u32,
}

/// Lines by which workers join.
pub(super) const JOIN: LineKind = LineKind { name: "join token", prefix: "adj", version: 1 };

/// Lines by which clients find and trust the API.
pub(super) const CLIENT: LineKind = LineKind { name: "client token", prefix: "adc", version: 1 };

/// Why a line cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is too old.
    #[error(
        "the {kind} expired {seconds} seconds ago\n\
        hint: ask the coordinator for a new one (`coordinator join-line`); if it is new, compare the two machines' \
        clocks"
    )]
    Expired {
        /// What kind of line.
        kind: &'static str,
        /// How long ago.
        seconds: u64,
    },
    /// Characters are missing or changed.
    #[error("the {kind} is garbled ({reason})\nhint: copy the whole line again, from {prefix} to its end")]
    Garbled {
        /// What kind of line was expected.
        kind: &'static str,
        /// How such lines begin.
        prefix: String,
        /// What is wrong.
        reason: String,
    },
    /// It is a line of another kind.
    #[error(
        "this is a {found} and a {expected} is needed\n\
        hint: `worker join` takes the line that begins with adj, the client commands take the one that begins with adc"
    )]
    OtherKind {
        /// What was needed.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// It was made by another version of this program.
    #[error(
        "the {kind} has version {found} and this program reads version {supported}\n\
        hint: run the same version of the program everywhere"
    )]
    UnsupportedVersion {
        /// What kind of line.
        kind: &'static str,
        /// Its version.
        found: u32,
        /// The version that this program reads.
        supported: u32,
    },
}

impl LineKind {
    pub(super) fn write(self, payload: &[u8]) -> String {
        let mut bytes = payload.to_vec();
        bytes.extend_from_slice(&self.checksum(payload));
        format!("{}{}.{}", self.prefix, self.version, URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a line. White space anywhere in it is forgiven: terminals wrap and people copy the break.
    pub(super) fn read(self, line: &str) -> Result<Vec<u8>, TokenError> {
        if line.len() > LINE_LIMIT_CHARS {
            return Err(self.garbled("it is too long"));
        }
        let text: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        let (head, body) =
            text.split_once('.').ok_or_else(|| self.garbled("it has no dot after its first characters"))?;
        for kind in [JOIN, CLIENT] {
            if kind.prefix != self.prefix && head.starts_with(kind.prefix) {
                return Err(TokenError::OtherKind { expected: self.name, found: kind.name });
            }
        }
        let version = head.strip_prefix(self.prefix).ok_or_else(|| self.garbled("it begins otherwise"))?;
        match version.parse() {
            Ok(found) if found == self.version => {}
            Ok(found) => {
                return Err(TokenError::UnsupportedVersion { kind: self.name, found, supported: self.version });
            }
            Err(_) => return Err(self.garbled("its version is no number")),
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| self.garbled("characters are missing or changed"))?;
        let split = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or_else(|| self.garbled("it is too short"))?;
        let (payload, checksum) = bytes.split_at(split);
        if checksum == self.checksum(payload) {
            Ok(payload.to_vec())
        } else {
            Err(self.garbled("characters are missing or changed"))
        }
    }

    pub(super) fn garbled(self, reason: &str) -> TokenError {
        TokenError::Garbled {
            kind: self.name,
            prefix: format!("{}{}.", self.prefix, self.version),
            reason: reason.into(),
        }
    }

    fn checksum(self, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.prefix.as_bytes()).update(payload);
        let mut checksum = [0; CHECKSUM_BYTES];
        checksum.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
        checksum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_survives_being_wrapped() {
        let line = JOIN.write(b"payload of some length");
        let (left, right) = line.split_at(11);
        assert_eq!(JOIN.read(&format!("  {left}\n  {right}\r\n")).unwrap(), b"payload of some length");
    }

    #[test]
    fn every_changed_or_missing_character_is_noticed() {
        let line = JOIN.write(&[7; 40]);
        for place in 0..line.len() {
            let mut changed = line.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            assert!(JOIN.read(std::str::from_utf8(&changed).unwrap()).is_err(), "changed at {place}");
            assert!(JOIN.read(&line[..place]).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn other_kinds_and_versions_are_named() {
        assert!(matches!(JOIN.read(&CLIENT.write(b"x")), Err(TokenError::OtherKind { .. })));
        let newer = JOIN.write(b"x").replacen("adj1", "adj2", 1);
        assert!(matches!(JOIN.read(&newer), Err(TokenError::UnsupportedVersion { found: 2, supported: 1, .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_a_line_or_an_error(text in ".{0,200}", body in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = JOIN.read(&text);
            let _ = JOIN.read(&format!("adj1.{text}"));
            let _ = JOIN.read(&format!("adj1.{}", URL_SAFE_NO_PAD.encode(&body)));
            prop_assert_eq!(JOIN.read(&JOIN.write(&body)).unwrap(), body);
        }
    }
}
