//! A device for clusters within one process: it computes in the runtime's own thread and then sleeps for as long as the layer is
//! said to take, so that a paused clock decides what overlaps.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::DeviceCommand;
use super::core::DeviceCore;

/// How long a stopping worker waits for the layer that the device sleeps over.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// The device's task; dropping it ends the device.
#[must_use]
pub(crate) struct SimulatedDriver(JoinHandle<()>);

/// Starts the task; it ends when every sender of the queue is gone.
pub(super) fn start(core: DeviceCore, queue: mpsc::Receiver<DeviceCommand>) -> SimulatedDriver {
    SimulatedDriver(tokio::spawn(run(core, queue)))
}

impl SimulatedDriver {
    pub(super) async fn stop(mut self) {
        // An error would be a panic, which its hook has printed.
        drop(tokio::time::timeout(STOP_DEADLINE, &mut self.0).await);
    }
}

impl Drop for SimulatedDriver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(mut core: DeviceCore, mut queue: mpsc::Receiver<DeviceCommand>) {
    loop {
        while let Ok(command) = queue.try_recv() {
            core.handle(command);
        }
        if let Some(computed) = core.compute() {
            tokio::time::sleep(computed.simulated).await;
            core.complete(computed);
            continue;
        }
        let idle_since = Instant::now();
        match queue.recv().await {
            Some(command) => {
                core.note_waited(idle_since);
                core.handle(command);
            }
            None => return,
        }
    }
}
