//! Where a worker's state is: the directory that was named, or the first free default one.

use std::path::{Path, PathBuf};

use asyncdiff_transport::identity::{StateDir, StateDirError};

use super::CliError;

/// Default directories that are tried: more workers on one machine than anybody starts by hand.
const DEFAULT_DIRS: u32 = 64;

/// An open state directory and the number that the worker's default name gets.
pub(super) struct Home {
    pub(super) state: StateDir,
    pub(super) number: u32,
}

/// Opens and locks the directory.
pub(super) fn open(named: Option<&Path>) -> Result<Home, CliError> {
    match named {
        Some(path) => Ok(Home { state: StateDir::open(path)?, number: 1 }),
        None => first_free(&default_home()?),
    }
}

fn first_free(home: &Path) -> Result<Home, CliError> {
    for number in 1..=DEFAULT_DIRS {
        match StateDir::open(home.join(format!("worker-{number}"))) {
            Ok(state) => return Ok(Home { state, number }),
            Err(StateDirError::InUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(CliError::TooManyWorkers { home: home.to_owned(), limit: DEFAULT_DIRS })
}

/// By the XDG base directory specification: `$XDG_STATE_HOME`, else `~/.local/state`.
fn default_home() -> Result<PathBuf, CliError> {
    let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("asyncdiff")).ok_or(CliError::NoStateHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_get_two_directories() {
        let folder = tempfile::tempdir().unwrap();
        let first = first_free(folder.path()).unwrap();
        let second = first_free(folder.path()).unwrap();
        assert_eq!((first.number, second.number), (1, 2));
        drop(first);
        assert_eq!(first_free(folder.path()).unwrap().number, 1);
    }
}
