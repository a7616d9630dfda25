//! What the command line does: one file per command (or per kind of command).

pub(crate) mod bench;
mod follow;
pub(crate) mod join_line;
mod patience;
pub(crate) mod plan;
pub(crate) mod queries;
pub(crate) mod run;
pub(crate) mod serve;
mod signals;
mod store;
pub(crate) mod submit;
pub(crate) mod verify;
