//! UNet programs against diffusers: parameters, costs, and what they compute.
#![allow(clippy::unwrap_used)]

mod golden_family;

use std::collections::BTreeMap;

use asyncdiff_model::families::{DenoiserConfig, DenoiserShape, build};
use candle_core::IndexOp;
use golden_family::{FAMILIES, Golden, floats, load_whole, relative_error};
use serde_json::{Value, json};

/// The golden data's own bound; the same semantics in f64 differ by less than a tenth of it.
const TOLERANCE: f32 = 1e-4;

#[test]
fn layers_list_exactly_the_parameters_of_the_checkpoint() {
    for family in FAMILIES {
        let golden = Golden::open(family);
        let program = golden.program().program;
        let mut listed = BTreeMap::new();
        for weight in program.layers.iter().flat_map(|layer| &layer.weights) {
            assert!(
                listed.insert(weight.name.clone(), weight.shape.clone()).is_none(),
                "{} is listed twice",
                weight.name
            );
        }
        assert_eq!(listed, golden.parameters(), "{family}");
    }
}

#[test]
fn the_first_noise_prediction_is_that_of_diffusers() {
    for family in FAMILIES {
        let golden = Golden::open(family);
        let component = load_whole(&golden.program(), &golden);
        let timestep: f64 = golden.tensor("seq/timesteps").i(0).unwrap().to_scalar().unwrap();
        let found = golden.evaluate(&component, golden.tensor("seq/unet_sample_first"), timestep);
        let expected = golden.tensor("seq/noise_pred").i(0).unwrap();
        let error = relative_error(&floats(&found), &floats(&expected));
        assert!(error <= TOLERANCE, "{family}: {error:e}");
    }
}

/// Stable Diffusion 2.1 at 768×768: 4.30 TFLOP for two rows, and the shares of the published two-way split, as counted by
/// an independent tool over the PyTorch model.
#[test]
fn costs_are_those_of_the_real_network() {
    let config = sd21_config(&json!({}));
    let shape = DenoiserShape { height: 96, width: 96, tokens: 77 };
    let program = build(&DenoiserConfig::from_json(&config).unwrap(), &shape).unwrap().program;
    let total = program.layers.iter().map(|layer| layer.flops).sum::<u64>() as f64;
    assert!((2.0 * total / 4.30e12 - 1.0).abs() < 0.01, "{:e} for two rows", 2.0 * total);

    let first: Vec<String> = serde_json::from_value(Golden::open("sd21").runs["components"]["n2"][0].clone()).unwrap();
    let in_first = |name: &str| first.iter().any(|module| name == module || name.starts_with(&format!("{module}.")));
    let share = program.layers.iter().filter(|layer| in_first(&layer.name)).map(|layer| layer.flops).sum::<u64>();
    assert!((share as f64 / total - 0.474).abs() < 0.005, "{}", share as f64 / total);
}

#[test]
fn odd_latent_sizes_come_out_as_they_went_in() {
    for (family, height, width) in [("sd21", 9, 15), ("sd21", 1, 1), ("sd21", 16, 13), ("sdxl", 7, 10)] {
        let golden = Golden::open(family);
        let shape = DenoiserShape { height, width, tokens: 77 };
        let program = build(&golden.config(), &shape).unwrap();
        let component = load_whole(&program, &golden);
        let latents = golden.input("latents", &[2, 4, height as usize, width as usize]);
        let found = golden.evaluate(&component, &latents, 500.0);
        assert_eq!(found.dims(), latents.dims());
        assert!(floats(&found).iter().all(|value| value.is_finite()));
    }
}

#[test]
fn sizes_that_no_program_can_have_are_refused() {
    let config = Golden::open("sd15").config();
    for (height, width, tokens, what) in
        [(0, 8, 77, "latent height"), (8, 4096, 77, "latent width"), (8, 8, 0, "number of tokens")]
    {
        let error = build(&config, &DenoiserShape { height, width, tokens }).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("hint:"), "{error}");
    }
}

#[test]
fn unsupported_options_are_refused_by_name() {
    for (key, value) in [
        ("_class_name", json!("UNetSpatioTemporalConditionModel")),
        ("act_fn", json!("gelu")),
        ("addition_embed_type", json!("text_image")),
        ("addition_time_embed_dim", json!(256)),
        ("attention_head_dim", json!([2, 3])),
        ("attention_head_dim", json!(0)),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!([320, 640, 1280, -1])),
        ("class_embed_type", json!("timestep")),
        ("conv_out_kernel", json!(2)),
        ("cross_attention_dim", json!([1024, 1024, 1024, 768])),
        ("down_block_types", json!(["DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"])),
        ("layers_per_block", json!(1_000_000)),
        ("mid_block_type", json!(null)),
        ("norm_num_groups", json!(33)),
        ("norm_num_groups", json!(null)),
        ("num_class_embeds", json!(1000)),
        ("time_cond_proj_dim", json!(256)),
        ("up_block_types", json!(["UpBlock2D"])),
        ("use_linear_projection", json!("yes")),
    ] {
        let error = DenoiserConfig::from_json(&sd21_config(&json!({ key: value }))).unwrap_err().to_string();
        let found = value.to_string();
        let says_all = error.contains("unet/config.json") && error.contains(key) && error.contains(&found);
        assert!(says_all && error.contains("supported is"), "{key}: {error}");
    }
}

#[test]
fn added_conditions_of_unsupported_widths_are_refused_by_name() {
    for (key, value) in [
        ("addition_embed_type", json!("text")),
        ("addition_time_embed_dim", json!(null)),
        ("addition_time_embed_dim", json!(7)),
        ("addition_time_embed_dim", json!(0)),
        ("projection_class_embeddings_input_dim", json!(null)),
        // Six numbers of 8 sinusoids each leave nothing for the pooled text.
        ("projection_class_embeddings_input_dim", json!(48)),
        ("projection_class_embeddings_input_dim", json!(1_000_000)),
    ] {
        let mut config: Value = serde_json::from_str(&Golden::open("sdxl").text("unet/config.json")).unwrap();
        config[key] = value.clone();
        let error = DenoiserConfig::from_json(&config.to_string()).unwrap_err().to_string();
        assert!(error.contains(&format!("{key} is {value}")) && error.contains("supported is"), "{key}: {error}");
    }
}

#[test]
fn what_a_prompt_alone_decides_is_constant() {
    let program = Golden::open("sdxl").program().program;
    let constant = |name: &str| program.is_constant(program.find(name).unwrap());
    assert!(constant("add_embedding"));
    assert!(!constant("time_embedding"));
}

#[test]
fn text_that_is_no_configuration_is_refused() {
    for text in ["", "[]", "{", "null", "{}"] {
        let error = DenoiserConfig::from_json(text).unwrap_err().to_string();
        assert!(error.contains("unet/config.json"), "{error}");
    }
}

/// Stable Diffusion 2.1's configuration with some keys replaced.
fn sd21_config(replaced: &Value) -> String {
    let mut config: Value = serde_json::from_str(&Golden::open("sd21").text("unet/config.json")).unwrap();
    let real = json!({
        "attention_head_dim": [5, 10, 20, 20],
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 1024,
        "norm_num_groups": 32,
        "sample_size": 96,
    });
    let keys = config.as_object_mut().unwrap();
    for source in [&real, replaced] {
        keys.extend(source.as_object().unwrap().clone());
    }
    config.to_string()
}
