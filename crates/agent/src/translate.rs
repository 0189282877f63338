//! From the wire's words to the drivers'.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use boira_hypervisor::ExitReason;
use boira_model::wire::{Endpoint, GuestState, WantedOverlay, WantedPort, WantedVpc};
use boira_model::{Cidr, Exit, InstanceId, Peer, Protocol};
use boira_network as network;
use ipnet::Ipv4Net;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite};

/// A UUID that begins with `ec2`, as cloud-init wants it, from the instance's own digits.
pub fn uuid(instance: &InstanceId) -> String {
    let digits = instance.as_str().trim_start_matches("i-");
    let hex = format!("ec2{digits:0>29}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..32]
    )
}

/// A guest's state; `None` where it is unknown.
pub fn guest_state(state: &boira_hypervisor::GuestState) -> Option<GuestState> {
    Some(match state {
        boira_hypervisor::GuestState::Unknown => return None,
        boira_hypervisor::GuestState::Starting => GuestState::Preparing,
        boira_hypervisor::GuestState::Running => GuestState::Running,
        boira_hypervisor::GuestState::Paused => GuestState::Paused,
        boira_hypervisor::GuestState::Incoming => GuestState::Incoming,
        boira_hypervisor::GuestState::Arrived => GuestState::Arrived,
        boira_hypervisor::GuestState::Departed(generation) => GuestState::Departed {
            generation: *generation,
        },
        boira_hypervisor::GuestState::Exited(reason) => GuestState::Exited(match reason {
            ExitReason::Poweroff => Exit::Poweroff,
            ExitReason::Panic => Exit::Panic,
            ExitReason::Killed => Exit::Killed,
            ExitReason::Failed(why) => Exit::Failed(why.clone()),
            ExitReason::StartFailed(why) => Exit::StartFailed(why.clone()),
        }),
    })
}

fn net(cidr: Cidr) -> Result<Ipv4Net> {
    cidr.to_string()
        .parse()
        .with_context(|| format!("{cidr} is no network"))
}

pub fn vpc(wanted: &WantedVpc, mtu: u16, api: Option<SocketAddr>) -> Result<network::VpcSpec> {
    let region = wanted
        .ports
        .first()
        .map_or("us-east-1", |port| port.metadata.region.as_str());
    Ok(network::VpcSpec {
        vpc: wanted.vpc.to_string(),
        cidr: net(wanted.cidr)?,
        subnets: wanted
            .subnets
            .iter()
            .map(|subnet| {
                Ok(network::SubnetSpec {
                    subnet: subnet.subnet.to_string(),
                    cidr: net(subnet.cidr)?,
                    gateway: subnet.gateway,
                })
            })
            .collect::<Result<_>>()?,
        mtu,
        domain: network::default_domain(region),
        ports: wanted.ports.iter().map(port).collect::<Result<_>>()?,
        standby: wanted
            .standby
            .iter()
            .map(|port| network::StandbySpec {
                eni: port.interface.to_string(),
                instance: port.instance.to_string(),
                ip: port.ip,
            })
            .collect(),
        groups: wanted
            .groups
            .iter()
            .map(|group| {
                Ok(network::GroupSpec {
                    id: group.id.to_string(),
                    members: group.members.clone(),
                    ingress: rules(&group.ingress)?,
                    egress: rules(&group.egress)?,
                })
            })
            .collect::<Result<_>>()?,
        overlay: wanted.overlay.as_ref().map(overlay).transpose()?,
        api,
        way_out: true,
        resolvers: None,
    })
}

fn overlay(wanted: &WantedOverlay) -> Result<network::OverlaySpec> {
    Ok(network::OverlaySpec {
        vni: number(wanted.vni)?,
        host: number(wanted.host)?,
        peers: wanted
            .peers
            .iter()
            .map(|peer| {
                Ok(network::OverlayPeer {
                    host: number(peer.host)?,
                    addresses: peer.addresses.iter().copied().collect(),
                })
            })
            .collect::<Result<_>>()?,
    })
}

/// The other hosts; `controller` is where this one reaches the machine of the controller. One whose
/// key makes no sense is left out: it harms itself only.
pub fn underlay(
    wanted: &WantedOverlay,
    controller: IpAddr,
) -> Result<network::underlay::UnderlaySpec> {
    let mut peers = Vec::new();
    for peer in &wanted.peers {
        let key = match peer.key.clone().try_into() {
            Ok(key) => key,
            Err(error) => {
                tracing::warn!("host {} is no peer: {error}", peer.host);
                continue;
            }
        };
        peers.push(network::underlay::PeerSpec {
            host: number(peer.host)?,
            key,
            endpoint: match peer.endpoint {
                Endpoint::At(address) => address,
                Endpoint::BesideController(port) => SocketAddr::new(controller, port),
            },
        });
    }
    Ok(network::underlay::UnderlaySpec {
        host: number(wanted.host)?,
        peers,
    })
}

