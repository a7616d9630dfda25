//! Follows a job to its end, and turns the end into a result.

use std::path::{Path, PathBuf};

use asyncdiff_common::exit::ExitCode;
use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use serde_json::json;

use crate::cli::{Failure, print_line};
use crate::job::{JobEvent, JobRecord, JobState};
use crate::picture::write_whole;
use crate::render::{Alone, Progress, run_report};

/// Shows progress until the job ended; none if the events ended before it.
pub(super) async fn follow<E>(
    mut events: impl Stream<Item = Result<JobEvent, E>> + Unpin,
    progress: &mut Progress,
) -> Result<Option<JobRecord>, E> {
    while let Some(event) = events.next().await {
        match event? {
            JobEvent::Changed { job } => progress.show(&job),
            JobEvent::Ended { job } => {
                progress.show(&job);
                progress.finish();
                return Ok(Some(*job));
            }
        }
    }
    Ok(None)
}

/// The record of a job that is done; why, of one that is not.
pub(super) fn done(job: JobRecord) -> Result<JobRecord, Failure> {
    match (job.state, &job.error) {
        (JobState::Done, _) => Ok(job),
        (JobState::Cancelled, _) => Err(Failure::interrupted(format!("{} was cancelled", job.id))),
        (_, Some(error)) => Err(error.clone().into()),
        (_, None) => {
            Err(Failure::new(ExitCode::Bug, format!("{} ended without a picture and without an error", job.id)))
        }
    }
}

/// What a job left: written to files, reported to stdout.
pub(super) struct Results<'a> {
    pub(super) job: &'a JobRecord,
    pub(super) picture: (PathBuf, Bytes),
    pub(super) trace: Option<(&'a Path, Bytes)>,
    pub(super) alone: Alone,
}

impl Results<'_> {
    /// Writes the files and prints the report.
    pub(super) fn deliver(&self, json: bool) -> Result<(), Failure> {
        let (path, png) = &self.picture;
        write_whole(path, png)?;
        if let Some((path, content)) = &self.trace {
            write_whole(path, content)?;
        }
        if json {
            return print_line(&self.as_json().to_string());
        }
        print_line(&format!("wrote {}", path.display()))?;
        if let Some((path, _)) = &self.trace {
            print_line(&format!("wrote {} (open it at https://ui.perfetto.dev)", path.display()))?;
        }
        if let Some(summary) = &self.job.summary {
            print_line(&run_report(summary, &self.alone))?;
        }
        Ok(())
    }

    fn as_json(&self) -> serde_json::Value {
        let measured_alone_seconds = match self.alone {
            Alone::Measured(seconds) => Some(seconds),
            Alone::Predicted => None,
        };
        json!({
            "picture": self.picture.0,
            "trace": self.trace.as_ref().map(|(path, _)| path),
            "job": self.job,
            "measured_alone_seconds": measured_alone_seconds,
        })
    }
}
