//! `worker devices`: what this machine can compute with, and what is missing for more.

use std::fmt;

use asyncdiff_common::config::format_bytes;
use asyncdiff_common::system;
use asyncdiff_model::kernels::{CudaError, CudaLibrary, DeviceChoice, Gpu, Gpus, Isa};
use asyncdiff_transport::nccl;
use serde::Serialize;

use super::CliError;

/// Where NVIDIA's kernel module says its version.
const DRIVER_VERSION_FILE: &str = "/proc/driver/nvidia/version";

/// What there is.
#[derive(Debug, Serialize)]
struct Devices {
    cpu: CpuDevice,
    gpus: Vec<GpuDevice>,
    /// None where there is none, or this program was built without GPUs.
    driver: Option<Driver>,
    libraries: Vec<Library>,
    /// What keeps all GPUs from being used.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct CpuDevice {
    threads: usize,
    available_bytes: u64,
    instructions: &'static str,
    fastest: &'static str,
}

#[derive(Debug, Serialize)]
struct GpuDevice {
    device: String,
    name: String,
    total_bytes: u64,
    /// None where it cannot be said.
    free_bytes: Option<u64>,
    compute_capability: String,
    fastest: &'static str,
    usable: bool,
    /// Why it is not usable.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Driver {
    /// The kernel module's, such as `580.65.06`.
    version: Option<String>,
    /// The newest CUDA that it knows.
    cuda: String,
}

#[derive(Debug, Serialize)]
struct Library {
    name: &'static str,
    version: Option<String>,
    /// What there is without it.
    problem: Option<String>,
}

pub(super) fn list(json: bool) -> Result<(), CliError> {
    let devices = Devices::describe(&Gpus::find(), Gpu::free_bytes);
    if json {
        println!("{}", serde_json::to_string(&devices)?);
    } else {
        print!("{devices}");
    }
    Ok(())
}

impl Devices {
    fn describe(found: &Result<Gpus, CudaError>, free: impl Fn(&Gpu) -> Result<u64, CudaError>) -> Self {
        let isa = Isa::best();
        let cpu = CpuDevice {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            available_bytes: system::available_memory_bytes(),
            instructions: isa.name(),
            fastest: isa.fastest_format().name(),
        };
        let gpus = match found {
            Ok(gpus) => gpus,
            Err(error) => {
                let problems = vec![error.to_string()];
                return Self { cpu, gpus: Vec::new(), driver: None, libraries: Vec::new(), problems };
            }
        };
        let missing = gpus.missing.iter().map(|&library| CudaError::MissingLibrary(library).to_string());
        let (major, minor) = gpus.driver_cuda;
        let libraries =
            [CudaLibrary::CublasLt, CudaLibrary::Nvrtc].map(cuda_library).into_iter().chain([nccl_library()]);
        Self {
            cpu,
            gpus: gpus.visible.iter().map(|gpu| GpuDevice::describe(gpus, gpu, free(gpu))).collect(),
            driver: Some(Driver { version: driver_version(), cuda: format!("{major}.{minor}") }),
            libraries: libraries.collect(),
            problems: missing.collect(),
        }
    }
}

impl GpuDevice {
    fn describe(gpus: &Gpus, gpu: &Gpu, free: Result<u64, CudaError>) -> Self {
        let (major, minor) = gpu.capability;
        let problem = gpus.usable(gpu.ordinal).err().or(free.clone().err());
        Self {
            device: DeviceChoice::Cuda(gpu.ordinal).to_string(),
            name: gpu.name.clone(),
            total_bytes: gpu.total_bytes,
            free_bytes: free.ok(),
            compute_capability: format!("{major}.{minor}"),
            fastest: gpu.fastest_format().name(),
            usable: problem.is_none(),
            problem: problem.map(|error| error.to_string()),
        }
    }
}

/// For people: a line for each device, and one for each thing that is missing.
impl fmt::Display for Devices {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CpuDevice { threads, available_bytes, instructions, fastest } = &self.cpu;
        let available = bytes(*available_bytes);
        writeln!(formatter, "cpu  {threads} threads  {available} available  {instructions}  fastest in {fastest}")?;
        for gpu in &self.gpus {
            writeln!(formatter, "{gpu}")?;
        }
        if let Some(Driver { version, cuda }) = &self.driver {
            if self.gpus.is_empty() {
                writeln!(formatter, "cuda  no GPU is visible to the driver, which is for CUDA {cuda}")?;
            }
            let version = version.as_deref().unwrap_or("of unknown version");
            writeln!(formatter, "driver  {version}, for CUDA {cuda}")?;
        }
        for Library { name, version, problem } in &self.libraries {
            let version = version.as_deref().or(problem.as_deref()).unwrap_or("is there");
            writeln!(formatter, "{name}  {}", indented(version))?;
        }
        for problem in &self.problems {
            writeln!(formatter, "cuda  not usable: {}", indented(problem))?;
        }
        Ok(())
    }
}

