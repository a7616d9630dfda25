//! Who may take part: the cluster's certificate authority, the certificates of its processes, and the lines by which
//! people let them in.
//!
//! ```text
//!   coordinator: StateDir ── ClusterAuthority ── invite() ──► JoinToken (adj1.…) ──► worker: enrol ── JoinedCluster ── StateDir
//!                                             └─ ClientLine (adc1.…) ──► client of the API, pins the authority
//! ```
//!
//! Keys never leave the process that made them. Of a token's secret the coordinator keeps a digest.

mod authority;
mod certificate;
mod client_line;
mod enrolment;
mod limiter;
mod node;
mod pin;
mod random;
mod registry;
mod state_dir;
mod text;
pub(crate) mod tls;
mod token;

pub use authority::ClusterAuthority;
pub(crate) use certificate::name_in;
pub use certificate::{Fingerprint, IdentityError};
pub use client_line::ClientLine;
pub use enrolment::{EnrolRefusal, EnrolRequest, Enrolled};
pub use node::{Identity, JoinedCluster, NodeKey};
pub use random::RandomnessUnavailable;
pub(crate) use random::random_bytes;
pub use registry::{TokenId, TokenStatus};
pub use state_dir::{StateDir, StateDirError};
pub use text::TokenError;
pub use tls::{API_SERVER_NAME, api_client_config};
pub use token::{CoordinatorAddress, JoinToken, Secret};
