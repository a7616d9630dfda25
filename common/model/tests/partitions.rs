//! Real networks divide into parts of nearly equal cost: what a distributed step gains is bounded by its largest part.
#![allow(clippy::unwrap_used)]

use asyncdiff_model::families::{DenoiserConfig, DenoiserProgram, DenoiserShape, build};
use asyncdiff_plan::{CutShape, Ownership, Partition};
use serde_json::{Value, json};

/// The largest part's share over the mean.
const IMBALANCE_MAX: f64 = 1.03;

const TOKENS: u32 = 77;

/// Published configurations, as far as they differ from diffusers' defaults, with the latents that they are made for; and the network of the
/// benchmarks.
fn networks() -> [(&'static str, u32, Value); 4] {
    let four_blocks = |channels: [u32; 4], more: Value| {
        let down = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"];
        let up = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"];
        let config = json!({"block_out_channels": channels, "down_block_types": down, "up_block_types": up});
        merged(config, more)
    };
    let stable_diffusion = [320, 640, 1280, 1280];
    let sd21 =
        json!({"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true});
    let sdxl = json!({
        "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": true,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816
    });
    let benchmark =
        json!({"cross_attention_dim": 256, "attention_head_dim": [2, 4, 8, 8], "use_linear_projection": true});
    [
        ("Stable Diffusion 1.5, 512", 64, four_blocks(stable_diffusion, json!({"cross_attention_dim": 768}))),
        ("Stable Diffusion 2.1, 768", 96, four_blocks(stable_diffusion, sd21)),
        ("Stable Diffusion XL, 1024", 128, sdxl),
        ("benchmark, 256", 32, four_blocks([64, 128, 256, 256], benchmark)),
    ]
}

fn merged(mut config: Value, more: Value) -> Value {
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn program(side: u32, config: &Value) -> DenoiserProgram {
    let config = merged(json!({"_class_name": "UNet2DConditionModel"}), config.clone());
    let config = DenoiserConfig::from_json(&config.to_string()).unwrap();
    build(&config, &DenoiserShape { height: side, width: side, tokens: TOKENS }).unwrap()
}

#[test]
fn up_to_four_equal_workers_get_nearly_equal_parts() {
    for (name, side, config) in networks() {
        let program = program(side, &config).program;
        let costs: Vec<f64> = program.layers.iter().map(|layer| layer.flops as f64).collect();
        for shape in [CutShape::Contiguous, CutShape::Nested] {
            for workers in 1..=4 {
                let partition = Partition::balanced(&program, &costs, &vec![1.0; workers], shape).unwrap();
                let parts = partition.component_costs(&costs);
                let mean = parts.iter().sum::<f64>() / workers as f64;
                let largest = parts.iter().copied().fold(0.0, f64::max) / mean;
                let megabytes = partition.crossing_row_bytes(&program) as f64 / 1e6;
                println!("{name}, {shape:?}, {workers}: {largest:.4} of the mean, {megabytes:.1} MB per row cross");
                assert!(largest <= IMBALANCE_MAX, "{name}, {shape:?}, {workers} workers: {largest:.4} of the mean");
            }
        }
    }
}

/// Where the modules of a partition file are blocks, as in the published splits, all layers below them are meant.
#[test]
fn a_block_or_a_transformer_is_named_as_before_it_was_divided() {
    for (name, side, config) in networks() {
        let program = program(side, &config).program;
        let modules = ["conv_in", "down_blocks", "mid_block.resnets.0", "mid_block.attentions.0"];
        let rest = ["mid_block.resnets.1", "up_blocks", "conv_norm_out", "conv_out"];
        let lists = [&modules[..], &rest[..]].map(|list| list.iter().map(|&name| name.to_owned()).collect());
        let partition = Partition::from_modules(&program, &lists).unwrap();
        let below = |name: &str| name.starts_with("mid_block.attentions.0.");
        let layers: Vec<_> = program.owned_layers().filter(|(_, layer)| below(&layer.name)).collect();
        assert!(layers.len() >= 5, "{name}: {}", layers.len());
        assert!(layers.iter().all(|&(layer, _)| partition.owner(layer).unwrap().0 == 0), "{name}");
    }
}

/// A component computes the keys and values of its own cross attentions and no others.
#[test]
fn every_cross_attention_has_a_constant_layer_of_its_own() {
    let (_, side, config) = &networks()[2];
    let program = program(*side, config).program;
    let contexts = program.layers().filter(|(_, layer)| layer.name.ends_with(".attn2.context"));
    let contexts: Vec<_> = contexts.map(|(id, layer)| (id, layer.ownership)).collect();
    // Down, middle and up: 2 and 3 attentions of 2 and of 10 blocks, and one of 10.
    assert_eq!(contexts.len(), (2 + 3) * (2 + 10) + 10);
    assert!(contexts.iter().all(|&(id, ownership)| ownership == Ownership::Shared && program.is_constant(id)));
    let attention = program.find("mid_block.attentions.0.transformer_blocks.3.attn2").unwrap();
    let needed = program.with_shared(&[attention]);
    assert_eq!(needed.len(), 2, "the attention and its context");
}
