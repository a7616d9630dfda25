//! Where workers' state is: the directory that was named, or the first free default ones.

use std::num::NonZeroU32;
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

/// Opens and locks a directory for each worker of the process: the named one, and others within it for those behind the first; else
/// default ones.
pub(super) fn open(named: Option<&Path>, workers: NonZeroU32) -> Result<Vec<Home>, CliError> {
    let Some(path) = named else { return first_free(&default_home()?, workers) };
    // Inside, since whoever holds the first one's lock has all of them: a second process cannot take some.
    let path_of = |number: u32| if number == 1 { path.to_owned() } else { path.join(format!("worker-{number}")) };
    (1..=workers.get()).map(|number| Ok(Home { state: StateDir::open(path_of(number))?, number })).collect()
}

fn first_free(home: &Path, workers: NonZeroU32) -> Result<Vec<Home>, CliError> {
    let mut homes = Vec::new();
    for number in 1..=DEFAULT_DIRS {
        match StateDir::open(home.join(format!("worker-{number}"))) {
            Ok(state) => homes.push(Home { state, number }),
            Err(StateDirError::InUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if homes.len() == workers.get() as usize {
            return Ok(homes);
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

    fn numbers(homes: &[Home]) -> Vec<u32> {
        homes.iter().map(|home| home.number).collect()
    }

    #[test]
    fn two_workers_get_two_directories() {
        let folder = tempfile::tempdir().unwrap();
        let first = first_free(folder.path(), NonZeroU32::MIN).unwrap();
        let more = first_free(folder.path(), NonZeroU32::new(2).unwrap()).unwrap();
        assert_eq!((numbers(&first), numbers(&more)), (vec![1], vec![2, 3]));
        drop(first);
        assert_eq!(numbers(&first_free(folder.path(), NonZeroU32::new(2).unwrap()).unwrap()), [1, 4]);
    }

    #[test]
    fn a_named_directory_holds_those_of_the_other_workers() {
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().join("state");
        let homes = open(Some(&named), NonZeroU32::new(3).unwrap()).unwrap();
        let paths: Vec<&Path> = homes.iter().map(|home| home.state.path()).collect();
        assert_eq!(paths, [named.as_path(), &named.join("worker-2"), &named.join("worker-3")]);
        let again = open(Some(&named), NonZeroU32::MIN);
        assert!(matches!(again, Err(CliError::StateDir(StateDirError::InUse { .. }))));
    }
}
