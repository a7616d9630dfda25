//! What ends a worker from outside.

use std::io::Read;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::CliError;

/// How long a worker that was asked to leave stays for the jobs that need it: loading its part elsewhere takes minutes on slow networks. Then it
/// leaves all the same, and they go on as after a loss.
const DRAIN_WITHIN: Duration = Duration::from_secs(600);

/// How long a worker's process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until SIGTERM or SIGINT; the first lets jobs move elsewhere, the second ends at once.
    UntilSignalled,
    /// Until standard input closes, or a signal: a process that started this one holds the other end, so that its end, of whatever kind, is
    /// this one's too.
    UntilStdinCloses,
}

impl Lifetime {
    /// A future that completes when the worker is to stop, and before that says in `drain` that it is to leave; signals are caught from this call on.
    pub(super) fn shutdown(self, drain: watch::Sender<bool>) -> Result<impl Future<Output = ()> + Send, CliError> {
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
            let signalled = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                tracing::info!("leaving as soon as no job needs this worker; a second signal ends it at once");
                drain.send_replace(true);
                tokio::select! {
                    _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
                    _ = interrupt.recv() => tracing::info!("stopping on SIGINT"),
                    () = tokio::time::sleep(DRAIN_WITHIN) => tracing::warn!(after = ?DRAIN_WITHIN, "leaving although jobs need this worker"),
                }
            };
            tokio::select! {
                () = signalled => {}
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
