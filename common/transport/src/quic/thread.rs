//! The thread on which a process's data endpoint and all its links live; that of the control endpoint hangs on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::accept::{self, Acceptor};
use super::carrier::Carriers;
use super::config::QuicConfig;
use super::driver::ControlThread;
use super::endpoint::Endpoints;
use super::failure::FAREWELL_CODE;
use super::node::{IncomingLink, StartError};
use super::pairing::Pairing;
use crate::link::Farewell;

/// Links that may wait to be accepted. More are refused by running into the dialler's deadline.
const WAITING_LINKS: usize = 64;

/// How long a stopping node waits, once its links are closed, until its peers have heard the farewell.
const STOP_DEADLINE: Duration = Duration::from_millis(500);

/// How the thread is to end.
pub(super) enum Stop {
    /// Without a word, as a killed process does.
    #[cfg(test)]
    Killed,
    /// After telling the peers.
    Orderly,
}

pub(super) struct Started {
    pub(super) endpoints: Endpoints,
    pub(super) carriers: Carriers,
    pub(super) incoming: mpsc::Receiver<IncomingLink>,
}

/// The thread's body: a runtime of its own for the data endpoint and the links, and another thread for the control endpoint.
pub(super) fn run(
    config: QuicConfig,
    started: oneshot::Sender<Result<Started, StartError>>,
    stop: oneshot::Receiver<Stop>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            // An error means that the starter gave up.
            let _ = started.send(Err(StartError::Thread { source }));
            return;
        }
    };
    let control_thread = match ControlThread::start() {
        Ok(thread) => thread,
        Err(source) => {
            let _ = started.send(Err(StartError::Thread { source }));
            return;
        }
    };
    runtime.block_on(async move {
        let endpoints = match Endpoints::open(&config, control_thread.handle()) {
            Ok(endpoints) => endpoints,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let carriers = Carriers::new(control_thread.handle(), &config);
        let (links, incoming) = mpsc::channel(WAITING_LINKS);
        let acceptor = Arc::new(Acceptor { config, pairing: Pairing::default(), carriers: carriers.clone(), links });
        let mut acceptors = JoinSet::new();
        acceptors.spawn(accept::run(endpoints.control.clone(), Arc::clone(&acceptor)));
        acceptors.spawn(accept::run(endpoints.data.clone(), acceptor));
        let answer = Started { endpoints: endpoints.clone(), carriers: carriers.clone(), incoming };
        if started.send(Ok(answer)).is_err() {
            return;
        }
        match stop.await {
            #[cfg(test)]
            // Nothing may be said on the control connections either.
            Ok(Stop::Killed) => drop(control_thread),
            // The sender lives in the node, which signals when it is dropped.
            Ok(Stop::Orderly) | Err(_) => {
                acceptors.abort_all();
                carriers.stop().await;
                let farewell = Farewell::Done.to_wire();
                endpoints.control.close(FAREWELL_CODE, &farewell);
                endpoints.data.close(FAREWELL_CODE, &farewell);
                let idle = async { tokio::join!(endpoints.control.wait_idle(), endpoints.data.wait_idle()) };
                if tokio::time::timeout(STOP_DEADLINE, idle).await.is_err() {
                    tracing::debug!("stopped although a peer has not acknowledged the farewell");
                }
            }
        }
    });
    // An enrolment may still be writing to disk.
    runtime.shutdown_timeout(STOP_DEADLINE);
}
