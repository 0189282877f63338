//! What the agent wants of one VPC on its host: plain data that it can compare, keep and send.
//!
//! A [`VpcSpec`] is complete: whatever it doesn't name is not wanted. Everything that reaches nft,
//! `ip` or a file name passes [`VpcSpec::check`] first, so the rest of the crate can trust it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::underlay;

/// The MAC address of the host's end of every tap. It is the same on every host, so that a
/// guest's ARP cache stays right when the guest moves.
pub const GATEWAY_MAC: Mac = Mac([0x0a, 0xb0, 0x1a, 0x00, 0x00, 0x01]);

/// What the names of all taps start with.
pub(crate) const TAP_PREFIX: &str = "eni";

/// The networks of one VPC on this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VpcSpec {
    /// `vpc-…`
    pub vpc: String,
    pub cidr: Ipv4Net,
    pub subnets: Vec<SubnetSpec>,
    /// What a guest may send in one frame, in bytes without the Ethernet header; announced by DHCP.
    pub mtu: u16,
    /// The domain of the guests' names: `ec2.internal`, or see [`default_domain`].
    pub domain: String,
    /// The interfaces of the guests on this host.
    pub ports: Vec<PortSpec>,
    /// The interfaces of guests that come here from another host: their taps are there to be opened, and
    /// nothing leads to them or lets anything out of them.
    #[serde(default)]
    pub standby: Vec<StandbySpec>,
    /// Every group that a port wears, and every group that a rule of those refers to.
    pub groups: Vec<GroupSpec>,
    /// How the VPC goes on on other hosts; absent where it is on this one only.
    #[serde(default)]
    pub overlay: Option<OverlaySpec>,
    /// Where the cloud's API listens on this host: guests reach it at
    /// [`crate::API_ADDRESS`], port [`crate::API_PORT`].
    #[serde(default)]
    pub api: Option<SocketAddr>,
    /// Whether guests reach the world outside.
    pub way_out: bool,
    /// The name servers that answer what the VPC doesn't know; absent: those of the host's
    /// `/etc/resolv.conf`, read again when it changes.
    #[serde(default)]
    pub resolvers: Option<Vec<SocketAddr>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubnetSpec {
    /// `subnet-…`
    pub subnet: String,
    pub cidr: Ipv4Net,
    /// The router's address, by AWS's custom the first usable one.
    pub gateway: Ipv4Addr,
}

/// The VPC on other hosts, as far as guests of it run there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverlaySpec {
    /// VXLAN's network identifier, the same on all hosts.
    pub vni: u32,
    /// This host's number in the cloud.
    pub host: u32,
    pub peers: Vec<OverlayPeer>,
}

/// What of the VPC is on another host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverlayPeer {
    pub host: u32,
    pub addresses: BTreeSet<Ipv4Addr>,
}

/// One interface of a guest that is still on another host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StandbySpec {
    /// `eni-…`
    pub eni: String,
    /// `i-…`
    pub instance: String,
    pub ip: Ipv4Addr,
}

/// One interface of one guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortSpec {
    /// `eni-…`
    pub eni: String,
    /// `i-…`
    pub instance: String,
    /// 0 for the primary interface.
    #[serde(default)]
    pub device_index: u8,
    pub mac: Mac,
    pub ip: Ipv4Addr,
    /// The public address, where the cloud has such.
    #[serde(default)]
    pub public_ip: Option<Ipv4Addr>,
    pub subnet: String,
    /// With or without the domain.
    pub hostname: String,
    /// Ids of the groups that the port wears.
    pub groups: Vec<String>,
    /// False lets the guest send from any address (it routes for others).
    pub source_dest_check: bool,
    pub metadata: MetadataSpec,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// `sg-…`
    pub id: String,
    /// The addresses of all that wear it, in the whole cluster.
    pub members: Vec<Ipv4Addr>,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

/// What a rule lets through; what no rule lets through is dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub protocol: Protocol,
    pub peer: Peer,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    All,
    Tcp {
        from: u16,
        to: u16,
    },
    Udp {
        from: u16,
        to: u16,
    },
    /// `None` is any.
    Icmp {
        kind: Option<u8>,
        code: Option<u8>,
    },
    /// Any other, by IANA's number.
    Number(u8),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    Cidr(Ipv4Net),
    /// The members of a group.
    Group(String),
}

