//! Hosts as network namespaces, joined by a switch that is a namespace too: nothing of the machine's own network is touched, and all of it
//! goes when it is dropped.
//!
//! ```text
//!     host namespace            switch namespace            host namespace
//!     lan 192.0.2.1 ═══════════ port0 ─ bridge ─ port1 ═══════════ lan 192.0.2.2
//! ```

use std::io;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Every host's interface, named alike: each is alone in its namespace.
const INTERFACE: &str = "lan";

/// A hardware address that no host has: what is sent to it goes through the switch to everybody, and nobody takes it.
const NOBODY: &str = "02:00:00:00:00:fe";

/// Which way of a path is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneWay {
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

#[must_use = "its hosts go when it is dropped"]
pub(crate) struct Network {
    /// What every namespace's name begins with: unique to the process and, in it, to the network.
    prefix: String,
    hosts: Vec<&'static str>,
}

impl Network {
    /// None where it cannot be made and need not be: without root, or without `ip`.
    pub(crate) fn of(hosts: &[&'static str]) -> Option<Self> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        if let Some(reason) = missing() {
            eprintln!("skipped: network namespaces as hosts need {reason}");
            return None;
        }
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        // Before anything is made, so that what is made is taken down when the rest fails.
        let network = Self { prefix: format!("asyncdiff-{}-{number}", std::process::id()), hosts: hosts.to_vec() };
        let switch = network.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "bridge", "up"]);
        for host in hosts {
            network.connect(host);
        }
        Some(network)
    }

    fn connect(&self, host: &str) {
        let (switch, namespace, port) = (self.switch(), self.namespace(host), self.port(host));
        ip(&["netns", "add", &namespace]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", INTERFACE, "netns", &namespace]);
        ip(&["-n", &switch, "link", "set", &port, "master", "bridge", "up"]);
        ip(&["-n", &namespace, "address", "add", &format!("{}/24", self.address(host)), "dev", INTERFACE]);
        ip(&["-n", &namespace, "link", "set", INTERFACE, "up"]);
    }

    /// The words before a command that is to run on a host.
    pub(crate) fn on(&self, host: &str) -> [String; 4] {
        ["ip".to_owned(), "netns".to_owned(), "exec".to_owned(), self.namespace(host)]
    }

    /// Of a block that is reserved for documentation; the namespaces reach nothing else anyway.
    pub(crate) fn address(&self, host: &str) -> String {
        format!("192.0.2.{}", self.index(host) + 1)
    }

    /// Switches a host's own interface off: its routes go, and what it sends fails at once.
    pub(crate) fn take_down(&self, host: &str) {
        ip(&["-n", &self.namespace(host), "link", "set", INTERFACE, "down"]);
    }

    /// Pulls the cable at the switch.
    pub(crate) fn unplug(&self, host: &str) {
        ip(&["-n", &self.switch(), "link", "set", &self.port(host), "down"]);
    }

    /// Puts the cable back.
    pub(crate) fn plug(&self, host: &str) {
        ip(&["-n", &self.switch(), "link", "set", &self.port(host), "up"]);
    }

    /// Lets everything that one host sends to another vanish, as a firewall does, and nothing that comes back.
    pub(crate) fn block(&self, OneWay { from, to }: OneWay) {
        let (namespace, address) = (self.namespace(from), self.address(to));
        let neighbour = ["neighbour", "replace", &address, "lladdr", NOBODY, "nud", "permanent", "dev", INTERFACE];
        ip(&[&["-n", &namespace], &neighbour[..]].concat());
    }

    pub(crate) fn unblock(&self, OneWay { from, to }: OneWay) {
        ip(&["-n", &self.namespace(from), "neighbour", "del", &self.address(to), "dev", INTERFACE]);
    }

    fn index(&self, host: &str) -> usize {
        self.hosts.iter().position(|known| *known == host).unwrap()
    }

    fn port(&self, host: &str) -> String {
        format!("port{}", self.index(host))
    }

    fn switch(&self) -> String {
        self.namespace("switch")
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in self.hosts.iter().chain(&["switch"]) {
            // Those that were not made when it failed are not there; a failure must not hide another one's panic.
            let _ = try_ip(&["netns", "del", &self.namespace(host)]);
        }
    }
}

/// What this machine or user lacks.
fn missing() -> Option<&'static str> {
    let user = Command::new("id").arg("-u").output().unwrap();
    if user.stdout.trim_ascii() != b"0" {
        return Some("root");
    }
    try_ip(&["-V"]).is_err().then_some("iproute2's `ip`")
}

fn ip(arguments: &[&str]) {
    let output = try_ip(arguments).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`ip {}` failed: {said}", arguments.join(" "));
}

fn try_ip(arguments: &[&str]) -> io::Result<Output> {
    Command::new("ip").args(arguments).stdin(Stdio::null()).output()
}
