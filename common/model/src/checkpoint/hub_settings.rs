//! Where the hub and its cache are, by the environment variables that all of the hub's clients share.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::CheckpointError;

/// Where the hub is when `HF_ENDPOINT` does not say otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// The branch that is meant when an id names none.
const REVISION: &str = "main";

/// How long a transfer may stand still. The hub's storage answers within seconds; a minute survives a change of network.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// How to reach the hub and where its cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// The cache's folder: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// The server: `HF_ENDPOINT`, else the public hub.
    pub endpoint: String,
    /// The access token: `HF_TOKEN`, else the file `token` in `HF_HOME`.
    pub token: Option<String>,
    /// Whether only the cache is used: `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// How long a transfer may stand still before it is given up.
    pub stall_limit: Duration,
}

impl HubSettings {
    /// The settings that the environment says.
    pub fn from_env() -> Result<Self, CheckpointError> {
        Self::from_lookup(|variable| std::env::var(variable).ok())
    }

    /// The settings that these variables say.
    pub fn from_lookup(variable: impl Fn(&str) -> Option<String>) -> Result<Self, CheckpointError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = set("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache")));
            cache.map(|cache| cache.join("huggingface"))
        });
        let cache = set("HF_HUB_CACHE").map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join("hub")));
        let Some(cache) = cache else {
            return Err(CheckpointError::Hub {
                repository: "any repository".to_owned(),
                file: "any file".to_owned(),
                reason: "no place for the cache".to_owned(),
                hint: "set HF_HOME to a folder",
            });
        };
        let token_file = home.and_then(|home| std::fs::read_to_string(home.join("token")).ok());
        let token = set("HF_TOKEN").or(token_file).map(|token| token.trim().to_owned());
        Ok(Self {
            cache,
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned(),
            token: token.filter(|token| !token.is_empty()),
            offline: set("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            stall_limit: STALL_LIMIT,
        })
    }
}

/// The hub's clients take these as true.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

/// A repository of the hub and its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubId {
    /// `owner/name`.
    pub(super) name: String,
    /// A branch, tag or commit.
    pub(super) revision: String,
}

impl HubId {
    /// Reads `owner/name` or `owner/name@revision`; `None` for what cannot be an id, such as a path.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, REVISION));
        let (owner, model) = name.split_once('/')?;
        let plain = |part: &str| {
            let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
            part.starts_with(|first: char| first.is_ascii_alphanumeric()) && part.chars().all(allowed)
        };
        let revision_is_plain = revision.split('/').all(plain);
        (plain(owner) && plain(model) && revision_is_plain)
            .then(|| Self { name: name.to_owned(), revision: revision.to_owned() })
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.revision == REVISION {
            return formatter.write_str(&self.name);
        }
        write!(formatter, "{}@{}", self.name, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        HubSettings::from_lookup(find).unwrap()
    }

    #[test]
    fn the_hubs_variables_are_respected() {
        let plain = settings(&[("HOME", "/home/somebody")]);
        assert_eq!(plain.cache, PathBuf::from("/home/somebody/.cache/huggingface/hub"));
        assert_eq!((plain.endpoint.as_str(), plain.offline, plain.token), (ENDPOINT, false, None));
        let moved = settings(&[("HF_HOME", "/hf"), ("HF_ENDPOINT", "http://mirror/"), ("HF_TOKEN", " t \n")]);
        assert_eq!(moved.cache, PathBuf::from("/hf/hub"));
        assert_eq!((moved.endpoint.as_str(), moved.token.as_deref()), ("http://mirror", Some("t")));
        let offline = settings(&[("HF_HUB_CACHE", "/cache"), ("HF_HUB_OFFLINE", "ON")]);
        assert_eq!((offline.cache, offline.offline), (PathBuf::from("/cache"), true));
        assert!(HubSettings::from_lookup(|_| None).is_err());
    }

    #[test]
    fn ids_are_told_from_paths() {
        let id = HubId::parse("stabilityai/stable-diffusion-2-1-base@fp16").unwrap();
        assert_eq!((id.name.as_str(), id.revision.as_str()), ("stabilityai/stable-diffusion-2-1-base", "fp16"));
        for path in ["", "model", "./model", "/models/sd", "a/b/c", "../a", "a/../b", "a/b@../x", "a b/c"] {
            assert_eq!(HubId::parse(path), None, "{path}");
        }
    }
}