impl fmt::Display for GpuDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, name, total_bytes, free_bytes, compute_capability, fastest, problem, .. } = self;
        let total = bytes(*total_bytes);
        let memory = match free_bytes {
            Some(free) => format!("{} of {total} free", bytes(*free)),
            None => total,
        };
        write!(formatter, "{device}  {name}  {memory}  compute capability {compute_capability}  fastest in {fastest}")?;
        match problem {
            Some(problem) => write!(formatter, "  not usable: {}", indented(problem)),
            None => Ok(()),
        }
    }
}

fn cuda_library(library: CudaLibrary) -> Library {
    let version = library.version();
    let problem = version.is_none().then(|| CudaError::MissingLibrary(library).to_string());
    Library { name: library.name(), version, problem }
}

/// Nothing needs it: without it hidden states go from GPU to GPU through the host.
fn nccl_library() -> Library {
    let (version, problem) = match nccl::version() {
        Ok(version) => (Some(version.map(|number| number.to_string()).join(".")), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Library { name: "libnccl.so", version, problem }
}

/// From a line such as `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 …`.
fn driver_version() -> Option<String> {
    let text = std::fs::read_to_string(DRIVER_VERSION_FILE).ok()?;
    find_version(&text).map(str::to_owned)
}

fn find_version(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("NVRM version"))?;
    line.split_whitespace().find(|word| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok()))
}

/// Text of several lines below a line of its own.
fn indented(text: &str) -> String {
    text.replace('\n', "\n      ")
}

fn bytes(count: u64) -> String {
    format_bytes(count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(missing: Vec<CudaLibrary>) -> Gpus {
        let gpu = Gpu { ordinal: 0, name: "NVIDIA X".to_owned(), capability: (9, 0), total_bytes: 80 << 30 };
        Gpus { visible: vec![gpu], driver_cuda: (13, 0), missing, slower_without: Vec::new() }
    }

    fn described(found: Result<Gpus, CudaError>, free: Result<u64, CudaError>) -> Devices {
        Devices::describe(&found, |_| free.clone())
    }

    #[test]
    fn a_gpu_has_a_line_with_all_that_matters_for_choosing_it() {
        let text = described(Ok(gpus(Vec::new())), Ok(64 << 30)).to_string();
        let line = text.lines().find(|line| line.starts_with("cuda:0")).unwrap();
        for part in ["NVIDIA X", "64", "80", "compute capability 9.0", "fastest in bf16"] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(
            text.contains("for CUDA 13.0") && text.contains("libnccl.so") && !text.contains("not usable"),
            "{text}"
        );
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let missing = CudaError::MissingLibrary;
        let text = described(Ok(gpus(vec![CudaLibrary::Nvrtc])), Ok(0)).to_string();
        assert!(text.contains("not usable: libnvrtc.so") && text.contains("hint: install"), "{text}");
        let text = described(Err(missing(CudaLibrary::Driver)), Ok(0)).to_string();
        assert!(text.contains("\ncuda  not usable: libcuda.so"), "{text}");
        let text = described(Err(CudaError::NotBuilt), Ok(0)).to_string();
        assert!(text.contains("--features cuda"), "{text}");
        let none = Gpus { visible: Vec::new(), ..gpus(Vec::new()) };
        assert!(described(Ok(none), Ok(0)).to_string().contains("no GPU is visible"));
    }

    #[test]
    fn programs_read_the_same_as_json() {
        let busy = CudaError::Call { what: "make a context".to_owned(), reason: "CUDA_ERROR".to_owned() };
        let devices = serde_json::to_value(described(Ok(gpus(Vec::new())), Err(busy))).unwrap();
        let gpu = &devices["gpus"][0];
        assert_eq!((&gpu["device"], &gpu["usable"]), (&"cuda:0".into(), &false.into()));
        assert!(gpu["problem"].as_str().is_some_and(|problem| problem.contains("make a context")), "{gpu}");
        assert_eq!(
            (&devices["driver"]["cuda"], devices["libraries"].as_array().map(Vec::len)),
            (&"13.0".into(), Some(3))
        );
        assert!(devices["cpu"]["threads"].as_u64().is_some_and(|threads| threads > 0));
    }

    #[test]
    fn the_drivers_version_is_found_in_what_its_module_says() {
        let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version:  gcc version 12.2.0";
        assert_eq!(find_version(text), Some("580.65.06"));
        assert_eq!((find_version(""), find_version("NVRM version: none")), (None, None));
    }
}
