//! Which runtime drives an endpoint, and the thread of the one that drives control connections.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Drives an endpoint and all its connections on one runtime, whoever opens the connections. quinn's own would drive each connection on the
/// runtime of the task that dialled or accepted it.
pub(super) struct Driver(pub(super) Handle);

/// A thread with a runtime of its own, for control connections: bulk keeps the other thread busy for milliseconds at a
/// time, and a thread that mostly sleeps is run by the operating system as soon as a control frame comes. Dropping it ends both.
pub(super) struct ControlThread {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ControlThread {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let body = move || {
            // The sender is dropped and never sends.
            let _ = runtime.block_on(ended);
        };
        let thread = std::thread::Builder::new().name("quic-control".to_owned()).spawn(body)?;
        Ok(Self { handle, end: Some(end), thread: Some(thread) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        drop(self.end.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of control connections has panicked");
        }
    }
}

impl Runtime for Driver {
    fn new_timer(&self, time: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _entered = self.0.enter();
        TokioRuntime.new_timer(time)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _entered = self.0.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Driver").field(&self.0).finish()
    }
}
