//! DHCP and DNS over UDP. One socket each for all ports: the kernel says with every packet by
//! which device it came, and that says who asks.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg,
};
use tokio::io::unix::AsyncFd;

use super::Shared;
use crate::readiness::readable;
use crate::{dhcp, dns};

/// No packet that we answer is longer, in bytes.
const PACKET_SIZE_MAX: usize = 2048;

pub struct Datagrams {
    socket: AsyncFd<UdpSocket>,
}

/// Where a packet came from and where its answer goes.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// The index of the tap.
    pub device: u32,
    /// The address that was asked.
    local: Ipv4Addr,
    pub peer: SocketAddrV4,
}

impl Datagrams {
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let socket = readable(socket)?;
        Ok(Datagrams { socket })
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Way)> {
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| receive_now(socket.get_ref(), buffer)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Datagrams may be lost: one that can't be sent now is.
    pub fn send(&self, packet: &[u8], way: Way) {
        let info = libc::in_pktinfo {
            ipi_ifindex: i32::try_from(way.device).unwrap_or(0),
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from(way.local).to_be(),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let result = sendmsg(
            self.socket.as_raw_fd(),
            &[IoSlice::new(packet)],
            &[ControlMessage::Ipv4PacketInfo(&info)],
            MsgFlags::MSG_DONTWAIT,
            Some(&SockaddrIn::from(way.peer)),
        );
        if let Err(error) = result {
            tracing::debug!(%error, ?way, "a datagram can't be sent");
        }
    }
}

fn receive_now(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Way)> {
    let mut control = nix::cmsg_space!(libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let info = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
        _ => None,
    });
    let (Some(info), Some(peer)) = (info, message.address) else {
        return Err(io::Error::other("a packet without its device"));
    };
    let way = Way {
        device: u32::try_from(info.ipi_ifindex).map_err(io::Error::other)?,
        local: Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)),
        peer: SocketAddrV4::new(peer.ip(), peer.port()),
    };
    Ok((message.bytes, way))
}

/// Never ends.
pub async fn serve_dhcp(datagrams: Datagrams, shared: Shared) {
    let mut buffer = [0; PACKET_SIZE_MAX];
    loop {
        match datagrams.receive(&mut buffer).await {
            Ok((length, way)) => answer_dhcp(&datagrams, &buffer[..length], way, &shared),
            Err(error) => tracing::debug!(%error, "receiving a DHCP packet failed"),
        }
    }
}

fn answer_dhcp(datagrams: &Datagrams, packet: &[u8], way: Way, shared: &Shared) {
    let state = shared.state();
    let Some(port) = state.port_of_device(way.device) else {
        return;
    };
    let (Some(answer), Some(subnet)) = (
        dhcp::answer(packet, &state.spec, port),
        state.spec.subnet_of(port),
    ) else {
        return;
    };
    let back = Way {
        device: way.device,
        local: subnet.gateway,
        peer: SocketAddrV4::new(answer.to, 68),
    };
    datagrams.send(&answer.packet, back);
}

/// Never ends.
pub async fn serve_dns(datagrams: Datagrams, shared: Shared) {
    let datagrams = Arc::new(datagrams);
    let mut buffer = [0; PACKET_SIZE_MAX];
    loop {
        match datagrams.receive(&mut buffer).await {
            Ok((length, way)) => answer_dns(&datagrams, &buffer[..length], way, &shared),
            Err(error) => tracing::debug!(%error, "receiving a DNS packet failed"),
        }
    }
}

fn answer_dns(datagrams: &Arc<Datagrams>, packet: &[u8], way: Way, shared: &Shared) {
    let state = shared.state();
    let Some(port) = state.port_of_device(way.device) else {
        return;
    };
    match dns::decide(packet, &state.spec) {
        dns::Decision::Ignore => {}
        dns::Decision::Answer(answer) => datagrams.send(&answer, way),
        dns::Decision::Forward => {
            let Some(place) = shared.forwarder.place(&port.eni) else {
                return;
            };
            let (datagrams, shared) = (datagrams.clone(), shared.clone());
            let packet = packet.to_vec();
            tokio::spawn(async move {
                let answer = shared.forwarder.ask(&packet, &state.spec).await;
                if let Some(answer) = answer {
                    datagrams.send(&answer, way);
                }
                drop(place);
            });
        }
    }
}
