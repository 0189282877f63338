//! DHCP (RFC 2131): a packet of a guest in, the answer out.
//!
//! There is nothing to lease: which address a port has is decided elsewhere and never changes, so
//! the server keeps no state. Who asks is told by the tap; the packet only has to agree.
//!
//! Packets are read here, not by a library: of what a guest sends only a few fields matter, and
//! dhcproto 0.15 panics on some options that any guest could send.

use std::net::Ipv4Addr;

use crate::spec::{Mac, PortSpec, SubnetSpec, VpcSpec};

/// How long a guest keeps its address without asking again, in seconds.
pub const LEASE_S: u32 = 3600;

/// BOOTP clients expect at least this much, in bytes (RFC 1542, section 2.1).
const LENGTH_MIN: usize = 300;

/// Where the options begin, after the cookie.
const OPTIONS: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const BROADCAST_FLAG: u16 = 0x8000;

/// Options (RFC 2132).
mod option {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const NAME_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const MTU: u8 = 26;
    pub const BROADCAST: u8 = 28;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const END: u8 = 255;
}

/// Message types, the values of option 53.
mod message {
    pub const DISCOVER: u8 = 1;
    pub const OFFER: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const ACK: u8 = 5;
    pub const NAK: u8 = 6;
    pub const INFORM: u8 = 8;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub packet: Vec<u8>,
    /// Where it goes, port 68: the guest's address, or everyone on its tap.
    pub to: Ipv4Addr,
}

/// Answers `packet`, which came in by the tap of `port`. Silence is an answer too: to what is not
/// a request, not from this guest, or meant for another server.
pub fn answer(packet: &[u8], spec: &VpcSpec, port: &PortSpec) -> Option<Answer> {
    let request = Request::parse(packet)?;
    let subnet = spec.subnet_of(port)?;
    if request.mac != port.mac || !request.relay.is_unspecified() {
        return None;
    }
    let kind = match request.kind {
        message::DISCOVER => message::OFFER,
        message::REQUEST => answer_to_request(&request, port, subnet)?,
        message::INFORM => message::ACK,
        _ => return None,
    };
    let mut reply = Reply::new(&request, kind, subnet.gateway);
    if kind != message::NAK {
        if request.kind != message::INFORM {
            reply.lease(port.ip);
        }
        reply.configure(spec, port, subnet);
    }
    Some(Answer {
        packet: reply.finish(),
        to: destination(&request, kind, port),
    })
}

/// A request names the server that it chose and the address that it wants, now or from before.
fn answer_to_request(request: &Request, port: &PortSpec, subnet: &SubnetSpec) -> Option<u8> {
    if request
        .server
        .is_some_and(|server| server != subnet.gateway)
    {
        return None;
    }
    let wanted = request.requested.unwrap_or(request.client);
    Some(if wanted == port.ip {
        message::ACK
    } else {
        message::NAK
    })
}

/// RFC 2131, section 4.1. A unicast reaches a guest that has no address yet, because the neighbour
/// entry of its tap is permanent.
fn destination(request: &Request, kind: u8, port: &PortSpec) -> Ipv4Addr {
    let configured = request.client == port.ip;
    let deaf = request.flags & BROADCAST_FLAG != 0 && !configured;
    if kind == message::NAK || deaf {
        Ipv4Addr::BROADCAST
    } else {
        port.ip
    }
}

