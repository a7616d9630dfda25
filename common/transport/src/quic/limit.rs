//! Links that carry less than the network does: for benchmarks of networks that are not there, where the kernel has no way to limit one.
//!
//! ```text
//!   tensor k     ├─ bytes / rate ─┤── delay ──► arrives
//!   tensor k+1                    ├─ bytes / rate ─┤── delay ──► arrives
//! ```
//!
//! Each direction of a link by itself: the delay is time under way and takes nothing from the throughput. Control frames are not limited.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::oneshot;

/// The longest delay: beyond it peers count as lost.
const DELAY_MAX: Duration = Duration::from_secs(1);

/// What one direction of a link carries at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkLimit {
    /// Bytes of tensors and their headers per second, more than 0.
    pub bytes_per_second: f64,
    /// How long each tensor is under way beside its bytes' time.
    pub delay: Duration,
}

/// A text that is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} is no limit of a link\nhint: write bytes per second and microseconds of delay, at most a second, like 125000000,200"
)]
pub struct ParseLimitError {
    text: String,
}

impl fmt::Display for LinkLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{},{}", self.bytes_per_second, self.delay.as_micros())
    }
}

impl FromStr for LinkLimit {
    type Err = ParseLimitError;

    fn from_str(text: &str) -> Result<Self, ParseLimitError> {
        let wrong = || ParseLimitError { text: text.to_owned() };
        let (rate, delay) = text.split_once(',').ok_or_else(wrong)?;
        let bytes_per_second: f64 = rate.parse().map_err(|_| wrong())?;
        let delay = Duration::from_micros(delay.parse().map_err(|_| wrong())?);
        let is_sound = bytes_per_second.is_finite() && bytes_per_second >= 1.0 && delay <= DELAY_MAX;
        is_sound.then_some(Self { bytes_per_second, delay }).ok_or_else(wrong)
    }
}

/// One direction of a limited link.
pub(super) struct LimitedLink {
    line: Line,
    /// Rings the bells, in their order. Ends when this is dropped.
    bells: mpsc::Sender<(Instant, Bell)>,
}

/// Rings when a tensor may arrive.
type Bell = oneshot::Sender<()>;

/// When what arrives.
struct Line {
    limit: LinkLimit,
    /// When the last byte of what it was given so far has left.
    free: Option<Instant>,
}

impl LimitedLink {
    /// Starts the thread that waits: tokio's timers count in milliseconds, which is as long as a whole tensor takes.
    pub(super) fn new(limit: LinkLimit) -> io::Result<Self> {
        let (bells, queue) = mpsc::channel();
        std::thread::Builder::new().name("limited-link".to_owned()).spawn(move || ring(&queue))?;
        Ok(Self { line: Line { limit, free: None }, bells })
    }

    /// Puts a tensor behind those that were sent before it. What is returned completes when it may arrive.
    ///
    /// As many wait as tensors are in flight.
    pub(super) fn send(&mut self, bytes: usize) -> oneshot::Receiver<()> {
        let (bell, rung) = oneshot::channel();
        // The thread lives as long as this.
        let _ = self.bells.send((self.line.arrival(Instant::now(), bytes), bell));
        rung
    }
}

fn ring(queue: &mpsc::Receiver<(Instant, Bell)>) {
    while let Ok((deadline, bell)) = queue.recv() {
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        // The tensor's stream may have been stopped.
        let _ = bell.send(());
    }
}

impl Line {
    fn arrival(&mut self, now: Instant, bytes: usize) -> Instant {
        let start = self.free.map_or(now, |free| free.max(now));
        let sent = start + Duration::from_secs_f64(bytes as f64 / self.limit.bytes_per_second);
        self.free = Some(sent);
        sent + self.limit.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn limit() -> LinkLimit {
        LinkLimit { bytes_per_second: 1e6, delay: 20 * MILLISECOND }
    }

    fn line() -> Line {
        Line { limit: limit(), free: None }
    }

    #[test]
    fn the_delay_is_time_under_way_and_takes_nothing_from_the_throughput() {
        let (mut link, now) = (line(), Instant::now());
        let arrivals = [1, 2, 3].map(|_| link.arrival(now, 5_000) - now);
        assert_eq!(arrivals, [25, 30, 35].map(|milliseconds| milliseconds * MILLISECOND));
    }

    #[test]
    fn what_comes_later_finds_the_link_free() {
        let (mut link, now) = (line(), Instant::now());
        link.arrival(now, 5_000);
        assert_eq!(link.arrival(now + 3 * MILLISECOND, 1_000) - now, 26 * MILLISECOND);
        assert_eq!(link.arrival(now + 100 * MILLISECOND, 1_000) - now, 121 * MILLISECOND);
    }

    #[test]
    fn a_limit_survives_its_text_and_nonsense_is_refused() {
        let odd = LinkLimit { bytes_per_second: 1.25e9 / 3.0, delay: Duration::from_micros(1700) };
        for limit in [limit(), odd] {
            assert_eq!(limit.to_string().parse(), Ok(limit));
        }
        for text in ["", "1e6", "1e6,", ",1", "0,1", "-1,1", "inf,1", "NaN,1", "1e6,2000000", "1e6,-1"] {
            assert!(text.parse::<LinkLimit>().is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn tensors_are_let_through_in_order_and_not_early() {
        let mut link = LimitedLink::new(limit()).unwrap();
        let start = Instant::now();
        let (first, mut second) = (link.send(1_000), link.send(1_000_000_000));
        first.await.unwrap();
        assert!(start.elapsed() >= 21 * MILLISECOND);
        assert!(second.try_recv().is_err(), "a thousand seconds later");
    }
}
