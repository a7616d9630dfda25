//! A task that ends with its owner.

use std::future::Future;

use tokio::task::{JoinError, JoinHandle};

/// A running task; dropping this aborts it, so that no task outlives the actor that started it.
#[must_use]
#[derive(Debug)]
pub struct OwnedTask(JoinHandle<()>);

impl OwnedTask {
    /// Starts a task.
    pub fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }

    /// Starts a task and hands what it returns, or how it panicked, to `report`.
    pub fn spawn_reporting<T: Send + 'static>(
        task: impl Future<Output = T> + Send + 'static,
        report: impl FnOnce(Result<T, String>) + Send + 'static,
    ) -> Self {
        // The inner task is where a panic is caught; both are aborted together.
        let inner = Aborting(tokio::spawn(task));
        Self::spawn(async move {
            match inner.join().await {
                Ok(value) => report(Ok(value)),
                Err(error) if error.is_panic() => report(Err(panic_message(error))),
                // Aborted: whoever did it is not waiting for a report.
                Err(_) => {}
            }
        })
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Aborting<T>(JoinHandle<T>);

impl<T> Aborting<T> {
    async fn join(mut self) -> Result<T, JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The text of a task's panic.
pub fn panic_message(error: JoinError) -> String {
    let payload = match error.try_into_panic() {
        Ok(payload) => payload,
        Err(error) => return error.to_string(),
    };
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without text".to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_reported_with_its_text() {
        let (sender, receiver) = oneshot::channel();
        let _task = OwnedTask::spawn_reporting(async { panic!("out of cheese") }, |result: Result<(), String>| {
            sender.send(result).unwrap();
        });
        assert_eq!(receiver.await.unwrap(), Err("out of cheese".to_owned()));
    }

    #[tokio::test]
    async fn a_dropped_task_ends() {
        let (sender, receiver) = oneshot::channel::<()>();
        let task = OwnedTask::spawn_reporting(
            async move {
                std::future::pending::<()>().await;
                drop(sender);
            },
            |_| {},
        );
        drop(task);
        assert!(receiver.await.is_err());
    }
}
