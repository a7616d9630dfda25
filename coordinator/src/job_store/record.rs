//! What is kept of a job, and how it becomes bytes.

use asyncdiff_common::codec;
use asyncdiff_common::wire::TraceEvent;
use asyncdiff_plan::{Epoch, JobId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::JobStoreError;
use super::envelope::{Kind, wrap};
use crate::job::JobRecord;
use crate::job_spec::JobTrace;

/// A job: its record as users see it, and what is needed to go on with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredJob {
    pub(crate) record: JobRecord,
    /// The model that its progress is of, see [`ModelStore::fingerprint`](crate::ModelStore::fingerprint).
    pub(crate) model: String,
    /// By which it is known if it is submitted again.
    #[serde(default)]
    pub(crate) key: Option<String>,
    /// Workers that were there when it was started last.
    #[serde(default)]
    pub(crate) workers: Vec<String>,
    /// How it was started.
    #[serde(default)]
    pub(crate) starts: Starts,
}

/// How often a job was started without getting any further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Starts {
    /// How often.
    pub(crate) count: u32,
    /// From which step.
    pub(crate) step: u32,
}

impl Starts {
    /// One more, from a step.
    pub(crate) fn again(self, step: u32) -> Self {
        let count = if step > self.step { 1 } else { self.count.saturating_add(1) };
        Self { count, step: step.max(self.step) }
    }
}

/// How far a running job is.
#[derive(Clone, PartialEq)]
pub(crate) struct Progress {
    /// The epoch in which it was made.
    pub(crate) epoch: Epoch,
    /// Steps taken.
    pub(crate) steps: u32,
    /// The state of the denoising loop, as the loop encodes it.
    pub(crate) state: Bytes,
}

/// What a job that is done leaves for its user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobFiles {
    /// The picture as a PNG file, if one was wanted.
    pub picture: Option<Bytes>,
    /// What happened when, if the job was traced.
    pub trace: Option<JobTrace>,
}

/// A job as it was found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeptJob {
    pub(crate) job: StoredJob,
    /// Of a job that has not ended.
    pub(crate) progress: Option<Progress>,
    /// Bytes that its files take.
    pub(crate) file_bytes: u64,
}

/// What is to be written. Changes are kept in the order in which they are handed over.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A job ended; of one that is done its files.
    Ended(Box<StoredJob>, JobFiles),
    /// A running job got further.
    Progressed(JobId, Progress),
    /// Jobs are forgotten.
    Removed(Vec<JobId>),
    /// A job was submitted or started.
    Updated(Box<StoredJob>),
}

impl StoredJob {
    pub(super) fn id(&self) -> JobId {
        self.record.id
    }

    pub(super) fn has_ended(&self) -> bool {
        self.record.has_ended()
    }

    pub(super) fn to_record(&self, revision: u64) -> Result<Vec<u8>, JobStoreError> {
        // Strings, numbers and enums always serialise.
        let json = serde_json::to_vec(self).unwrap_or_default();
        wrap(Kind::Job, self.id(), revision, &json)
    }

    pub(super) fn from_payload(payload: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(payload).map_err(|error| error.to_string())
    }
}

impl Progress {
    pub(super) fn to_record(&self, job: JobId, revision: u64) -> Result<Vec<u8>, JobStoreError> {
        let payload = [&self.epoch.0.to_le_bytes()[..], &self.steps.to_le_bytes(), &self.state].concat();
        wrap(Kind::Progress, job, revision, &payload)
    }

    pub(super) fn from_payload(payload: &[u8]) -> Result<Self, String> {
        let Some((&epoch, rest)) = payload.split_first_chunk() else { return Err(CUT.to_owned()) };
        let Some((&steps, state)) = rest.split_first_chunk() else { return Err(CUT.to_owned()) };
        let epoch = Epoch(u32::from_le_bytes(epoch));
        Ok(Self { epoch, steps: u32::from_le_bytes(steps), state: Bytes::copy_from_slice(state) })
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Progress({:?}, {} steps, {} bytes)", self.epoch, self.steps, self.state.len())
    }
}

impl JobFiles {
    /// About how many bytes they take.
    pub(crate) fn bytes(&self) -> u64 {
        let picture = self.picture.as_ref().map_or(0, Bytes::len);
        let events: usize = self.trace.iter().flat_map(|trace| &trace.tracks).map(|track| track.events.len()).sum();
        (picture + events * size_of::<TraceEvent>()) as u64
    }

    /// The length of the picture, then the picture, then the trace; absent ones are empty.
    pub(super) fn to_record(&self, job: JobId, revision: u64) -> Result<Vec<u8>, JobStoreError> {
        let picture = self.picture.as_deref().unwrap_or_default();
        let trace = self.trace.as_ref().and_then(|trace| match codec::encode(trace) {
            Ok(trace) => Some(trace),
            Err(error) => {
                tracing::warn!(%job, %error, "the trace is not kept");
                None
            }
        });
        let length = u64::try_from(picture.len()).unwrap_or(u64::MAX);
        let payload = [&length.to_le_bytes()[..], picture, &trace.unwrap_or_default()].concat();
        wrap(Kind::Files, job, revision, &payload)
    }

    pub(super) fn from_payload(payload: &[u8]) -> Result<Self, String> {
        let Some((&length, rest)) = payload.split_first_chunk() else { return Err(CUT.to_owned()) };
        let length = usize::try_from(u64::from_le_bytes(length)).map_err(|error| error.to_string())?;
        let Some((picture, trace)) = rest.split_at_checked(length) else { return Err(CUT.to_owned()) };
        let trace =
            if trace.is_empty() { None } else { Some(codec::decode(trace).map_err(|error| error.to_string())?) };
        Ok(Self { picture: (!picture.is_empty()).then(|| Bytes::copy_from_slice(picture)), trace })
    }
}

const CUT: &str = "a record is too short";
