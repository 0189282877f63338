//! WireGuard by the kernel, where it has it: a device in the underlay's namespace, told of its peers over
//! generic netlink (Documentation/netlink/specs/wireguard.yaml). It is made from the PC's own network, and
//! there its UDP socket stays (<https://www.wireguard.com/netns/>).

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
    ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use super::tunnels::SecretKey;
use super::{DEVICE, PeerSpec, UnderlaySpec, address_of};
use crate::namespace::{Namespace, run_tool};

/// Peers of one message, whose list has at most 64 KiB; one takes some 120 bytes.
const PEERS_AT_ONCE: usize = 256;

/// Whether the kernel has WireGuard, which it loads if it is a module.
pub fn is_there() -> bool {
    Wireguard::open().is_ok_and(|found| found.is_some())
}

/// Makes the device in `namespace`. The calling thread has to be in the PC's own network, where the device
/// listens.
///
/// # Errors
/// When the kernel has no WireGuard.
pub fn create(namespace: &Namespace) -> io::Result<()> {
    let name = namespace.name();
    let device = ["link", "add", DEVICE, "netns", name, "type", "wireguard"];
    run_tool("ip", &device, "")
}

/// Whether the device in the calling thread's network is the kernel's WireGuard.
pub fn seals() -> io::Result<bool> {
    let Some(mut wireguard) = Wireguard::open()? else {
        return Ok(false);
    };
    match wireguard.device() {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENODEV | Errno::EOPNOTSUPP) => Ok(false),
            Some(_) | None => Err(error),
        },
    }
}

/// Tells the device in the calling thread's network who it is, and who its peers are. A peer that stays keeps
/// its session, and the address that it spoke from last unless another one is announced than `before`.
pub fn tell(
    secret: &SecretKey,
    port: u16,
    spec: &UnderlaySpec,
    before: Option<&UnderlaySpec>,
) -> io::Result<()> {
    let mut wireguard = Wireguard::open()?.ok_or(Errno::EOPNOTSUPP)?;
    let (peers, listens_at) = wireguard.device()?;
    if listens_at != Some(port) {
        wireguard.set(vec![
            WireguardAttribute::PrivateKey(*secret.as_bytes()),
            WireguardAttribute::ListenPort(port),
        ])?;
    }
    let wanted: BTreeSet<[u8; 32]> = spec.peers.iter().map(|peer| *peer.key.as_bytes()).collect();
    let leaving = peers.difference(&wanted).map(|key| leaving(*key));
    let staying = spec.peers.iter().map(|peer| {
        let is_old = before.is_some_and(|before| before.peers.contains(peer));
        present(peer, is_old && peers.contains(peer.key.as_bytes()))
    });
    let all: Vec<WireguardPeer> = leaving.chain(staying).collect();
    all.chunks(PEERS_AT_ONCE)
        .try_for_each(|some| wireguard.set(vec![WireguardAttribute::Peers(some.to_vec())]))
}

fn leaving(key: [u8; 32]) -> WireguardPeer {
    WireguardPeer(vec![
        WireguardPeerAttribute::PublicKey(key),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
    ])
}

/// A peer with the one address that it may speak as.
fn present(peer: &PeerSpec, is_reached: bool) -> WireguardPeer {
    let address = WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(WireguardAddressFamily::Ipv4),
        WireguardAllowedIpAttr::IpAddr(IpAddr::V4(address_of(peer.host))),
        WireguardAllowedIpAttr::Cidr(32),
    ]);
    let mut attributes = vec![
        WireguardPeerAttribute::PublicKey(*peer.key.as_bytes()),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
        WireguardPeerAttribute::AllowedIps(vec![address]),
    ];
    if !is_reached {
        attributes.push(WireguardPeerAttribute::Endpoint(peer.endpoint));
    }
    WireguardPeer(attributes)
}

/// What speaks for WireGuard in the kernel, about devices of one network.
struct Wireguard {
    socket: Socket,
    family: u16,
}

impl Wireguard {
    /// `None` where the kernel has none.
    fn open() -> io::Result<Option<Self>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let name = WireguardMessage::family_name().to_owned();
        let question = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(name)],
        });
        let answers = match ask(&socket, question, NLM_F_ACK) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            answers => answers?,
        };
        let mut attributes = answers.iter().flat_map(|answer| &answer.nlas);
        let family = attributes.find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        let family = family.ok_or_else(|| io::Error::other("the kernel names no family"))?;
        Ok(Some(Wireguard { socket, family }))
    }

    /// The keys of the device's peers, and its port.
    fn device(&mut self) -> io::Result<(BTreeSet<[u8; 32]>, Option<u16>)> {
        let (mut peers, mut port) = (BTreeSet::new(), None);
        let parts = self.ask(WireguardCmd::GetDevice, Vec::new(), NLM_F_DUMP)?;
        for attribute in parts.into_iter().flat_map(|part| part.attributes) {
            match attribute {
                WireguardAttribute::ListenPort(at) => port = Some(at),
                WireguardAttribute::Peers(some) => peers.extend(some.iter().filter_map(key_of)),
                _ => {}
            }
        }
        Ok((peers, port))
    }

    fn set(&mut self, attributes: Vec<WireguardAttribute>) -> io::Result<()> {
        self.ask(WireguardCmd::SetDevice, attributes, NLM_F_ACK)
            .map(drop)
    }

    fn ask(
        &mut self,
        cmd: WireguardCmd,
        mut attributes: Vec<WireguardAttribute>,
        flags: u16,
    ) -> io::Result<Vec<WireguardMessage>> {
        attributes.insert(0, WireguardAttribute::IfName(DEVICE.to_owned()));
        let mut message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
        message.set_resolved_family_id(self.family);
        ask(&self.socket, message, flags)
    }
}

fn key_of(peer: &WireguardPeer) -> Option<[u8; 32]> {
    peer.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::PublicKey(key) => Some(*key),
        _ => None,
    })
}

/// Asks the kernel, and waits until it has said all. `flags` have it say when that is.
fn ask<F>(socket: &Socket, message: GenlMessage<F>, flags: u16) -> io::Result<Vec<F>>
where
    F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Debug,
{
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let length = NetlinkBuffer::new_checked(rest)
                .map_err(io::Error::other)?
                .length() as usize;
            let answer = NetlinkMessage::<GenlMessage<F>>::deserialize(rest);
            match answer.map_err(io::Error::other)?.payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer.payload),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
