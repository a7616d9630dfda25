//! The boundary that a panic in model code does not pass.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use asyncdiff_common::wire::WorkerFailure;

/// Runs something that may panic; what it was working on must not be used afterwards.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, WorkerFailure>) -> Result<T, WorkerFailure> {
    // Callers drop the job, or whatever else the closure borrowed, when this is an error: nothing half changed is seen again.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(WorkerFailure::Panicked { message: message_of(panic.as_ref()) }))
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    if let Some(message) = panic.downcast_ref::<String>() {
        message.clone()
    } else if let Some(message) = panic.downcast_ref::<&str>() {
        (*message).to_owned()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_failure_with_its_message() {
        let failure = guarded::<()>(|| panic!("layer {} is missing", 3)).unwrap_err();
        assert_eq!(failure, WorkerFailure::Panicked { message: "layer 3 is missing".into() });
    }
}
