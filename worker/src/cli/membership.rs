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

/// What the join line says, if there is one.
pub(super) fn token(options: &JoinOptions) -> Result<Option<JoinToken>, CliError> {
    Ok(join_line(options)?.map(|line| line.parse::<JoinToken>()).transpose()?)
}

/// The name that a worker of the process is to have: the wanted one for the first, and with its number for the others.
pub(super) fn name_of(wanted: Option<&WorkerName>, number: u32) -> Option<WorkerName> {
    let wanted = wanted?;
    Some(if number == 1 { wanted.clone() } else { numbered(wanted.as_str(), number) })
}

/// The membership to work with: the stored one if it is of the token's cluster and of the wanted name, else a new one.
pub(super) async fn obtain(
    home: &Home,
    token: Option<&JoinToken>,
    name: Option<&WorkerName>,
) -> Result<JoinedCluster, CliError> {
    let stored = JoinedCluster::load(&home.state)?;
    match (token, stored) {
        (None, None) => Err(CliError::NoLine { dir: home.state.path().to_owned() }),
        (None, Some(stored)) => match name {
            Some(wanted) if !is_name(&stored, wanted) => Err(CliError::EnrolledAs {
                dir: home.state.path().to_owned(),
                found: stored.identity.name().to_string(),
                wanted: wanted.to_string(),
            }),
            _ => Ok(stored),
        },
        (Some(token), Some(stored))
            if stored.identity.fingerprint() == token.authority
                && name.is_none_or(|wanted| is_name(&stored, wanted)) =>
        {
            // The line knows better where the coordinator is now.
            let joined = JoinedCluster { coordinator: token.addresses.clone(), ..stored };
            joined.store(&home.state)?;
            Ok(joined)
        }
        (Some(token), _) => {
            let joined = enrol_as(token, home, name).await?;
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
        let name = numbered(&host_name(), number);
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

fn numbered(name: &str, number: u32) -> WorkerName {
    // The number must survive where a long name is cut.
    let suffix = format!("-{number}");
    let kept: String = name.chars().take(asyncdiff_transport::WORKER_NAME_LIMIT - suffix.len()).collect();
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
        assert_eq!(numbered("GPU_box.example", 2).as_str(), "gpu-box-example-2");
        assert!(numbered(&"a".repeat(200), 17).as_str().ends_with("a-17"));
        assert_eq!(numbered("", 1).as_str(), "worker-1");
    }

    #[test]
    fn the_first_worker_has_the_name_and_the_others_a_number_behind_it() {
        let wanted = WorkerName::new("box").unwrap();
        let names = [1, 2, 3].map(|number| name_of(Some(&wanted), number).unwrap().to_string());
        assert_eq!(names, ["box", "box-2", "box-3"]);
        assert_eq!(name_of(None, 1), None);
    }
}
