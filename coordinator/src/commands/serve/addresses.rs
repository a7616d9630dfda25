//! Which addresses others are told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use asyncdiff_transport::identity::CoordinatorAddress;

use crate::serve_config::ClusterAddresses;

/// Addresses of documentation networks (RFC 5737, RFC 3849): asking for the way there sends nothing.
const SOMEWHERE_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
const SOMEWHERE_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9);

/// The hosts that lines name: the operator's, else the address listened on, else this machine's own.
pub(super) fn advertised_hosts(addresses: &ClusterAddresses) -> Vec<String> {
    if !addresses.advertise.is_empty() {
        return addresses.advertise.clone();
    }
    if !addresses.listen.is_unspecified() {
        return vec![addresses.listen.to_string()];
    }
    // Workers of this machine get on without a network; so loopback is always named, last.
    let own = own_address(addresses.listen).filter(|own| !own.is_loopback());
    own.into_iter().chain([loopback(addresses.listen)]).map(|host| host.to_string()).collect()
}

pub(super) fn coordinator_addresses(hosts: &[String], control_port: u16, data_port: u16) -> Vec<CoordinatorAddress> {
    hosts.iter().map(|host| CoordinatorAddress { host: host.clone(), control_port, data_port }).collect()
}

/// Where clients of this machine reach the API.
pub(super) fn local_client_address(api: SocketAddr) -> String {
    let host = if api.ip().is_unspecified() { loopback(api.ip()) } else { api.ip() };
    SocketAddr::new(host, api.port()).to_string()
}

/// Where clients of other machines reach the API.
pub(super) fn client_address(api: SocketAddr, hosts: &[String]) -> String {
    match hosts.first() {
        Some(host) if api.ip().is_unspecified() => match host.parse::<IpAddr>() {
            Ok(host) => SocketAddr::new(host, api.port()).to_string(),
            Err(_) => format!("{host}:{}", api.port()),
        },
        _ => local_client_address(api),
    }
}

/// This machine's address on the way to other networks; none if there is no such way.
fn own_address(listen: IpAddr) -> Option<IpAddr> {
    let (any, somewhere): (IpAddr, _) = match listen {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), SOMEWHERE_V4),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), SOMEWHERE_V6),
    };
    // Connecting a UDP socket chooses a route and sends nothing.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(somewhere).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening_on(listen: &str, advertise: &[&str]) -> Vec<String> {
        let advertise = advertise.iter().map(|&host| host.to_owned()).collect();
        let listen = listen.parse().unwrap();
        advertised_hosts(&ClusterAddresses { listen, control_port: 0, data_port: 0, advertise })
    }

    #[test]
    fn the_operators_hosts_come_first_and_loopback_is_always_there() {
        assert_eq!(listening_on("0.0.0.0", &["box.example"]), ["box.example"]);
        assert_eq!(listening_on("192.0.2.10", &[]), ["192.0.2.10"]);
        assert_eq!(listening_on("0.0.0.0", &[]).last().unwrap(), "127.0.0.1");
    }

    #[test]
    fn clients_are_told_an_address_that_they_can_reach() {
        let hosts = ["box.example".to_owned()];
        let api = |text: &str| text.parse().unwrap();
        assert_eq!(client_address(api("0.0.0.0:7402"), &hosts), "box.example:7402");
        assert_eq!(client_address(api("[::]:7402"), &["2001:db8::5".to_owned()]), "[2001:db8::5]:7402");
        assert_eq!(client_address(api("192.0.2.10:7402"), &hosts), "192.0.2.10:7402");
        assert_eq!(local_client_address(api("0.0.0.0:7402")), "127.0.0.1:7402");
        assert_eq!(local_client_address(api("[::]:7402")), "[::1]:7402");
    }
}