fn number(number: u64) -> Result<u32> {
    u32::try_from(number).with_context(|| format!("{number} is too large"))
}

fn rules(rules: &[(Protocol, Peer)]) -> Result<Vec<network::Rule>> {
    rules
        .iter()
        .map(|(protocol, peer)| {
            Ok(network::Rule {
                protocol: match *protocol {
                    Protocol::All => network::Protocol::All,
                    Protocol::Tcp { from, to } => network::Protocol::Tcp { from, to },
                    Protocol::Udp { from, to } => network::Protocol::Udp { from, to },
                    Protocol::Icmp { kind, code } => network::Protocol::Icmp { kind, code },
                    Protocol::Number(number) => network::Protocol::Number(number),
                },
                peer: match peer {
                    Peer::Cidr(cidr) => network::Peer::Cidr(net(*cidr)?),
                    Peer::Group(id) => network::Peer::Group(id.to_string()),
                },
            })
        })
        .collect()
}

fn port(port: &WantedPort) -> Result<network::PortSpec> {
    let about = &port.metadata;
    Ok(network::PortSpec {
        eni: port.interface.to_string(),
        instance: port.instance.to_string(),
        device_index: 0,
        mac: network::Mac(port.mac.0),
        ip: port.ip,
        public_ip: port.public_ip,
        subnet: port.subnet.to_string(),
        hostname: about.hostname.clone(),
        groups: port.groups.iter().map(ToString::to_string).collect(),
        source_dest_check: port.source_dest_check,
        metadata: network::MetadataSpec {
            ami_id: about.image_id.clone(),
            ami_launch_index: about.launch_index,
            instance_type: about.instance_type.clone(),
            reservation_id: about.reservation_id.clone(),
            account: about.account.clone(),
            region: about.region.clone(),
            availability_zone: about.zone.clone(),
            availability_zone_id: about.zone_id.clone(),
            launch_time: boira_core::wanted::iso_seconds(about.launched),
            architecture: about.architecture.clone(),
            public_keys: about.public_keys.clone(),
            user_data: about.user_data.as_deref().and_then(user_data),
            security_groups: about.groups.iter().map(|(_, name)| name.clone()).collect(),
            tags: about.tags.clone(),
            block_devices: [("ami", "vda"), ("root", "/dev/vda")]
                .map(|(name, device)| (name.to_owned(), device.to_owned()))
                .into(),
            endpoint_enabled: about.endpoint_enabled,
            tokens_required: about.tokens_required,
            hop_limit: about.hop_limit,
            monitoring: about.monitoring,
            identity_document: about.identity_document.clone(),
            identity_signature: about.identity_signature.clone(),
            identity_pkcs7: Some(about.identity_pkcs7.clone()).filter(|text| !text.is_empty()),
            // AWS's differ in the kind of key; this cloud has RSA only.
            identity_rsa2048: Some(about.identity_pkcs7.clone()).filter(|text| !text.is_empty()),
        },
    })
}

/// A guest whose user data can't be read goes without: its network has other guests too.
fn user_data(base64: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text: String = base64.split_ascii_whitespace().collect();
    LENIENT
        .decode(text)
        .inspect_err(|error| tracing::warn!("user data is left out, it is no base64: {error}"))
        .ok()
}

/// Bytes as a stream that ends after them and takes nothing.
pub fn read_only(bytes: Vec<u8>) -> impl AsyncRead + AsyncWrite + Send + Unpin {
    tokio::io::join(std::io::Cursor::new(bytes), tokio::io::sink())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_begin_with_ec2_and_keep_the_instance_apart() {
        let one = uuid(&InstanceId::from_entropy(1));
        assert_eq!(one, "ec200000-0000-0000-0000-000000000001");
        assert_ne!(one, uuid(&InstanceId::from_entropy(u64::MAX)));
    }

    #[test]
    fn user_data_is_read_in_every_spelling_of_base64_and_rubbish_is_left_out() {
        for text in ["aGVsbG8=", "aGVsbG8", "aGVs\nbG8=\r\n"] {
            assert_eq!(user_data(text).as_deref(), Some(&b"hello"[..]), "{text:?}");
        }
        assert_eq!(user_data("!"), None);
    }
}
