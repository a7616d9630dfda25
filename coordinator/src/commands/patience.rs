//! A coordinator that goes away may come back: it keeps its jobs. A client that follows one asks again for a while.

use std::time::Duration;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_plan::JobId;
use tokio::time::Instant;

use crate::api::{Client, ClientError};
use crate::cli::{ConnectArgs, Failure, note};
use crate::job::{Fault, JobRecord};
use crate::render::Progress;

use super::follow::follow;

/// The first pause between two attempts, and the longest: they double.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// Asks a coordinator about one job, through its restarts.
pub(super) struct Patience<'a> {
    pub(super) connect: &'a ConnectArgs,
    /// None while it is being submitted.
    pub(super) job: Option<JobId>,
    /// How long the coordinator may be away.
    pub(super) within: Duration,
}

impl Patience<'_> {
    /// Follows a job to its end.
    pub(super) async fn follow(&self, job: JobId, progress: &mut Progress) -> Result<JobRecord, Failure> {
        loop {
            let events = self.ask(async |client| client.events(job).await).await?;
            match follow(events, progress).await {
                Ok(Some(job)) => return Ok(job),
                Ok(None) => {}
                Err(error) if !may_pass(&error) => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "the coordinator is away"),
            }
            tokio::time::sleep(PAUSES[0]).await;
        }
    }

    /// Asks until there is an answer, or the coordinator has been away for too long.
    pub(super) async fn ask<T>(&self, ask: impl AsyncFn(Client) -> Result<T, ClientError>) -> Result<T, Failure> {
        let deadline = Instant::now() + self.within;
        let mut pause = PAUSES[0];
        loop {
            let lost = match self.attempt(&ask).await {
                Ok(answer) => return Ok(answer),
                Err(Attempt::Final(failure)) => return Err(failure),
                Err(Attempt::Away(reason)) => reason,
            };
            if Instant::now() + pause > deadline {
                return Err(self.gave_up(&lost));
            }
            if pause == PAUSES[0] {
                note(&format!("the coordinator is away; waiting for it for up to {} s", self.within.as_secs()));
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(PAUSES[1]);
        }
    }

    async fn attempt<T>(&self, ask: &impl AsyncFn(Client) -> Result<T, ClientError>) -> Result<T, Attempt> {
        // A coordinator that was started again may be at another port, which its new line says; while it is away there may
        // be no line.
        let client = self.connect.client().await.map_err(|failure| Attempt::Away(failure.to_string()))?;
        ask(client).await.map_err(|error| match may_pass(&error) {
            true => Attempt::Away(error.to_string()),
            false => Attempt::Final(error.into()),
        })
    }

    fn gave_up(&self, lost: &str) -> Failure {
        let seconds = self.within.as_secs();
        let reason = lost.lines().next().unwrap_or_default();
        let hint = match self.job {
            Some(job) => format!(
                "{job} is kept; when the coordinator runs again, `coordinator job {} --out FILE` waits for its picture",
                job.0
            ),
            None => "it may have taken the job or not; `coordinator jobs` says so when it runs again".to_owned(),
        };
        let text =
            format!("the coordinator went away and did not come back within {seconds} s ({reason})\nhint: {hint}");
        Failure::new(ExitCode::Peer, text)
    }
}

enum Attempt {
    Away(String),
    Final(Failure),
}

/// Whether an error may be gone when the coordinator is back.
fn may_pass(error: &ClientError) -> bool {
    match error {
        ClientError::Broken { .. } | ClientError::TimedOut { .. } | ClientError::Unreachable { .. } => true,
        // One that is just stopping says so.
        ClientError::Refused(error) => matches!(error.fault, Fault::Bug | Fault::Peer),
        ClientError::Address { .. } | ClientError::Identity(_) | ClientError::Malformed { .. } => false,
    }
}
