//! DHCP (RFC 2131): a packet of a guest in, the answer out.
//!
//! There is nothing to lease: which address a port has is decided elsewhere and never changes, so
//! the server keeps no state. Who asks is told by the tap; the packet only has to agree.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable as _, Encodable as _};

use crate::spec::{PortSpec, SubnetSpec, VpcSpec};

/// How long a guest keeps its address without asking again, in seconds.
pub const LEASE_S: u32 = 3600;

/// BOOTP clients expect at least this much (RFC 1542, section 2.1).
const LENGTH_MIN: usize = 300;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub packet: Vec<u8>,
    /// Where it goes, port 68: the guest's address, or everyone on its tap.
    pub to: Ipv4Addr,
}

/// Answers `packet`, which came in by the tap of `port`. Silence is an answer too: to what is not
/// a request, not from this guest, or meant for another server.
pub fn answer(packet: &[u8], spec: &VpcSpec, port: &PortSpec) -> Option<Answer> {
    let request = Message::decode(&mut dhcproto::Decoder::new(packet)).ok()?;
    let subnet = spec.subnet_of(port)?;
    // The length comes first: `chaddr()` trusts it.
    let own = request.hlen() == 6 && request.chaddr() == port.mac.0;
    if request.opcode() != Opcode::BootRequest || !own || !request.giaddr().is_unspecified() {
        return None;
    }
    let kind = match request.opts().msg_type()? {
        MessageType::Discover => MessageType::Offer,
        MessageType::Request => answer_to_request(&request, port, subnet)?,
        MessageType::Inform => MessageType::Ack,
        _ => return None,
    };
    let inform = request.opts().has_msg_type(MessageType::Inform);
    let mut reply = reply_to(&request, kind, subnet);
    if kind != MessageType::Nak {
        if !inform {
            reply.set_yiaddr(port.ip);
            lease(&mut reply);
        }
        configure(&mut reply, spec, port, subnet);
    }
    let mut bytes = reply.to_vec().ok()?;
    bytes.resize(bytes.len().max(LENGTH_MIN), 0);
    Some(Answer {
        packet: bytes,
        to: destination(&request, kind, port),
    })
}

/// A request names the server that it chose and the address that it wants, now or from before.
fn answer_to_request(
    request: &Message,
    port: &PortSpec,
    subnet: &SubnetSpec,
) -> Option<MessageType> {
    if let Some(DhcpOption::ServerIdentifier(server)) =
        request.opts().get(OptionCode::ServerIdentifier)
        && *server != subnet.gateway
    {
        return None;
    }
    let wanted = match request.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => *address,
        _ => request.ciaddr(),
    };
    Some(if wanted == port.ip {
        MessageType::Ack
    } else {
        MessageType::Nak
    })
}

fn reply_to(request: &Message, kind: MessageType, subnet: &SubnetSpec) -> Message {
    let mut reply = Message::new_with_id(
        request.xid(),
        request.ciaddr(),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        request.chaddr(),
    );
    reply.set_opcode(Opcode::BootReply);
    reply.set_flags(request.flags());
    if kind == MessageType::Nak {
        reply.set_ciaddr(Ipv4Addr::UNSPECIFIED);
        reply.set_flags(Flags::default().set_broadcast());
    }
    let options = reply.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(subnet.gateway));
    reply
}

fn lease(reply: &mut Message) {
    let options = reply.opts_mut();
    options.insert(DhcpOption::AddressLeaseTime(LEASE_S));
    options.insert(DhcpOption::Renewal(LEASE_S / 2));
    options.insert(DhcpOption::Rebinding(LEASE_S / 8 * 7));
}

fn configure(reply: &mut Message, spec: &VpcSpec, port: &PortSpec, subnet: &SubnetSpec) {
    let host = port.hostname.split('.').next().unwrap_or_default();
    let options = reply.opts_mut();
    options.insert(DhcpOption::SubnetMask(subnet.cidr.netmask()));
    options.insert(DhcpOption::BroadcastAddr(subnet.cidr.broadcast()));
    options.insert(DhcpOption::Router(vec![subnet.gateway]));
    options.insert(DhcpOption::DomainNameServer(vec![spec.resolver()]));
    options.insert(DhcpOption::DomainName(spec.domain.clone()));
    options.insert(DhcpOption::Hostname(host.to_owned()));
    options.insert(DhcpOption::InterfaceMtu(spec.mtu));
}

/// RFC 2131, section 4.1. A unicast reaches a guest that has no address yet, because the neighbour
/// entry of its tap is permanent.
fn destination(request: &Message, kind: MessageType, port: &PortSpec) -> Ipv4Addr {
    let configured = request.ciaddr() == port.ip;
    if kind == MessageType::Nak || (request.flags().broadcast() && !configured) {
        Ipv4Addr::BROADCAST
    } else {
        port.ip
    }
}
