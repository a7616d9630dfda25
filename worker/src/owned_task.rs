//! A task that ends with its owner.

use tokio::task::JoinHandle;

/// A running task; dropping this aborts it, so that no task outlives the actor that started it.
#[must_use]
#[derive(Debug)]
pub(crate) struct OwnedTask(JoinHandle<()>);

impl OwnedTask {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }

    /// Runs `task` and hands what it returns, or the text of its panic, to `report`.
    pub(crate) fn reporting<T: Send + 'static>(
        task: impl Future<Output = T> + Send + 'static,
        report: impl FnOnce(Result<T, String>) + Send + 'static,
    ) -> Self {
        // The inner task is where a panic stops; aborting the outer one drops its handle and so aborts it too.
        let mut inner = Aborting(tokio::spawn(task));
        Self::spawn(async move {
            match (&mut inner.0).await {
                Ok(value) => report(Ok(value)),
                Err(error) if error.is_panic() => report(Err(error.to_string())),
                // The runtime is shutting down: nobody waits.
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

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_reported() {
        let (sender, receiver) = oneshot::channel();
        let task = OwnedTask::reporting(async { panic!("no cheese") }, |result: Result<(), String>| {
            sender.send(result).unwrap();
        });
        assert!(receiver.await.unwrap().unwrap_err().contains("no cheese"));
        drop(task);
    }

    #[tokio::test]
    async fn a_dropped_task_ends() {
        let (sender, receiver) = oneshot::channel::<()>();
        let work = async move {
            std::future::pending::<()>().await;
            drop(sender);
        };
        drop(OwnedTask::reporting(work, |_| {}));
        assert!(receiver.await.is_err());
    }
}
