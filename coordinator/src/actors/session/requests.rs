//! What a worker was asked and has not answered.

use std::collections::BTreeMap;
use std::time::Duration;

use asyncdiff_common::wire::{DType, WorkerFailure, WorkerReply, WorkerRequest};
use asyncdiff_plan::JobId;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A tensor that answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    /// All axes.
    pub(crate) shape: Vec<u32>,
    /// How the bytes are to be read.
    pub(crate) dtype: DType,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RequestFailed {
    /// The worker could not do it.
    Failed(WorkerFailure),
    /// The worker is gone.
    Lost(String),
    /// It took too long.
    Overdue(Duration),
}

pub(crate) type Answer = Result<WorkerReply, RequestFailed>;
/// A tensor that will come, or the news that it will not.
pub(crate) type TensorPromise = oneshot::Receiver<Result<Bytes, RequestFailed>>;

/// A request on its way into a session.
pub(crate) struct NewRequest {
    pub(crate) body: Box<WorkerRequest>,
    /// Bounds the wait for the answer. The tensor of a request may take as long as its asker waits.
    pub(crate) within: Duration,
    pub(crate) answer: oneshot::Sender<Answer>,
    pub(crate) tensor: Option<(TensorSpec, oneshot::Sender<Result<Bytes, RequestFailed>>)>,
}

/// The requests of one session that are not done.
#[derive(Default)]
pub(crate) struct Outstanding {
    next: u64,
    requests: BTreeMap<u64, Open>,
}

struct Open {
    job: Option<JobId>,
    within: Duration,
    deadline: Instant,
    answer: Option<oneshot::Sender<Answer>>,
    tensor: Option<oneshot::Sender<Result<Bytes, RequestFailed>>>,
}

impl Outstanding {
    /// Notes a request and returns its number.
    pub(crate) fn add(
        &mut self,
        request: &WorkerRequest,
        within: Duration,
        answer: oneshot::Sender<Answer>,
        tensor: Option<oneshot::Sender<Result<Bytes, RequestFailed>>>,
    ) -> u64 {
        let number = self.next;
        self.next += 1;
        let open =
            Open { job: job_of(request), within, deadline: Instant::now() + within, answer: Some(answer), tensor };
        self.requests.insert(number, open);
        number
    }

    /// Takes an answer. False if nobody asked.
    pub(crate) fn answer(&mut self, number: u64, result: Result<WorkerReply, WorkerFailure>) -> bool {
        let Some(open) = self.requests.get_mut(&number) else { return false };
        match result {
            Ok(reply) => {
                let Some(answer) = open.answer.take() else { return false };
                // Whoever asked may have gone meanwhile; then nobody wants to know.
                let _ = answer.send(Ok(reply));
                if open.tensor.is_none() {
                    self.requests.remove(&number);
                }
            }
            Err(failure) => self.fail(number, &RequestFailed::Failed(failure)),
        }
        true
    }

    /// Takes the tensor of a request. It may come before the answer: the two travel on different connections.
    pub(crate) fn tensor(&mut self, number: u64, payload: Bytes) {
        let Some(open) = self.requests.get_mut(&number) else { return };
        if let Some(tensor) = open.tensor.take() {
            // As above.
            let _ = tensor.send(Ok(payload));
        }
        if open.answer.is_none() {
            self.requests.remove(&number);
        }
    }

    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Ends the requests whose answer is overdue, and those whose tensor nobody waits for any more. Returns their
    /// numbers.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<u64> {
        let overdue = |open: &Open| open.answer.is_some() && open.deadline <= now;
        let abandoned = |open: &Open| open.tensor.as_ref().is_some_and(oneshot::Sender::is_closed);
        let ended = self.requests.iter().filter(|(_, open)| overdue(open) || abandoned(open));
        let ended: Vec<u64> = ended.map(|(number, _)| *number).collect();
        for number in &ended {
            let within = self.requests.get(number).map_or(Duration::ZERO, |open| open.within);
            self.fail(*number, &RequestFailed::Overdue(within));
        }
        ended
    }

    /// Ends all requests of a job. Returns their numbers.
    pub(crate) fn fail_job(&mut self, job: JobId, why: &RequestFailed) -> Vec<u64> {
        let numbers = self.requests.iter().filter(|(_, open)| open.job == Some(job));
        let numbers: Vec<u64> = numbers.map(|(number, _)| *number).collect();
        for number in &numbers {
            self.fail(*number, why);
        }
        numbers
    }

    /// Ends all requests.
    pub(crate) fn fail_all(&mut self, why: &RequestFailed) {
        for number in self.requests.keys().copied().collect::<Vec<_>>() {
            self.fail(number, why);
        }
    }

    fn fail(&mut self, number: u64, why: &RequestFailed) {
        let Some(open) = self.requests.remove(&number) else { return };
        if let Some(answer) = open.answer {
            // As above.
            let _ = answer.send(Err(why.clone()));
        }
        if let Some(tensor) = open.tensor {
            // As above.
            let _ = tensor.send(Err(why.clone()));
        }
    }
}

/// The job that a request belongs to.
pub(crate) fn job_of(request: &WorkerRequest) -> Option<JobId> {
    match request {
        WorkerRequest::Assign(assignment) | WorkerRequest::Preload(assignment) => Some(assignment.job),
        WorkerRequest::DecodeLatents { job, .. }
        | WorkerRequest::EncodeText { job, .. }
        | WorkerRequest::ReleaseJob { job } => Some(*job),
        WorkerRequest::Measure { .. } | WorkerRequest::MeasureLink { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn release(job: u64) -> WorkerRequest {
        WorkerRequest::ReleaseJob { job: JobId(job) }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_after_the_deadline_is_overdue() {
        let mut outstanding = Outstanding::default();
        let (sender, receiver) = oneshot::channel();
        let number = outstanding.add(&release(1), SECOND, sender, None);
        assert!(outstanding.expire(Instant::now()).is_empty());
        tokio::time::advance(SECOND).await;
        assert_eq!(outstanding.expire(Instant::now()), [number]);
        assert_eq!(receiver.await.unwrap(), Err(RequestFailed::Overdue(SECOND)));
        assert!(!outstanding.answer(number, Ok(WorkerReply::Encoded)));
    }

    #[tokio::test]
    async fn a_tensor_may_come_before_its_answer() {
        let mut outstanding = Outstanding::default();
        let ((answer, answered), (tensor, arrived)) = (oneshot::channel(), oneshot::channel());
        let number = outstanding.add(&release(1), SECOND, answer, Some(tensor));
        outstanding.tensor(number, Bytes::from_static(b"x"));
        assert!(outstanding.answer(number, Ok(WorkerReply::Encoded)));
        assert_eq!(answered.await.unwrap(), Ok(WorkerReply::Encoded));
        assert_eq!(arrived.await.unwrap(), Ok(Bytes::from_static(b"x")));
        assert!(outstanding.requests.is_empty());
    }

    #[tokio::test]
    async fn a_failed_job_takes_only_its_own_requests_along() {
        let mut outstanding = Outstanding::default();
        let ((first, failed), (second, waiting)) = (oneshot::channel(), oneshot::channel());
        outstanding.add(&release(1), SECOND, first, None);
        outstanding.add(&release(2), SECOND, second, None);
        let why = RequestFailed::Lost("cut".to_owned());
        outstanding.fail_job(JobId(1), &why);
        assert_eq!(failed.await.unwrap(), Err(why));
        assert_eq!(outstanding.requests.len(), 1);
        drop(waiting);
    }
}
