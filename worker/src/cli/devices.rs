//! `worker devices`: what this machine can compute with.

use asyncdiff_common::config::format_bytes;
use asyncdiff_common::system;
use asyncdiff_model::kernels::{CudaError, DeviceChoice, Gpu, Gpus};

use super::CliError;

pub(super) fn list() -> Result<(), CliError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("cpu  {cores} threads  {} available", bytes(system::available_memory_bytes()));
    for line in gpu_lines(&Gpus::find(), Gpu::free_bytes) {
        println!("{line}");
    }
    Ok(())
}

/// A line for each visible GPU, and one for what keeps them from being used or seen.
fn gpu_lines(found: &Result<Gpus, CudaError>, free: impl Fn(&Gpu) -> Result<u64, CudaError>) -> Vec<String> {
    let gpus = match found {
        Ok(gpus) => gpus,
        Err(error) => return vec![format!("cuda  not usable: {}", indented(error))],
    };
    let (major, minor) = gpus.driver_cuda;
    if gpus.visible.is_empty() {
        return vec![format!("cuda  no GPU is visible to the driver, which is for CUDA {major}.{minor}")];
    }
    let line = |gpu: &Gpu| {
        let name = DeviceChoice::Cuda(gpu.ordinal);
        let memory = match free(gpu) {
            Ok(free) => format!("{} of {} free", bytes(free), bytes(gpu.total_bytes)),
            Err(error) => format!("{}, not usable: {}", bytes(gpu.total_bytes), indented(&error)),
        };
        let (of, part) = gpu.capability;
        format!("{name}  {}  {memory}  compute capability {of}.{part}  driver for CUDA {major}.{minor}", gpu.name)
    };
    let missing = gpus.missing.iter().map(|&library| {
        let error = CudaError::MissingLibrary(library);
        format!("cuda  not usable: {}", indented(&error))
    });
    gpus.visible.iter().map(line).chain(missing).collect()
}

/// An error below a line of its own.
fn indented(error: &CudaError) -> String {
    error.to_string().replace('\n', "\n      ")
}

fn bytes(count: u64) -> String {
    format_bytes(count as f64)
}

#[cfg(test)]
mod tests {
    use asyncdiff_model::kernels::CudaLibrary;

    use super::*;

    fn gpus(missing: Vec<CudaLibrary>) -> Gpus {
        let gpu = Gpu { ordinal: 1, name: "NVIDIA X".to_owned(), capability: (9, 0), total_bytes: 80 << 30 };
        Gpus { visible: vec![gpu], driver_cuda: (13, 0), missing, slower_without: Vec::new() }
    }

    #[test]
    fn a_gpu_has_a_line_with_all_that_matters_for_choosing_it() {
        let lines = gpu_lines(&Ok(gpus(Vec::new())), |_| Ok(64 << 30));
        let [line] = &lines[..] else { panic!("{lines:?}") };
        for part in ["cuda:1", "NVIDIA X", "64", "80", "compute capability 9.0", "driver for CUDA 13.0"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let missing = |library| CudaError::MissingLibrary(library);
        let lines = gpu_lines(&Ok(gpus(vec![CudaLibrary::Nvrtc])), |_| Ok(0));
        assert!(
            lines.len() == 2 && lines[1].contains("libnvrtc.so") && lines[1].contains("hint: install"),
            "{lines:?}"
        );
        let lines = gpu_lines(&Err(missing(CudaLibrary::Driver)), |_| Ok(0));
        assert!(lines.len() == 1 && lines[0].contains("libcuda.so"), "{lines:?}");
        let lines = gpu_lines(&Err(CudaError::NotBuilt), |_| Ok(0));
        assert!(lines.len() == 1 && lines[0].contains("--features cuda"), "{lines:?}");
        let none = Gpus { visible: Vec::new(), ..gpus(Vec::new()) };
        assert!(gpu_lines(&Ok(none), |_| Ok(0))[0].contains("no GPU is visible"));
    }
}
