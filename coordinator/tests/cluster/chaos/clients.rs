//! Those who want pictures: what they were told, and whether it stays true.
//!
//! A client that got no answer to a submission, because the coordinator went down over it, submits it again under the same key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use asyncdiff_coordinator::job::{JobRecord, JobState};
use asyncdiff_coordinator::{ClusterError, JobHandle, JobSpec, ModelStore, Product, run_replanned_in_process};
use asyncdiff_plan::JobId;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::coordinator::Coordinator;
use super::small_model::small_model;

#[derive(Default)]
pub(super) struct Clients {
    /// In the order of their keys.
    wanted: Vec<Wanted>,
    /// Ends that somebody heard of.
    told: Arc<Mutex<BTreeMap<JobId, JobRecord>>>,
    listening: JoinSet<()>,
}

struct Wanted {
    spec: JobSpec,
    /// When the submission was answered.
    job: Option<JobId>,
    /// Somebody wanted it no more.
    may_be_cancelled: bool,
}

/// What a job left.
#[derive(PartialEq)]
enum Made {
    Latents(Vec<f32>),
    Pixels(Vec<u8>),
}

impl Clients {
    /// Wants one more.
    pub(super) async fn want(&mut self, coordinator: &mut Coordinator, spec: JobSpec) -> Result<(), String> {
        self.wanted.push(Wanted { spec, job: None, may_be_cancelled: false });
        self.submit_all(coordinator).await
    }

    /// Submits whatever was not answered.
    pub(super) async fn submit_all(&mut self, coordinator: &mut Coordinator) -> Result<(), String> {
        for index in 0..self.wanted.len() {
            if self.wanted[index].job.is_none() {
                self.submit(coordinator, index).await?;
            }
        }
        Ok(())
    }

    /// Submits what was submitted before: it is the same job.
    pub(super) async fn submit_again(&mut self, coordinator: &mut Coordinator, which: usize) -> Result<(), String> {
        if self.wanted.is_empty() { Ok(()) } else { self.submit(coordinator, which % self.wanted.len()).await }
    }

    async fn submit(&mut self, coordinator: &mut Coordinator, index: usize) -> Result<(), String> {
        let (spec, key) = (self.wanted[index].spec.clone(), format!("key {index}"));
        let submitted = coordinator.ask(|cluster| async move { cluster.submit_once(spec, Some(key)).await }).await;
        let Some(handle) = submitted.map_err(|error| format!("a job was refused: {error}"))? else { return Ok(()) };
        let id = *self.wanted[index].job.get_or_insert(handle.id);
        if id != handle.id {
            return Err(format!("key {index} is of {id} and of {}", handle.id));
        }
        self.listen(handle, coordinator.living());
        Ok(())
    }

    pub(super) async fn cancel(&mut self, coordinator: &mut Coordinator, which: usize) -> Result<(), String> {
        let count = self.wanted.len().max(1);
        let Some(wanted) = self.wanted.get_mut(which % count) else { return Ok(()) };
        let Some(job) = wanted.job else { return Ok(()) };
        wanted.may_be_cancelled = true;
        let cancelled = coordinator.ask(|cluster| async move { cluster.cancel(job).await }).await;
        match cancelled.map_err(|error| format!("{job} is not cancelled: {error}"))? {
            Some(record) if record.has_ended() => self.hear(record),
            Some(record) => Err(format!("it was said to be cancelled: {}", brief(&record))),
            None => Ok(()),
        }
    }

    /// After a restart: everything that somebody was told is true, and those who wait hear of it again.
    pub(super) async fn return_to(&mut self, coordinator: &mut Coordinator) -> Result<(), String> {
        self.submit_all(coordinator).await?;
        for job in self.wanted.iter().filter_map(|wanted| wanted.job).collect::<Vec<_>>() {
            match coordinator.ask(|cluster| async move { cluster.events(job).await }).await {
                Ok(Some(handle)) => {
                    let told = self.told.lock().unwrap().get(&job).cloned();
                    if let Some(told) = told.map(|record| brief(&record))
                        && told != brief(&handle.record)
                    {
                        return Err(format!("it was told {told}, and now it is {}", brief(&handle.record)));
                    }
                    self.listen(handle, coordinator.living());
                }
                Ok(None) => return Ok(()),
                Err(ClusterError::UnknownJob { .. }) => return Err(format!("{job} was submitted and is lost")),
                Err(error) => return Err(format!("{job}: {error}")),
            }
        }
        Ok(())
    }

