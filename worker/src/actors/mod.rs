//! The worker's actors: who starts whom, and what is lost with whom.
//!
//! ```text
//!   Node (root)                    ends with the process; owns the jobs, the loaded components, the accept loop
//!   ├── ControlSession × 1         the way to the coordinator: dials, greets, beats, dials again; ends only with the Node
//!   ├── PeerLink × n               one per worker that this one sends to; its end is the end of the jobs that need it
//!   └── Component × m              one per assigned component; its failure or panic is its job's end and nothing else's
//! ```
//!
//! Messages:
//!
//! ```text
//!   ControlSession ──► Node        SessionOpened, Request, AskPeer, SessionLost, MayLeave, SessionEnded
//!   Node ──► ControlSession        Send (replies, failures), Leave
//!   PeerLink ──► Node              PeerConnected, PeerLost
//!   Component ──► Node             ComponentLoaded; a failure goes by supervision
//!   device ──► Node ──► Component  JobEnded; a failed layer ends the actor of its component
//!   links' readers ──► device      tensors, past all actors
//!   links' readers ──► requests    arrivals of probes, parameters and news of them, past all actors
//!   links' readers ──► server      what other workers ask for: parameters of the cache and the checkpoint
//! ```
//!
//! A handler never waits: what takes time (checking, collecting parameters, dialling, encoding) is a task that an actor owns, which is
//! aborted with it and comes back as a message. Messages left in the mailbox of an ended actor are dropped; nobody waits for
//! an answer to one without a deadline. Actors have no global names, so that many nodes can live in one process.

mod component;
mod control_session;
mod node;
mod peer_link;
mod session_ref;

pub(crate) use node::{Node, NodeArguments, NodeMessage, PeerState};
pub(crate) use session_ref::SessionRef;
