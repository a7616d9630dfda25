//! The configuration of `coordinator serve` as types: read once, from the embedded defaults and the operator's file.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::time::Duration;

use asyncdiff_common::config::{Settings, SettingsError, parse_bytes, parse_duration};

use crate::actors::Limits;
use crate::api::{ApiLimits, JobDefaults};

/// The only source of defaults.
const DEFAULTS: &str = include_str!("../default.toml");

/// The most addresses that a join line names.
const ADVERTISED_LIMIT: usize = 8;

/// Settings of a coordinator that serves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServeConfig {
    /// A checkpoint, or the embedded model.
    pub(crate) model: Option<String>,
    /// Where workers reach this process.
    pub(crate) cluster: ClusterAddresses,
    /// How long the first join line lets workers in.
    pub(crate) join_line_valid_for: Duration,
    /// Where keys and tokens are kept, if not at the default place.
    pub(crate) state_dir: Option<PathBuf>,
    /// Deadlines and bounds of the cluster.
    pub(crate) limits: Limits,
    /// How long a running job may go on after the first signal.
    pub(crate) drain: Duration,
    /// Where clients reach the API.
    pub(crate) api_listen: SocketAddr,
    /// Bounds of the API.
    pub(crate) api_limits: ApiLimits,
    /// For jobs that do not say.
    pub(crate) steps: NonZeroU32,
    /// For jobs that do not say, with a checkpoint.
    pub(crate) guidance_scale: f64,
    /// For jobs that do not say, with the embedded model.
    pub(crate) demo_guidance_scale: f64,
    /// For jobs that do not say.
    pub(crate) seed: u32,
}

/// Where workers reach a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterAddresses {
    /// The address to listen on.
    pub(crate) listen: IpAddr,
    /// UDP port of the control endpoint.
    pub(crate) control_port: u16,
    /// UDP port of the data endpoint.
    pub(crate) data_port: u16,
    /// Hosts that lines name; empty: to be found out.
    pub(crate) advertise: Vec<String>,
}

impl ServeConfig {
    /// The defaults, with a file laid over them if one is named.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let settings = match file {
            Some(file) => Settings::load(DEFAULTS, file)?,
            None => Settings::defaults(DEFAULTS)?,
        };
        Self::read(&settings)
    }

    /// The defaults for jobs that do not say.
    #[must_use]
    pub(crate) fn job_defaults(&self) -> JobDefaults {
        let guidance_scale = if self.model.is_some() { self.guidance_scale } else { self.demo_guidance_scale };
        JobDefaults { steps: self.steps, guidance_scale, seed: u64::from(self.seed) }
    }

    fn read(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            model: optional(settings.text("model.path")?),
            cluster: ClusterAddresses {
                listen: settings
                    .parsed("cluster.listen", "an IP address such as \"0.0.0.0\"", |text| text.parse().ok())?,
                control_port: settings.whole("cluster.control_port", 0..=u16::MAX)?,
                data_port: settings.whole("cluster.data_port", 0..=u16::MAX)?,
                advertise: settings.parsed("cluster.advertise", "at most 8 hosts, separated by commas", hosts)?,
            },
            join_line_valid_for: settings.duration("cluster.join_line_valid_for")?,
            state_dir: optional(settings.text("cluster.state_dir")?).map(PathBuf::from),
            limits: limits(settings)?,
            drain: settings.duration("deadlines.drain")?,
            api_listen: settings
                .parsed("api.listen", "an address and port such as \"127.0.0.1:7402\"", |text| text.parse().ok())?,
            api_limits: ApiLimits {
                body_bytes: settings.bytes("api.body_limit")?,
                concurrent_requests: settings.whole("api.concurrent_requests", 1..=100_000)?,
                listeners: settings.whole("api.listeners", 1..=100_000)?,
                request_timeout: settings.parsed(
                    "api.request_timeout",
                    "a duration of at most 80s",
                    request_timeout,
                )?,
            },
            steps: NonZeroU32::MIN.saturating_add(settings.whole("job.steps", 1..=10_000_u32)? - 1),
            guidance_scale: settings.number("job.guidance_scale", 1.0..=100.0)?,
            demo_guidance_scale: settings.number("job.demo_guidance_scale", 1.0..=100.0)?,
            seed: settings.whole("job.seed", 0..=u32::MAX)?,
        })
    }
}

