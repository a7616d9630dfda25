//! Making a communicator beside a link, in the background, and watching it as long as the link lives.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use asyncdiff_common::codec;
use asyncdiff_common::wire::ToPeer;
use asyncdiff_transport::WorkerName;
use asyncdiff_transport::link::{Farewell, LinkKind, LinkSender};
use asyncdiff_transport::nccl::{Role, UniqueId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::path::NcclPath;
use super::paths::NcclPaths;

/// How long both ends have to come together. Less than a second is published; a node whose 16 GPUs all join each other takes several.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);

/// How long after it was made a link may go over to shared memory, which is what proves that both are of one host.
const SAME_HOST_WITHIN: Duration = Duration::from_secs(2);

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Answers that may wait: an honest peer gives two.
const ANSWERS: usize = 4;

/// Where the way of a link is, once it is ready.
#[derive(Clone, Debug, Default)]
pub(crate) struct NcclSlot {
    path: Arc<OnceLock<Arc<NcclPath>>>,
    answers: Arc<Mutex<Option<mpsc::Sender<NcclAnswer>>>>,
}

/// What the peer says of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NcclAnswer {
    Joining,
    Ready,
    Refused(String),
}

impl NcclSlot {
    pub(crate) fn path(&self) -> Option<&Arc<NcclPath>> {
        self.path.get()
    }

    /// Tells who offered what the peer says. What nobody asked is not heard.
    pub(crate) fn tell(&self, answer: NcclAnswer) {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answers) = &*answers {
            // Room is for more than an honest peer says.
            let _ = answers.try_send(answer);
        }
    }

    fn listen(&self) -> mpsc::Receiver<NcclAnswer> {
        let (answers, heard) = mpsc::channel(ANSWERS);
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = Some(answers);
        heard
    }
}

/// Offers a communicator to the peer of a link that this worker dialled, if both are of one host, and keeps it until the link has ended.
pub(crate) async fn offer(paths: Arc<NcclPaths>, peer: WorkerName, link: LinkSender, slot: NcclSlot) {
    if paths.check_usable().is_err() || !is_of_one_host(&link).await {
        return;
    }
    let answers = slot.listen();
    match join_offered(&paths, &peer, &link, answers).await {
        Ok(path) => keep(paths, path, link, &slot).await,
        // The link has its own way.
        Err(reason) => tracing::info!(%peer, reason, "hidden states to another worker do not go over NCCL"),
    }
}

/// Joins a communicator that the peer of an accepted link offers, and keeps it until the link has ended.
pub(crate) async fn answer(paths: Arc<NcclPaths>, peer: WorkerName, link: LinkSender, slot: NcclSlot, id: Vec<u8>) {
    let joined = match paths.check_usable() {
        Ok(()) => {
            tell(&link, &ToPeer::NcclJoining);
            match UniqueId::from_bytes(&id) {
                Ok(id) => join(&paths, peer.clone(), id, Role::Receives).await,
                Err(error) => Err(error.to_string()),
            }
        }
        Err(reason) => Err(reason),
    };
    match joined {
        Ok(path) => {
            // Before the peer may send by it.
            let told = link.clone();
            let keeping = keep(paths, path, link, &slot);
            tell(&told, &ToPeer::NcclReady);
            keeping.await;
        }
        Err(reason) => tell(&link, &ToPeer::NcclRefused { reason }),
    }
}

async fn join_offered(
    paths: &Arc<NcclPaths>,
    peer: &WorkerName,
    link: &LinkSender,
    mut answers: mpsc::Receiver<NcclAnswer>,
) -> Result<Arc<NcclPath>, String> {
    // Asks the system for addresses.
    let named = tokio::task::spawn_blocking(UniqueId::make).await.map_err(|error| error.to_string())?;
    let id = named.map_err(|error| error.to_string())?;
    tell(link, &ToPeer::NcclOffered { id: id.as_bytes().to_vec() });
    let deadline = Instant::now() + JOIN_DEADLINE;
    expect(&mut answers, &NcclAnswer::Joining, deadline).await?;
    let path = join(paths, peer.clone(), id, Role::Sends).await?;
    expect(&mut answers, &NcclAnswer::Ready, deadline).await?;
    Ok(path)
}

