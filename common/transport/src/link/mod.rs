//! A link: what joins two processes, whatever carries it.
//!
//! ```text
//!   LinkSender ──► control queue ──►┐            ┌──► ControlReceiver   (frames in order)
//!              ──► tensor queue  ──►┤  carrier   ├──► TensorReceiver    (frames in any order)
//!                                   └─ admission ┘
//! ```
//!
//! A carrier (in-process, faulty, QUIC) moves frames from one end's queues to the other's. Everything that must hold
//! for every carrier (bounds, admission before allocation, counters, who hears what when a link closes) is here, and
//! the conformance suite checks it.

mod admission;
mod carrier;
mod close;
mod core;
mod counters;
mod frame;
mod kind;
mod receiver;
mod sender;

pub use admission::{Admission, AdmitEverything, Refusal};
pub(crate) use carrier::{Admitted, DRAIN_DEADLINE, Delivery, Incoming, Outgoing, Pump, pump};
pub use close::{CloseReason, Farewell, Misbehaviour};
pub(crate) use core::Core;
pub use counters::LinkCounters;
pub use frame::{HEADER_LIMIT_BYTES, TensorFrame};
pub(crate) use frame::{LENGTH_BYTES, OutgoingTensor, decode_header};
pub use kind::LinkKind;
pub use receiver::{ControlReceiver, Link, TensorReceiver};
pub(crate) use receiver::{open, open_end};
pub use sender::{LinkError, LinkSender};
