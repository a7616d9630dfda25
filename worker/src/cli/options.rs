//! The options of `worker join`.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::str::FromStr;

use asyncdiff_common::config::parse_bytes;
use asyncdiff_common::telemetry::LogFormat;
use asyncdiff_model::kernels::DeviceSet;
use asyncdiff_transport::WorkerName;
use asyncdiff_transport::quic::LinkLimit;
use clap::Args;

use super::JOIN_LINE_VARIABLE;
use crate::config::{CacheConfig, Cpu, Nccl};

/// What `worker join` is told.
#[derive(Clone, Debug, Args)]
pub struct JoinOptions {
    /// The line that the coordinator printed, beginning with `adj1.`; not needed by a worker that has joined before.
    #[arg(value_name = "LINE", env = JOIN_LINE_VARIABLE, hide_env_values = true)]
    pub line: Option<String>,

    /// Read the line from a file instead, so that it is not on the command line for other users to see.
    #[arg(long, value_name = "FILE", conflicts_with = "line")]
    pub line_file: Option<PathBuf>,

    /// The worker's name in the cluster; with several GPUs the first one's, and NAME-2, NAME-3, … are the others'. Default: the host's name
    /// with a number.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<WorkerName>,

    /// What computes: `cpu`, `cuda` for all GPUs that CUDA_VISIBLE_DEVICES leaves, a worker for each, or `cuda:N` for one of them. Default: all
    /// GPUs if this program was built for GPUs and everything is there, else the CPU; `worker devices` says what is missing.
    #[arg(long, value_name = "DEVICE")]
    pub(super) device: Option<DeviceSet>,

    /// Threads that compute, for each worker of the process. Default: as many as there are cores, divided by the workers.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroU32>,

    /// CPUs that the computing threads are kept on, one each, such as `0-3,8`; several GPUs' workers share them out. Default: wherever the
    /// operating system likes.
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    cpus: Option<CpuList>,

    /// Memory that components may take, such as `8GiB`; of each GPU, where there are several. Default: what is available.
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub memory: Option<u64>,

    /// Where the worker keeps its key and certificate, one directory for each process; with several GPUs the others' are `worker-2`, `worker-3`,
    /// … in it. Default: the first free of `worker-1`, `worker-2`, … under `~/.local/state/asyncdiff`, one for each GPU.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// The address to listen on: `IP` for any free UDP ports, or `IP:PORT` for PORT (control) and PORT + 1 (data), the next two for the next GPU.
    /// Default: all addresses, or loopback only if the coordinator is on loopback.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<ListenAddress>,

    /// The host name or address that other workers reach this one at. Default: the address that the coordinator sees.
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,

    /// Whether hidden states go from GPU to GPU over NCCL where both are of one host and NCCL is there: `on` or `off`. Without it they go through
    /// the host's memory.
    #[arg(long, value_name = "SETTING", env = NCCL_VARIABLE, default_value = "on", value_parser = parse_nccl)]
    pub(super) nccl: Nccl,

    /// The same checkpoint on this machine, a folder or a hub id: equal parameters are read here instead of sent.
    #[arg(long, value_name = "PATH_OR_HUB_ID")]
    pub model: Option<String>,

    /// Where received parameters are kept, so that they need not be sent again; workers of one user share it.
    /// Default: `asyncdiff/weights` under `$XDG_CACHE_HOME` or `~/.cache`.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,

    /// How much disk these may take, such as `16GiB`; those that were not used for the longest time go. `0` keeps none.
    #[arg(long, value_name = "SIZE", value_parser = parse_cache_limit, default_value = "16GiB")]
    pub cache_limit: u64,

    /// Parameters that other workers are sent in a second at most, such as `100MiB`. Default: as fast as links allow.
    #[arg(long, value_name = "SIZE", value_parser = parse_weights_rate)]
    pub(super) weights_rate: Option<NonZeroU64>,

    #[command(flatten)]
    pub(super) simulation: SimulationOptions,

    #[command(flatten)]
    pub(super) log: LogOptions,
}

