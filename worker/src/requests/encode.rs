//! Encoding text: loads the encoder, encodes, sends the hidden states, frees the encoder.

use asyncdiff_common::wire::{DType, PartSpec, WorkerFailure, WorkerReply};
use asyncdiff_model::text_encoder::{ClipTextConfig, ClipTextEncoder};
use asyncdiff_plan::JobId;

use super::{ReplyTensor, RequestResult, Tools};
use crate::failure::model_failure;
use crate::tensor_bytes::{bytes_of, shape_of};

/// Prompts in one request; a batch of images has one each and the negative one.
const PROMPTS_MAX: usize = 128;

/// What is to be encoded.
pub(crate) struct EncodeText {
    pub(crate) job: JobId,
    pub(crate) request: u64,
    pub(crate) tokens: Vec<Vec<u32>>,
    pub(crate) model: PartSpec,
}

pub(crate) async fn encode_text(tools: Tools, order: EncodeText) -> RequestResult {
    let EncodeText { job, request, tokens, model } = order;
    let file = format!("{}/config.json", model.folder);
    let config = ClipTextConfig::from_json(&file, &model.config).map_err(|error| model_failure(error.into()))?;
    check_tokens(&tokens)?;
    let weights = tools.collect(job, &model).await?;
    let count = tokens.first().map_or(0, Vec::len);
    let encode = move |kernels: &_| {
        let encoder = ClipTextEncoder::new(&config, count, &weights, kernels).map_err(model_failure)?;
        let hidden = encoder.encode(&tokens).map_err(model_failure)?.last_hidden_state;
        let elements = hidden.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
        let payload = bytes_of(&elements.map_err(|error| model_failure(error.into()))?);
        Ok(ReplyTensor { shape: shape_of(hidden.dims()), dtype: DType::F32, payload })
    };
    let encoding = tools.device.run(encode).await?;
    tools.send_reply(job, request, encoding).await?;
    Ok(WorkerReply::Encoded)
}

fn check_tokens(tokens: &[Vec<u32>]) -> Result<(), WorkerFailure> {
    let width = tokens.first().map_or(0, Vec::len);
    if tokens.len() > PROMPTS_MAX || width == 0 || tokens.iter().any(|row| row.len() != width) {
        let reason = format!("{} rows of tokens; 1 to {PROMPTS_MAX} of equal length are supported", tokens.len());
        return Err(WorkerFailure::BadAssignment { reason });
    }
    Ok(())
}