async fn expect(
    answers: &mut mpsc::Receiver<NcclAnswer>,
    wanted: &NcclAnswer,
    deadline: Instant,
) -> Result<(), String> {
    match tokio::time::timeout_at(deadline, answers.recv()).await {
        Ok(Some(answer)) if answer == *wanted => Ok(()),
        Ok(Some(NcclAnswer::Refused(reason))) => Err(reason),
        Ok(Some(answer)) => Err(format!("the other worker said {answer:?} instead of {wanted:?}")),
        Ok(None) => Err("the link has ended".to_owned()),
        Err(_) => Err(format!("the other worker did not say {wanted:?} within {JOIN_DEADLINE:?}")),
    }
}

/// Joins on a thread of its own. One whose peer never comes stays there and holds nothing but itself.
async fn join(paths: &Arc<NcclPaths>, peer: WorkerName, id: UniqueId, role: Role) -> Result<Arc<NcclPath>, String> {
    let too_many = || "too many communicators are being joined".to_owned();
    let joining = paths.begin_joining().ok_or_else(too_many)?;
    let (told, joined) = oneshot::channel();
    let kernels = paths.kernels().clone();
    let body = move || {
        let joined = NcclPath::join(&kernels, peer, &id, role).map_err(|error| error.to_string());
        drop(joining);
        // Nobody waits any more after the deadline; then it is dropped, which gives it up.
        drop(told.send(joined));
    };
    std::thread::Builder::new().name("nccl-join".to_owned()).spawn(body).map_err(|error| error.to_string())?;
    let late = |_| format!("the other worker did not join within {JOIN_DEADLINE:?}");
    let gone = |_| "the thread that joins has ended".to_owned();
    let path = tokio::time::timeout(JOIN_DEADLINE, joined).await.map_err(late)?.map_err(gone)??;
    let path = Arc::new(path);
    paths.add(&path);
    Ok(path)
}

/// Lets the link's tensors go by a way, and watches both until one ends: then the other ends too.
fn keep(
    paths: Arc<NcclPaths>,
    path: Arc<NcclPath>,
    link: LinkSender,
    slot: &NcclSlot,
) -> impl Future<Output = ()> + use<> {
    tracing::info!(peer = %path.peer(), role = ?path.role(), "hidden states go from GPU to GPU over NCCL");
    // Whoever drops this before the link has ended gives it up too.
    let guard = GiveUp { paths, path: Arc::clone(&path) };
    // A link has one.
    let _ = slot.path.set(Arc::clone(&path));
    async move {
        let reason = loop {
            tokio::select! {
                reason = link.closed() => break reason.to_string(),
                reason = path.ended() => break reason,
                () = tokio::time::sleep(LOOK_AGAIN) => if let Err(error) = path.check() {
                    tracing::warn!(peer = %path.peer(), %error, "a way from GPU to GPU is given up");
                    break error.to_string();
                },
            }
        };
        // NCCL takes a moment to give up.
        let ended = tokio::task::spawn_blocking({
            let reason = reason.clone();
            move || guard.give_up(&reason)
        });
        // A panic would have been printed by its hook.
        let _ = ended.await;
        link.close(Farewell::Failed { reason });
    }
}

/// A way that is given up when this is dropped.
struct GiveUp {
    paths: Arc<NcclPaths>,
    path: Arc<NcclPath>,
}

impl GiveUp {
    fn give_up(&self, reason: &str) {
        self.paths.give_up(&self.path, reason);
    }
}

impl Drop for GiveUp {
    fn drop(&mut self) {
        let (paths, path) = (Arc::clone(&self.paths), Arc::clone(&self.path));
        // NCCL takes a moment, and this may be the actors' thread. Without a thread the communicator is given up when its last user is dropped.
        drop(std::thread::Builder::new().name("nccl-end".to_owned()).spawn(move || {
            paths.give_up(&path, "its link was dropped");
        }));
    }
}

async fn is_of_one_host(link: &LinkSender) -> bool {
    let deadline = Instant::now() + SAME_HOST_WITHIN;
    while link.kind() != LinkKind::SharedMemory {
        if Instant::now() > deadline || link.close_reason().is_some() {
            return false;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    true
}

/// Says something, if there is room: whoever waits for it has a deadline.
fn tell(link: &LinkSender, message: &ToPeer) {
    let sent = codec::encode(message).map(|frame| link.try_send_control(frame.into()));
    if !matches!(sent, Ok(Ok(()))) {
        tracing::debug!(?message, "another worker could not be told");
    }
}
