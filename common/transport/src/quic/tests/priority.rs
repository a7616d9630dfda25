//! What waits for what on one connection.

use asyncdiff_common::wire::TensorName;
use bytes::Bytes;

use super::{Cluster, join_openly};
use crate::conformance::{noise, tensor, within};
use crate::link::TensorFrame;

/// Bytes of a parameter, many times what a connection has in flight.
const PARAMETER_BYTES: usize = 64 << 20;

#[tokio::test]
async fn what_a_job_sends_overtakes_parameters() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
    let (sending, mut receiving) = join_openly(&a, &b).await;
    let payload: Bytes = noise(1, PARAMETER_BYTES);
    let parameters = (0..4_u8).map(|number| {
        let mut frame = TensorFrame { payload: payload.clone(), ..tensor(0, 0) };
        frame.header.shape = vec![1, PARAMETER_BYTES as u32];
        frame.header.name = TensorName::Weight([number; 32]);
        frame
    });
    let urgent = tensor(8, 64 << 10);
    for frame in parameters {
        sending.sender.send_tensor(frame).await.unwrap();
    }
    sending.sender.send_tensor(urgent).await.unwrap();
    let mut arrived = Vec::new();
    for _ in 0..5 {
        arrived.push(within(receiving.tensors.tensor()).await.unwrap().header.name);
    }
    assert!(matches!(arrived[0], TensorName::Latents(_)), "{arrived:?}");
}