fn limits(settings: &Settings) -> Result<Limits, SettingsError> {
    let heartbeat_interval = settings.duration("workers.heartbeat_interval")?;
    let expected = format!("a duration of at least three times workers.heartbeat_interval ({heartbeat_interval:?})");
    let long_enough = |text: &str| parse_duration(text).filter(|&lost_after| lost_after >= 3 * heartbeat_interval);
    Ok(Limits {
        queue_length: settings.whole("queue.length", 1..=100_000_u32)? as usize,
        side_by_side: settings.whole("queue.side_by_side", 1..=1_000_u32)? as usize,
        kept_jobs: settings.whole("queue.kept_jobs", 1..=100_000_u32)? as usize,
        kept_bytes: settings.bytes("queue.kept_bytes")?,
        saving_percent: settings.whole("queue.saving_percent", 1..=100_u32)?,
        weights_bytes_per_second: settings.parsed(
            "workers.weights_rate",
            "a size of at least 16MiB for each second, or \"\" for no limit",
            weights_rate,
        )?,
        heartbeat_interval,
        lost_after: settings.parsed("workers.lost_after", &expected, long_enough)?,
        return_within: settings.duration("workers.return_within")?,
        hello_within: settings.duration("workers.hello_within")?,
        encode_within: settings.duration("deadlines.encode")?,
        measure_within: settings.duration("deadlines.measure")?,
        load_within: settings.duration("deadlines.load")?,
        step_within: settings.duration("deadlines.step")?,
        decode_within: settings.duration("deadlines.decode")?,
        release_within: settings.duration("deadlines.release")?,
        job_within: settings.duration("deadlines.job")?,
        wait_for_workers: settings.duration("deadlines.wait_for_workers")?,
    })
}

/// The slowest rate of parameters, in bytes per second: at less, the largest would arrive after who waits for it has given it up.
const WEIGHTS_RATE_MIN: u64 = 16 << 20;

/// Clients of this program wait a little longer than this, so that they hear why.
const REQUEST_TIMEOUT_LIMIT: Duration = Duration::from_secs(80);

/// The inner absence is that of a limit.
#[expect(clippy::option_option, reason = "what cannot be parsed differs from what is not limited")]
fn weights_rate(text: &str) -> Option<Option<NonZeroU64>> {
    if text.is_empty() {
        return Some(None);
    }
    parse_bytes(text).filter(|&bytes| bytes >= WEIGHTS_RATE_MIN).map(NonZeroU64::new)
}

fn request_timeout(text: &str) -> Option<Duration> {
    parse_duration(text).filter(|timeout| !timeout.is_zero() && *timeout <= REQUEST_TIMEOUT_LIMIT)
}

fn optional(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn hosts(text: &str) -> Option<Vec<String>> {
    let hosts: Vec<String> =
        text.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned).collect();
    (hosts.len() <= ADVERTISED_LIMIT).then_some(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<ServeConfig, SettingsError> {
        ServeConfig::read(&Settings::defaults(DEFAULTS).unwrap().overlaid("my.toml", text)?)
    }

    fn shipped(name: &str) -> ServeConfig {
        ServeConfig::load(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-configs").join(name))).unwrap()
    }

    #[test]
    fn the_defaults_are_the_librarys() {
        let config = ServeConfig::load(None).unwrap();
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.job_defaults().guidance_scale, 5.0);
    }

    #[test]
    fn one_node_cpu_stays_on_its_machine() {
        let config = shipped("one-node-cpu.toml");
        assert!(config.cluster.listen.is_loopback() && config.api_listen.ip().is_loopback());
    }

    #[test]
    fn two_nodes_names_an_address_and_serves_other_machines() {
        let config = shipped("two-nodes.toml");
        assert_eq!(config.cluster.advertise, ["192.0.2.10"]);
        assert!(!config.api_listen.ip().is_loopback());
    }

    #[test]
    fn every_shipped_file_has_keys_that_exist_and_says_what_it_is_for() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-configs");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 5, "{files:?}");
        for file in files {
            ServeConfig::load(Some(&file)).unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(text.starts_with("# ") && text.contains(&format!("--config cluster-configs/{name}")), "{name}");
        }
    }

    #[test]
    fn gpus_of_one_machine_stay_there_and_those_of_two_reach_each_other() {
        for name in ["one-node-2gpu.toml", "one-node-4gpu-stride2.toml"] {
            let config = shipped(name);
            assert!(config.cluster.listen.is_loopback() && config.api_listen.ip().is_loopback(), "{name}");
        }
        assert_eq!(shipped("one-node-4gpu-stride2.toml").limits.side_by_side, 1);
        assert!(!shipped("two-node-8gpu.toml").cluster.listen.is_loopback());
    }

    #[test]
    fn a_checkpoint_has_the_usual_guidance_scale() {
        assert_eq!(load("model.path = \"owner/name\"").unwrap().job_defaults().guidance_scale, 7.5);
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_key() {
        let wrong = [
            ("job.steps = 0", "job.steps"),
            ("cluster.listen = \"localhost\"", "cluster.listen"),
            ("api.listen = \"127.0.0.1\"", "api.listen"),
            ("workers.lost_after = \"300ms\"", "at least three times workers.heartbeat_interval (250ms)"),
            ("cluster.advertise = \"a,b,c,d,e,f,g,h,i\"", "cluster.advertise"),
            ("cluster.control_port = 70000", "0 to 65535"),
            ("api.request_timeout = \"90s\"", "at most 80s"),
        ];
        for (text, part) in wrong {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("my.toml:1"), "{error}");
        }
    }
}
