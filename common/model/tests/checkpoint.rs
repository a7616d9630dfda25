//! Checkpoints in folders and in memory: what is found, and what is said about what is not.
#![allow(clippy::unwrap_used)]

mod golden_parts;

use std::fs;
use std::path::Path;

use asyncdiff_model::checkpoint::{
    Checkpoint, CheckpointError, FormulaWeights, HubSettings, SafetensorsWeights, StoredTensor, Weights, WeightsError,
};
use candle_core::Device;
use golden_parts::demo_model;
use tempfile::TempDir;

static EMBEDDED: [(&str, &[u8]); 2] = [
    ("model_index.json", br#"{"_class_name": "StableDiffusionPipeline"}"#),
    (
        "vae/diffusion_pytorch_model.safetensors",
        include_bytes!("../../../coordinator/demo-model/model/vae/diffusion_pytorch_model.safetensors"),
    ),
];

fn no_hub() -> Result<HubSettings, CheckpointError> {
    panic!("a folder needs no hub")
}

/// The tensors of a file: names, and for each the values of its one axis.
type Tensors<'a> = [(&'a str, &'a [f32])];

/// A checkpoint with an index and these files of weights.
fn checkpoint_with(files: &[(&str, &Tensors)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model_index.json"), r#"{"_class_name": "StableDiffusionPipeline"}"#).unwrap();
    for (file, tensors) in files {
        write_file(&folder.path().join(file), &safetensors(tensors));
    }
    folder
}

fn write_file(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let stored: Vec<StoredTensor> = tensors.iter().map(|(_, values)| StoredTensor::from_f32(vec![], values)).collect();
    let views = tensors.iter().zip(&stored).map(|((name, values), stored)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![values.len()], &stored.bytes);
        ((*name).to_owned(), view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn first(weights: &dyn Weights, name: &str) -> f32 {
    weights.tensor(name, &[1], &Device::Cpu).unwrap().to_vec1::<f32>().unwrap()[0]
}

#[test]
fn a_folder_and_the_embedded_files_give_the_same_tensors() {
    let folder = Checkpoint::open_with(demo_model().to_str().unwrap(), no_hub).unwrap();
    let embedded = Checkpoint::embedded(&EMBEDDED).unwrap();
    assert_eq!((folder.pipeline(), embedded.name().as_str()), ("StableDiffusionPipeline", "the embedded model"));
    let (mapped, included) = (folder.weights("vae").unwrap(), embedded.weights("vae").unwrap());
    assert_eq!(mapped.names(), included.names());
    let name = "decoder.conv_in.weight";
    let (one, two) = (mapped.stored(name, &[96, 4, 3, 3]).unwrap(), included.stored(name, &[96, 4, 3, 3]).unwrap());
    assert_eq!(one, two);
    assert_eq!(one.digest(), *blake3::hash(&two.bytes).as_bytes());
    assert_eq!(one.bytes.len(), 96 * 4 * 9 * 2);
}

#[test]
fn full_precision_is_preferred_and_half_is_taken_where_there_is_nothing_else() {
    let both = checkpoint_with(&[
        ("unet/diffusion_pytorch_model.safetensors", &[("a", &[1.0])]),
        ("unet/diffusion_pytorch_model.fp16.safetensors", &[("a", &[2.0])]),
        ("text_encoder/model.fp16.safetensors", &[("a", &[3.0])]),
    ]);
    let checkpoint = Checkpoint::folder(both.path()).unwrap();
    assert_eq!(first(&checkpoint.weights("unet").unwrap(), "a"), 1.0);
    assert_eq!(first(&checkpoint.weights("text_encoder").unwrap(), "a"), 3.0);
}

#[test]
fn shards_are_joined_by_their_index() {
    let folder = checkpoint_with(&[
        ("unet/part-1.safetensors", &[("a", &[1.0])]),
        ("unet/part-2.safetensors", &[("b", &[2.0]), ("c", &[3.0])]),
    ]);
    let index = folder.path().join("unet/diffusion_pytorch_model.safetensors.index.json");
    let map = r#"{"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors", "c": "part-2.safetensors"}}"#;
    fs::write(&index, map).unwrap();
    let checkpoint = Checkpoint::folder(folder.path()).unwrap();
    let weights = checkpoint.weights("unet").unwrap();
    assert_eq!((first(&weights, "a"), first(&weights, "c")), (1.0, 3.0));

    fs::write(&index, r#"{"weight_map": {"a": "../../secret.safetensors"}}"#).unwrap();
    assert!(matches!(checkpoint.weights("unet"), Err(CheckpointError::OutsidePath { .. })));
    fs::write(&index, r#"{"weight_map": {"a": "part-3.safetensors"}}"#).unwrap();
    assert!(matches!(checkpoint.weights("unet"), Err(CheckpointError::MissingFile { .. })));
    fs::write(&index, r#"{"weight_map": ["a"]}"#).unwrap();
    assert!(matches!(checkpoint.weights("unet"), Err(CheckpointError::Config(_))));
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let shard = || safetensors(&[("a", &[1.0])]).into();
    let result = SafetensorsWeights::from_shards(vec![("one".to_owned(), shard()), ("two".to_owned(), shard())]);
    assert!(matches!(result, Err(WeightsError::Damaged { file, .. }) if file == "two"));
}

#[test]
fn what_is_no_checkpoint_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| Checkpoint::folder(path).err().unwrap().to_string();
    assert!(message(folder.path()).contains("found an empty folder"));
    write_file(&folder.path().join("sd.safetensors"), b"");
    assert!(message(folder.path()).contains("found sd.safetensors"));
    assert!(message(&folder.path().join("sd.safetensors")).contains("must be converted"));
    let nothing = Checkpoint::open_with("/no/such/folder", no_hub).err().unwrap();
    assert!(matches!(&nothing, CheckpointError::NotFound { name } if name == "/no/such/folder"));
    assert!(nothing.to_string().contains("hint:"));
}

#[test]
fn an_unsupported_pipeline_is_named_with_what_is_supported() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model_index.json"), r#"{"_class_name": "FluxPipeline"}"#).unwrap();
    let message = Checkpoint::folder(folder.path()).err().unwrap().to_string();
    assert!(message.contains("FluxPipeline") && message.contains("supported is StableDiffusionPipeline"), "{message}");
    fs::write(folder.path().join("model_index.json"), "not json").unwrap();
    assert!(matches!(Checkpoint::folder(folder.path()), Err(CheckpointError::Config(_))));
}

#[test]
fn missing_files_and_pickles_are_told_apart() {
    let folder = checkpoint_with(&[]);
    let checkpoint = Checkpoint::folder(folder.path()).unwrap();
    assert!(matches!(checkpoint.text("unet/config.json"), Err(CheckpointError::MissingFile { .. })));
    assert!(matches!(checkpoint.weights("unet"), Err(CheckpointError::MissingFile { .. })));
    write_file(&folder.path().join("unet/diffusion_pytorch_model.bin"), b"pickle");
    let error = checkpoint.weights("unet").err().unwrap();
    assert!(matches!(&error, CheckpointError::NoSafetensors { found, .. } if found.ends_with(".bin")), "{error}");
    write_file(&folder.path().join("unet/config.json"), &[0xff, 0xfe]);
    assert!(matches!(checkpoint.text("unet/config.json"), Err(CheckpointError::Config(_))));
}

#[test]
fn damaged_files_are_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let whole = safetensors(&[("a", &[1.0, 2.0]), ("b", &[3.0])]);
    let header = |header: &str, data: usize| {
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], header.as_bytes(), &vec![0; data]].concat()
    };
    let a = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let cases = [
        ("empty", vec![]),
        ("cut in the header", whole[..20].to_vec()),
        ("cut in the data", whole[..whole.len() - 1].to_vec()),
        ("too long", [&whole[..], &[0]].concat()),
        ("a header of 2^63 bytes", [&(1u64 << 63).to_le_bytes()[..], &whole].concat()),
        ("no json", header("hello", 0)),
        ("overlapping", header(&format!(r#"{{{a},"b":{{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}}}"#), 12)),
        ("beyond the end", header(&format!("{{{a}}}"), 4)),
        ("shape and length differ", header(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8)),
        (
            "overflowing shape",
            header(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0),
        ),
        ("an axis beyond 32 bits", header(r#"{"a":{"dtype":"F32","shape":[8589934592,0],"data_offsets":[0,0]}}"#, 0)),
        ("unknown type", header(r#"{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}"#, 8)),
    ];
    for (what, content) in cases {
        fs::write(&path, content).unwrap();
        let error = SafetensorsWeights::open(&path).err().unwrap_or_else(|| panic!("{what} was accepted"));
        assert!(matches!(&error, WeightsError::Damaged { file, .. } if *file == path.display().to_string()), "{what}");
    }
    assert!(matches!(SafetensorsWeights::open(&folder.path().join("none")), Err(WeightsError::Io { .. })));
}

#[test]
fn wrong_shapes_types_and_names_are_told_with_the_file() {
    let integers = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![1], &[0; 8]).unwrap();
    let odd = safetensors::tensor::TensorView::new(safetensors::Dtype::I16, vec![1], &[0; 2]).unwrap();
    let file = safetensors::serialize([("ids", integers), ("odd", odd)], None).unwrap();
    let weights = SafetensorsWeights::from_bytes("some.safetensors", file.into()).unwrap();
    let error = |name: &str, shape: &[usize]| weights.tensor(name, shape, &Device::Cpu).unwrap_err();
    assert!(matches!(error("ids", &[2]), WeightsError::ShapeMismatch { source_name, expected, found, .. }
        if source_name == "some.safetensors" && expected == [2] && found == [1]));
    assert!(matches!(error("ids", &[1]), WeightsError::NoFloat { dtype, .. } if dtype == "I64"));
    assert!(matches!(error("odd", &[1]), WeightsError::NoFloat { dtype, .. } if dtype == "I16"));
    assert!(matches!(error("none", &[1]), WeightsError::Missing { name, .. } if name == "none"));
}

#[test]
fn formula_weights_can_be_sent_like_stored_ones() {
    let weights = FormulaWeights { seed: 7 };
    let tensor = weights.tensor("a.weight", &[4], &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
    let expected = [1.1129, 1.1110, 1.0226, 0.9639];
    assert!(tensor.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-4), "{tensor:?}");
    assert_eq!(weights.stored("a.weight", &[4]).unwrap(), StoredTensor::from_f32(vec![4], &tensor));
}