/// What matters of a client's packet.
struct Request {
    kind: u8,
    transaction: [u8; 4],
    flags: u16,
    /// The address that the client has (`ciaddr`).
    client: Ipv4Addr,
    /// `giaddr`
    relay: Ipv4Addr,
    mac: Mac,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl Request {
    fn parse(packet: &[u8]) -> Option<Self> {
        let (head, options) = packet.split_at_checked(OPTIONS)?;
        // A request, Ethernet, six bytes of address.
        if head[..3] != [1, 1, 6] || head[236..] != COOKIE {
            return None;
        }
        let mut request = Request {
            kind: 0,
            transaction: *head[4..].first_chunk()?,
            flags: u16::from_be_bytes(*head[10..].first_chunk()?),
            client: Ipv4Addr::from(*head[12..].first_chunk::<4>()?),
            relay: Ipv4Addr::from(*head[24..].first_chunk::<4>()?),
            mac: Mac(*head[28..].first_chunk()?),
            requested: None,
            server: None,
        };
        request.read_options(options)?;
        Some(request)
    }

    /// `None` if an option is cut off.
    fn read_options(&mut self, mut rest: &[u8]) -> Option<()> {
        while let Some((&code, after)) = rest.split_first() {
            rest = match code {
                option::PAD => after,
                option::END => break,
                _ => {
                    let (&length, after) = after.split_first()?;
                    let (value, after) = after.split_at_checked(usize::from(length))?;
                    self.read_option(code, value);
                    after
                }
            };
        }
        Some(())
    }

    fn read_option(&mut self, code: u8, value: &[u8]) {
        let address = || Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?));
        match (code, value) {
            (option::MESSAGE_TYPE, [kind]) => self.kind = *kind,
            (option::REQUESTED_ADDRESS, _) => self.requested = address(),
            (option::SERVER, _) => self.server = address(),
            _ => {}
        }
    }
}

/// A packet in the making.
struct Reply {
    packet: Vec<u8>,
}

impl Reply {
    fn new(request: &Request, kind: u8, server: Ipv4Addr) -> Self {
        let refusal = kind == message::NAK;
        let mut packet = vec![0; OPTIONS];
        packet[..3].copy_from_slice(&[2, 1, 6]);
        packet[4..8].copy_from_slice(&request.transaction);
        let flags = if refusal {
            BROADCAST_FLAG
        } else {
            request.flags
        };
        packet[10..12].copy_from_slice(&flags.to_be_bytes());
        if !refusal {
            packet[12..16].copy_from_slice(&request.client.octets());
        }
        packet[28..34].copy_from_slice(&request.mac.0);
        packet[236..].copy_from_slice(&COOKIE);
        let mut reply = Reply { packet };
        reply.option(option::MESSAGE_TYPE, &[kind]);
        reply.option(option::SERVER, &server.octets());
        reply
    }

    fn lease(&mut self, address: Ipv4Addr) {
        self.packet[16..20].copy_from_slice(&address.octets());
        self.option(option::LEASE_TIME, &LEASE_S.to_be_bytes());
        self.option(option::RENEWAL_TIME, &(LEASE_S / 2).to_be_bytes());
        self.option(option::REBINDING_TIME, &(LEASE_S / 8 * 7).to_be_bytes());
    }

    fn configure(&mut self, spec: &VpcSpec, port: &PortSpec, subnet: &SubnetSpec) {
        let host = port.hostname.split('.').next().unwrap_or_default();
        self.option(option::SUBNET_MASK, &subnet.cidr.netmask().octets());
        self.option(option::BROADCAST, &subnet.cidr.broadcast().octets());
        self.option(option::ROUTER, &subnet.gateway.octets());
        self.option(option::NAME_SERVER, &spec.resolver().octets());
        self.option(option::DOMAIN_NAME, spec.domain.as_bytes());
        self.option(option::HOST_NAME, host.as_bytes());
        self.option(option::MTU, &spec.mtu.to_be_bytes());
    }

    /// A checked spec has no name that is too long for an option.
    fn option(&mut self, code: u8, value: &[u8]) {
        if let Ok(length) = u8::try_from(value.len()) {
            self.packet.extend_from_slice(&[code, length]);
            self.packet.extend_from_slice(value);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.packet.push(option::END);
        let length = self.packet.len().max(LENGTH_MIN);
        self.packet.resize(length, option::PAD);
        self.packet
    }
}

#[cfg(test)]
mod tests {
    use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
    use dhcproto::{Decodable as _, Decoder, Encodable as _};
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::spec;
    use crate::spec::Mac;

    fn request(kind: MessageType, mac: Mac) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut request = Message::new_with_id(7, none, none, none, none, &mac.0);
        request.opts_mut().insert(DhcpOption::MessageType(kind));
        request
    }

    fn ask(request: &Message) -> Option<(Message, Ipv4Addr)> {
        let spec = spec();
        let packet = request.to_vec().expect("it can be encoded");
        let answer = answer(&packet, &spec, &spec.ports[0])?;
        assert!(answer.packet.len() >= LENGTH_MIN);
        let message = Message::decode(&mut Decoder::new(&answer.packet)).expect("it can be read");
        Some((message, answer.to))
    }

