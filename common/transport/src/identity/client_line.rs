//! The line by which a client finds the API, recognises it and is let in.

use std::fmt;
use std::str::FromStr;

use asyncdiff_common::codec;
use serde::{Deserialize, Serialize};

use super::Fingerprint;
use super::text::{CLIENT, TokenError};

/// What a client needs. Written with `to_string`, read with `parse`: one line that begins with `adc1.`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientLine {
    /// Where the API listens: `host:port`.
    pub address: String,
    /// The cluster's authority, for [`api_client_config`](super::api_client_config). `None` where the API is on
    /// loopback without TLS.
    pub authority: Option<Fingerprint>,
    /// The bearer token. `Debug` does not show it.
    pub bearer_token: String,
}

impl FromStr for ClientLine {
    type Err = TokenError;

    fn from_str(line: &str) -> Result<Self, TokenError> {
        let payload = CLIENT.read(line)?;
        let line: Self = codec::decode(&payload).map_err(|error| CLIENT.garbled(&error.to_string()))?;
        if line.address.is_empty() { Err(CLIENT.garbled("it has no address")) } else { Ok(line) }
    }
}

impl fmt::Display for ClientLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = codec::encode(self).map_err(|_| fmt::Error)?;
        formatter.write_str(&CLIENT.write(&payload))
    }
}

impl fmt::Debug for ClientLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = formatter.debug_struct("ClientLine");
        line.field("address", &self.address).field("authority", &self.authority).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_client_line_survives_and_is_no_join_token() {
        let line = ClientLine {
            address: "192.0.2.7:7402".into(),
            authority: Some(Fingerprint([3; 32])),
            bearer_token: "s3cret".into(),
        };
        assert_eq!(line.to_string().parse::<ClientLine>().unwrap(), line);
        assert!(!format!("{line:?}").contains("s3cret"));
        assert!(matches!(line.to_string().parse::<super::super::JoinToken>(), Err(TokenError::OtherKind { .. })));
    }

    proptest! {
        #[test]
        fn any_payload_is_a_client_line_or_an_error(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = CLIENT.write(&payload).parse::<ClientLine>();
        }
    }
}
