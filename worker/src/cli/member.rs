//! One worker of a process: its network, its settings, and the line that says that it is a member.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use asyncdiff_common::config::format_bytes;
use asyncdiff_common::wire::Endpoint;
use asyncdiff_transport::PeerName;
use asyncdiff_transport::identity::{CoordinatorAddress, JoinedCluster};
use asyncdiff_transport::link::{Admission, Link};
use asyncdiff_transport::network::{BoxFuture, DialError, Incoming, Network};
use asyncdiff_transport::quic::{LinkTiming, QuicConfig, QuicNode};
use tokio::sync::watch;

use super::device::ChosenDevice;
use super::options::ListenAddress;
use super::{CliError, JoinOptions};
use crate::run::run_with;
use crate::weights::LocalWeights;
use crate::{Membership, WorkerConfig};
use asyncdiff_common::owned_task::OwnedTask;

/// Which of the process's workers it is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// From 1.
    pub(super) number: u32,
    pub(super) workers: NonZeroU32,
}

/// What ends all workers of the process.
#[derive(Clone)]
pub(super) struct Ending {
    /// They are to leave as soon as no job needs them.
    pub(super) drain: watch::Receiver<bool>,
    /// They are to end at once.
    pub(super) stop: watch::Receiver<bool>,
}

/// A worker that has a certificate and listens.
pub(super) struct Member {
    name: PeerName,
    node: Arc<QuicNode>,
    network: Advertised,
    coordinator: Vec<CoordinatorAddress>,
    config: WorkerConfig,
    /// For people.
    device: String,
}

impl Member {
    pub(super) async fn start(
        options: &JoinOptions,
        Place { number, workers }: Place,
        device: ChosenDevice,
        joined: JoinedCluster,
    ) -> Result<Self, CliError> {
        let listen = options.listen.unwrap_or_else(|| default_listen(&joined.coordinator));
        let no_ports = || CliError::NoPorts { first: listen.control.port(), workers: workers.get() };
        let listen = listen.of_worker(number).ok_or_else(no_ports)?;
        let quic = QuicConfig {
            control_address: listen.control,
            data_address: listen.data,
            limit: options.simulation.link_limit,
            timing: if options.simulation.paced.is_some() { LinkTiming::patient() } else { LinkTiming::default() },
            ..QuicConfig::new(joined.identity.clone(), listen.control.ip())
        };
        let node = Arc::new(QuicNode::start(quic).await?);
        let threads = options.threads(workers);
        let text = device.text(threads);
        let mut config = WorkerConfig {
            threads: threads.get(),
            cpus: options.cpus(number, workers).to_vec(),
            weights_bytes_per_second: options.weights_rate,
            device: device.kind,
            nccl: options.nccl,
            ..WorkerConfig::new()
        };
        config.memory_bytes = match (options.memory, device.memory_bytes) {
            (Some(asked), Some(there)) => asked.min(there),
            (asked, there) => asked.or(there).unwrap_or(config.memory_bytes / u64::from(workers.get())),
        };
        Ok(Self {
            name: joined.identity.name().clone(),
            network: Advertised { node: Arc::clone(&node), host: options.advertise.clone() },
            node,
            coordinator: joined.coordinator,
            config,
            device: text,
        })
    }

    pub(super) fn name(&self) -> String {
        match &self.name {
            PeerName::Worker(name) => name.to_string(),
            PeerName::Coordinator => self.name.to_string(),
        }
    }

    /// Works until it is to end, or cannot go on.
    pub(super) async fn run(self, local: LocalWeights, ending: Ending) -> Result<(), CliError> {
        let Self { name, node, network, coordinator, mut config, device } = self;
        let (membership, changes) = watch::channel(Membership::Joining);
        config.membership = Some(membership);
        config.drain = Some(ending.drain);
        let announcement = announcement(&name, &coordinator, (&device, config.memory_bytes));
        let _announcing = OwnedTask::spawn(announce(changes, announcement));
        let coordinator = coordinator.into_iter().map(endpoint).collect();
        let mut stop = ending.stop;
        // The sender's end is an end too.
        let shutdown = async move { drop(stop.wait_for(|stop| *stop).await) };
        let ended = run_with(local, config, Arc::new(network), coordinator, shutdown).await;
        node.stop().await;
        Ok(ended?)
    }
}

/// One line for whoever started the worker: that it is a member, of what, with what.
fn announcement(name: &PeerName, coordinator: &[CoordinatorAddress], (device, memory_bytes): (&str, u64)) -> String {
    let at: Vec<String> =
        coordinator.iter().map(|address| format!("{}:{}", address.host, address.control_port)).collect();
    let memory = format_bytes(memory_bytes as f64);
    format!("{name} is a member of the cluster at {} ({device}, {memory})", at.join(", "))
}

async fn announce(mut changes: watch::Receiver<Membership>, line: String) {
    if changes.wait_for(|membership| *membership == Membership::Member).await.is_ok() {
        println!("{line}");
    }
}

/// Everywhere, or only on loopback where the coordinator is only there.
fn default_listen(coordinator: &[CoordinatorAddress]) -> ListenAddress {
    let addresses: Vec<Option<IpAddr>> = coordinator.iter().map(|address| address.host.parse().ok()).collect();
    let all = |wanted: fn(&IpAddr) -> bool| addresses.iter().all(|address| address.as_ref().is_some_and(wanted));
    let is_ipv6 = all(IpAddr::is_ipv6);
    ListenAddress::any_port(match (all(IpAddr::is_loopback), is_ipv6) {
        (true, true) => Ipv6Addr::LOCALHOST.into(),
        (true, false) => Ipv4Addr::LOCALHOST.into(),
        (false, true) => Ipv6Addr::UNSPECIFIED.into(),
        (false, false) => Ipv4Addr::UNSPECIFIED.into(),
    })
}

fn endpoint(address: CoordinatorAddress) -> Endpoint {
    Endpoint { host: address.host, control_port: address.control_port, data_port: address.data_port }
}

/// The QUIC endpoints, reached by others at a host that the operator named.
struct Advertised {
    node: Arc<QuicNode>,
    host: Option<String>,
}

impl Network for Advertised {
    fn endpoint(&self) -> Endpoint {
        let seen = self.node.endpoint();
        Endpoint { host: self.host.clone().unwrap_or(seen.host), ..seen }
    }

    fn connect<'a>(
        &'a self,
        peer: &'a PeerName,
        endpoint: &'a Endpoint,
        admission: Arc<dyn Admission>,
    ) -> BoxFuture<'a, Result<Link, DialError>> {
        Network::connect(&*self.node, peer, endpoint, admission)
    }

    fn accept(&self) -> BoxFuture<'_, Option<Incoming>> {
        Network::accept(&*self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(hosts: &[&str]) -> IpAddr {
        let address = |host: &&str| CoordinatorAddress { host: (*host).into(), control_port: 1, data_port: 2 };
        default_listen(&hosts.iter().map(address).collect::<Vec<_>>()).control.ip()
    }

    #[test]
    fn a_worker_of_a_loopback_coordinator_listens_on_loopback_only() {
        assert_eq!(listen(&["127.0.0.1"]), IpAddr::from(Ipv4Addr::LOCALHOST));
        assert_eq!(listen(&["::1"]), IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!(listen(&["127.0.0.1", "192.0.2.7"]), IpAddr::from(Ipv4Addr::UNSPECIFIED));
        assert_eq!(listen(&["box.example"]), IpAddr::from(Ipv4Addr::UNSPECIFIED));
        assert_eq!(listen(&["2001:db8::7"]), IpAddr::from(Ipv6Addr::UNSPECIFIED));
    }
}