/// What `coordinator bench scaling` starts its workers with; of no use to anybody else, and not in the help.
#[derive(Clone, Debug, Args)]
pub(super) struct SimulationOptions {
    /// Compute nothing, without weights, and take as long for a layer as its operations do at this rate per second.
    #[arg(long, hide = true, value_name = "FLOPS", value_parser = parse_rate)]
    pub(super) paced: Option<f64>,

    /// So many devices of that rate, with a worker for each in this process, as with several GPUs.
    #[arg(long, hide = true, value_name = "N", requires = "paced", default_value = "1")]
    pub(super) paced_devices: NonZeroU32,

    /// Bytes per second and microseconds of delay that each link is limited to, in each direction, such as `125000000,200`.
    #[arg(long, hide = true, value_name = "LIMIT")]
    pub(super) link_limit: Option<LinkLimit>,
}

/// The same as `--nccl`, for workers that another program starts.
const NCCL_VARIABLE: &str = "ASYNCDIFF_NCCL";

/// CPUs, as a list of numbers and ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CpuList(Vec<Cpu>);

/// The slowest rate of parameters, in bytes per second: who waits for a large one must not take this worker for silent.
const WEIGHTS_RATE_MIN: u64 = 16 << 20;

/// The most CPUs that Linux numbers in a set of the usual size.
const CPUS_MAX: usize = 1024;

/// How a program logs.
#[derive(Clone, Debug, Args)]
pub struct LogOptions {
    /// What lines of the log look like: `text` or `json`.
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
}

/// Where a worker listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// The control endpoint's address; port 0 for any.
    pub control: SocketAddr,
    /// The data endpoint's address; port 0 for any.
    pub data: SocketAddr,
}

impl JoinOptions {
    /// Threads of each of so many workers: as asked for, else one for each CPU that they are kept on, else as many as there are cores.
    pub(super) fn threads(&self, workers: NonZeroU32) -> NonZeroU32 {
        let share = |count: usize| NonZeroU32::new(count as u32 / workers);
        let listed = || share(self.cpus.as_ref().map_or(0, |list| list.0.len()));
        let cores = || std::thread::available_parallelism().ok().and_then(|cores| share(cores.get()));
        self.threads.or_else(listed).or_else(cores).unwrap_or(NonZeroU32::MIN)
    }

    /// The CPUs that the threads of one of so many workers are kept on: a share of them, or all where there are fewer than workers. None for any.
    pub(super) fn cpus(&self, number: u32, workers: NonZeroU32) -> &[Cpu] {
        let cpus = self.cpus.as_ref().map_or(&[][..], |list| &list.0);
        match cpus.len() / workers.get() as usize {
            0 => cpus,
            share => cpus.chunks_exact(share).nth(number as usize - 1).unwrap_or(cpus),
        }
    }
}

impl JoinOptions {
    /// The cache that is meant; none if there is to be none, or nobody knows where.
    pub(super) fn cache(&self) -> Option<CacheConfig> {
        let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        let folder = self.cache.clone().or_else(|| cache().map(|cache| cache.join("asyncdiff/weights")))?;
        (self.cache_limit > 0).then_some(CacheConfig { folder, limit_bytes: self.cache_limit })
    }
}

impl ListenAddress {
    /// Any free ports of an address.
    #[must_use]
    pub fn any_port(address: IpAddr) -> Self {
        let address = SocketAddr::new(address, 0);
        Self { control: address, data: address }
    }

    /// For the worker of that number, from 1: the ports behind those of the workers before it. `None` where there are none.
    #[must_use]
    pub(super) fn of_worker(self, number: u32) -> Option<Self> {
        let later = |address: SocketAddr| {
            let port = match address.port() {
                0 => 0,
                port => u16::try_from(u32::from(port) + 2 * (number - 1)).ok()?,
            };
            Some(SocketAddr::new(address.ip(), port))
        };
        Some(Self { control: later(self.control)?, data: later(self.data)? })
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::any_port(address));
        }
        let control: SocketAddr =
            text.parse().map_err(|_| "write it like 192.0.2.7, 192.0.2.7:7410 or [::]:7410".to_owned())?;
        let data_port = match control.port() {
            0 => 0,
            port => port.checked_add(1).ok_or("the port after it is needed too, and there is none")?,
        };
        Ok(Self { control, data: SocketAddr::new(control.ip(), data_port) })
    }
}

