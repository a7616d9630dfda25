//! Components: what they load, what they refuse, and that a split changes no bit.
#![allow(clippy::unwrap_used)]

mod golden_family;

use std::collections::HashMap;

use asyncdiff_model::ModelError;
use asyncdiff_model::checkpoint::{FormulaWeights, SafetensorsWeights, Weights, WeightsError};
use asyncdiff_model::component::{Component, evaluate, measure};
use asyncdiff_model::families::DenoiserProgram;
use asyncdiff_model::kernels::{Kernels, Value};
use asyncdiff_plan::{InputKind, LayerId, Operand};
use candle_core::{Device, Tensor};
use golden_family::{Golden, floats, load, load_whole};

const TIMESTEP: f64 = 917.0;

#[test]
fn a_component_loads_from_a_file_in_which_all_other_tensors_are_missing() {
    let golden = Golden::open("sd21");
    let program = golden.program();
    let layers = owned(&program);
    let part = &layers[10..20];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("part.safetensors");
    write_weights(&program, part, golden.weights(), &file);
    let weights = SafetensorsWeights::open(&file).unwrap();
    let kernels = Kernels::for_device(&Device::Cpu);

    let component = Component::load(&program, part, &weights, &kernels).unwrap();
    assert!(part.iter().all(|layer| component.layers().contains(layer)));
    let error = Component::load(&program, &layers[9..20], &weights, &kernels).err().unwrap();
    assert!(matches!(error, ModelError::Weights(WeightsError::Missing { .. })), "{error}");
}

#[test]
fn resident_bytes_are_those_of_the_parameters_where_nothing_is_packed() {
    let golden = Golden::open("sd15");
    let program = golden.program();
    let elements: u64 =
        program.program.layers.iter().flat_map(|layer| &layer.weights).map(|weight| weight.elements()).sum();
    let kernels = Kernels::reference(&Device::Cpu);
    let whole = Component::load(&program, &owned(&program), &golden.weights(), &kernels).unwrap();
    assert_eq!(whole.resident_bytes(), 4 * elements);
}

#[test]
fn every_split_in_two_computes_the_bits_of_the_whole() {
    let golden = Golden::open("sd21");
    let program = golden.program();
    let (latents, context) = inputs(&golden);
    let whole = load_whole(&program, &golden);
    let expected = floats(&evaluate(&whole, &latents, TIMESTEP, &[("encoder_hidden_states", &context)]).unwrap());
    let layers = owned(&program);
    let count = layers.len();
    for split in 0..6 {
        // Contiguous at four places, alternating, and nested: the outer layers against the inner ones.
        let in_first = |index: usize| match split {
            4 => index.is_multiple_of(2),
            5 => index < count / 4 || index > count - count / 4,
            _ => index < (split + 1) * count / 5,
        };
        let (first, second): (Vec<_>, Vec<_>) = layers.iter().enumerate().partition(|&(index, _)| in_first(index));
        let ids = |side: Vec<(usize, &LayerId)>| side.into_iter().map(|(_, &layer)| layer).collect::<Vec<_>>();
        let components = [ids(first), ids(second)].map(|side| load(&program, &golden, &side));
        assert_eq!(run_by_layer(&components, &latents, &context), expected, "split {split}");
    }
}

#[test]
fn wrong_operands_are_refused_by_layer_and_operand() {
    let golden = Golden::open("sd21");
    let program = golden.program();
    let component = load_whole(&program, &golden);
    let (latents, context) = inputs(&golden);
    let layer = |name: &str| program.program.find(name).unwrap();
    let [latents, context] = [&latents, &context].map(|tensor| component.kernels().value_of(tensor).unwrap());
    let error = |name: &str, operands: &[&Value]| component.run_layer(layer(name), operands).unwrap_err().to_string();

    let found = error("conv_in", &[&context]);
    assert!(found.contains("conv_in") && found.contains("latents") && found.contains("[2, 4, 16, 24]"), "{found}");
    let hidden = component.run_layer(layer("conv_in"), &[&latents]).unwrap();
    let attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn2";
    let context_layer = format!("{attention}.context");
    let found = error(&context_layer, &[&hidden]);
    assert!(found.contains("encoder_hidden_states") && found.contains("[2, 77, 32]"), "{found}");
    let found = error(attention, &[&hidden, &context.narrow(0..1)]);
    assert!(found.contains(&context_layer) && found.contains("[2, 77, "), "{found}");
    let found = error("conv_in", &[&latents, &latents]);
    assert!(found.contains("conv_in reads 1 operands, found 2"), "{found}");
    let vector = component.kernels().value(&[1, 1], &[1.0]).unwrap();
    assert!(error("time_embedding", &[&vector]).contains("timestep"));
}

/// Memory that starts at a line of the cache, or some bytes behind one.
struct Lines {
    bytes: Vec<u8>,
    range: std::ops::Range<usize>,
}

impl Lines {
    fn new(len: usize, behind: usize) -> Self {
        let bytes = vec![0; len + 128];
        let start = bytes.as_ptr().align_offset(64) + behind;
        Self { bytes, range: start..start + len }
    }
}

