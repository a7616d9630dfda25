//! The VAE against what diffusers computed.
#![allow(clippy::unwrap_used)]

mod golden_parts;

use std::collections::HashMap;

use asyncdiff_model::ModelError;
use asyncdiff_model::checkpoint::{Checkpoint, MapWeights, SafetensorsWeights, StoredTensor, Weights, WeightsError};
use asyncdiff_model::formula;
use asyncdiff_model::kernels::Kernels;
use asyncdiff_model::vae::{VaeConfig, VaeDecoder, VaeEncoder, to_rgb8};
use candle_core::{Device, Tensor};
use golden_parts::{GoldenParts, TOLERANCE, demo_model, relative_error};

fn golden_config(golden: &GoldenParts) -> VaeConfig {
    VaeConfig::from_json("vae/config.json", &golden.config("vae")).unwrap()
}

fn input(golden: &GoldenParts, key: &str, shape: &[usize]) -> Tensor {
    let values = formula::noise(&format!("inputs/{key}"), shape, golden.seed());
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn demo_config(checkpoint: &Checkpoint) -> VaeConfig {
    VaeConfig::from_json("vae/config.json", &checkpoint.text("vae/config.json").unwrap()).unwrap()
}

#[test]
fn decoding_agrees_with_diffusers() {
    let golden = GoldenParts::open();
    let latents = input(&golden, "vae_latents", &[1, 4, 6, 8]);
    for kernels in [Kernels::for_device(&Device::Cpu), Kernels::reference(&Device::Cpu)] {
        let decoder = VaeDecoder::new(&golden_config(&golden), [6, 8], &golden.weights(), &kernels).unwrap();
        let image = decoder.decode(&latents).unwrap();
        let error = relative_error(&image, &golden.tensor("vae/decode", &[1, 3, 48, 64]));
        assert!(error <= TOLERANCE, "{error:e}");
    }
}

#[test]
fn encoding_agrees_with_diffusers() {
    let golden = GoldenParts::open();
    let image = input(&golden, "vae_image", &[1, 3, 48, 64]);
    for kernels in [Kernels::for_device(&Device::Cpu), Kernels::reference(&Device::Cpu)] {
        let encoder = VaeEncoder::new(&golden_config(&golden), [48, 64], &golden.weights(), &kernels).unwrap();
        let encoded = encoder.encode(&image).unwrap();
        let mean = relative_error(&encoded.mean, &golden.tensor("vae/encode_mean", &[1, 4, 6, 8]));
        let variance = relative_error(&encoded.log_variance, &golden.tensor("vae/encode_logvar", &[1, 4, 6, 8]));
        assert!(mean <= TOLERANCE && variance <= TOLERANCE, "{mean:e}, {variance:e}");
    }
}

#[test]
fn both_halves_together_ask_for_exactly_the_checkpoints_parameters() {
    let golden = GoldenParts::open();
    let config = golden_config(&golden);
    let mut specs = config.encoder_weight_specs();
    specs.extend(config.decoder_weight_specs());
    let mut names: Vec<_> = specs.into_iter().map(|spec| (spec.name, spec.shape)).collect();
    names.sort();
    assert_eq!(names, golden.parameters("vae"));
}

/// A safetensors file of some tensors, as bytes.
fn file_of(tensors: &HashMap<String, (Vec<usize>, StoredTensor)>) -> Vec<u8> {
    let view = |(shape, stored): &(Vec<usize>, StoredTensor)| {
        safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            shape.clone(),
            Box::leak(stored.bytes.to_vec().into_boxed_slice()),
        )
        .unwrap()
    };
    safetensors::serialize(tensors.iter().map(|(name, tensor)| (name.clone(), view(tensor))), None).unwrap()
}

/// The parameters of the golden decoder, each renamed.
fn decoder_tensors(
    golden: &GoldenParts,
    rename: impl Fn(&str) -> String,
) -> HashMap<String, (Vec<usize>, StoredTensor)> {
    let specs = golden_config(golden).decoder_weight_specs();
    let tensor = |spec: asyncdiff_plan::WeightSpec| {
        let shape: Vec<usize> = spec.shape.iter().map(|&axis| axis as usize).collect();
        let stored = golden.weights().stored(&spec.name, &shape).unwrap();
        (rename(&spec.name), (shape, stored))
    };
    specs.into_iter().map(tensor).collect()
}

#[test]
fn the_decoder_loads_from_a_file_in_which_all_other_tensors_are_missing() {
    let golden = GoldenParts::open();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decoder.safetensors");
    std::fs::write(&path, file_of(&decoder_tensors(&golden, str::to_owned))).unwrap();
    let weights = SafetensorsWeights::open(&path).unwrap();
    let (config, kernels) = (golden_config(&golden), Kernels::for_device(&Device::Cpu));
    assert!(VaeDecoder::new(&config, [6, 8], &weights, &kernels).is_ok());
    let error = VaeEncoder::new(&config, [48, 64], &weights, &kernels).err().unwrap();
    let ModelError::Weights(WeightsError::Missing { source_name, name }) = error else { panic!("{error}") };
    assert_eq!(name, "encoder.conv_in.weight");
    assert_eq!(source_name, path.display().to_string());
}

