//! A disk that outlives the coordinators that use it, and loses what the power's failure would lose.
//!
//! What was written and not synced is there for readers. When the process is killed it stays; when the power fails each write
//! of it is there, or not, or in part: sectors are lost by chance and in no order. A crash may be set for the n-th write or sync from
//! now on: that one does not return, as the process that waits for it will not be there any more.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use asyncdiff_coordinator::Disk;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::Notify;

/// What is written as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// How long somebody whose computer crashes in the middle of a write waits for it; the story ends it much sooner.
const CRASHES_WITHIN: Duration = Duration::from_secs(120);

/// The file that the simulated coordinator keeps has this many bytes at most: some jobs and pictures of 64x64 pixels.
const LENGTH_LIMIT: u64 = 64 << 20;

#[derive(Debug, Default)]
pub(super) struct Storage {
    content: Mutex<Content>,
    /// The life that used it has ended.
    over: Condvar,
    /// The write that was set for a crash is there.
    struck: Notify,
}

#[derive(Debug, Default)]
struct Content {
    /// What a sync has made safe.
    safe: Vec<u8>,
    /// What readers see.
    seen: Vec<u8>,
    /// What makes the second of the first.
    unsynced: Vec<Written>,
    /// Counts those who used it.
    life: u64,
    /// Writes and syncs until the crash.
    crash_in: Option<u32>,
}

#[derive(Debug)]
enum Written {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

/// What a crash does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsynced {
    Kept,
    LostByChance,
}

/// The disk in one life of a coordinator; of no use after its crash.
#[derive(Debug)]
struct Life {
    storage: Arc<Storage>,
    number: u64,
}

impl Storage {
    /// The disk for the next coordinator.
    pub(super) fn attach(self: &Arc<Self>) -> Arc<dyn Disk> {
        Arc::new(Life { storage: Arc::clone(self), number: self.content().life })
    }

    /// Sets a crash for the n-th write or sync from now on, or for none.
    pub(super) fn crash_in(&self, writes: Option<u32>) {
        self.content().crash_in = writes;
    }

    /// Returns when the write that a crash was set for is reached.
    pub(super) async fn struck(&self) {
        self.struck.notified().await;
    }

    /// Ends the life that uses it.
    pub(super) fn crash(&self, unsynced: Unsynced, chance: &mut StdRng) {
        let mut content = self.content();
        content.life += 1;
        content.crash_in = None;
        let log = std::mem::take(&mut content.unsynced);
        match unsynced {
            Unsynced::Kept => content.safe = content.seen.clone(),
            Unsynced::LostByChance => {
                log.into_iter().for_each(|written| written.survive(&mut content.safe, chance));
                content.seen = content.safe.clone();
            }
        }
        self.over.notify_all();
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }
}

impl Written {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bytes(offset, written) => {
                bytes.resize(bytes.len().max(offset + written.len()), 0);
                bytes[*offset..offset + written.len()].copy_from_slice(written);
            }
            Self::Length(length) => bytes.resize(*length, 0),
        }
    }

    /// Whole, in part, or not at all.
    fn survive(&self, bytes: &mut Vec<u8>, chance: &mut StdRng) {
        let share = [0.0, 0.5, 1.0][chance.random_range(0..3)];
        match self {
            Self::Bytes(offset, written) => {
                for (index, sector) in written.chunks(SECTOR_BYTES).enumerate() {
                    if chance.random_bool(share) {
                        Self::Bytes(offset + index * SECTOR_BYTES, sector.to_vec()).apply(bytes);
                    }
                }
            }
            Self::Length(_) if chance.random_bool(share) => self.apply(bytes),
            Self::Length(_) => {}
        }
    }
}

impl Life {
    fn living(&self) -> io::Result<MutexGuard<'_, Content>> {
        let content = self.storage.content();
        if content.life == self.number { Ok(content) } else { Err(io::Error::other("the computer has crashed")) }
    }

    fn change(&self, written: Written) -> io::Result<()> {
        let mut content = self.living()?;
        written.apply(&mut content.seen);
        content.unsynced.push(written);
        assert!(content.seen.len() as u64 <= LENGTH_LIMIT, "the database grows without a bound");
        self.count(content)
    }

    /// Stays in a write that a crash was set for until the crash.
    fn count(&self, mut content: MutexGuard<'_, Content>) -> io::Result<()> {
        content.crash_in = match content.crash_in {
            Some(0) => {
                self.storage.struck.notify_one();
                let alive = |content: &mut Content| content.life == self.number;
                drop(self.storage.over.wait_timeout_while(content, CRASHES_WITHIN, alive).unwrap());
                return Err(io::Error::other("the computer has crashed"));
            }
            count => count.map(|count| count - 1),
        };
        Ok(())
    }
}

impl Disk for Life {
    fn length(&self) -> io::Result<u64> {
        Ok(self.living()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let (content, offset) = (self.living()?, offset as usize);
        let found = content.seen.get(offset..offset + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Written::Bytes(offset as usize, bytes.to_vec()))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(Written::Length(length as usize))
    }

    fn sync(&self) -> io::Result<()> {
        self.count(self.living()?)?;
        let mut content = self.living()?;
        let content = &mut *content;
        content.unsynced.drain(..).for_each(|written| written.apply(&mut content.safe));
        Ok(())
    }
}
