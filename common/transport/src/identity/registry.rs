//! Which tokens let workers in, and which workers came in: the coordinator's book, without its disk and its clock.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{EnrolRefusal, Secret};
use crate::WorkerName;

/// Tokens that are kept. A person makes one at a time; when there are more, the oldest go.
const TOKENS_LIMIT: usize = 256;

/// Workers that may be enrolled, ten times what one coordinator can serve.
const WORKERS_LIMIT: usize = 4096;

/// How long an expired token is kept, so that a late user hears "expired" and not "unknown".
const KEPT_AFTER_EXPIRY_SECONDS: u64 = 7 * 24 * 3600;

/// By which a token is listed and revoked: the first characters of its digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TokenId(pub String);

/// A token as the coordinator remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// By which it is revoked.
    pub id: TokenId,
    /// Until when it serves, in seconds since 1970 UTC.
    pub expires_at: u64,
    /// Whether it was revoked.
    pub revoked: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registry {
    tokens: Vec<TokenEntry>,
    workers: BTreeMap<WorkerName, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    /// BLAKE3 of the secret, in hexadecimal.
    digest: String,
    expires_at: u64,
    revoked: bool,
}

impl Registry {
    pub(super) fn add_token(&mut self, secret: &Secret, expires_at: u64, now: u64) {
        self.tokens.retain(|token| token.expires_at.saturating_add(KEPT_AFTER_EXPIRY_SECONDS) > now);
        while self.tokens.len() >= TOKENS_LIMIT {
            self.tokens.remove(0);
        }
        self.tokens.push(TokenEntry { digest: secret.digest().to_hex().to_string(), expires_at, revoked: false });
    }

    /// Whether the token was there.
    pub(super) fn revoke_token(&mut self, id: &TokenId) -> bool {
        let token = self.tokens.iter_mut().find(|token| token.id() == *id);
        token.map(|token| token.revoked = true).is_some()
    }

    /// Whether the worker was there.
    pub(super) fn forget_worker(&mut self, name: &WorkerName) -> bool {
        self.workers.remove(name).is_some()
    }

    /// Gives a name to a key. The same key may have its name again: that is a worker whose certificate got lost.
    pub(super) fn claim_name(&mut self, name: &WorkerName, public_key: &[u8]) -> Result<(), EnrolRefusal> {
        let key_digest = blake3::hash(public_key).to_hex().to_string();
        match self.workers.get(name) {
            Some(owner) if *owner == key_digest => Ok(()),
            Some(_) => Err(EnrolRefusal::NameTaken { name: name.to_string() }),
            None if self.workers.len() >= WORKERS_LIMIT => Err(EnrolRefusal::TooManyWorkers { limit: WORKERS_LIMIT }),
            None => {
                self.workers.insert(name.clone(), key_digest);
                Ok(())
            }
        }
    }

    /// Whether a secret lets its bearer in. All tokens are compared, each in constant time, so that the answer's delay
    /// tells nothing.
    pub(super) fn check_secret(&self, secret: &Secret, now: u64) -> Result<(), EnrolRefusal> {
        let digest = secret.digest();
        let mut found = None;
        for token in &self.tokens {
            // blake3::Hash compares in constant time. A digest that does not parse was changed by hand and matches
            // nothing.
            if blake3::Hash::from_hex(&token.digest).is_ok_and(|stored| stored == digest) {
                found = Some(token);
            }
        }
        match found {
            None => Err(EnrolRefusal::UnknownToken),
            Some(token) if token.revoked => Err(EnrolRefusal::RevokedToken),
            Some(token) if token.expires_at <= now => Err(EnrolRefusal::ExpiredToken),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn tokens(&self) -> Vec<TokenStatus> {
        let status =
            |token: &TokenEntry| TokenStatus { id: token.id(), expires_at: token.expires_at, revoked: token.revoked };
        self.tokens.iter().map(status).collect()
    }

    pub(super) fn knows_worker(&self, name: &WorkerName) -> bool {
        self.workers.contains_key(name)
    }
}

impl TokenEntry {
    fn id(&self) -> TokenId {
        TokenId(self.digest.chars().take(12).collect())
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> WorkerName {
        WorkerName::new(text).unwrap()
    }

    #[test]
    fn a_token_serves_until_it_expires_or_is_revoked() {
        let mut registry = Registry::default();
        let [first, second, unknown] = [Secret([1; 32]), Secret([2; 32]), Secret([3; 32])];
        registry.add_token(&first, 100, 0);
        registry.add_token(&second, 100, 0);
        assert_eq!(registry.check_secret(&first, 99), Ok(()));
        assert_eq!(registry.check_secret(&first, 100), Err(EnrolRefusal::ExpiredToken));
        assert_eq!(registry.check_secret(&unknown, 0), Err(EnrolRefusal::UnknownToken));
        let id = registry.tokens()[1].id.clone();
        assert!(registry.revoke_token(&id));
        assert_eq!(registry.check_secret(&second, 99), Err(EnrolRefusal::RevokedToken));
        assert_eq!(registry.check_secret(&first, 99), Ok(()));
    }

    #[test]
    fn a_name_belongs_to_the_key_that_came_first() {
        let mut registry = Registry::default();
        assert_eq!(registry.claim_name(&name("a"), b"key one"), Ok(()));
        assert_eq!(registry.claim_name(&name("a"), b"key one"), Ok(()));
        let taken = Err(EnrolRefusal::NameTaken { name: "a".into() });
        assert_eq!(registry.claim_name(&name("a"), b"key two"), taken);
        assert!(registry.forget_worker(&name("a")));
        assert_eq!(registry.claim_name(&name("a"), b"key two"), Ok(()));
    }

    #[test]
    fn old_tokens_are_forgotten_and_many_are_bounded() {
        let mut registry = Registry::default();
        registry.add_token(&Secret([1; 32]), 10, 0);
        registry.add_token(&Secret([2; 32]), u64::MAX, 11 + KEPT_AFTER_EXPIRY_SECONDS);
        assert_eq!(registry.tokens().len(), 1);
        for number in 0..1000u32 {
            let mut secret = [0; 32];
            secret[..4].copy_from_slice(&number.to_le_bytes());
            registry.add_token(&Secret(secret), u64::MAX, 0);
        }
        assert_eq!(registry.tokens().len(), TOKENS_LIMIT);
    }
}