    /// All jobs end until then, with what their records say.
    pub(super) async fn check(&mut self, coordinator: &mut Coordinator, until: Instant) -> Result<(), String> {
        for index in 0..self.wanted.len() {
            let job = self.wanted[index].job.ok_or("a submission was never answered")?;
            let handle = asked(coordinator.ask(|cluster| async move { cluster.events(job).await }).await)?;
            let Ok(ended) = timeout_at(until, handle.ended()).await else {
                let record = coordinator.ask(|cluster| async move { cluster.job(job).await }).await;
                return Err(format!("{job} does not end: {record:?}"));
            };
            let record = ended.map_err(|error| format!("{job}: {error}"))?;
            self.hear(record.clone())?;
            let made = made(coordinator, job, &self.wanted[index].spec).await?;
            let checked = self.wanted[index].check(coordinator, &record, made.as_ref());
            checked.map_err(|failure| format!("{job}: {failure}\n{}", brief(&record)))?;
        }
        let known = asked(coordinator.ask(|cluster| async move { cluster.jobs().await }).await)?;
        if known.len() == self.wanted.len() {
            return Ok(());
        }
        Err(format!("{} jobs are known of {} that were wanted", known.len(), self.wanted.len()))
    }

    fn listen(&mut self, handle: JobHandle, is_living: impl Fn() -> bool + Send + 'static) {
        let told = Arc::clone(&self.told);
        self.listening.spawn(async move {
            // It ends without an end when the coordinator does.
            if let Ok(record) = handle.ended().await
                && is_living()
            {
                told.lock().unwrap().entry(record.id).or_insert(record);
            }
        });
    }

    /// An end is told of once, or the same again.
    fn hear(&self, record: JobRecord) -> Result<(), String> {
        let mut told = self.told.lock().unwrap();
        let known = told.entry(record.id).or_insert_with(|| record.clone());
        let (known, record) = (brief(known), brief(&record));
        if known == record { Ok(()) } else { Err(format!("two ends: {known} and {record}")) }
    }
}

impl Wanted {
    fn check(&self, coordinator: &Coordinator, record: &JobRecord, made: Option<&Made>) -> Result<(), String> {
        match (record.state, made) {
            (JobState::Cancelled, None) if self.may_be_cancelled => return Ok(()),
            (JobState::Done, Some(_)) => {}
            _ => return Err("it did not come to its end".to_owned()),
        }
        let steps = replanned_after(record);
        let ranks = super::story::WORKERS.len();
        let expected = match self.spec.product {
            Product::Latents => latents(coordinator.store(), self.spec.clone(), ranks, &steps)?,
            Product::Picture => Made::Pixels(small_model().pixels(&self.spec, ranks, &steps)?),
        };
        if made == Some(&expected) { Ok(()) } else { Err(format!("it is not what its plans make: {steps:?}")) }
    }
}

fn latents(store: &ModelStore, spec: JobSpec, ranks: usize, steps: &[u32]) -> Result<Made, String> {
    let denoised = run_replanned_in_process(store, spec, ranks, steps);
    Ok(Made::Latents(denoised.map_err(|error| error.to_string())?.latents))
}

/// What a record says that must not change. Of seconds the last bits may, on their way through a file.
fn brief(record: &JobRecord) -> String {
    let JobRecord { id, state, times, progress, warnings, moves, error, .. } = record;
    let recoveries: Vec<_> = record.recoveries.iter().map(|recovery| (&recovery.what, recovery.step)).collect();
    let summary = record.summary.as_ref().map(|summary| (&summary.plan, &summary.workers));
    format!("{id}: {state:?} {times:?} {progress:?}\n{warnings:?}\n{recoveries:?}\n{moves:?}\n{error:?}\n{summary:?}")
}

/// The steps after which the plan that the picture came by was made anew. A coordinator that was started again goes on from a step
/// that was saved: what had been planned behind it is undone.
fn replanned_after(record: &JobRecord) -> Vec<u32> {
    let mut steps: Vec<u32> = record.moves.iter().map(|to| to.step).collect();
    let mut recovered = Vec::new();
    for recovery in &record.recoveries {
        if recovery.what.contains("the coordinator ended") {
            recovered.retain(|step| *step <= recovery.step);
        }
        recovered.push(recovery.step);
    }
    steps.extend(recovered);
    // The last is of decoding.
    steps.retain(|step| *step < record.progress.1);
    steps.sort_unstable();
    steps
}

async fn made(coordinator: &mut Coordinator, job: JobId, spec: &JobSpec) -> Result<Option<Made>, String> {
    if spec.product == Product::Latents {
        let outcome = asked(coordinator.ask(|cluster| async move { cluster.outcome(job).await }).await)?;
        return Ok(outcome.map(|outcome| Made::Latents(outcome.latents.1.clone())));
    }
    let files = asked(coordinator.ask(|cluster| async move { cluster.files(job).await }).await)?;
    let picture = files.and_then(|files| files.picture);
    Ok(picture.map(|picture| Made::Pixels(pixels(&picture))))
}

fn pixels(file: &[u8]) -> Vec<u8> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

/// An answer of a coordinator that does not crash.
fn asked<T>(answer: Result<Option<T>, ClusterError>) -> Result<T, String> {
    answer.map_err(|error| error.to_string())?.ok_or_else(|| "the coordinator is down".to_owned())
}