/// What the metadata service tells the guest about itself, beyond what its port says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetadataSpec {
    pub ami_id: String,
    pub ami_launch_index: u32,
    pub instance_type: String,
    pub reservation_id: String,
    /// The owner's account, 12 digits.
    pub account: String,
    pub region: String,
    pub availability_zone: String,
    pub availability_zone_id: String,
    /// RFC 3339.
    pub launch_time: String,
    /// `x86_64`
    pub architecture: String,
    /// Name and OpenSSH line.
    pub public_keys: Vec<(String, String)>,
    /// Bytes as the user gave them.
    #[serde(default, with = "base64_bytes")]
    pub user_data: Option<Vec<u8>>,
    /// Names of the groups, in the order of [`PortSpec::groups`].
    pub security_groups: Vec<String>,
    /// Present where instance tags in metadata are enabled.
    #[serde(default)]
    pub tags: Option<BTreeMap<String, String>>,
    /// Virtual name to device: `ami` and `root` at least, as AWS has it.
    #[serde(default)]
    pub block_devices: BTreeMap<String, String>,
    pub endpoint_enabled: bool,
    pub tokens_required: bool,
    /// How many hops the answer to a token request may travel: 1 to 64.
    pub hop_limit: u8,
    /// Whether detailed monitoring is on.
    #[serde(default)]
    pub monitoring: bool,
    /// The documents as the controller made and signed them; served as they are.
    pub identity_document: String,
    pub identity_signature: String,
    #[serde(default)]
    pub identity_pkcs7: Option<String>,
    #[serde(default)]
    pub identity_rsa2048: Option<String>,
}

/// A MAC address, written `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether one interface can own it: not a group address and not all zeros.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Mac {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad = || SpecError(format!("{text:?} is no MAC address"));
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        match parts.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(bad()),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

/// A spec that can't be made true, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("bad network spec: {0}")]
pub struct SpecError(pub String);

/// The domain that AWS gives the guests of a region.
pub fn default_domain(region: &str) -> String {
    match region {
        "us-east-1" => "ec2.internal".to_owned(),
        _ => format!("{region}.compute.internal"),
    }
}

/// The name of the tap of a port. Interface names end at 15 characters, ids at 21: the last 12
/// digits are kept, which [`VpcSpec::check`] knows to be distinct.
pub fn tap_name(eni: &str) -> String {
    let id = eni.strip_prefix("eni-").unwrap_or(eni);
    let skipped = id.chars().count().saturating_sub(12);
    let end: String = id.chars().skip(skipped).collect();
    format!("{TAP_PREFIX}{end}")
}

