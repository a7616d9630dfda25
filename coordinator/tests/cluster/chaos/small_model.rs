//! A checkpoint so small that thousands of its pictures are made in minutes, and its pictures made in one thread.
//!
//! Only jobs of prompts that end in a picture are kept on disk, so that stories in which the coordinator ends need a text
//! encoder and a VAE. The denoiser is the one of all other tests; parameters follow from a formula.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use asyncdiff_coordinator::{
    ConditionTensor, Conditions, InitialLatents, JobSpec, ModelStore, Product, demo_checkpoint,
    run_replanned_in_process,
};
use asyncdiff_model::checkpoint::{Checkpoint, FormulaWeights};
use asyncdiff_model::families::DenoiserShape;
use asyncdiff_model::formula;
use asyncdiff_model::kernels::Kernels;
use asyncdiff_model::text_encoder::{ClipTextConfig, ClipTextEncoder};
use asyncdiff_model::tokenizer::{ClipTokenizer, TokenizerFiles};
use asyncdiff_model::vae::{VaeConfig, VaeDecoder, to_rgb8};
use asyncdiff_plan::WeightSpec;
use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};

use super::super::support::{golden, tiny_store};

/// Of the formula.
const SEED: u64 = 1;

/// Latents of 64x64 pixels.
const SIDE: u32 = 8;

/// Tokens of a prompt: fewer are less to compute.
const TOKENS: u32 = 16;

pub(super) struct SmallModel {
    pub(super) store: Arc<ModelStore>,
    tokenizer: ClipTokenizer,
    text: ClipTextEncoder,
    vae: VaeConfig,
    decoder: VaeDecoder,
}

/// The model; made once.
pub(super) fn small_model() -> &'static SmallModel {
    static MODEL: OnceLock<SmallModel> = OnceLock::new();
    MODEL.get_or_init(SmallModel::new)
}

impl SmallModel {
    fn new() -> Self {
        let demo = demo_checkpoint().unwrap();
        let text_json = changed(
            &demo.text("text_encoder/config.json").unwrap(),
            &[("hidden_size", 32), ("intermediate_size", 64), ("num_attention_heads", 2), ("num_hidden_layers", 1)],
        );
        let vae_json = demo.text("vae/config.json").unwrap().replace("16,\n    32,\n    64,\n    96", "4, 4, 4, 4");
        let tokenizer_json =
            changed(&demo.text("tokenizer/tokenizer_config.json").unwrap(), &[("model_max_length", TOKENS)]);
        let text_config = ClipTextConfig::from_json("text", &text_json).unwrap();
        let vae = VaeConfig::from_json("vae", &vae_json).unwrap();
        let shape = DenoiserShape { height: SIDE, width: SIDE, tokens: TOKENS };
        let denoiser = tiny_store().program(shape).unwrap();
        let denoiser_specs: Vec<WeightSpec> =
            denoiser.program.layers.iter().flat_map(|layer| layer.weights.iter().cloned()).collect();
        let mut files = vec![
            ("scheduler/scheduler_config.json", golden("scheduler/scheduler_config.json").into_bytes()),
            ("text_encoder/config.json", text_json.into_bytes()),
            ("text_encoder/model.safetensors", parameters(&text_config.weight_specs())),
            ("tokenizer/tokenizer_config.json", tokenizer_json.into_bytes()),
            ("unet/config.json", golden("unet/config.json").into_bytes()),
            ("unet/diffusion_pytorch_model.safetensors", parameters(&denoiser_specs)),
            ("vae/config.json", vae_json.into_bytes()),
            ("vae/diffusion_pytorch_model.safetensors", parameters(&vae.decoder_weight_specs())),
        ];
        for same in ["model_index.json", "tokenizer/tokenizer.json", "tokenizer/special_tokens_map.json"] {
            files.push((same, demo.content(same).unwrap().to_vec()));
        }
        let files: Vec<(&str, &[u8])> = files.into_iter().map(|(path, file)| (path, &*file.leak())).collect();
        let checkpoint = Checkpoint::embedded(files.leak()).unwrap();
        let (kernels, weights) = (Kernels::for_device(&Device::Cpu), FormulaWeights { seed: SEED });
        Self {
            store: Arc::new(ModelStore::open(&checkpoint).unwrap()),
            tokenizer: ClipTokenizer::new(&TokenizerFiles::read(&checkpoint, "tokenizer").unwrap()).unwrap(),
            text: ClipTextEncoder::new(&text_config, TOKENS as usize, &weights, &kernels).unwrap(),
            decoder: VaeDecoder::new(&vae, [SIDE as usize; 2], &weights, &kernels).unwrap(),
            vae,
        }
    }

    /// The pixels of a job that is planned anew after each of these numbers of steps, made in this thread.
    ///
    /// # Shapes
    /// - returns: `[height, width, 3]`
    pub(super) fn pixels(&self, spec: &JobSpec, ranks: usize, replanned_after: &[u32]) -> Result<Vec<u8>, String> {
        let Conditions::Prompt { prompt, negative } = &spec.conditions else { return Err("it has no prompt".into()) };
        let guided = spec.settings.guidance_scale > 1.0;
        let texts = if guided { vec![negative, prompt] } else { vec![prompt] };
        let tokens: Vec<Vec<u32>> = texts.iter().map(|text| self.tokenizer.encode(text).unwrap().ids).collect();
        let hidden = self.text.encode(&tokens).unwrap().last_hidden_state;
        let values = hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let tensor = ConditionTensor { shape: hidden.dims().iter().map(|&axis| axis as u32).collect(), values };
        let spec = JobSpec {
            conditions: Conditions::Tensors(BTreeMap::from([("encoder_hidden_states".to_owned(), tensor)])),
            latents: InitialLatents::Seed(spec.settings.seed),
            settings: spec.settings.clone(),
            product: Product::Latents,
        };
        let denoised = run_replanned_in_process(&self.store, spec, ranks, replanned_after);
        let latents = denoised.map_err(|error| error.to_string())?.latents;
        let latents = Tensor::from_vec(latents, (1, 4, SIDE as usize, SIDE as usize), &Device::Cpu).unwrap();
        let image = self.decoder.decode(&self.vae.to_vae_latents(&latents).unwrap()).unwrap();
        Ok(to_rgb8(&image).unwrap())
    }
}

/// A configuration with some numbers exchanged.
fn changed(json: &str, numbers: &[(&str, u32)]) -> String {
    let mut value: serde_json::Value = serde_json::from_str(json).unwrap();
    for (key, number) in numbers {
        value[*key] = (*number).into();
    }
    value.to_string()
}

/// A file of parameters by formula.
fn parameters(specs: &[WeightSpec]) -> Vec<u8> {
    let values: Vec<(String, Vec<usize>, Vec<u8>)> = specs
        .iter()
        .map(|spec| {
            let shape: Vec<usize> = spec.shape.iter().map(|&axis| axis as usize).collect();
            let values = formula::weight(&spec.name, &shape, SEED);
            (spec.name.clone(), shape, values.into_iter().flat_map(f32::to_le_bytes).collect())
        })
        .collect();
    let views: BTreeMap<&str, TensorView<'_>> = values
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()))
        .collect();
    safetensors::serialize(views, None).unwrap()
}
