//! Decoding latents in two phases, so that the decoder loads while the last steps are still being made.

use asyncdiff_common::wire::{DType, PartSpec, WorkerFailure, WorkerReply, byte_count};
use asyncdiff_model::ModelError;
use asyncdiff_model::kernels::Kernels;
use asyncdiff_model::vae::{VaeConfig, VaeDecoder, to_rgb8};
use asyncdiff_plan::{JobId, StepIndex};
use candle_core::Tensor;

use super::{ReplyTensor, Tools};
use crate::failure::model_failure;
use crate::tensor_bytes::{floats_from_bytes, shape_of};

/// Images that are decoded by one request, as many as a batch may have.
const IMAGES_MAX: u32 = 64;

/// Side of the largest latents, as for denoisers.
const LATENT_SIDE_MAX: u32 = 2048;

/// What is to be decoded.
pub(crate) struct DecodeLatents {
    pub(crate) job: JobId,
    pub(crate) request: u64,
    pub(crate) step: StepIndex,
    pub(crate) shape: Vec<u32>,
    pub(crate) model: PartSpec,
}

/// Answers `DecoderReady` by itself, then sends the pixels. A failure after the answer is a second answer: the first one promised a tensor.
pub(crate) async fn decode_latents(tools: Tools, order: DecodeLatents) -> Result<(), WorkerFailure> {
    let (config, decoder) = load(&tools, &order).await?;
    finish(tools, order, config, decoder).await
}

async fn load(tools: &Tools, order: &DecodeLatents) -> Result<(VaeConfig, VaeDecoder), WorkerFailure> {
    let file = format!("{}/config.json", order.model.folder);
    let config = VaeConfig::from_json(&file, &order.model.config).map_err(|error| model_failure(error.into()))?;
    check_shape(&config, &order.shape)?;
    let weights = tools.collect(order.job, &order.model).await?;
    // `check_shape` has seen four axes.
    let size = [2, 3].map(|axis| order.shape.get(axis).copied().unwrap_or_default() as usize);
    let load = move |kernels: &Kernels| {
        let decoder = VaeDecoder::new(&config, size, &weights, kernels).map_err(model_failure)?;
        Ok((config, decoder))
    };
    tools.device.run(load).await
}

async fn finish(
    tools: Tools,
    order: DecodeLatents,
    config: VaeConfig,
    decoder: VaeDecoder,
) -> Result<(), WorkerFailure> {
    let DecodeLatents { job, request, step, shape, .. } = order;
    // Expected before the coordinator hears that it may send.
    let mut awaited = tools.collector.intake.await_latents((job, step), shape.clone());
    tools.session.reply(request, Ok(WorkerReply::DecoderReady));
    let released = || WorkerFailure::Unexpected { reason: "the job was released before its latents came".to_owned() };
    let payload = awaited.payload().await.ok_or_else(released)?;
    let decode = move |kernels: &Kernels| {
        let axes: Vec<usize> = shape.iter().map(|&axis| axis as usize).collect();
        let latents = Tensor::from_vec(floats_from_bytes(&payload), axes, kernels.device()).map_err(ModelError::from);
        latents.and_then(|latents| pixels(&config, &decoder, &latents)).map_err(model_failure)
    };
    let pixels = tools.device.run(decode).await?;
    tools.send_reply(job, request, pixels).await
}

/// # Shapes
/// - `latents`: `[batch, channels, height, width]`
/// - returns: `[batch, pixel_height, pixel_width, 3]`, bytes
fn pixels(config: &VaeConfig, decoder: &VaeDecoder, latents: &Tensor) -> Result<ReplyTensor, ModelError> {
    let images = decoder.decode(&config.to_vae_latents(latents)?)?;
    let (batch, _, height, width) = images.dims4()?;
    let mut bytes = Vec::with_capacity(batch * height * width * 3);
    for index in 0..batch {
        bytes.extend(to_rgb8(&images.narrow(0, index, 1)?)?);
    }
    let axes = shape_of(images.dims());
    let shape = [0, 2, 3].iter().map(|&axis| axes[axis]).chain([3]).collect();
    Ok(ReplyTensor { shape, dtype: DType::U8, payload: bytes.into() })
}

fn check_shape(config: &VaeConfig, shape: &[u32]) -> Result<(), WorkerFailure> {
    let fits = match shape {
        [batch, channels, height, width] => {
            (1..=IMAGES_MAX).contains(batch)
                && *channels as usize == config.latent_channels
                && [height, width].iter().all(|side| (1..=LATENT_SIDE_MAX).contains(*side))
                && byte_count(shape, DType::F32).is_some()
        }
        _ => false,
    };
    let channels = config.latent_channels;
    let reason = || format!("latents of shape {shape:?}; the VAE decodes [batch, {channels}, height, width]");
    if fits { Ok(()) } else { Err(WorkerFailure::BadAssignment { reason: reason() }) }
}
