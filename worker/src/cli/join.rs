//! `worker join`: from a join line to a member that works.

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
use super::{CliError, JoinOptions, Lifetime, home, membership};
use crate::{Membership, WorkerConfig, WorkerError};
use asyncdiff_common::owned_task::OwnedTask;

/// Joins and works until `lifetime` ends.
pub(super) async fn join(options: JoinOptions, threads: NonZeroU32, lifetime: Lifetime) -> Result<(), CliError> {
    let (drain, mut is_draining) = watch::channel(false);
    let shutdown = lifetime.shutdown(drain)?;
    tokio::pin!(shutdown);
    // Before anybody is told that there is a worker.
    let device = match options.simulation.paced {
        Some(flops_per_second) => ChosenDevice::paced(flops_per_second, threads),
        None => ChosenDevice::find(options.device, threads).map_err(WorkerError::from)?,
    };
    let home = home::open(options.state_dir.as_deref())?;
    let joined = tokio::select! {
        joined = membership::obtain(&home, &options) => joined?,
        () = &mut shutdown => return Ok(()),
        _ = is_draining.wait_for(|drain| *drain) => return Ok(()),
    };
    let listen = options.listen.unwrap_or_else(|| default_listen(&joined.coordinator));
    let name = joined.identity.name().clone();
    let quic = QuicConfig {
        control_address: listen.control,
        data_address: listen.data,
        limit: options.simulation.link_limit,
        timing: if options.simulation.paced.is_some() { LinkTiming::patient() } else { LinkTiming::default() },
        ..QuicConfig::new(joined.identity.clone(), listen.control.ip())
    };
    let node = Arc::new(QuicNode::start(quic).await?);
    let network = Advertised { node: Arc::clone(&node), host: options.advertise.clone() };
    let (membership, changes) = watch::channel(Membership::Joining);
    let mut config = WorkerConfig {
        threads: threads.get(),
        cpus: options.cpus().to_vec(),
        model: options.model.clone(),
        cache: options.cache(),
        weights_bytes_per_second: options.weights_rate,
        device: device.kind,
        ..WorkerConfig::new()
    };
    config.memory_bytes = match (options.memory, device.memory_bytes) {
        (Some(asked), Some(there)) => asked.min(there),
        (asked, there) => asked.or(there).unwrap_or(config.memory_bytes),
    };
    config.membership = Some(membership);
    config.drain = Some(is_draining);
    let announcement = announcement(&name, &joined, (&device.text, config.memory_bytes));
    let _announcing = OwnedTask::spawn(announce(changes, announcement));
    let coordinator = joined.coordinator.into_iter().map(endpoint).collect();
    let ended = crate::run(config, Arc::new(network), coordinator, shutdown).await;
    node.stop().await;
    Ok(ended?)
}

/// One line for whoever started the worker: that it is a member, of what, with what.
fn announcement(name: &PeerName, joined: &JoinedCluster, (device, memory_bytes): (&str, u64)) -> String {
    let at: Vec<String> =
        joined.coordinator.iter().map(|address| format!("{}:{}", address.host, address.control_port)).collect();
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