impl VpcSpec {
    /// The name server's address inside the VPC: the second after the network's own, as in AWS.
    pub fn resolver(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()).wrapping_add(2))
    }

    pub fn port(&self, eni: &str) -> Option<&PortSpec> {
        self.ports.iter().find(|port| port.eni == eni)
    }

    pub fn subnet_of(&self, port: &PortSpec) -> Option<&SubnetSpec> {
        self.subnets
            .iter()
            .find(|subnet| subnet.subnet == port.subnet)
    }

    /// Refuses what contradicts itself, and every text that could mean something to nft, `ip` or
    /// a file system.
    ///
    /// # Errors
    /// Says the first thing that is wrong.
    pub fn check(&self) -> Result<(), SpecError> {
        check_id(&self.vpc, "vpc")?;
        check_name(&self.domain)?;
        ensure(!self.cidr.addr().is_loopback(), || {
            format!("{} is the loopback network", self.cidr)
        })?;
        ensure((8..=28).contains(&self.cidr.prefix_len()), || {
            format!("{} is larger than /8 or smaller than /28", self.cidr)
        })?;
        ensure(self.mtu >= 576, || {
            format!("an MTU of {} is below IPv4's 576", self.mtu)
        })?;
        self.check_subnets()?;
        self.check_groups()?;
        self.check_ports()?;
        self.check_standby()?;
        self.check_overlay()
    }

    fn check_overlay(&self) -> Result<(), SpecError> {
        let Some(overlay) = &self.overlay else {
            return Ok(());
        };
        let vni = overlay.vni;
        ensure((1..1 << 24).contains(&vni), || {
            format!("{vni} is no network identifier of VXLAN")
        })?;
        let mut hosts = BTreeSet::new();
        let mut addresses: BTreeSet<Ipv4Addr> = self.ports.iter().map(|port| port.ip).collect();
        let others = overlay.peers.iter().map(|peer| peer.host);
        for host in others.chain([overlay.host]) {
            ensure((1..underlay::HOSTS_MAX).contains(&host), || {
                format!("{host} is no number of a host")
            })?;
            ensure(hosts.insert(host), || format!("host {host} is there twice"))?;
        }
        for ip in overlay.peers.iter().flat_map(|peer| &peer.addresses) {
            ensure(self.cidr.contains(ip), || {
                format!("{ip} lies outside {}", self.cidr)
            })?;
            ensure(addresses.insert(*ip), || format!("{ip} is there twice"))?;
        }
        Ok(())
    }

    fn check_subnets(&self) -> Result<(), SpecError> {
        let mut seen = BTreeSet::new();
        for subnet in &self.subnets {
            check_id(&subnet.subnet, "subnet")?;
            ensure(seen.insert(&subnet.subnet), || {
                format!("{} is there twice", subnet.subnet)
            })?;
            ensure(self.cidr.contains(&subnet.cidr), || {
                format!("{} lies outside {}", subnet.cidr, self.cidr)
            })?;
            ensure(subnet.cidr.contains(&subnet.gateway), || {
                format!("gateway {} lies outside {}", subnet.gateway, subnet.cidr)
            })?;
        }
        Ok(())
    }

    fn check_groups(&self) -> Result<(), SpecError> {
        let mut seen = BTreeSet::new();
        for group in &self.groups {
            check_id(&group.id, "sg")?;
            ensure(seen.insert(&group.id), || {
                format!("{} is there twice", group.id)
            })?;
            for rule in group.ingress.iter().chain(&group.egress) {
                rule.check()?;
            }
        }
        Ok(())
    }

    fn check_standby(&self) -> Result<(), SpecError> {
        let mut taps: BTreeSet<String> = self.ports.iter().map(|p| tap_name(&p.eni)).collect();
        for StandbySpec { eni, instance, .. } in &self.standby {
            check_id(eni, "eni")?;
            check_id(instance, "i")?;
            ensure(taps.insert(tap_name(eni)), || {
                format!("two ports would have the tap of {eni}")
            })?;
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), SpecError> {
        let groups: BTreeSet<&str> = self.groups.iter().map(|group| group.id.as_str()).collect();
        let (mut taps, mut macs, mut ips) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for port in &self.ports {
            let eni = &port.eni;
            check_id(eni, "eni")?;
            check_id(&port.instance, "i")?;
            check_name(&port.hostname)?;
            ensure(taps.insert(tap_name(eni)), || {
                format!("two ports would have the tap of {eni}")
            })?;
            ensure(port.mac.is_unicast() && port.mac != GATEWAY_MAC, || {
                format!("{eni} can't have the MAC address {}", port.mac)
            })?;
            ensure(macs.insert(port.mac), || {
                format!("two ports have the MAC address {}", port.mac)
            })?;
            ensure(ips.insert(port.ip), || {
                format!("two ports have the address {}", port.ip)
            })?;
            let subnet = self
                .subnet_of(port)
                .ok_or_else(|| SpecError(format!("{eni} is in the unknown {}", port.subnet)))?;
            let free = subnet.cidr.contains(&port.ip)
                && port.ip != self.resolver()
                && self.subnets.iter().all(|subnet| subnet.gateway != port.ip);
            ensure(free, || {
                format!("{eni} can't have {} in {}", port.ip, subnet.cidr)
            })?;
            for group in &port.groups {
                ensure(groups.contains(group.as_str()), || {
                    format!("{eni} wears the unknown group {group}")
                })?;
            }
        }
        Ok(())
    }
}

impl Rule {
    fn check(&self) -> Result<(), SpecError> {
        if let Peer::Group(group) = &self.peer {
            check_id(group, "sg")?;
        }
        match self.protocol {
            Protocol::Tcp { from, to } | Protocol::Udp { from, to } => ensure(from <= to, || {
                format!("the ports {from} to {to} run backwards")
            }),
            Protocol::Icmp { .. } | Protocol::All | Protocol::Number(_) => Ok(()),
        }
    }
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), SpecError> {
    if holds { Ok(()) } else { Err(SpecError(why())) }
}

