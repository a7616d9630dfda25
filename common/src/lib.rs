//! What coordinator and worker share: the wire's messages and their encoding, configuration, telemetry.

pub mod codec;
pub mod wire;
