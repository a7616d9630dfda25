//! Randomness from the operating system, for secrets.

use rand::TryRngCore;
use rand::rngs::OsRng;
use thiserror::Error;

/// The operating system gave no random bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the operating system gives no random bytes ({reason})")]
pub struct RandomnessUnavailable {
    reason: String,
}

pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], RandomnessUnavailable> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| RandomnessUnavailable { reason: error.to_string() })?;
    Ok(bytes)
}
