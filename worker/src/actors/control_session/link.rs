//! An open link to the coordinator with the tasks that read it.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_transport::link::{ControlReceiver, Link, LinkSender};
use ractor::ActorRef;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use super::SessionMessage;
use crate::device::DeviceHandle;
use crate::intake::Intake;
use asyncdiff_common::owned_task::OwnedTask;

/// Control frames that may wait in the actor's mailbox; more wait in the link. Requests are few and their handlers short.
const WAITING_FRAMES: usize = 64;

/// A link to the coordinator; dropping it ends its tasks and closes it.
pub(super) struct OpenLink {
    pub(super) sender: LinkSender,
    tasks: Vec<OwnedTask>,
}

/// To whom the readers of a link give what they read.
pub(super) struct Readers {
    pub(super) number: u64,
    pub(super) session: ActorRef<SessionMessage>,
    pub(super) intake: Arc<Intake>,
    pub(super) device: DeviceHandle,
}

impl OpenLink {
    pub(super) fn new(link: Link, readers: Readers, welcome_deadline: Duration) -> Self {
        let Link { sender, control, tensors } = link;
        let Readers { number, session, intake, device } = readers;
        let overdue = session.clone();
        let tasks = vec![
            OwnedTask::spawn(read_control(control, sender.clone(), number, session)),
            OwnedTask::spawn(async move { intake.read(tensors, &device).await }),
            OwnedTask::spawn(async move {
                tokio::time::sleep(welcome_deadline).await;
                // Fails only when the worker is stopping.
                drop(overdue.cast(SessionMessage::WelcomeOverdue { number }));
            }),
        ];
        Self { sender, tasks }
    }

    /// Begins to remind the actor to beat. The actor itself sends the beat, so that it shows that the actor lives.
    pub(super) fn beat(&mut self, session: &ActorRef<SessionMessage>, number: u64, interval: Duration) {
        let session = session.clone();
        self.tasks.push(OwnedTask::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                if session.cast(SessionMessage::Beat { number }).is_err() {
                    return;
                }
            }
        }));
    }
}

async fn read_control(
    mut control: ControlReceiver,
    sender: LinkSender,
    number: u64,
    session: ActorRef<SessionMessage>,
) {
    let waiting = Arc::new(Semaphore::new(WAITING_FRAMES));
    while let Some(frame) = control.control().await {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&waiting).acquire_owned().await else { return };
        if session.cast(SessionMessage::Frame { number, frame, permit }).is_err() {
            return;
        }
    }
    let reason = sender.closed().await;
    // Fails only when the worker is stopping.
    drop(session.cast(SessionMessage::LinkClosed { number, reason }));
}
