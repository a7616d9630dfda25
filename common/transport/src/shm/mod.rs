//! Tensors between two processes of one host, through memory that both have mapped.
//!
//! ```text
//!   sender                                                  receiver
//!     own ring (mapped for reading and writing) ◄─ memfd ─► the peer's ring (mapped for reading)
//!     Placed { ticket, offset, header } ─── unix socket ──► payload, in place
//!            ◄─────────────────────────────────────────────  Released { tickets }
//! ```
//!
//! A lane belongs to a QUIC link and carries its tensors, in both directions; control frames and farewells stay on QUIC,
//! and so does a tensor that finds no room. The acceptor names an abstract unix socket and a secret on the encrypted
//! control stream. Abstract sockets belong to a network namespace, so that only a process of the same namespace and
//! kernel finds it: that is what "the same host" means here. If anything about this fails, the link stays on QUIC.
//!
//! What a hostile peer can do is change the bytes of payloads that it has sent. Nothing else is read from shared
//! memory: where a payload lies is said on the socket and checked against the ring; the ring is a sealed memfd, so that it can neither shrink under
//! its reader nor be written by anyone but its owner. Only hidden states are lent in place; whatever is checked after
//! it arrived (a parameter's digest, say) is copied out first.

mod handshake;
mod lane;
mod memory;
mod message;
mod outbox;
mod ring;
mod slots;

#[cfg(test)]
mod tests;

pub(crate) use handshake::{Channel, OFFER_BYTES, Offer, take_up};
pub(crate) use lane::{Lane, LaneReader, open_lane};
pub(crate) use outbox::LaneWriter;
pub use ring::Loan;

/// Bytes of one direction's ring: twice what crosses a contiguous cut of Stable Diffusion 1.5 at 512×512 in two steps,
/// since tensors stay here as long as the receiver reads them. Pages are taken when they are first written, and the lowest
/// free place is always taken first, so that a link pays for the most that it ever had in flight. Both sides know the
/// number: it is part of the wire's version.
pub(crate) const RING_BYTES: usize = 256 << 20;

/// Bytes at the ring's start that parameters and probes may take, which no running job waits for: enough to keep
/// both sides busy, and pages that were once written stay resident. What is larger goes over QUIC.
pub(crate) const COPIED_OUT_BYTES: usize = 16 << 20;

/// Tensors that one direction may have in flight: sent, and not yet let go of by the receiver's user. Twice the skip
/// connections and lanes of two steps.
pub(crate) const TENSORS_IN_FLIGHT: usize = 128;
