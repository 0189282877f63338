//! The one thread inside the VPC's namespace. It opens sockets; everybody else uses them.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::mpsc;

use nix::sys::socket::sockopt;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
};
use tokio::sync::oneshot;

use crate::namespace::Namespace;

type Work = Box<dyn FnOnce() + Send>;

pub struct Opener {
    work: mpsc::Sender<Work>,
    namespace: u64,
}

impl Opener {
    /// Needs root; what the thread does later needs nothing.
    pub fn start(namespace: &Namespace) -> io::Result<Self> {
        let identity = namespace
            .identity()
            .ok_or_else(|| io::Error::other("the namespace is gone"))?;
        let (work, to_do) = mpsc::channel::<Work>();
        namespace.spawn(move || {
            for work in to_do {
                work();
            }
        })?;
        Ok(Opener {
            work,
            namespace: identity,
        })
    }

    /// The identity of the namespace.
    pub fn namespace(&self) -> u64 {
        self.namespace
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let gone = || io::Error::other("the thread inside the namespace is gone");
        let (answer, answered) = oneshot::channel();
        let work = Box::new(move || {
            let _ = answer.send(work());
        });
        self.work.send(work).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// The namespace's devices with their indexes.
    pub async fn devices(&self) -> io::Result<HashMap<String, u32>> {
        self.run(|| {
            let devices = nix::net::if_::if_nameindex()?;
            let named = devices.iter().filter_map(|device| {
                let name = device.name().to_str().ok()?.to_owned();
                Some((name, device.index()))
            });
            Ok(named.collect())
        })
        .await
    }

    /// A datagram socket that also says by which device a packet came.
    pub async fn udp(&self, port: u16) -> io::Result<UdpSocket> {
        self.run(move || {
            let socket = new_socket(SockType::Datagram)?;
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            setsockopt(&socket, sockopt::Broadcast, &true)?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            bind_to(&socket, Ipv4Addr::UNSPECIFIED, port)?;
            Ok(socket.into())
        })
        .await
    }

    /// A listener that hears one device only.
    pub async fn tcp(
        &self,
        device: &str,
        address: Ipv4Addr,
        port: u16,
    ) -> io::Result<tokio::net::TcpListener> {
        let device = device.to_owned();
        let listener: TcpListener = self
            .run(move || {
                let socket = new_socket(SockType::Stream)?;
                setsockopt(&socket, sockopt::ReuseAddr, &true)?;
                setsockopt(&socket, sockopt::BindToDevice, &device.into())?;
                bind_to(&socket, address, port)?;
                listen(&socket, Backlog::new(64)?)?;
                Ok(socket.into())
            })
            .await?;
        tokio::net::TcpListener::from_std(listener)
    }
}

fn new_socket(kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Inet, kind, flags, None)?)
}

fn bind_to(socket: &OwnedFd, address: Ipv4Addr, port: u16) -> io::Result<()> {
    let address = SockaddrIn::from(SocketAddrV4::new(address, port));
    bind(socket.as_raw_fd(), &address)?;
    Ok(())
}
