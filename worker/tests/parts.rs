//! Text encoding and VAE decoding on a worker equal the same done in one place.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use asyncdiff_common::wire::{DType, PartSpec, TensorName, WorkerFailure, WorkerReply, WorkerRequest};
use asyncdiff_model::checkpoint::Checkpoint;
use asyncdiff_model::formula;
use asyncdiff_model::kernels::Kernels;
use asyncdiff_model::text_encoder::{ClipTextConfig, ClipTextEncoder};
use asyncdiff_model::vae::{VaeConfig, VaeDecoder, to_rgb8};
use asyncdiff_plan::{JobId, StepIndex};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::network::SimulatedNetwork;
use asyncdiff_worker::WorkerConfig;
use candle_core::{Device, Tensor};
use support::fake_coordinator::{FakeCoordinator, floats};
use support::{TestWorker, simulated};

const JOB: JobId = JobId(7);
const LATENTS: [u32; 4] = [1, 4, 16, 16];

fn checkpoint() -> Checkpoint {
    Checkpoint::folder(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../coordinator/demo-model/model"))).unwrap()
}

async fn joined(config: WorkerConfig) -> (FakeCoordinator, TestWorker, PeerName) {
    let hub = SimulatedNetwork::new();
    let mut coordinator = FakeCoordinator::new(&hub);
    let worker = TestWorker::start(&hub, "w0", config);
    let name = coordinator.welcome().await;
    (coordinator, worker, name)
}

fn text_encoder(coordinator: &mut FakeCoordinator) -> (PartSpec, ClipTextConfig) {
    let text = checkpoint().text("text_encoder/config.json").unwrap();
    let config = ClipTextConfig::from_json("text_encoder/config.json", &text).unwrap();
    let weights = checkpoint().weights("text_encoder").unwrap();
    let part = coordinator.weights.part("text_encoder", text, &config.weight_specs(), &weights);
    (part, config)
}

fn vae(coordinator: &mut FakeCoordinator) -> (PartSpec, VaeConfig) {
    let text = checkpoint().text("vae/config.json").unwrap();
    let config = VaeConfig::from_json("vae/config.json", &text).unwrap();
    let weights = checkpoint().weights("vae").unwrap();
    let part = coordinator.weights.part("vae", text, &config.decoder_weight_specs(), &weights);
    (part, config)
}

/// Token ids without meaning, each row ended by the largest.
fn tokens() -> Vec<Vec<u32>> {
    (0..2).map(|row| (0..76).map(|index| (index * 7 + row) % 300).chain([301]).collect()).collect()
}

async fn encode(config: WorkerConfig) -> (Vec<f32>, Vec<f32>, usize) {
    let (mut coordinator, _worker, name) = joined(config).await;
    let (model, clip) = text_encoder(&mut coordinator);
    let body = WorkerRequest::EncodeText { job: JOB, tokens: tokens(), model };
    let request = coordinator.ask(&name, body).await;
    assert_eq!(coordinator.answer(&name, request).await, Ok(WorkerReply::Encoded));
    let frame = coordinator.reply_tensor(&name, request).await;
    let weights = checkpoint().weights("text_encoder").unwrap();
    let encoder = ClipTextEncoder::new(&clip, 77, &weights, &Kernels::for_device(&Device::Cpu)).unwrap();
    let expected = encoder.encode(&tokens()).unwrap().last_hidden_state.flatten_all().unwrap().to_vec1().unwrap();
    (floats(&frame.payload), expected, coordinator.asked_weights)
}

#[tokio::test(start_paused = true)]
async fn text_is_encoded_to_the_bits_of_one_place() {
    let (found, expected, asked) = encode(simulated()).await;
    assert_eq!(found, expected);
    assert!(asked > 0);
}

#[tokio::test]
async fn parameters_of_an_equal_local_checkpoint_are_not_asked_for() {
    let model = Some(concat!(env!("CARGO_MANIFEST_DIR"), "/../coordinator/demo-model/model").to_owned());
    let (found, expected, asked) = encode(WorkerConfig { model, ..simulated() }).await;
    assert_eq!(found, expected);
    assert_eq!(asked, 0);
}

#[tokio::test(start_paused = true)]
async fn latents_are_decoded_to_the_pixels_of_one_place() {
    let (mut coordinator, _worker, name) = joined(simulated()).await;
    let (model, config) = vae(&mut coordinator);
    let step = StepIndex(50);
    let body = WorkerRequest::DecodeLatents { job: JOB, step, shape: LATENTS.to_vec(), model };
    let request = coordinator.ask(&name, body).await;
    assert_eq!(coordinator.answer(&name, request).await, Ok(WorkerReply::DecoderReady));
    let axes = LATENTS.map(|axis| axis as usize);
    let latents = formula::input("latents", &axes, 1);
    coordinator.send(&name, JOB, TensorName::Latents(step), &LATENTS, &latents).await;
    let frame = coordinator.reply_tensor(&name, request).await;
    assert_eq!((frame.header.shape, frame.header.dtype), (vec![1, 128, 128, 3], DType::U8));
    let weights = checkpoint().weights("vae").unwrap();
    let decoder = VaeDecoder::new(&config, [16; 2], &weights, &Kernels::for_device(&Device::Cpu)).unwrap();
    let latents = Tensor::from_vec(latents, axes.as_slice(), &Device::Cpu).unwrap();
    let image = decoder.decode(&config.to_vae_latents(&latents).unwrap()).unwrap();
    assert_eq!(frame.payload, to_rgb8(&image).unwrap());
}

#[tokio::test(start_paused = true)]
async fn latents_of_another_shape_than_the_vae_decodes_are_refused() {
    let (mut coordinator, _worker, name) = joined(simulated()).await;
    let (model, _) = vae(&mut coordinator);
    let body = WorkerRequest::DecodeLatents { job: JOB, step: StepIndex(1), shape: vec![1, 9, 16, 16], model };
    let answer = coordinator.request(&name, body).await;
    assert!(matches!(&answer, Err(WorkerFailure::BadAssignment { reason }) if reason.contains("[1, 9, 16, 16]")));
}

#[tokio::test(start_paused = true)]
async fn a_released_decoder_does_not_wait_any_longer() {
    let (mut coordinator, _worker, name) = joined(simulated()).await;
    let (model, _) = vae(&mut coordinator);
    let body = WorkerRequest::DecodeLatents { job: JOB, step: StepIndex(1), shape: LATENTS.to_vec(), model };
    assert_eq!(coordinator.request(&name, body).await, Ok(WorkerReply::DecoderReady));
    let released = coordinator.request(&name, WorkerRequest::ReleaseJob { job: JOB }).await;
    assert!(matches!(released, Ok(WorkerReply::Released { .. })));
}
