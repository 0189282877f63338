//! What the host's own network tells us. Nothing here changes it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

use crate::readiness::readable;

/// The IPv4 addresses of this host, which guests must not reach; 127/8 is refused anyway.
pub fn addresses() -> io::Result<BTreeSet<Ipv4Addr>> {
    Ok(getifaddrs()?
        .filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()))
        .filter(|address| !address.is_loopback())
        .collect())
}

/// Hears when an address of the host comes or goes.
pub struct AddressChanges {
    netlink: AsyncFd<OwnedFd>,
}

impl AddressChanges {
    pub fn listen() -> io::Result<Self> {
        let netlink = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        let groups = u32::try_from(libc::RTMGRP_IPV4_IFADDR).map_err(io::Error::other)?;
        bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(AddressChanges {
            netlink: readable(netlink)?,
        })
    }

    /// Returns after the next change, and once for several that came together.
    pub async fn next(&mut self) -> io::Result<()> {
        let mut ready = self.netlink.readable().await?;
        let mut message = [0; 4096];
        loop {
            match recv(
                ready.get_inner().as_raw_fd(),
                &mut message,
                MsgFlags::empty(),
            ) {
                Err(nix::Error::EAGAIN) => {
                    ready.clear_ready();
                    return Ok(());
                }
                // Messages were lost, which says that there were changes.
                Ok(_) | Err(nix::Error::ENOBUFS) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        let text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 192.0.2.1\n\
                    nameserver\t2001:db8::1\nnameserver nonsense\nnameserver\n";
        let wanted = ["192.0.2.1:53", "[2001:db8::1]:53"];
        assert_eq!(
            resolvers(text),
            wanted.map(|s| s.parse().expect("an address"))
        );
    }
}
