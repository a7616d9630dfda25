//! What coordinator and worker share: the wire's messages and their encoding, configuration, telemetry.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod codec;
pub mod config;
pub mod device_span;
pub mod exit;
pub mod heap;
pub mod owned_task;
pub mod system;
pub mod telemetry;
pub mod wire;
