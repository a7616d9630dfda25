//! The CLIP text encoder against what transformers computed.
#![allow(clippy::unwrap_used)]

mod golden_parts;

use asyncdiff_model::ModelError;
use asyncdiff_model::checkpoint::{Checkpoint, Weights};
use asyncdiff_model::kernels::Kernels;
use asyncdiff_model::text_encoder::{ClipTextConfig, ClipTextEncoder};
use asyncdiff_model::tokenizer::{ClipTokenizer, TokenizerFiles};
use candle_core::Device;
use golden_parts::{GoldenParts, TOLERANCE, demo_model, relative_error};

const PARTS: [&str; 2] = ["clip_text_quick_gelu", "clip_text_gelu"];

fn config(golden: &GoldenParts, part: &str) -> ClipTextConfig {
    ClipTextConfig::from_json("text_encoder/config.json", &golden.config(part)).unwrap()
}

fn both_kernel_sets() -> [Kernels; 2] {
    [Kernels::for_device(&Device::Cpu), Kernels::reference(&Device::Cpu)]
}

#[test]
fn hidden_states_and_projection_agree_with_transformers() {
    let golden = GoldenParts::open();
    for part in PARTS {
        let tokens = golden.token_ids(&format!("{part}/input_ids"), [2, 77]);
        let expected = |name: &str, shape: &[usize]| golden.tensor(&format!("{part}/{name}"), shape);
        for kernels in both_kernel_sets() {
            let encoder = ClipTextEncoder::new(&config(&golden, part), 77, &golden.weights(), &kernels).unwrap();
            let encoding = encoder.encode(&tokens).unwrap();
            let projected = encoding.projected.unwrap();
            let pairs = [
                (&encoding.last_hidden_state, expected("last_hidden_state", &[2, 77, 32])),
                (&encoding.penultimate, expected("penultimate", &[2, 77, 32])),
                (&projected, expected("text_embeds", &[2, 24])),
            ];
            for (index, (found, expected)) in pairs.iter().enumerate() {
                let error = relative_error(found, expected);
                assert!(error <= TOLERANCE, "{part}, output {index}: {error:e}");
            }
        }
    }
}

#[test]
fn the_encoder_asks_for_exactly_the_checkpoints_parameters() {
    let golden = GoldenParts::open();
    for part in PARTS {
        let specs = config(&golden, part).weight_specs();
        let mut names: Vec<_> = specs.into_iter().map(|spec| (spec.name, spec.shape)).collect();
        names.sort();
        assert_eq!(names, golden.parameters(part));
    }
}

#[test]
fn the_demo_models_encoder_loads_from_names_without_their_prefix_and_encodes_a_caption() {
    let checkpoint = Checkpoint::folder(&demo_model()).unwrap();
    let config_text = checkpoint.text("text_encoder/config.json").unwrap();
    let config = ClipTextConfig::from_json("text_encoder/config.json", &config_text).unwrap();
    let weights = checkpoint.weights("text_encoder").unwrap();
    assert!(config.weight_specs().iter().all(|spec| weights.contains(&spec.name)));
    let encoder = ClipTextEncoder::new(&config, 77, &weights, &Kernels::for_device(&Device::Cpu)).unwrap();
    let tokenizer = ClipTokenizer::new(&TokenizerFiles::read(&checkpoint, "tokenizer").unwrap()).unwrap();
    let prompt = tokenizer.encode("a red circle on a white background").unwrap();
    let encoding = encoder.encode(&[prompt.ids]).unwrap();
    assert_eq!(encoding.last_hidden_state.dims(), [1, 77, 128]);
    assert!(encoding.projected.is_none());
    let mean_square = encoding.last_hidden_state.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(mean_square.is_finite() && mean_square > 0.01, "{mean_square}");
}

#[test]
fn tokens_that_do_not_fit_are_refused() {
    let golden = GoldenParts::open();
    let config = config(&golden, PARTS[0]);
    let encoder = ClipTextEncoder::new(&config, 2, &golden.weights(), &Kernels::for_device(&Device::Cpu)).unwrap();
    let unknown = encoder.encode(&[vec![0, 64]]).unwrap_err();
    assert!(matches!(unknown, ModelError::UnknownToken { token: 64, vocabulary: 64 }), "{unknown}");
    for tokens in [vec![], vec![vec![]], vec![vec![0; 3]], vec![vec![0; 3], vec![0; 4]]] {
        let error = encoder.encode(&tokens).unwrap_err();
        assert!(matches!(error, ModelError::ShapeMismatch { .. }), "{error}");
    }
}
