//! What the host's own network tells us. Nothing here changes it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;

/// The IPv4 addresses of this host, which guests must not reach; 127/8 is refused anyway.
pub fn addresses() -> io::Result<BTreeSet<Ipv4Addr>> {
    Ok(getifaddrs()?
        .filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()))
        .filter(|address| !address.is_loopback())
        .collect())
}

/// The name servers in the text of a `resolv.conf`.
pub fn resolvers(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then_some(())?;
            let address: IpAddr = words.next()?.parse().ok()?;
            Some(SocketAddr::new(address, 53))
        })
        .take(3)
        .collect()
}
