//! Strict TOML configuration: what the defaults do not know is refused, and every message names file, line and key.
//!
//! ```text
//!   default.toml (embedded) ──┐
//!                             ├── Settings ── duration("cluster.lost_after"), bytes(…), text(…) ──► typed configuration
//!   the operator's file ──────┘
//! ```
//!
//! The embedded file is the only source of defaults: a key that it lacks does not exist.

mod document;
mod error;
mod nearest;
mod settings;
mod units;

pub use error::SettingsError;
pub use nearest::nearest;
pub use settings::Settings;
pub use units::{format_bytes, format_seconds, parse_bytes, parse_duration};
