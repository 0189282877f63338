//! The network between hosts: what carries the VPCs from one PC to another.
//!
//! ```text
//!   VPC's namespace          namespace boira-CLOUD-underlay         the PC's own network
//!  ┌────────────────┐       ┌───────────────────────────────┐
//!  │ vx0 (VXLAN) ───┼───────┤ 100.64.0.N on wg0 ────────────┼── WireGuard ── one UDP port
//!  └────────────────┘       └───────────────────────────────┘   (a key per host)
//! ```
//!
//! A VXLAN socket takes packets from anyone, so it is in a namespace that nothing reaches but
//! WireGuard; and that takes packets only from hosts whose key the controller has named, and each
//! only under its own address. What a host says inside VXLAN is bound to it too: the sender's MAC has
//! to be that host's ([`rules`]), and every VPC knows which addresses live behind which MAC.
//!
//! Where the [`kernel`] has WireGuard, the device is its own. Many old systems have none: there it is a
//! tun, and the [`relay`], a process of its own that outlives the agent, speaks WireGuard by the crate
//! boringtun. What carries stays until the namespace goes, so connections outlive an agent that was
//! replaced by one that would choose otherwise.

mod kernel;
mod relay;
mod rules;
mod tunnels;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify};

pub use kernel::is_there as kernel_seals;
pub use relay::relay;
pub use tunnels::PublicKey;
use tunnels::SecretKey;

use crate::namespace::{Namespace, run_tool};
use crate::server_process::ServerProcess;
use crate::spec::{Mac, SpecError};
use crate::{netfilter, tap};

/// The UDP port, where it is free.
pub const PORT: u16 = 8775;
/// The device that leads to other hosts.
pub(crate) const DEVICE: &str = "wg0";
/// VXLAN's port (RFC 7348), inside the underlay's namespace only.
pub(crate) const VXLAN_PORT: u16 = 4789;
/// What an Ethernet link carries, less what WireGuard adds: IPv4 and UDP headers, 32 bytes, and
/// nothing to pad. Over IPv6 the outer packets are fragmented.
const MTU: u16 = 1500 - 20 - 8 - 32;
/// What is left to a guest's packet after VXLAN's own headers: Ethernet, IPv4, UDP, VXLAN.
pub const GUEST_MTU: u16 = MTU - 14 - 20 - 8 - 8;

/// Hosts of a cloud have addresses of this network, which is shared address space (RFC 6598), in a
/// namespace of their own; no network of the PC can collide with it.
const NETWORK: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const PREFIX: u8 = 10;
/// Numbers of hosts stay below this.
pub const HOSTS_MAX: u32 = (1 << (32 - PREFIX)) - 1;

const KEY_FILE: &str = "key";
const PORT_FILE: &str = "port";
/// How long to wait before a relay that ended is started again, so that one that can't run doesn't
/// keep the machine busy.
const REST: Duration = Duration::from_secs(1);

/// The other hosts, and which one this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderlaySpec {
    /// This host's number in the cloud.
    pub host: u32,
    pub peers: Vec<PeerSpec>,
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSpec {
    pub host: u32,
    pub key: PublicKey,
    /// Where its relay listens.
    pub endpoint: SocketAddr,
}

impl UnderlaySpec {
    fn check(&self) -> Result<(), SpecError> {
        let mut seen = BTreeSet::from([self.host]);
        for host in self.peers.iter().map(|peer| peer.host) {
            if !seen.insert(host) {
                return Err(SpecError(format!("host {host} is there twice")));
            }
        }
        match seen.last() {
            Some(last) if *last >= HOSTS_MAX || seen.contains(&0) => Err(SpecError(format!(
                "hosts are numbered from 1 to {}",
                HOSTS_MAX - 1
            ))),
            _ => Ok(()),
        }
    }
}

/// A host's address in the underlay.
pub(crate) fn address_of(host: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(NETWORK) + host)
}

/// The address of a host's end of every VXLAN.
pub(crate) fn mac_of(host: u32) -> Mac {
    let [a, b, c, d] = host.to_be_bytes();
    Mac([0x02, 0xfe, a, b, c, d])
}

/// The namespace of a cloud's underlay.
pub(crate) fn namespace(cloud: &str) -> Namespace {
    Namespace::named(&format!("boira-{cloud}-underlay"))
}

