//! What a serving coordinator keeps for its clients: the API's token, and the line by which local clients find it.

use asyncdiff_transport::identity::{ClientLine, StateDir};

use crate::api::BearerToken;
use crate::cli::{CLIENT_LINE_FILE, Failure};

const TOKEN_FILE: &str = "api-token";

/// The token of this cluster, made on first use: client lines stay valid over restarts.
pub(super) fn bearer_token(state: &StateDir) -> Result<BearerToken, Failure> {
    if let Some(stored) = state.read(TOKEN_FILE)? {
        let text = String::from_utf8_lossy(&stored).into_owned();
        return BearerToken::from_stored(&text).ok_or_else(|| {
            let path = state.path().join(TOKEN_FILE);
            Failure::operator(format!("{} is damaged\nhint: remove it; client lines then change", path.display()))
        });
    }
    let token = BearerToken::random()
        .map_err(|error| Failure::operator(format!("the operating system gives no randomness: {error}")))?;
    state.write(TOKEN_FILE, token.secret().as_bytes())?;
    Ok(token)
}

/// Leaves the line for clients of this machine, readable by this user alone.
pub(super) fn write_client_line(state: &StateDir, line: &ClientLine) -> Result<(), Failure> {
    Ok(state.write(CLIENT_LINE_FILE, format!("{line}\n").as_bytes())?)
}

/// Takes the line away, so that clients hear that nobody is here, and not that somebody does not answer.
pub(super) fn forget_client_line(state: &StateDir) {
    if let Err(error) = std::fs::remove_file(state.path().join(CLIENT_LINE_FILE)) {
        tracing::warn!(%error, "the client line could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stays_over_restarts_and_a_damaged_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let token = bearer_token(&state).unwrap();
        assert_eq!(bearer_token(&state).unwrap(), token);
        state.write(TOKEN_FILE, b"nonsense").unwrap();
        assert!(bearer_token(&state).unwrap_err().to_string().contains(TOKEN_FILE));
    }
}
