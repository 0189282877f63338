//! The relay's process: `boira underlay-relay DIR`.
//!
//! One thread seals what the namespace sends, one opens what other hosts send, a third looks at the
//! clock; the main one listens to the agent. Strangers reach the UDP port, so before it reads the
//! first datagram it gives up root for a numeric user of its own.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::tunnels::{BUFFER, SecretKey, TICKS_PER_S, Tunnels};
use super::{DEVICE, KEY_FILE, UnderlaySpec};
use crate::namespace::Namespace;
use crate::serving::{Serving, announce_ready};
use crate::{privileges, tap};

/// Room for the datagrams of a busy moment, in bytes.
const SOCKET_BUFFER: usize = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub struct RelaySpec {
    pub port: u16,
    pub underlay: UnderlaySpec,
}

/// Carries packets between the underlay's namespace and other hosts until it is killed. Enters
/// `directory` and gives up its privileges, so it needs a process for itself.
///
/// # Errors
/// When another process serves the directory, the port is taken, or the namespace goes away.
pub async fn relay(directory: &Path) -> io::Result<()> {
    privileges::refuse_new()?;
    let (mut serving, file) = Serving::enter::<RelaySpec>(directory)?;
    let secret = SecretKey::from_bytes(&std::fs::read(KEY_FILE)?)?;
    let socket = listen(file.spec.port)?;
    make_room(&socket);
    let namespace = Namespace::named(&file.namespace);
    let identity = namespace
        .identity()
        .ok_or_else(|| io::Error::other("the namespace is gone"))?;
    let device = namespace.run_blocking(|| tap::open_tun(DEVICE))?;
    privileges::drop_to(file.uid)?;

    let tunnels = Arc::new(Tunnels::new(secret));
    tunnels.set_peers(&file.spec.underlay.peers);
    let relay = Arc::new(Relay {
        tunnels,
        socket,
        device,
    });
    let mut ends = relay.start()?;
    announce_ready()?;
    loop {
        let agent = tokio::select! {
            accepted = serving.accept() => accepted?,
            Some(error) = ends.recv() => return Err(error),
        };
        let reload = async |spec: RelaySpec| {
            relay.tunnels.set_peers(&spec.underlay.peers);
            Ok(())
        };
        serving.answer(agent, identity, reload).await;
    }
}

/// The socket of the relay, for IPv4 and, where the system has it, IPv6.
pub fn listen(port: u16) -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Err(error),
        _ => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)),
    })
}

fn make_room(socket: &UdpSocket) {
    // Root may go beyond the system's bound; anybody else gets what there is.
    if setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &SOCKET_BUFFER);
    }
    let _ = setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER);
}

struct Relay {
    tunnels: Arc<Tunnels>,
    socket: UdpSocket,
    device: File,
}

impl Relay {
    /// Half a relay is worse than none, so the end of any thread is told.
    fn start(self: &Arc<Self>) -> io::Result<mpsc::Receiver<io::Error>> {
        let (end, ends) = mpsc::channel(3);
        for (name, work) in [
            ("sealing", Self::seal as fn(&Self) -> io::Result<()>),
            ("opening", Self::open),
            ("clock", Self::tick),
        ] {
            let (relay, end) = (self.clone(), end.clone());
            std::thread::Builder::new()
                .name(name.to_owned())
                .stack_size(256 << 10)
                .spawn(move || {
                    if let Err(error) = work(&relay) {
                        let _ = end.blocking_send(error);
                    }
                })?;
        }
        Ok(ends)
    }

    fn seal(&self) -> io::Result<()> {
        let (mut packet, mut buffer) = (vec![0; BUFFER], vec![0; BUFFER]);
        loop {
            let length = (&self.device).read(&mut packet)?;
            if let Some((datagram, to)) = self.tunnels.seal(&packet[..length], &mut buffer) {
                self.send(datagram, to);
            }
        }
    }

    fn open(&self) -> io::Result<()> {
        let (mut datagram, mut buffer) = (vec![0; BUFFER], vec![0; BUFFER]);
        loop {
            // Errors are of earlier datagrams that could not be delivered.
            let Ok((length, from)) = self.socket.recv_from(&mut datagram) else {
                continue;
            };
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            let send = |answer: &[u8], to| self.send(answer, to);
            let mut written = Ok(());
            let deliver = |packet: &[u8]| written = (&self.device).write(packet).map(drop);
            let received = &datagram[..length];
            self.tunnels
                .open(from, received, &mut buffer, send, deliver);
            match written {
                // The device is gone, and with it what there is to do.
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn tick(&self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            std::thread::sleep(Duration::from_secs(1) / TICKS_PER_S);
            self.tunnels
                .tick(&mut buffer, |datagram, to| self.send(datagram, to));
        }
    }

    /// A datagram that can't be sent is lost, as any may be; the guests' own protocols repeat it.
    fn send(&self, datagram: &[u8], to: SocketAddr) {
        let dual = self.socket.local_addr().is_ok_and(|own| own.is_ipv6());
        let to = match to.ip() {
            IpAddr::V4(ip) if dual => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            IpAddr::V4(_) | IpAddr::V6(_) => to,
        };
        let _ = self.socket.send_to(datagram, to);
    }
}
