//! Which ports the daemons of a cluster listen on.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};

use crate::layout::{Cluster, Ports};

/// Lowest port given to a daemon where nobody says which ones are.
const PORT_MIN: u16 = 15_000;
/// Highest port given to a daemon where the kernel does not say which ones it hands out.
const PORT_MAX: u16 = 32_767;

/// Ports below those that the kernel gives to outgoing connections, from `ip_local_port_range`: while a daemon is down, one of
/// those could take its port, and a client that keeps trying could even connect to itself; the daemon could not listen again.
fn usual_ports(local_port_range: &str) -> Ports {
    let first = local_port_range.split_whitespace().next();
    let first = first.and_then(|first| first.parse::<u16>().ok());
    let last = first.map_or(PORT_MAX, |first| first.saturating_sub(1));
    Ports {
        first: PORT_MIN,
        last: last.clamp(PORT_MIN, PORT_MAX),
    }
}

/// A port for one more daemon of the cluster, that nothing listens on; which one is left to chance, for another cluster may be
/// choosing, too. Kept in the configuration from then on.
pub(super) fn next(cluster: &Cluster) -> Result<u16> {
    let usual = || usual_ports(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default());
    let Ports { first, last } = cluster.ports.unwrap_or_else(usual);
    let taken = of(cluster);
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("random bytes: {error}"))?;
    let count = u32::from(last - first) + 1;
    let start = u32::from_le_bytes(random) % count;
    let candidates = (0..count).map(|step| u32::from(first) + (start + step) % count);
    candidates
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| !taken.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .with_context(|| {
            format!(
                "no port from {first} to {last} is free on 127.0.0.1\nhint:  `borealis up --ports FIRST-LAST` names others"
            )
        })
}

/// Ports that belong to the cluster, whether something listens or not.
pub(super) fn of(cluster: &Cluster) -> Vec<u16> {
    let storage = cluster.storage.iter().map(|node| node.port);
    let instances = cluster.instances.iter().map(|instance| instance.port);
    let metrics = cluster.metrics.values().filter_map(|address| {
        let address: SocketAddr = address.parse().ok()?;
        Some(address.port())
    });
    storage.chain(instances).chain([cluster.port]).chain(metrics).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_listen_below_the_ports_of_outgoing_connections() {
        let last = |local_port_range: &str| usual_ports(local_port_range).last;
        assert_eq!(last("32768\t60999\n"), 32_767);
        assert_eq!(last("20000 60999"), 19_999);
        assert_eq!(last("1024 65535"), PORT_MIN, "no room below: at least a valid port");
        assert_eq!(last(""), PORT_MAX);
    }
}
