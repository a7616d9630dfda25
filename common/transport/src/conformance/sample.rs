//! What tests send, and how they wait.

use std::time::Duration;

use asyncdiff_common::wire::{DType, TensorHeader, TensorName};
use asyncdiff_plan::{Epoch, JobId, StepIndex};
use bytes::Bytes;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::link::TensorFrame;

/// Longer than any test takes on a busy machine, so that only what hangs fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// Fails what hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("took longer than the deadline of tests")
}

/// Waits until a condition holds that nothing announces.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Bytes that repeat for a seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut noise = vec![0; bytes];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut noise);
    noise.into()
}

/// A tensor of bytes, told from others by its number.
pub(crate) fn tensor(number: u32, bytes: usize) -> TensorFrame {
    let header = TensorHeader {
        job: JobId(1),
        epoch: Epoch(1),
        name: TensorName::Latents(StepIndex(number)),
        shape: vec![1, bytes as u32],
        dtype: DType::U8,
        delta: None,
        part: None,
    };
    TensorFrame { header, payload: noise(u64::from(number), bytes) }
}