impl std::ops::Deref for Lines {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

impl std::ops::DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.range.clone()]
    }
}

#[test]
fn a_layer_writes_to_what_is_lent_if_it_fits() {
    let golden = Golden::open("sd21");
    let program = golden.program();
    let layer = program.program.find("conv_in").unwrap();
    let component = load(&program, &golden, &[layer]);
    let latents = component.kernels().value_of(&inputs(&golden).0).unwrap();
    let expected = component.run_layer(layer, &[&latents]).unwrap();
    let bytes = expected.to_bytes().unwrap().len();
    for (len, behind, fits) in [(bytes, 0, true), (bytes + 4, 0, false), (bytes - 4, 0, false), (bytes, 4, false)] {
        let lent = Lines::new(len, behind);
        let address = lent.as_ptr();
        let found = component.run_layer_into(layer, &[&latents], Some(Box::new(lent))).unwrap();
        assert_eq!(elements(&found), elements(&expected));
        assert_eq!(found.to_bytes().unwrap().as_ptr() == address, fits, "{len} bytes, {behind} behind a line");
    }
    let again = component.run_layer(layer, &[&latents]).unwrap();
    assert_eq!(elements(&again), elements(&expected), "what was lent is not used again");
}

#[test]
fn layers_of_other_components_are_refused() {
    let golden = Golden::open("sd21");
    let program = golden.program();
    let layers = owned(&program);
    let component = load(&program, &golden, &layers[..1]);
    assert!(
        matches!(component.run_layer(layers[1], &[]), Err(ModelError::NoSuchLayer { layer }) if layer == layers[1])
    );
    let unknown = LayerId(u16::MAX);
    assert!(matches!(component.run_layer(unknown, &[]), Err(ModelError::NoSuchLayer { .. })));
    let loaded = Component::load(&program, &[unknown], &golden.weights(), &Kernels::for_device(&Device::Cpu));
    assert!(matches!(loaded, Err(ModelError::NoSuchLayer { .. })));
}

#[test]
fn a_missing_condition_is_named() {
    let golden = Golden::open("sd21");
    let component = load_whole(&golden.program(), &golden);
    let error = evaluate(&component, &inputs(&golden).0, TIMESTEP, &[]).unwrap_err();
    assert!(matches!(error, ModelError::MissingCondition { name } if name == "encoder_hidden_states"));
}

#[test]
fn every_layer_is_measured_without_a_checkpoint() {
    let program = Golden::open("sd21").program();
    let layers: Vec<LayerId> = program.program.layers().map(|(id, _)| id).collect();
    let durations = measure(&program, &Kernels::for_device(&Device::Cpu), 2, &layers).unwrap();
    assert_eq!(durations.len(), layers.len());
    assert!(durations.iter().all(|duration| !duration.is_zero()));
}

fn owned(program: &DenoiserProgram) -> Vec<LayerId> {
    program.program.owned_layers().map(|(id, _)| id).collect()
}

fn inputs(golden: &Golden) -> (Tensor, Tensor) {
    let latents = golden.latents();
    (Tensor::cat(&[&latents, &latents], 0).unwrap(), golden.encoder_hidden_states())
}

fn write_weights(program: &DenoiserProgram, part: &[LayerId], weights: FormulaWeights, file: &std::path::Path) {
    let mut tensors = HashMap::new();
    for layer in program.program.with_shared(part) {
        for weight in &program.program.layer(layer).weights {
            let shape: Vec<usize> = weight.shape.iter().map(|&axis| axis as usize).collect();
            tensors.insert(weight.name.clone(), weights.tensor(&weight.name, &shape, &Device::Cpu).unwrap());
        }
    }
    candle_core::safetensors::save(&tensors, file).unwrap();
}

/// Each owned layer on the component that owns it; each component computes the shared layers itself.
fn run_by_layer(components: &[Component; 2], latents: &Tensor, context: &Tensor) -> Vec<f32> {
    let program = components[0].program();
    let kernels = components[0].kernels();
    let timestep = kernels.value(&[1], &[TIMESTEP as f32]).unwrap();
    let [latents, context] = [latents, context].map(|tensor| kernels.value_of(tensor).unwrap());
    let mut values: Vec<Option<Value>> = vec![None; program.layers.len()];
    for (layer, described) in program.layers() {
        let operand = |&operand: &Operand| match operand {
            Operand::Value(value) => values[value.index()].as_ref().unwrap(),
            Operand::Input(input) => match program.inputs[input.index()].kind {
                InputKind::Latents => &latents,
                InputKind::Timestep => &timestep,
                InputKind::Condition(_) => &context,
            },
        };
        let operands: Vec<&Value> = described.reads.iter().map(operand).collect();
        let mut runs = components.iter().filter(|component| component.layers().contains(&layer));
        let value = runs.next().unwrap().run_layer(layer, &operands).unwrap();
        for other in runs {
            assert_eq!(elements(&other.run_layer(layer, &operands).unwrap()), elements(&value), "{}", described.name);
        }
        values[layer.index()] = Some(value);
    }
    elements(values[program.output.index()].as_ref().unwrap())
}

fn elements(value: &Value) -> Vec<f32> {
    value.to_elements().unwrap()
}
