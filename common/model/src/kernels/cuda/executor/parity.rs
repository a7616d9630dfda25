//! The same graphs on a GPU that is really there. Where none is, these tests say so and pass, but for `ASYNCDIFF_GPU=1`.

use candle_core::Device;
use cudarc::driver::result;

use super::SideStream;
use crate::ModelError;
use crate::formula;
use crate::graph::Slot;
use crate::kernels::cuda::launch::allocated_bytes;
use crate::kernels::parity::{self, FORMATS, WEIGHTS};
use crate::kernels::{Format, Gpus, Kernels, Value};

/// Set where a GPU must be there.
const REQUIRED_VARIABLE: &str = "ASYNCDIFF_GPU";

fn gpu() -> Option<Kernels> {
    let is_required = std::env::var_os(REQUIRED_VARIABLE).is_some_and(|value| value == "1");
    match Gpus::find().and_then(|gpus| gpus.usable(0).cloned()) {
        // One that is there must work.
        Ok(gpu) => Some(Kernels::cuda(gpu.ordinal).unwrap()),
        Err(error) if is_required => panic!("{REQUIRED_VARIABLE}=1, and {error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn a_gpu_computes_what_candle_does() {
    let Some(gpu) = gpu() else { return };
    let reference = Kernels::reference(&Device::Cpu);
    for (format, tolerance) in FORMATS {
        let kernels = gpu.with_format(format);
        for (name, graph) in parity::graphs() {
            for rows in [1, 2] {
                let inputs = parity::inputs(&graph, &vec![rows; graph.inputs().len()]);
                let expected = parity::run(&reference, &graph, &inputs);
                let error = parity::difference(&expected, &parity::run(&kernels, &graph, &inputs), 0.0);
                assert!(error <= tolerance, "{name}, {rows} rows, {format:?}: {error:e}");
            }
        }
    }
}

#[test]
fn a_second_run_gives_the_same_bits_also_in_new_memory() {
    let Some(gpu) = gpu() else { return };
    for (name, graph) in parity::graphs() {
        let inputs = parity::inputs(&graph, &vec![2; graph.inputs().len()]);
        let first = parity::run(&gpu, &graph, &inputs);
        assert_eq!(parity::run(&gpu, &graph, &inputs), first, "{name}");
        gpu.trim();
        assert_eq!(parity::run(&gpu, &graph, &inputs), first, "{name} after its memory was given back");
    }
}

/// The second time it is recorded, from the third on it is replayed: the same memory comes back as values are dropped.
#[test]
fn a_layer_that_is_replayed_gives_the_same_bits() {
    let Some(gpu) = gpu() else { return };
    for format in [Format::F32, Format::Bf16] {
        for (name, graph) in parity::graphs() {
            let prepared = gpu.with_format(format).prepare(graph.clone(), &WEIGHTS).unwrap();
            let inputs = parity::inputs(&graph, &vec![2; graph.inputs().len()]);
            let compute = || {
                let operands: Vec<Value> =
                    inputs.iter().map(|(shape, elements)| gpu.value(shape, elements).unwrap()).collect();
                prepared.run(&operands.iter().collect::<Vec<_>>()).unwrap().to_elements().unwrap()
            };
            let first = compute();
            for time in 2..6 {
                assert_eq!(compute(), first, "{name}, {format:?}, time {time}");
            }
        }
    }
}

#[test]
fn values_come_back_from_a_gpu_as_they_went_whole_and_in_rows() {
    let Some(gpu) = gpu() else { return };
    for shape in [vec![3, 5, 4, 6], vec![3, 7, 5], vec![3, 8], vec![3]] {
        let elements = formula::noise("rows", &shape, 1);
        let whole = gpu.value(&shape, &elements).unwrap();
        let parts = [whole.narrow(0..1), whole.narrow(1..3)];
        assert_eq!(parts[1].to_elements().unwrap(), elements[elements.len() / 3..]);
        let joined = Value::concatenate(&parts).unwrap();
        assert_eq!(joined.to_elements().unwrap(), elements);
        let received = gpu.value_from_bytes(&shape, &joined.to_bytes().unwrap()).unwrap();
        assert_eq!(received.to_elements().unwrap(), elements);
    }
}

#[test]
fn pieces_of_both_formats_are_joined_without_a_loss() {
    let Some(gpu) = gpu() else { return };
    let (name, graph) = parity::graphs().swap_remove(0);
    let prepared = gpu.with_format(Format::Bf16).prepare(graph.clone(), &WEIGHTS).unwrap();
    let inputs = parity::inputs(&graph, &vec![1; graph.inputs().len()]);
    let operands: Vec<Value> = inputs.iter().map(|(shape, elements)| gpu.value(shape, elements).unwrap()).collect();
    let made = prepared.run(&operands.iter().collect::<Vec<_>>()).unwrap();
    let sent = gpu.value(&made.shape(), &made.to_elements().unwrap()).unwrap();
    let joined = Value::concatenate(&[made.clone(), sent]).unwrap().to_elements().unwrap();
    assert_eq!(joined, made.to_elements().unwrap().repeat(2), "{name}");
}

#[test]
fn what_is_read_ahead_and_in_parts_is_what_was_computed_whatever_comes_after() {
    let Some(gpu) = gpu() else { return };
    let (name, graph) = parity::graphs().swap_remove(0);
    for format in [Format::F32, Format::Bf16] {
        let prepared = gpu.with_format(format).prepare(graph.clone(), &WEIGHTS).unwrap();
        let inputs = parity::inputs(&graph, &vec![1; graph.inputs().len()]);
        let operands: Vec<Value> = inputs.iter().map(|(shape, elements)| gpu.value(shape, elements).unwrap()).collect();
        let operands: Vec<&Value> = operands.iter().collect();
        let expected = prepared.run(&operands).unwrap().to_bytes().unwrap();
        for _ in 0..20 {
            let made = prepared.run(&operands).unwrap();
            let (whole, parts) = (made.start_reading().unwrap(), made.start_reading_parts(100).unwrap().unwrap());
            drop(made);
            // Takes the memory that nobody holds any more.
            drop(prepared.run(&operands).unwrap());
            let mut assembly = gpu.assemble(&whole.shape(), format).unwrap();
            let mut is_whole = false;
            for part in parts.into_iter().rev() {
                let first = part.elements().start;
                is_whole = assembly.put(first, &part.wait().unwrap()).unwrap();
            }
            assert!(is_whole);
            let assembled = gpu.assembled(assembly).unwrap();
            assert_eq!(whole.to_bytes().unwrap(), expected, "{name}, {format:?}");
            assert_eq!(assembled.to_bytes().unwrap(), expected, "{name}, {format:?}, in parts");
        }
    }
}

#[test]
fn what_another_stream_brings_is_waited_for_and_its_memory_is_left_alone_meanwhile() {
    let Some(gpu) = gpu() else { return };
    let side = gpu.side_stream().unwrap().unwrap();
    let shape = [2, 64];
    let sent = |number: u64| formula::noise("sent", &shape, number);
    for number in 0..30 {
        let source = gpu.value(&shape, &sent(number)).unwrap();
        // Its memory is free for the next one, once the transfer that nobody waits for is done.
        drop(transfer(&side, &source));
        let received = transfer(&side, &source);
        let joined = Value::concatenate(&[received, source]).unwrap();
        assert_eq!(joined.to_elements().unwrap(), sent(number).repeat(2));
    }
    assert!(
        side.with_scratch(8, |span| Ok::<_, ModelError>(span.bytes())).unwrap() == 8 && side.waits_since().is_none()
    );
}

/// Copies a value as a transfer would, in the side stream's order.
fn transfer(side: &SideStream, source: &Value) -> Value {
    let elements = source.on_its_gpu().unwrap();
    let received = side.receive(&source.shape(), Format::F32, |target| {
        // SAFETY: both have so many bytes, and both are held until the stream has come past the copy.
        unsafe {
            result::memcpy_dtod_async(target.address(), elements.address(), target.bytes(), target.stream().cast())
        }
        .map_err(|error| ModelError::Tensor(candle_core::Error::wrap(error)))
    });
    received.unwrap()
}

#[test]
fn a_graph_takes_the_memory_that_was_said_beforehand() {
    for (name, graph) in parity::graphs() {
        for (format, _) in FORMATS {
            // Of a device of its own, since tests run side by side.
            let Some(gpu) = gpu().map(|gpu| gpu.with_format(format)) else { return };
            let inputs = parity::inputs(&graph, &vec![2; graph.inputs().len()]);
            let operands: Vec<Value> =
                inputs.iter().map(|(shape, elements)| gpu.value(shape, elements).unwrap()).collect();
            let of_operands = gpu.most_gpu_bytes().unwrap();
            let memory = gpu.memory_of(&graph, 2);
            let prepared = gpu.prepare(graph.clone(), &WEIGHTS).unwrap();
            assert_eq!(prepared.resident_bytes(), memory.resident_bytes, "{name}, {format:?}");
            drop(prepared.run(&operands.iter().collect::<Vec<_>>()).unwrap());
            let of_output = |slot: &Slot| allocated_bytes(2 * 4 * graph.extent(*slot).elements()) as u64;
            let of_outputs: u64 = graph.outputs().iter().map(of_output).sum();
            let said = of_operands + memory.resident_bytes + memory.working_bytes + of_outputs;
            let taken = gpu.most_gpu_bytes().unwrap();
            assert!(taken <= said, "{name}, {format:?}: {taken} bytes, and {said} were said");
        }
    }
}
