//! Virtual networks, interfaces and the rules between them.

use crate::{
    AccountId, AclAssociationId, AclId, AttachmentId, DhcpOptionsId, GatewayId, GroupId,
    InstanceId, InterfaceId, Mac, RouteTableAssociationId, RouteTableId, RuleId, SubnetId, Tags,
    VpcId, Wall,
};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// An IPv4 network, written `172.31.0.0/16`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl Cidr {
    pub const ANY: Self = Self {
        address: Ipv4Addr::UNSPECIFIED,
        prefix: 0,
    };

    pub fn mask(self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.prefix))
            .unwrap_or(0)
    }

    pub fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & self.mask() == u32::from(self.address)
    }

    /// How many addresses it spans.
    pub fn size(self) -> u64 {
        1 << (32 - self.prefix)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The address at `offset` from its first one.
    pub fn nth(self, offset: u32) -> Ipv4Addr {
        (u32::from(self.address) + offset).into()
    }

    /// Parses without insisting that host bits are zero; they are cleared.
    pub fn parse_lenient(text: &str) -> Result<Self, String> {
        let bad = || format!("CIDR block {text} is malformed");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if prefix > 32 {
            return Err(bad());
        }
        let cidr = Self { address, prefix };
        Ok(Self {
            address: (u32::from(address) & cidr.mask()).into(),
            prefix,
        })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl std::fmt::Debug for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse_lenient(text)
    }
}

impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A VPC with the ids of what every VPC has exactly one of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vpc {
    pub id: VpcId,
    pub number: u64,
    pub owner: AccountId,
    pub cidr: Cidr,
    pub is_default: bool,
    pub main_route_table: RouteTableId,
    pub main_association: RouteTableAssociationId,
    pub gateway: GatewayId,
    pub acl: AclId,
    pub dhcp_options: DhcpOptionsId,
    pub default_group: GroupId,
    pub created: Wall,
    pub tags: Tags,
    /// Tags of the gateway, the tables and the like, by their id.
    pub part_tags: std::collections::BTreeMap<String, Tags>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subnet {
    pub id: SubnetId,
    pub number: u64,
    pub owner: AccountId,
    pub vpc: VpcId,
    pub zone: String,
    pub cidr: Cidr,
    pub default_for_zone: bool,
    pub acl_association: AclAssociationId,
    /// Interfaces that are made here have no public address unless they are asked for one, also where private ones stand for them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private_only: bool,
    pub tags: Tags,
}

impl Subnet {
    /// The router's address: the subnet's second, as in AWS.
    pub fn gateway(&self) -> Ipv4Addr {
        self.cidr.nth(1)
    }

    /// AWS keeps the first four addresses and the last one for itself.
    pub fn usable(&self, ip: Ipv4Addr) -> bool {
        let offset = u64::from(u32::from(ip).wrapping_sub(u32::from(self.cidr.address)));
        self.cidr.contains(ip) && offset >= 4 && offset + 1 < self.cidr.size()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterfaceAttachment {
    pub id: AttachmentId,
    pub instance: InstanceId,
    pub device_index: u32,
    pub delete_on_termination: bool,
    pub since: Wall,
}

/// A network interface; its row is the lease of its address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    pub id: InterfaceId,
    pub number: u64,
    pub owner: AccountId,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    pub zone: String,
    pub ip: Ipv4Addr,
    pub mac: Mac,
    pub groups: Vec<GroupId>,
    pub description: String,
    pub source_dest_check: bool,
    /// Never has a public address, also where private ones stand for them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private_only: bool,
    pub attachment: Option<InterfaceAttachment>,
    pub created: Wall,
    pub tags: Tags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    Ingress,
    Egress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    /// `None` stands for every type or every code (-1 in the API).
    Icmp {
        kind: Option<u8>,
        code: Option<u8>,
    },
    Number(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peer {
    Cidr(Cidr),
    Group(GroupId),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub id: RuleId,
    pub direction: Direction,
    pub protocol: Protocol,
    pub peer: Peer,
    pub description: Option<String>,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecurityGroup {
    pub id: GroupId,
    pub number: u64,
    pub owner: AccountId,
    pub vpc: VpcId,
    pub name: String,
    pub description: String,
    pub rules: Vec<Rule>,
    pub created: Wall,
    pub tags: Tags,
}
