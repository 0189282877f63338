//! A machine is one host of a cloud: namespaces and control groups have the cloud's name, and a second agent
//! would take those of the first for its own.

use anyhow::{Context, Result, bail};
use nix::sys::socket::{getsockopt, sockopt};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// Held by the agent as long as it lives, in the network namespace that it lives in.
pub struct Claim {
    _held: Option<UnixListener>,
}

impl Claim {
    pub fn take(cloud: &str) -> Result<Self> {
        let name = format!("boira-agent-{cloud}");
        let address = SocketAddr::from_abstract_name(&name).context("name the claim")?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Self {
                _held: Some(listener),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                if is_roots(&address) {
                    bail!("an agent of this cloud runs on this machine already, from its own home");
                }
                // Anybody could have taken the name.
                tracing::warn!("the name {name} is taken by a user's program");
                Ok(Self { _held: None })
            }
            Err(error) => Err(error).context("claim this machine for the cloud"),
        }
    }
}

fn is_roots(address: &SocketAddr) -> bool {
    let peer = UnixStream::connect_addr(address)
        .ok()
        .and_then(|stream| getsockopt(&stream, sockopt::PeerCredentials).ok());
    // Whoever let it go just now is no matter for a refusal.
    peer.is_some_and(|peer| peer.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_claimed_once_and_again_when_it_is_free() {
        let cloud = format!("test-{}", std::process::id());
        let first = Claim::take(&cloud).expect("nobody has it");
        assert!(first._held.is_some());
        if nix::unistd::geteuid().is_root() {
            assert!(Claim::take(&cloud).is_err());
        }
        assert!(Claim::take(&format!("{cloud}-other")).is_ok());
        drop(first);
        assert!(Claim::take(&cloud).expect("it is free")._held.is_some());
    }
}