/// `kind-` and lower-case letters or digits.
pub(crate) fn check_id(id: &str, kind: &str) -> Result<(), SpecError> {
    let rest = id
        .strip_prefix(kind)
        .and_then(|rest| rest.strip_prefix('-'));
    let good = rest.is_some_and(|rest| {
        (1..=40).contains(&rest.len())
            && rest
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    });
    ensure(good, || format!("{id:?} is no id of the kind {kind}-…"))
}

/// A DNS name: labels of letters, digits and hyphens.
fn check_name(name: &str) -> Result<(), SpecError> {
    let good = name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    ensure(good, || format!("{name:?} is no host name"))
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => to.serialize_some(&STANDARD.encode(bytes)),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
        Option::<String>::deserialize(from)?
            .map(|text| STANDARD.decode(text).map_err(de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::spec;

    /// Why the spec is refused after `change`.
    fn refusal(change: impl FnOnce(&mut VpcSpec)) -> String {
        let mut spec = spec();
        change(&mut spec);
        spec.check().expect_err("it should be refused").0
    }

    #[test]
    fn a_good_spec_passes_and_survives_json() {
        let spec = spec();
        spec.check().expect("it is good");
        let text = serde_json::to_string(&spec).expect("it is plain data");
        assert_eq!(
            serde_json::from_str::<VpcSpec>(&text).expect("it is plain data"),
            spec
        );
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(refusal(|s| s.ports[1].ip = s.ports[0].ip).contains("two ports"));
        assert!(refusal(|s| s.ports[1].mac = s.ports[0].mac).contains("two ports"));
        assert!(refusal(|s| s.ports[1].eni = s.ports[0].eni.clone()).contains("two ports"));
        assert!(refusal(|s| s.ports[0].mac = GATEWAY_MAC).contains("MAC"));
        assert!(refusal(|s| s.ports[0].mac = Mac([1, 0, 0, 0, 0, 1])).contains("MAC"));
        assert!(refusal(|s| s.ports[0].ip = s.resolver()).contains("can't have"));
        assert!(refusal(|s| s.ports[0].ip = s.subnets[0].gateway).contains("can't have"));
        assert!(refusal(|s| s.ports[0].subnet = "subnet-2".to_owned()).contains("unknown"));
        assert!(refusal(|s| s.groups.clear()).contains("unknown group"));
        assert!(refusal(|s| s.subnets[0].gateway = Ipv4Addr::LOCALHOST).contains("outside"));
        assert!(refusal(|s| s.cidr = "10.0.0.0/16".parse().expect("a net")).contains("outside"));
        assert!(refusal(|s| s.mtu = 500).contains("MTU"));
        let backwards = Protocol::Tcp { from: 2, to: 1 };
        assert!(refusal(|s| s.groups[0].ingress[0].protocol = backwards).contains("backwards"));
    }

    #[test]
    fn texts_that_mean_something_to_tools_are_refused() {
        for text in [
            "",
            "-",
            "x; flush ruleset",
            "../..",
            "a\nb",
            "A",
            "ä",
            "\"",
            "{",
        ] {
            assert!(!refusal(|s| s.vpc = format!("vpc-{text}")).is_empty());
            assert!(!refusal(|s| s.ports[0].eni = format!("eni-{text}")).is_empty());
            assert!(!refusal(|s| s.ports[0].instance = format!("i-{text}")).is_empty());
            assert!(!refusal(|s| s.groups[0].id = format!("sg-{text}")).is_empty());
        }
        assert!(!refusal(|s| s.ports[0].hostname = "a b".to_owned()).is_empty());
        assert!(!refusal(|s| s.domain = "a..b".to_owned()).is_empty());
    }

    #[test]
    fn tap_names_fit_an_interface() {
        assert_eq!(tap_name("eni-0123456789abcdef0"), "eni56789abcdef0");
        assert_eq!(tap_name("eni-1"), "eni1");
        assert!(tap_name("eni-0123456789abcdef0").len() <= 15);
    }
}