fn parse_name(text: &str) -> Result<WorkerName, String> {
    WorkerName::new(text).map_err(|error| error.to_string())
}

fn parse_cpus(text: &str) -> Result<CpuList, String> {
    let wrong = || format!("write it like 0-3,8 with numbers below {CPUS_MAX}, each once");
    let number = |text: &str| text.trim().parse().ok().filter(|&cpu: &usize| cpu < CPUS_MAX).ok_or_else(wrong);
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        for cpu in number(first)?..=number(last)? {
            if cpus.contains(&Cpu(cpu)) {
                return Err(wrong());
            }
            cpus.push(Cpu(cpu));
        }
    }
    if cpus.is_empty() { Err(wrong()) } else { Ok(CpuList(cpus)) }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 1.0);
    rate.ok_or_else(|| "write operations per second as a number of at least 1".to_owned())
}

fn parse_nccl(text: &str) -> Result<Nccl, String> {
    match text {
        "off" => Ok(Nccl::Off),
        "on" => Ok(Nccl::On),
        _ => Err("write `on` or `off`".to_owned()),
    }
}

fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text).filter(|&bytes| bytes > 0);
    bytes.ok_or_else(|| "write it with its unit, such as 8GiB or 512MiB".to_owned())
}

fn parse_weights_rate(text: &str) -> Result<NonZeroU64, String> {
    let rate = parse_bytes(text).filter(|&bytes| bytes >= WEIGHTS_RATE_MIN).and_then(NonZeroU64::new);
    rate.ok_or_else(|| "write it with its unit, such as 100MiB; at least 16MiB".to_owned())
}

fn parse_cache_limit(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse_memory(text).map_err(|needed| format!("{needed}, or 0 for no cache")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_numbers_and_ranges() {
        let list = |text: &str| parse_cpus(text).map(|list| list.0.into_iter().map(|cpu| cpu.0).collect::<Vec<_>>());
        assert_eq!(list("0-2,8"), Ok(vec![0, 1, 2, 8]));
        assert_eq!(list("5"), Ok(vec![5]));
        for text in ["", "a", "3-1", "0,0", "0-2000", "-1", "1,"] {
            assert!(list(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn workers_of_a_process_share_cpus_and_ports() {
        use clap::Parser;

        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            options: JoinOptions,
        }
        let options = |arguments: &[&str]| Line::parse_from([&["worker"], arguments].concat()).options;
        let two = NonZeroU32::new(2).unwrap();
        let four_cpus = options(&["--cpus", "0-3"]);
        assert_eq!((four_cpus.cpus(1, two), four_cpus.cpus(2, two)), (&[Cpu(0), Cpu(1)][..], &[Cpu(2), Cpu(3)][..]));
        assert_eq!((four_cpus.threads(two).get(), four_cpus.threads(NonZeroU32::MIN).get()), (2, 4));
        let one_cpu = options(&["--cpus", "5"]);
        assert_eq!((one_cpu.cpus(1, two), one_cpu.cpus(2, two)), (&[Cpu(5)][..], &[Cpu(5)][..]));
        assert_eq!(options(&["--threads", "3"]).threads(two).get(), 3);
        let listen: ListenAddress = "192.0.2.7:65530".parse().unwrap();
        let second = listen.of_worker(2).unwrap();
        assert_eq!((second.control.port(), second.data.port()), (65532, 65533));
        assert_eq!((listen.of_worker(1), listen.of_worker(4)), (Some(listen), None));
    }

    #[test]
    fn a_rate_is_a_number_that_takes_time() {
        assert_eq!(parse_rate("2.5e9"), Ok(2.5e9));
        for text in ["", "fast", "0", "-1", "inf", "nan"] {
            assert!(parse_rate(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_data_port_follows_the_control_port() {
        let listen: ListenAddress = "192.0.2.7:7410".parse().unwrap();
        assert_eq!((listen.control.port(), listen.data.port()), (7410, 7411));
        let any: ListenAddress = "::1".parse().unwrap();
        assert_eq!((any.control.port(), any.data.port()), (0, 0));
        for text in ["", "host:1", "192.0.2.7:65535", "7410"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text:?}");
        }
    }
}
