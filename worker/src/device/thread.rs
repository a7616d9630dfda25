//! A device on an operating system thread of its own: kernels never block the actors' runtime, nor it them.

use std::io;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::core::DeviceCore;
use super::{DeviceCommand, pool};
use crate::config::WorkerConfig;

/// How long a stopping worker waits for the layer that is being computed. The longest that is seen on a CPU, a large attention, takes
/// some seconds; the process ends all the same.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// The device's thread.
#[must_use]
pub(crate) struct ThreadDriver {
    ended: oneshot::Receiver<()>,
    thread: std::thread::JoinHandle<()>,
}

/// Starts the thread; it ends when every sender of the queue is gone. Returns when the threads that compute are there.
pub(super) fn start(
    core: DeviceCore,
    queue: mpsc::Receiver<DeviceCommand>,
    config: &WorkerConfig,
) -> io::Result<ThreadDriver> {
    let (end, ended) = oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (threads, cpus) = (config.threads, config.cpus.clone());
    let body = move || {
        pool::enter(threads, &cpus);
        // Whoever starts it waits for this.
        let _ = ready.send(());
        run(core, queue);
        // Nobody may wait for it.
        let _ = end.send(());
    };
    let thread = std::thread::Builder::new().name("device".to_owned()).spawn(body)?;
    // Fails only if the thread panicked, which its first command will tell.
    let _ = is_ready.recv();
    Ok(ThreadDriver { ended, thread })
}

impl ThreadDriver {
    pub(super) async fn stop(self) {
        match tokio::time::timeout(STOP_DEADLINE, self.ended).await {
            // Panics are caught inside; one that gets here was printed by its hook.
            Ok(_) => drop(self.thread.join()),
            Err(_) => {
                tracing::warn!(deadline = ?STOP_DEADLINE, "the device still computes; the process ends without it")
            }
        }
    }
}

fn run(mut core: DeviceCore, mut queue: mpsc::Receiver<DeviceCommand>) {
    let mut pace = Pace::default();
    loop {
        while let Ok(command) = queue.try_recv() {
            core.handle(command);
        }
        if let Some(computed) = core.compute() {
            pace.wait(computed.simulated);
            core.complete(computed);
            continue;
        }
        let idle_since = Instant::now();
        pace.idle();
        match queue.blocking_recv() {
            Some(command) => {
                core.note_waited(idle_since);
                core.handle(command);
            }
            None => return,
        }
    }
}

/// Makes layers take as long as is said. A thread sleeps a little longer than it asks for: layers that follow each other are counted from the time at
/// which the one before should have ended, so that the error does not add up.
#[derive(Default)]
struct Pace {
    busy_until: Option<Instant>,
}

impl Pace {
    /// Waits for the end of a layer that takes so long.
    fn wait(&mut self, duration: Duration) {
        if duration.is_zero() {
            return;
        }
        let now = Instant::now();
        let end = self.busy_until.unwrap_or(now) + duration;
        std::thread::sleep(end.saturating_duration_since(now));
        self.busy_until = Some(end);
    }

    /// There is nothing to compute: the next layer begins when it comes.
    fn idle(&mut self) {
        self.busy_until = None;
    }
}