/// This host's end of the network between hosts.
pub struct Underlay {
    namespace: Namespace,
    directory: PathBuf,
    process: ServerProcess,
    secret: SecretKey,
    port: u16,
    may_use_kernel: bool,
    wanted: Mutex<Option<Wanted>>,
    started: Notify,
}

/// What this host was made last.
struct Wanted {
    spec: UnderlaySpec,
    sealing: Sealing,
}

/// Who seals what goes to other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sealing {
    Kernel,
    Relay,
}

impl Underlay {
    /// Finds this host's key and port, or makes them. `command` starts [`relay`] in a process of its
    /// own when a directory is appended.
    ///
    /// # Errors
    /// When the directory can't be written, or no UDP port is free.
    pub fn open(cloud: &str, directory: &Path, command: &[OsString]) -> io::Result<Self> {
        let namespace = namespace(cloud);
        let directory = directory.join("underlay");
        let process = ServerProcess::new(namespace.name(), &directory, command);
        process.prepare_directory()?;
        let secret = secret(&directory)?;
        let runs = !process.running().is_empty() || sealing(&namespace)? == Some(Sealing::Kernel);
        let port = port(&directory, runs)?;
        Ok(Underlay {
            namespace,
            directory,
            process,
            secret,
            port,
            may_use_kernel: true,
            wanted: Mutex::default(),
            started: Notify::new(),
        })
    }

    /// As on a kernel without WireGuard.
    #[must_use]
    pub fn by_relay(mut self) -> Self {
        self.may_use_kernel = false;
        self
    }

    /// The key that other hosts know this one by.
    pub fn public_key(&self) -> PublicKey {
        self.secret.public()
    }

    /// The UDP port that other hosts reach this one at.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes this host a peer of those that `spec` names and of nobody else, whatever there was.
    ///
    /// # Errors
    /// A spec that contradicts itself changes nothing. After any other error the call can be
    /// repeated.
    pub async fn ensure(&self, spec: &UnderlaySpec) -> io::Result<()> {
        spec.check().map_err(io::Error::other)?;
        let mut wanted = self.wanted.lock().await;
        self.ensure_locked(&mut wanted, spec.clone()).await?;
        self.started.notify_one();
        Ok(())
    }

    async fn ensure_locked(
        &self,
        wanted: &mut Option<Wanted>,
        spec: UnderlaySpec,
    ) -> io::Result<()> {
        let sealing = self.configure(&spec, wanted.as_ref()).await?;
        let wanted = wanted.insert(Wanted { spec, sealing });
        match sealing {
            Sealing::Kernel => Ok(()),
            Sealing::Relay => self.ensure_relay(&wanted.spec).await,
        }
    }

    async fn configure(&self, spec: &UnderlaySpec, before: Option<&Wanted>) -> io::Result<Sealing> {
        let (namespace, may_use_kernel) = (self.namespace.clone(), self.may_use_kernel);
        let end = End {
            secret: self.secret.clone(),
            port: self.port,
            spec: spec.clone(),
            before: before.map(|before| before.spec.clone()),
        };
        tokio::task::spawn_blocking(move || {
            namespace.create()?;
            let sealing = match sealing(&namespace)? {
                Some(sealing) => sealing,
                None if may_use_kernel && kernel::create(&namespace).is_ok() => Sealing::Kernel,
                None => Sealing::Relay,
            };
            namespace.run_blocking(move || configure(&end, sealing))?;
            Ok(sealing)
        })
        .await
        .map_err(io::Error::other)?
    }

    async fn ensure_relay(&self, spec: &UnderlaySpec) -> io::Result<()> {
        let identity = self
            .namespace
            .identity()
            .ok_or_else(|| io::Error::other("the underlay's namespace is gone"))?;
        self.process.prepare_directory()?;
        let relay = relay::RelaySpec {
            port: self.port,
            underlay: spec.clone(),
        };
        self.process.ensure(&relay, identity, false).await?;
        Ok(())
    }

