//! The worker processes of a soak, and what is done to them.

use std::time::Instant;

use anyhow::Context;
use asyncdiff_common::system::ResidentMemory;

use super::churn::{Act, Population};
use crate::bench::recovery::{Signaller, start_workers};
use crate::local_cluster::LocalCluster;
use crate::worker_processes::WorkerProcesses;

/// A worker process.
struct Member {
    name: String,
    process_id: u32,
    state: State,
    _process: WorkerProcesses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Leaving,
    /// Until it is continued.
    Stopped(Instant),
    Working,
}

/// All of them; the first one is kept to the end.
pub(super) struct Members {
    members: Vec<Member>,
    started: usize,
}

impl Members {
    pub(super) fn start(local: &LocalCluster, count: usize) -> anyhow::Result<Self> {
        let mut members = Self { members: Vec::new(), started: 0 };
        for _worker in 0..count {
            members.join(local)?;
        }
        Ok(members)
    }

    /// The process that is kept.
    pub(super) fn kept(&self) -> u32 {
        self.members[0].process_id
    }

    pub(super) fn population(&mut self) -> Population {
        self.members.retain(|member| is_there(member.process_id));
        let working: Vec<usize> =
            (0..self.members.len()).filter(|&place| self.members[place].state == State::Working).collect();
        let mortal = working.iter().copied().filter(|&place| place > 0).collect();
        Population { mortal, working, processes: self.members.len() }
    }

    /// Does it to whom [`population`](Self::population) had there.
    pub(super) async fn carry_out(&mut self, act: Act, local: &LocalCluster) -> anyhow::Result<()> {
        match act {
            Act::Drain(place) => {
                let member = &mut self.members[place];
                // It may not have joined yet, or be lost for now: then it goes on.
                if local.cluster().drain(&member.name).await? {
                    member.state = State::Leaving;
                }
            }
            Act::Join => self.join(local)?,
            Act::Kill(place) => signal(self.members.remove(place).process_id, "KILL").await?,
            Act::Stop(place, standstill) => {
                let member = &mut self.members[place];
                signal(member.process_id, "STOP").await?;
                member.state = State::Stopped(Instant::now() + standstill);
            }
        }
        Ok(())
    }

    /// Lets those go on that have stood still for long enough.
    pub(super) async fn carry_on(&mut self, now: Instant) -> anyhow::Result<()> {
        for member in &mut self.members {
            if matches!(member.state, State::Stopped(until) if until <= now) {
                signal(member.process_id, "CONT").await?;
                member.state = State::Working;
            }
        }
        Ok(())
    }

    /// When somebody is to go on.
    pub(super) fn next_to_carry_on(&self) -> Option<Instant> {
        let stopped = self.members.iter().filter_map(|member| match member.state {
            State::Stopped(until) => Some(until),
            State::Leaving | State::Working => None,
        });
        stopped.min()
    }

    fn join(&mut self, local: &LocalCluster) -> anyhow::Result<()> {
        self.started += 1;
        let process = start_workers(local, self.started, 1, (&[], &[]))?;
        let started = process.ids().iter().next().map(|(name, id)| (name.clone(), *id));
        let (name, process_id) = started.context("a worker's process has ended at once")?;
        self.members.push(Member { name, process_id, state: State::Working, _process: process });
        Ok(())
    }
}

/// Whether a process is there, and not only its end waits to be noticed.
fn is_there(process_id: u32) -> bool {
    ResidentMemory::of_process(process_id).is_some()
}

async fn signal(process_id: u32, name: &str) -> anyhow::Result<()> {
    Signaller::new(name, process_id)?.send().await
}