#[test]
fn the_attention_names_of_old_checkpoints_are_understood() {
    let golden = GoldenParts::open();
    let old_name = |name: &str| {
        let attention = name.contains("attentions");
        let pairs = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
        pairs.iter().fold(name.to_owned(), |name, (new, old)| if attention { name.replace(new, old) } else { name })
    };
    let mut tensors = decoder_tensors(&golden, old_name);
    // Still older ones hold the attention's linear layers as 1x1 convolutions.
    for (name, (shape, stored)) in &mut tensors {
        if name.ends_with("query.weight") {
            shape.extend([1, 1]);
            stored.shape.extend([1, 1]);
        }
    }
    let weights = SafetensorsWeights::from_bytes("old", file_of(&tensors).into()).unwrap();
    let decoder =
        VaeDecoder::new(&golden_config(&golden), [6, 8], &weights, &Kernels::for_device(&Device::Cpu)).unwrap();
    let image = decoder.decode(&input(&golden, "vae_latents", &[1, 4, 6, 8])).unwrap();
    assert!(relative_error(&image, &golden.tensor("vae/decode", &[1, 3, 48, 64])) <= TOLERANCE);
}

#[test]
fn the_demo_model_shows_a_picture_that_it_encoded() {
    let checkpoint = Checkpoint::folder(&demo_model()).unwrap();
    let (config, weights) = (demo_config(&checkpoint), checkpoint.weights("vae").unwrap());
    let kernels = Kernels::for_device(&Device::Cpu);
    // A red disc on blue, in the colours that the model was trained on.
    let inside = |index: usize| (index / 128).abs_diff(64).pow(2) + (index % 128).abs_diff(64).pow(2) < 30 * 30;
    let plane = |disc: f32, background: f32| {
        (0..128 * 128).map(move |index| 2.0 * if inside(index) { disc } else { background } - 1.0)
    };
    let (red, green, blue) = (plane(0.86, 0.13), plane(0.13, 0.30), plane(0.15, 0.82));
    let pixels: Vec<f32> = red.chain(green).chain(blue).collect();
    let image = Tensor::from_vec(pixels, (1, 3, 128, 128), &Device::Cpu).unwrap();
    let encoded = VaeEncoder::new(&config, [128; 2], &weights, &kernels).unwrap().encode(&image).unwrap();
    assert_eq!(encoded.mean.dims(), [1, 4, 16, 16]);
    let scaled = config.to_denoiser_latents(&encoded.mean).unwrap();
    let latents = config.to_vae_latents(&scaled).unwrap();
    let decoded = VaeDecoder::new(&config, [16; 2], &weights, &kernels).unwrap().decode(&latents).unwrap();
    let (found, expected) = (to_rgb8(&decoded).unwrap(), to_rgb8(&image).unwrap());
    let difference: u64 = found.iter().zip(&expected).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let mean = difference as f64 / found.len() as f64;
    assert!(mean < 12.0, "mean difference {mean} of 255");
}

#[test]
fn weights_that_were_sent_decode_to_the_same_bits_as_those_of_the_file() {
    let checkpoint = Checkpoint::folder(&demo_model()).unwrap();
    let (config, weights) = (demo_config(&checkpoint), checkpoint.weights("vae").unwrap());
    let kernels = Kernels::for_device(&Device::Cpu);
    let sent: MapWeights = config
        .decoder_weight_specs()
        .into_iter()
        .map(|spec| {
            let shape: Vec<usize> = spec.shape.iter().map(|&axis| axis as usize).collect();
            let stored = weights.stored(&spec.name, &shape).unwrap();
            (spec.name, stored)
        })
        .collect();
    let latents =
        Tensor::from_vec(formula::noise("latents", &[1, 4, 16, 16], 1), (1, 4, 16, 16), &Device::Cpu).unwrap();
    let decode = |weights: &dyn Weights| {
        let image = VaeDecoder::new(&config, [16; 2], weights, &kernels).unwrap().decode(&latents).unwrap();
        image.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(decode(&weights), decode(&sent));
}

#[test]
fn an_image_that_does_not_divide_into_latents_is_refused() {
    let golden = GoldenParts::open();
    let (config, kernels) = (golden_config(&golden), Kernels::for_device(&Device::Cpu));
    let odd = VaeEncoder::new(&config, [44, 64], &golden.weights(), &kernels);
    assert!(matches!(odd, Err(ModelError::ShapeMismatch { .. })));
    let encoder = VaeEncoder::new(&config, [48, 64], &golden.weights(), &kernels).unwrap();
    let other = input(&golden, "vae_image", &[1, 3, 40, 64]);
    assert!(matches!(encoder.encode(&other), Err(ModelError::ShapeMismatch { .. })));
}