    #[test]
    fn a_discover_is_offered_the_port_s_address() {
        let port = spec().ports[0].clone();
        let (offer, to) = ask(&request(MessageType::Discover, port.mac)).expect("an offer");
        assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
        assert_eq!((offer.yiaddr(), to, offer.xid()), (port.ip, port.ip, 7));
        let mtu = offer.opts().get(OptionCode::InterfaceMtu);
        assert_eq!(mtu, Some(&DhcpOption::InterfaceMtu(1450)));
        let mask = offer.opts().get(OptionCode::SubnetMask);
        let wanted = DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 240, 0));
        assert_eq!(mask, Some(&wanted));
    }

    #[test]
    fn a_request_for_another_address_is_refused_to_all_on_the_tap() {
        let port = spec().ports[0].clone();
        let mut wrong = request(MessageType::Request, port.mac);
        let other = Ipv4Addr::new(10, 9, 9, 9);
        wrong
            .opts_mut()
            .insert(DhcpOption::RequestedIpAddress(other));
        let (nak, to) = ask(&wrong).expect("a refusal");
        assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak));
        assert_eq!(
            (nak.yiaddr(), to),
            (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)
        );
        assert_eq!(nak.opts().get(OptionCode::AddressLeaseTime), None);
    }

    #[test]
    fn a_renewal_is_granted_to_the_address() {
        let port = spec().ports[0].clone();
        let mut renewal = request(MessageType::Request, port.mac);
        renewal.set_ciaddr(port.ip);
        renewal.set_flags(Flags::default().set_broadcast());
        let (ack, to) = ask(&renewal).expect("an answer");
        assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
        assert_eq!((ack.yiaddr(), to), (port.ip, port.ip));
        let lease = ack.opts().get(OptionCode::AddressLeaseTime);
        assert_eq!(lease, Some(&DhcpOption::AddressLeaseTime(LEASE_S)));
    }

    #[test]
    fn a_client_that_can_t_hear_unicast_is_answered_by_broadcast() {
        let mut discover = request(MessageType::Discover, spec().ports[0].mac);
        discover.set_flags(Flags::default().set_broadcast());
        let (_, to) = ask(&discover).expect("an offer");
        assert_eq!(to, Ipv4Addr::BROADCAST);
    }

    #[test]
    fn an_inform_gets_settings_and_no_lease() {
        let port = spec().ports[0].clone();
        let mut inform = request(MessageType::Inform, port.mac);
        inform.set_ciaddr(port.ip);
        let (ack, _) = ask(&inform).expect("an answer");
        assert_eq!(ack.yiaddr(), Ipv4Addr::UNSPECIFIED);
        assert_eq!(ack.opts().get(OptionCode::AddressLeaseTime), None);
        assert!(ack.opts().contains(OptionCode::Router));
    }

    #[test]
    fn what_is_not_for_us_is_not_answered() {
        let mac = spec().ports[0].mac;
        assert!(ask(&request(MessageType::Discover, Mac([2, 9, 9, 9, 9, 9]))).is_none());
        assert!(ask(&request(MessageType::Release, mac)).is_none());
        assert!(ask(&request(MessageType::Offer, mac)).is_none());
        let mut relayed = request(MessageType::Discover, mac);
        relayed.set_giaddr(Ipv4Addr::new(10, 0, 0, 1));
        assert!(ask(&relayed).is_none());
        let mut elsewhere = request(MessageType::Request, mac);
        let other = DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 0, 1));
        elsewhere.opts_mut().insert(other);
        assert!(ask(&elsewhere).is_none());
        let mut reply = request(MessageType::Discover, mac);
        reply.set_opcode(Opcode::BootReply);
        assert!(ask(&reply).is_none());
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            let spec = spec();
            let _ = answer(&packet, &spec, &spec.ports[0]);
        }

        /// Closer to real packets, which random bytes never come.
        #[test]
        fn no_damaged_request_does_harm(
            at in 0_usize..300, byte: u8, tail in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let spec = spec();
            let request = request(MessageType::Request, spec.ports[0].mac);
            let mut packet = request.to_vec().expect("it can be encoded");
            packet.extend(tail);
            let place = at % packet.len();
            packet[place] = byte;
            let _ = answer(&packet, &spec, &spec.ports[0]);
        }
    }
}
