//! What ends a worker from outside.

use std::io::Read;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::CliError;

/// How long a worker's process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until SIGTERM or SIGINT.
    UntilSignalled,
    /// Until standard input closes, or a signal: a process that started this one holds the other end, so that its end, of whatever kind, is
    /// this one's too.
    UntilStdinCloses,
}

impl Lifetime {
    /// A future that completes when the worker is to stop; signals are caught from this call on.
    pub(super) fn shutdown(self) -> Result<impl Future<Output = ()> + Send, CliError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Signals)?;
        let stdin_closed = match self {
            Self::UntilSignalled => None,
            Self::UntilStdinCloses => Some(watch_stdin().map_err(CliError::Signals)?),
        };
        Ok(async move {
            let stdin_closed = async {
                match stdin_closed {
                    // The thread's end, by a message or by its drop, is the same.
                    Some(closed) => drop(closed.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
                _ = interrupt.recv() => tracing::info!("stopping on SIGINT"),
                () = stdin_closed => tracing::info!("stopping: the process that started this one has closed its end"),
            }
        })
    }
}

/// Reads standard input on a thread of its own: a read cannot be cancelled, and must not keep a runtime from ending.
fn watch_stdin() -> std::io::Result<oneshot::Receiver<()>> {
    let (sender, closed) = oneshot::channel();
    let body = move || {
        let mut buffer = [0; 256];
        while std::io::stdin().read(&mut buffer).is_ok_and(|read| read > 0) {}
        // The worker may have ended meanwhile.
        let _ = sender.send(());
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(body)?;
    Ok(closed)
}
