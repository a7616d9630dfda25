//! Server-sent events of one job: written by the server, read by the client.

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use bytes::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt};

use super::routes::{Shared, job_id};
use super::{ApiError, ClientError};
use crate::job::JobEvent;

/// The most bytes of one event: a record has a prompt and some hundred bytes.
const EVENT_LIMIT_BYTES: usize = 4 << 20;

/// How often the server says that it is there while nothing happens. Half of what usual proxies wait.
pub(super) const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(15);

/// `GET /v1/jobs/{id}/events`.
pub(super) async fn events(
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, ApiError> {
    let id = job_id(&id)?;
    let place = shared.bounds.listen()?;
    let events = shared.service.events(id).await?;
    let written = events.map(move |event| {
        // The place is held for as long as the stream lives.
        let _held = &place;
        Event::default().json_data(&event)
    });
    Ok(Sse::new(written).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Reads a response's body as events.
pub(super) fn read_events<E>(
    body: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    broken: impl Fn(E) -> ClientError + Send + 'static,
) -> BoxStream<'static, Result<JobEvent, ClientError>>
where
    E: Send + 'static,
{
    let mut buffer = EventBuffer::default();
    let read = move |chunk: Result<Bytes, E>| {
        let events = match chunk {
            Ok(chunk) => buffer.push(&chunk),
            Err(error) => vec![Err(broken(error))],
        };
        futures_util::stream::iter(events)
    };
    body.flat_map(read).boxed()
}

/// Bytes that are not a whole event yet.
#[derive(Default)]
struct EventBuffer {
    bytes: Vec<u8>,
}

impl EventBuffer {
    fn push(&mut self, chunk: &[u8]) -> Vec<Result<JobEvent, ClientError>> {
        self.bytes.extend_from_slice(chunk);
        let mut events = Vec::new();
        while let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
            events.extend(parse(&block));
        }
        if self.bytes.len() > EVENT_LIMIT_BYTES {
            self.bytes.clear();
            events.push(Err(ClientError::Malformed { reason: "an event is too long".to_owned() }));
        }
        events
    }
}

/// The event of a block of lines; `None` for a comment that keeps the connection alive.
fn parse(block: &[u8]) -> Option<Result<JobEvent, ClientError>> {
    let text = String::from_utf8_lossy(block);
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
    if data.is_empty() {
        return None;
    }
    let event = serde_json::from_str(&data.join("\n"));
    Some(event.map_err(|error| ClientError::Malformed { reason: format!("an event cannot be read: {error}") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_bytes_are_cut() {
        let text = b": keep-alive\n\ndata: {\"event\":\"nonsense\"}\n\n";
        for cut in 0..text.len() {
            let mut buffer = EventBuffer::default();
            let mut events = buffer.push(&text[..cut]);
            events.extend(buffer.push(&text[cut..]));
            assert_eq!(events.len(), 1, "cut at {cut}");
            assert!(matches!(events[0], Err(ClientError::Malformed { .. })));
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut buffer = EventBuffer::default();
        let events = buffer.push(&vec![b'x'; EVENT_LIMIT_BYTES + 1]);
        assert!(matches!(events[..], [Err(ClientError::Malformed { .. })]));
        assert!(buffer.bytes.is_empty());
    }
}