    /// Starts the relay, where there is one, again when it ends. Runs for ever.
    pub async fn keep_running(&self) {
        let mut failed = false;
        loop {
            match self.process.running().into_iter().next() {
                Some(relay) => {
                    let _ = relay.ended().await;
                }
                None if failed => {}
                None => self.started.notified().await,
            }
            failed = false;
            let mut wanted = self.wanted.lock().await;
            let relayed = wanted
                .as_ref()
                .filter(|wanted| wanted.sealing == Sealing::Relay)
                .filter(|_| self.process.running().is_empty());
            let Some(spec) = relayed.map(|relayed| relayed.spec.clone()) else {
                continue;
            };
            tracing::warn!("the relay between hosts ended; starting it again");
            let outcome = self.ensure_locked(&mut wanted, spec).await;
            drop(wanted);
            if let Err(error) = outcome {
                failed = true;
                tracing::error!(%error, "the relay between hosts can't be started");
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// Ends the relay and removes the namespace, and with it every VPC's way to other hosts. The key
    /// and the port stay.
    pub async fn remove(&self) -> io::Result<()> {
        *self.wanted.lock().await = None;
        self.process.stop().await?;
        let namespace = self.namespace.clone();
        tokio::task::spawn_blocking(move || {
            let removing = namespace.run_blocking(|| tap::remove(DEVICE));
            match removing {
                Err(error) if namespace.identity().is_some() => return Err(error),
                Ok(()) | Err(_) => {}
            }
            namespace.remove()
        })
        .await
        .map_err(io::Error::other)?
    }

    /// Whether anything of it is there.
    pub fn is_present(&self) -> bool {
        self.namespace.identity().is_some() || !self.process.running().is_empty()
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Who seals there now; `None` before there is a device.
fn sealing(namespace: &Namespace) -> io::Result<Option<Sealing>> {
    if namespace.identity().is_none() {
        return Ok(None);
    }
    namespace.run_blocking(|| match nix::net::if_::if_nametoindex(DEVICE) {
        Err(_) => Ok(None),
        Ok(_) if kernel::seals()? => Ok(Some(Sealing::Kernel)),
        Ok(_) => Ok(Some(Sealing::Relay)),
    })
}

/// What this host is to be.
struct End {
    secret: SecretKey,
    port: u16,
    spec: UnderlaySpec,
    /// What it was before, as far as that is known.
    before: Option<UnderlaySpec>,
}

/// Rules, device and address, in the namespace of the calling thread.
fn configure(end: &End, sealing: Sealing) -> io::Result<()> {
    let spec = &end.spec;
    for (name, value) in [
        ("ipv4/ip_forward", "0"),
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
    ] {
        let path = Path::new("/proc/sys/net").join(name);
        // A kernel without IPv6 lacks its settings, and needs none.
        match fs::write(path, value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    netfilter::apply(&rules::table(spec).replacement())?;
    match sealing {
        Sealing::Kernel => kernel::tell(&end.secret, end.port, spec, end.before.as_ref())?,
        Sealing::Relay => tap::create_tun(DEVICE)?,
    }
    let address = address_of(spec.host);
    let mut lines = String::new();
    for other in tap::addresses(DEVICE)?.iter().filter(|ip| **ip != address) {
        lines += &format!("addr del {other}/{PREFIX} dev {DEVICE}\n");
    }
    lines += &format!(
        "addr replace {address}/{PREFIX} dev {DEVICE}\n\
         link set dev {DEVICE} mtu {MTU} up\n"
    );
    run_tool("ip", &["-batch", "-"], &lines)
}

/// This host's secret, which is made once and stays root's.
fn secret(directory: &Path) -> io::Result<SecretKey> {
    let path = directory.join(KEY_FILE);
    match fs::read(&path) {
        Ok(bytes) => SecretKey::from_bytes(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = SecretKey::random();
            boira_files::replace(&path, secret.as_bytes(), 0o600)?;
            Ok(secret)
        }
        Err(error) => Err(error),
    }
}

/// The port of before where it still can be had, else [`PORT`] or any.
fn port(directory: &Path, runs: bool) -> io::Result<u16> {
    let path = directory.join(PORT_FILE);
    let kept = fs::read_to_string(&path).ok();
    let kept = kept.and_then(|text| text.trim().parse().ok());
    if let Some(kept) = kept
        && (runs || is_free(kept))
    {
        return Ok(kept);
    }
    let port = match is_free(PORT) {
        true => PORT,
        false => relay::listen(0)?.local_addr()?.port(),
    };
    boira_files::replace(&path, port.to_string().as_bytes(), 0o600)?;
    Ok(port)
}

fn is_free(port: u16) -> bool {
    relay::listen(port).is_ok_and(|socket: UdpSocket| socket.local_addr().is_ok())
}
