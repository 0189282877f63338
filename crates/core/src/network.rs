//! Default VPCs and the leases of addresses.

use crate::{Draft, Refusal, State, zone};
use boira_model::*;
use std::net::Ipv4Addr;

/// AWS's default VPC: 172.31.0.0/16 for every account, a /20 per zone.
pub const DEFAULT_CIDR: Cidr = Cidr {
    address: Ipv4Addr::new(172, 31, 0, 0),
    prefix: 16,
};

pub fn create_default_vpc(draft: &mut Draft, owner: &AccountId) -> VpcId {
    let id = VpcId::from_entropy(draft.ctx.entropy());
    let group = create_default_group(draft, owner, &id);
    let vpc = Vpc {
        id: id.clone(),
        number: draft.number(|c| &mut c.vpc),
        owner: owner.clone(),
        cidr: DEFAULT_CIDR,
        is_default: true,
        main_route_table: RouteTableId::from_entropy(draft.ctx.entropy()),
        main_association: RouteTableAssociationId::from_entropy(draft.ctx.entropy()),
        gateway: GatewayId::from_entropy(draft.ctx.entropy()),
        acl: AclId::from_entropy(draft.ctx.entropy()),
        dhcp_options: DhcpOptionsId::from_entropy(draft.ctx.entropy()),
        default_group: group,
        created: draft.now(),
        tags: Tags::new(),
        part_tags: Default::default(),
    };
    draft.put(vpc);
    let zones: Vec<_> = draft.state.zones.values().cloned().collect();
    for zone in zones {
        add_default_subnet(draft, owner, &id, &zone);
    }
    id
}

/// The lowest /20 of the default VPC that no other zone has.
pub fn add_default_subnet(draft: &mut Draft, owner: &AccountId, vpc: &VpcId, zone: &Zone) {
    let cidr = |block: u32| Cidr {
        address: DEFAULT_CIDR.nth(block << 12),
        prefix: 20,
    };
    let taken: Vec<_> = draft
        .state
        .subnets
        .values()
        .filter(|row| row.vpc == *vpc)
        .map(|row| row.cidr)
        .collect();
    let free = (0..zone::MAX_ZONES as u32)
        .map(cidr)
        .find(|block| !taken.iter().any(|other| other.overlaps(*block)));
    // An account may have filled its default VPC with subnets of its own; it then has none here.
    let Some(cidr) = free else { return };
    let subnet = Subnet {
        id: SubnetId::from_entropy(draft.ctx.entropy()),
        number: draft.number(|c| &mut c.subnet),
        owner: owner.clone(),
        vpc: vpc.clone(),
        zone: zone.name.clone(),
        cidr,
        default_for_zone: true,
        acl_association: AclAssociationId::from_entropy(draft.ctx.entropy()),
        private_only: false,
        tags: Tags::new(),
    };
    draft.put(subnet);
}

/// The group that lets in only itself and lets everything out.
fn create_default_group(draft: &mut Draft, owner: &AccountId, vpc: &VpcId) -> GroupId {
    let id = GroupId::from_entropy(draft.ctx.entropy());
    let rules = vec![
        Rule {
            id: RuleId::from_entropy(draft.ctx.entropy()),
            direction: Direction::Ingress,
            protocol: Protocol::All,
            peer: Peer::Group(id.clone()),
            description: None,
            tags: Tags::new(),
        },
        everything_out(RuleId::from_entropy(draft.ctx.entropy())),
    ];
    let group = SecurityGroup {
        id: id.clone(),
        number: draft.number(|c| &mut c.group),
        owner: owner.clone(),
        vpc: vpc.clone(),
        name: "default".into(),
        description: "default VPC security group".into(),
        rules,
        created: draft.now(),
        tags: Tags::new(),
    };
    draft.put(group);
    id
}

/// The rule with which every new group starts.
pub fn everything_out(id: RuleId) -> Rule {
    Rule {
        id,
        direction: Direction::Egress,
        protocol: Protocol::All,
        peer: Peer::Cidr(Cidr::ANY),
        description: None,
        tags: Tags::new(),
    }
}

/// A free address of the subnet: the asked one, or any. A lease is an interface's row, so nothing is
/// reserved until the caller puts one.
pub fn lease(
    draft: &mut Draft,
    subnet: &Subnet,
    asked: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, Refusal> {
    if let Some(ip) = asked {
        if !subnet.usable(ip) {
            return Err(Refusal::AddressOutside(ip.to_string()));
        }
        return match free(&draft.state, subnet, ip) {
            true => Ok(ip),
            false => Err(Refusal::AddressInUse(ip.to_string())),
        };
    }
    let usable = (subnet.cidr.size() - 5) as u32;
    // A few random tries keep a used address from being handed out again at once; then a scan finds
    // the last free ones.
    let start = (draft.ctx.entropy() % u64::from(usable)) as u32;
    (0..usable)
        .map(|step| subnet.cidr.nth(4 + (start + step) % usable))
        .find(|ip| free(&draft.state, subnet, *ip))
        .ok_or_else(|| Refusal::NoAddress(subnet.id.to_string()))
}

fn free(state: &State, subnet: &Subnet, ip: Ipv4Addr) -> bool {
    !state.leases.contains_key(&(subnet.id.clone(), ip))
}

/// How many addresses of the subnet are free, as `AvailableIpAddressCount` counts them.
pub fn available(state: &State, subnet: &Subnet) -> u64 {
    let first = (subnet.id.clone(), subnet.cidr.address);
    let last = (
        subnet.id.clone(),
        subnet.cidr.nth((subnet.cidr.size() - 1) as u32),
    );
    subnet.cidr.size() - 5 - state.leases.range(first..=last).count() as u64
}
