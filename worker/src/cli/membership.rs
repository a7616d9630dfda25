//! Getting and keeping a certificate: what the state directory has, else what the join line gives.

use std::path::Path;
use std::time::Duration;

use asyncdiff_transport::identity::{EnrolRefusal, JoinToken, JoinedCluster, NodeKey};
use asyncdiff_transport::quic::{EnrolError, enrol};
use asyncdiff_transport::{PeerName, WorkerName};

use super::home::Home;
use super::{CliError, JoinOptions};

/// How long one address of the coordinator may take to answer an enrolment.
const ENROL_DEADLINE: Duration = Duration::from_secs(5);

/// Default names that are tried when they are taken.
const DEFAULT_NAMES: u32 = 64;

/// The membership to work with: the stored one if it is of the line's cluster and of the wanted name, else a new one.
pub(super) async fn obtain(home: &Home, options: &JoinOptions) -> Result<JoinedCluster, CliError> {
    let token = join_line(options)?.map(|line| line.parse::<JoinToken>()).transpose()?;
    let stored = JoinedCluster::load(&home.state)?;
    match (token, stored) {
        (None, None) => Err(CliError::NoLine { dir: home.state.path().to_owned() }),
        (None, Some(stored)) => match &options.name {
            Some(wanted) if !is_name(&stored, wanted) => Err(CliError::EnrolledAs {
                dir: home.state.path().to_owned(),
                found: stored.identity.name().to_string(),
                wanted: wanted.to_string(),
            }),
            _ => Ok(stored),
        },
        (Some(token), Some(stored))
            if stored.identity.fingerprint() == token.authority
                && options.name.as_ref().is_none_or(|wanted| is_name(&stored, wanted)) =>
        {
            // The line knows better where the coordinator is now.
            let joined = JoinedCluster { coordinator: token.addresses, ..stored };
            joined.store(&home.state)?;
            Ok(joined)
        }
        (Some(token), _) => {
            let joined = enrol_as(&token, home, options.name.as_ref()).await?;
            joined.store(&home.state)?;
            Ok(joined)
        }
    }
}

async fn enrol_as(token: &JoinToken, home: &Home, name: Option<&WorkerName>) -> Result<JoinedCluster, CliError> {
    let key = NodeKey::load_or_make(&home.state)?;
    if let Some(name) = name {
        return Ok(enrol(token, name, &key, ENROL_DEADLINE).await?);
    }
    // Another state directory of this host, or another host of this name, may have the first choice.
    let mut number = home.number;
    loop {
        let name = default_name(&host_name(), number);
        match enrol(token, &name, &key, ENROL_DEADLINE).await {
            Err(EnrolError::Refused(EnrolRefusal::NameTaken { .. })) if number < home.number + DEFAULT_NAMES => {
                number += 1;
            }
            joined => return Ok(joined?),
        }
    }
}

fn is_name(joined: &JoinedCluster, wanted: &WorkerName) -> bool {
    matches!(joined.identity.name(), PeerName::Worker(name) if name == wanted)
}

fn join_line(options: &JoinOptions) -> Result<Option<String>, CliError> {
    match (&options.line, &options.line_file) {
        (Some(line), _) => Ok(Some(line.clone())),
        (None, Some(path)) => read_line(path).map(Some),
        (None, None) => Ok(None),
    }
}

fn read_line(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|source| CliError::LineFile { path: path.to_owned(), source })
}

fn default_name(host: &str, number: u32) -> WorkerName {
    // The number must survive where a long host name is cut.
    let suffix = format!("-{number}");
    let kept: String = host.chars().take(asyncdiff_transport::WORKER_NAME_LIMIT - suffix.len()).collect();
    WorkerName::nearest(&format!("{}{suffix}", WorkerName::nearest(&kept)))
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "worker".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_names_keep_their_number() {
        assert_eq!(default_name("GPU_box.example", 2).as_str(), "gpu-box-example-2");
        assert!(default_name(&"a".repeat(200), 17).as_str().ends_with("a-17"));
        assert_eq!(default_name("", 1).as_str(), "worker-1");
    }
}
