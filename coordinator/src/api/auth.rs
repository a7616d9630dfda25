//! The bearer token: who has it may use the API, all of it.

use std::fmt;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore;

use super::ApiError;
use crate::job::Fault;

/// Random bytes of a token: nobody guesses 256 bits.
const TOKEN_BYTES: usize = 32;

/// A secret that lets a client in. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken(String);

impl BearerToken {
    /// A new one from the operating system's randomness.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// One that was stored; `None` if it is not what [`random`](Self::random) makes.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).ok()?;
        (bytes.len() == TOKEN_BYTES).then(|| Self(text.trim().to_owned()))
    }

    /// The token as it is sent.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Compares digests: their comparison takes the same time wherever they differ, and says nothing about the length.
    fn matches(&self, presented: &str) -> bool {
        blake3::hash(self.0.as_bytes()) == blake3::hash(presented.as_bytes())
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("BearerToken(…)")
    }
}

/// Lets a request pass that carries the token.
pub(super) async fn require_token(
    State(token): State<Arc<BearerToken>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let presented = header.and_then(|value| value.split_once(' '));
    match presented {
        Some((scheme, secret)) if scheme.eq_ignore_ascii_case("bearer") && token.matches(secret.trim()) => {
            Ok(next.run(request).await)
        }
        _ => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "the request carries no valid bearer token",
            "use the client line that `coordinator serve` prints (adc1.…), by --connect or ASYNCDIFF_CONNECT",
            Fault::Operator,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_recognised_and_another_is_not() {
        let token = BearerToken::random().unwrap();
        assert!(token.matches(token.secret()));
        assert!(!token.matches(BearerToken::random().unwrap().secret()));
        assert!(!token.matches(""));
        assert_eq!(BearerToken::from_stored(&format!("{}\n", token.secret())), Some(token.clone()));
        assert_eq!(BearerToken::from_stored("short"), None);
        assert!(!format!("{token:?}").contains(token.secret()));
    }
}
