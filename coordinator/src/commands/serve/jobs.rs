//! Opens the database of jobs, and says what was found in it.

use std::path::PathBuf;
use std::sync::Arc;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_transport::identity::StateDir;

use crate::cli::{Failure, note};
use crate::job_store::{JobStore, JobStoreError};

/// What to do about a damaged database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDamage {
    /// Move it aside and take over what can be read.
    Recover,
    /// Say so and end.
    Refuse,
}

/// Opens the database in the state directory, which this process has locked.
pub(super) async fn open(state: &Arc<StateDir>, on_damage: OnDamage) -> Result<JobStore, Failure> {
    let folder: PathBuf = state.path().to_owned();
    // All of the file is verified.
    let opening = tokio::task::spawn_blocking(move || match on_damage {
        OnDamage::Recover => JobStore::recover(&folder),
        OnDamage::Refuse => JobStore::open(&folder).map(|store| (store, None)),
    });
    let opened = opening.await.map_err(|error| Failure::new(ExitCode::Bug, error.to_string()))?;
    let (store, recovered) = opened.map_err(|error| match error {
        JobStoreError::Stopped => Failure::new(ExitCode::Bug, error.to_string()),
        error => Failure::operator(error),
    })?;
    if let Some(recovered) = recovered {
        let (jobs, lost, path) = (recovered.jobs, recovered.lost, recovered.moved_to.display());
        note(&format!("jobs: {jobs} were recovered, {lost} are known to be lost; the damaged file is {path}"));
    }
    Ok(store)
}
