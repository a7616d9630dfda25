//! The line that lets a worker in.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::SystemTime;

use asyncdiff_common::codec;
use serde::{Deserialize, Serialize};

use super::random::{RandomnessUnavailable, random_bytes};
use super::text::{JOIN, TokenError};
use super::{Fingerprint, IdentityError};

/// The most addresses in a token: one for each network that a coordinator's host is on, and some to spare.
const ADDRESSES_LIMIT: usize = 8;

/// The most characters of a host's name (RFC 1035).
const HOST_LIMIT_CHARS: usize = 253;

/// 32 bytes that only those know who may join. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub(super) [u8; 32]);

/// Where a coordinator's two QUIC endpoints listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorAddress {
    /// An IP address or a name.
    pub host: String,
    /// The UDP port of the control connections, where workers enrol too.
    pub control_port: u16,
    /// The UDP port of the data connections.
    pub data_port: u16,
}

/// What a worker needs to join: where the coordinator is, how to recognise it, and the secret that lets it in.
///
/// Written with `to_string`, read with `parse`: one line that begins with `adj1.`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Where to look for the coordinator, the likeliest first.
    pub addresses: Vec<CoordinatorAddress>,
    /// The cluster's authority: a coordinator that cannot prove to be of it is an impostor.
    pub authority: Fingerprint,
    /// What the coordinator recognises.
    pub secret: Secret,
    /// Until when it serves, in seconds since 1970 UTC.
    pub expires_at: u64,
}

impl Secret {
    pub(super) fn random() -> Result<Self, RandomnessUnavailable> {
        random_bytes().map(Self)
    }

    /// What the coordinator stores. 256 random bits need no slow hash.
    pub(super) fn digest(&self) -> blake3::Hash {
        blake3::hash(&self.0)
    }
}

impl JoinToken {
    /// Refuses a token that is too old. The coordinator checks it again.
    pub fn check_not_expired(&self, now: SystemTime) -> Result<(), TokenError> {
        match unix_seconds(now).checked_sub(self.expires_at) {
            Some(seconds) => Err(TokenError::Expired { kind: JOIN.name, seconds }),
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.addresses.is_empty() || self.addresses.len() > ADDRESSES_LIMIT {
            return Err("it has no address, or too many");
        }
        let is_host = |address: &CoordinatorAddress| (1..=HOST_LIMIT_CHARS).contains(&address.host.len());
        if self.addresses.iter().all(is_host) { Ok(()) } else { Err("it has an address without a host") }
    }

    pub(super) fn checked(self) -> Result<Self, IdentityError> {
        self.check().map_err(|reason| IdentityError::Invitation { reason }).map(|()| self)
    }
}

impl CoordinatorAddress {
    /// Looks the host up: pairs of a control and a data address.
    pub async fn resolve(&self) -> std::io::Result<Vec<(SocketAddr, SocketAddr)>> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.control_port)).await?;
        Ok(found.map(|control| (control, SocketAddr::new(control.ip(), self.data_port))).collect())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(line: &str) -> Result<Self, TokenError> {
        let payload = JOIN.read(line)?;
        let token: Self = codec::decode(&payload).map_err(|error| JOIN.garbled(&error.to_string()))?;
        token.check().map_err(|reason| JOIN.garbled(reason))?;
        Ok(token)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = codec::encode(self).map_err(|_| fmt::Error)?;
        formatter.write_str(&JOIN.write(&payload))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// Seconds since 1970 UTC; a clock before that counts as 1970.
pub(super) fn unix_seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            addresses: vec![CoordinatorAddress { host: "192.0.2.7".into(), control_port: 7400, data_port: 7401 }],
            authority: Fingerprint([3; 32]),
            secret: Secret([9; 32]),
            expires_at: 1_000,
        }
    }

    #[test]
    fn a_token_survives_the_line() {
        let line = token().to_string();
        assert!(line.starts_with("adj1.") && line.len() < 200, "{line}");
        assert_eq!(line.parse::<JoinToken>().unwrap(), token());
    }

    #[test]
    fn a_token_expires_at_its_second() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(token().check_not_expired(at(999)).is_ok());
        let late = token().check_not_expired(at(1_060));
        assert_eq!(late, Err(TokenError::Expired { kind: "join token", seconds: 60 }));
        assert!(late.unwrap_err().to_string().contains("hint: "));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        assert_eq!(format!("{:?}", token().secret), "Secret(…)");
    }

    #[test]
    fn a_token_without_addresses_is_garbled() {
        let empty = JoinToken { addresses: vec![], ..token() };
        assert!(matches!(empty.to_string().parse::<JoinToken>(), Err(TokenError::Garbled { .. })));
    }

    proptest! {
        #[test]
        fn any_payload_is_a_token_or_an_error(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = JOIN.write(&payload).parse::<JoinToken>();
        }
    }
}
