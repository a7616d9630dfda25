//! What is done to workers in the middle of a job.

use std::num::NonZeroU32;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

/// Jobs that a worker joins are so many times as long: it has to start, to be measured and to load its part while they run.
const LONGER_TO_JOIN: u32 = 4;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Drained,
    Joined,
    Killed,
    Stopped,
}

/// Which of the repeats it is: each is at another moment within a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) repeat: u32,
    pub(super) repeats: u32,
}

/// A shell that sends a signal as soon as it is told to: its start is not part of what is measured. If nobody tells it, it ends.
#[must_use]
pub(in crate::bench) struct Signaller {
    shell: Child,
    line: ChildStdin,
}

impl Fault {
    /// In the order of tables.
    pub(super) const ALL: [Self; 4] = [Self::Killed, Self::Stopped, Self::Drained, Self::Joined];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Joined => "joined",
            Self::Killed => "killed (SIGKILL)",
            Self::Stopped => "stopped (SIGSTOP)",
        }
    }

    /// Workers that are there when the job begins. It has two parts, so a third worker can take one over.
    pub(super) fn workers(self) -> usize {
        match self {
            Self::Joined => 1,
            Self::Drained | Self::Killed | Self::Stopped => 3,
        }
    }

    /// Steps of the job, if those of others are as many as is said.
    pub(super) fn steps(self, steps: NonZeroU32) -> NonZeroU32 {
        match self {
            Self::Joined => steps.saturating_mul(NonZeroU32::MIN.saturating_add(LONGER_TO_JOIN - 1)),
            Self::Drained | Self::Killed | Self::Stopped => steps,
        }
    }

    /// The step after which it happens.
    pub(super) fn after_step(self, steps: NonZeroU32) -> u32 {
        match self {
            Self::Joined => steps.get() / 12,
            Self::Drained | Self::Killed | Self::Stopped => steps.get() / 3,
        }
    }
}

impl Moment {
    /// How far into a step it is.
    pub(super) fn within(self, step: Duration) -> Duration {
        step.mul_f64((f64::from(self.repeat) + 0.5) / f64::from(self.repeats.max(1)))
    }
}

impl Signaller {
    /// Gets ready to send a signal, such as `KILL`, to a process.
    pub(in crate::bench) fn new(signal: &str, process_id: u32) -> anyhow::Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", &format!("read line && kill -s {signal} {process_id}")])
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a shell that sends signals")?;
        let line = shell.stdin.take().context("a shell has no input")?;
        Ok(Self { shell, line })
    }

    /// Sends it, and waits until it is sent.
    pub(in crate::bench) async fn send(mut self) -> anyhow::Result<()> {
        self.line.write_all(b"now\n").await.context("the shell that sends signals has ended")?;
        let status = self.shell.wait().await?;
        ensure!(status.success(), "a signal could not be sent: kill ended with {status}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_spread_over_a_step() {
        let moments = [0, 1, 2, 3].map(|repeat| Moment { repeat, repeats: 4 });
        let within = moments.map(|moment| moment.within(Duration::from_millis(80)).as_millis());
        assert_eq!(within, [10, 30, 50, 70]);
    }

    #[tokio::test]
    async fn a_signal_is_sent_when_it_is_told_to_and_not_before() {
        let mut child = Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
        let signaller = Signaller::new("TERM", child.id().unwrap()).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        signaller.send().await.unwrap();
        assert!(!child.wait().await.unwrap().success());
    }
}
