//! Which coordinator a client command talks to: the line given, the environment's, or the one that a local `serve` left.

use std::path::{Path, PathBuf};

use asyncdiff_transport::identity::ClientLine;
use clap::Args;

use super::Failure;
use crate::api::Client;

/// The file in a coordinator's state directory that holds the client line.
pub(crate) const CLIENT_LINE_FILE: &str = "client-line";

/// The most bytes of that file; lines have some hundred characters.
const LINE_LIMIT_BYTES: u64 = 16 << 10;

/// Where the coordinator is.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConnectArgs {
    /// The client line that `coordinator serve` printed (adc1.…). Give it by the environment on machines that others use: they can see
    /// command lines [default: the line of a coordinator on this machine]
    #[arg(long, value_name = "LINE", env = "ASYNCDIFF_CONNECT", hide_env_values = true, help_heading = "Connection")]
    connect: Option<String>,

    /// State directory of the coordinator on this machine, if it is not the default one
    #[arg(long, value_name = "DIR", env = "ASYNCDIFF_STATE_DIR", help_heading = "Connection")]
    state_dir: Option<PathBuf>,
}

impl ConnectArgs {
    /// A client of the coordinator that is meant.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let line: ClientLine = self.line()?.parse()?;
        Ok(Client::new(&line).await?)
    }

    fn line(&self) -> Result<String, Failure> {
        if let Some(line) = &self.connect {
            return Ok(line.clone());
        }
        let folder = match &self.state_dir {
            Some(folder) => folder.clone(),
            None => default_state_dir()?,
        };
        read_line(&folder.join(CLIENT_LINE_FILE))
    }
}

/// `$XDG_STATE_HOME/asyncdiff/coordinator`, else `~/.local/state/asyncdiff/coordinator`.
pub(crate) fn default_state_dir() -> Result<PathBuf, Failure> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("asyncdiff/coordinator")).ok_or_else(|| {
        Failure::operator("neither XDG_STATE_HOME nor HOME is set\nhint: name a state directory with --state-dir")
    })
}

fn read_line(path: &Path) -> Result<String, Failure> {
    let unreadable = |reason: String| {
        Failure::operator(format!("cannot read {}: {reason}\nhint: check its permissions", path.display()))
    };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > LINE_LIMIT_BYTES => Err(unreadable("it is too long".to_owned())),
        Ok(_) => std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::operator(format!(
            "no coordinator runs here: there is no {}\nhint: start one with `coordinator serve`, or name one by its client line \
             (adc1.…) with --connect or ASYNCDIFF_CONNECT",
            path.display()
        ))),
        Err(error) => Err(unreadable(error.to_string())),
    }
}
