//! Rules of security groups on the wire: `IpPermissions`, the flat form of older clients, and one rule
//! by itself.

use super::{Call, honours, refusals};
use boira_api::output::ec2::{IpPermission, IpRange, ReferencedSecurityGroup, UserIdGroupPair};
use boira_api::output::ec2::{RevokedSecurityGroupRule, SecurityGroupRule};
use boira_api::value::{Struct, Value};
use boira_api::{ApiError, id, shown};
use boira_core::group::{NewRule, Traffic};
use boira_core::{Refusal, State};
use boira_model::*;

/// Characters of a description, as AWS allows them (`a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*`).
const DESCRIPTION_MARKS: &str = ". _-:/()#,@[]+=&;{}!$*";

/// The members of the flat form.
const FLAT: [&str; 6] = [
    "CidrIp",
    "FromPort",
    "IpProtocol",
    "SourceSecurityGroupName",
    "SourceSecurityGroupOwnerId",
    "ToPort",
];

/// Where names of peer groups are looked up, and what for.
pub struct Scope<'a> {
    pub state: &'a State,
    pub account: &'a AccountId,
    pub vpc: &'a VpcId,
    /// Whether the rules are to be added. Those that would have no effect are refused then; where
    /// existing rules are named, there just are none of that kind. Terraform asks every new group
    /// for its IPv6 rule.
    pub adding: bool,
}

impl Scope<'_> {
    /// The account's group of this name in the same VPC.
    pub fn named(&self, name: &str) -> Result<GroupId, ApiError> {
        let group = self
            .state
            .groups
            .values()
            .find(|row| row.owner == *self.account && row.vpc == *self.vpc && row.name == name);
        group.map(|row| row.id.clone()).ok_or_else(|| {
            let message = format!(
                "The security group '{name}' does not exist in VPC '{}'",
                self.vpc
            );
            ApiError::new("InvalidGroup.NotFound", message)
        })
    }

    fn no_effect(&self, what: &str) -> ApiError {
        match self.adding {
            true => no_effect(what),
            false => refusals::error(Refusal::NoSuchRule),
        }
    }

    /// A group may be named with the account that owns it; another account's can't be reached.
    fn refuse_foreign(&self, owner: Option<&str>, group: &str) -> Result<(), ApiError> {
        match owner {
            Some(owner) if owner != self.account.as_str() => {
                Err(id::SECURITY_GROUP.not_found(&[group]))
            }
            _ => Ok(()),
        }
    }
}

/// The rules of a request in either form; empty where it has neither.
///
/// # Errors
/// What is malformed, both forms at once, and peers that would have no effect (IPv6, prefix lists).
pub fn rules(call: &Call, scope: &Scope<'_>) -> Result<Vec<NewRule>, ApiError> {
    let request = &*call.request;
    let list = request.list("IpPermissions");
    let is_flat = FLAT.iter().any(|member| request.get(member).is_some());
    if !list.is_empty() && is_flat {
        return Err(ApiError::invalid_combination(
            "The parameter ipPermissions cannot be used with the parameters of a single rule",
        ));
    }
    if is_flat {
        return flat(request, scope);
    }
    let mut rules = Vec::new();
    for one in list.iter().filter_map(Value::as_struct) {
        rules.extend(permission(one, scope)?);
    }
    Ok(rules)
}

fn permission(one: &Struct, scope: &Scope<'_>) -> Result<Vec<NewRule>, ApiError> {
    for (member, what) in [("Ipv6Ranges", "IPv6"), ("PrefixListIds", "Prefix lists")] {
        if !one.list(member).is_empty() {
            return Err(scope.no_effect(what));
        }
    }
    let protocol = protocol(one)?;
    let mut rules = Vec::new();
    for range in one.list("IpRanges").iter().filter_map(Value::as_struct) {
        let cidr = range
            .str("CidrIp")
            .ok_or_else(|| ApiError::missing_parameter("CidrIp"))?;
        rules.push(NewRule {
            traffic: (protocol, cidr_peer(cidr)?),
            description: description(range.str("Description"))?,
        });
    }
    for pair in one
        .list("UserIdGroupPairs")
        .iter()
        .filter_map(Value::as_struct)
    {
        rules.push(NewRule {
            traffic: (protocol, Peer::Group(group_peer(pair, scope)?)),
            description: description(pair.str("Description"))?,
        });
    }
    match rules.is_empty() {
        true => Err(ApiError::missing_parameter(
            "cidrIp or sourceSecurityGroupId",
        )),
        false => Ok(rules),
    }
}

fn group_peer(pair: &Struct, scope: &Scope<'_>) -> Result<GroupId, ApiError> {
    honours(
        pair,
        &["Description", "GroupId", "GroupName", "UserId", "VpcId"],
    )?;
    if pair
        .str("VpcId")
        .is_some_and(|vpc| vpc != scope.vpc.as_str())
    {
        return Err(ApiError::unsupported_parameter("VpcId"));
    }
    match (pair.str("GroupId"), pair.str("GroupName")) {
        (Some(_), Some(_)) => Err(ApiError::invalid_combination(
            "The parameter GroupName cannot be used with the parameter GroupId",
        )),
        (Some(group), None) => {
            id::SECURITY_GROUP.validate(group)?;
            scope.refuse_foreign(pair.str("UserId"), group)?;
            Ok(group.into())
        }
        (None, Some(name)) => {
            scope.refuse_foreign(pair.str("UserId"), name)?;
            scope.named(name)
        }
        (None, None) => Err(ApiError::missing_parameter("GroupId")),
    }
}

/// `IpProtocol`, `FromPort`, `ToPort` and `CidrIp`; or a group, which then gets all of TCP, UDP and
/// ICMP.
fn flat(request: &Struct, scope: &Scope<'_>) -> Result<Vec<NewRule>, ApiError> {
    let rule = |protocol, peer| NewRule {
        traffic: (protocol, peer),
        description: None,
    };
    let Some(name) = request.str("SourceSecurityGroupName") else {
        if request.get("SourceSecurityGroupOwnerId").is_some() {
            return Err(ApiError::invalid_combination(
                "The parameter sourceSecurityGroupOwnerId needs the parameter sourceSecurityGroupName",
            ));
        }
        let cidr = request
            .str("CidrIp")
            .ok_or_else(|| ApiError::missing_parameter("CidrIp"))?;
        return Ok(vec![rule(protocol(request)?, cidr_peer(cidr)?)]);
    };
    if ["CidrIp", "FromPort", "IpProtocol", "ToPort"]
        .iter()
        .any(|m| request.get(m).is_some())
    {
        return Err(ApiError::invalid_combination(
            "The parameter sourceSecurityGroupName cannot be used with a CIDR block, a protocol or ports",
        ));
    }
    scope.refuse_foreign(request.str("SourceSecurityGroupOwnerId"), name)?;
    let peer = Peer::Group(scope.named(name)?);
    let (from, to) = (0, u16::MAX);
    let all = [
        Protocol::Tcp { from, to },
        Protocol::Udp { from, to },
        Protocol::Icmp {
            kind: None,
            code: None,
        },
    ];
    Ok(all
        .into_iter()
        .map(|protocol| rule(protocol, peer.clone()))
        .collect())
}

/// One rule of ModifySecurityGroupRules.
///
/// # Errors
/// AWS's, in its words, for a rule without a peer, with several, or with ports that are missing.
pub fn rule(one: &Struct) -> Result<NewRule, ApiError> {
    let peers = ["CidrIpv4", "CidrIpv6", "PrefixListId", "ReferencedGroupId"];
    let given = peers.map(|member| one.str(member));
    let peer = match given {
        [Some(cidr), None, None, None] => cidr_peer(cidr)?,
        [None, Some(_), None, None] => return Err(no_effect("IPv6")),
        [None, None, Some(_), None] => return Err(no_effect("Prefix lists")),
        [None, None, None, Some(group)] => Peer::Group(id::SECURITY_GROUP.validate(group)?.into()),
        [None, None, None, None] => {
            return Err(ApiError::new(
                "MissingParameter",
                "The request must contain exactly one of: cidrIp, cidrIpv6, prefixListId, or referencedGroupId",
            ));
        }
        _ => {
            return Err(ApiError::invalid_combination(
                "Only one of cidrIp, cidrIpv6, prefixListId, or referencedGroupId can be specified",
            ));
        }
    };
    Ok(NewRule {
        traffic: (protocol(one)?, peer),
        description: description(one.str("Description"))?,
    })
}

fn protocol(one: &Struct) -> Result<Protocol, ApiError> {
    let name = one.str("IpProtocol").ok_or_else(|| {
        ApiError::invalid_parameter_value(
            "Invalid value 'null' for protocol. VPC security group rules must specify protocols explicitly.",
        )
    })?;
    let (from, to) = (one.int("FromPort"), one.int("ToPort"));
    let number = match name.to_ascii_lowercase().as_str() {
        "-1" => return Ok(Protocol::All),
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmpv6" => Some(58),
        // Only digits: `parse` would take a sign too.
        other if other.bytes().all(|byte| byte.is_ascii_digit()) => other.parse::<u8>().ok(),
        _ => None,
    };
    match number {
        Some(1) => icmp(from, to),
        Some(6) => ports(from, to).map(|(from, to)| Protocol::Tcp { from, to }),
        Some(17) => ports(from, to).map(|(from, to)| Protocol::Udp { from, to }),
        Some(58) => Err(no_effect("IPv6")),
        Some(number) => Ok(Protocol::Number(number)),
        None => Err(ApiError::invalid_parameter_value(format!(
            "Invalid value '{}' for IP protocol. Unknown protocol.",
            shown(name)
        ))),
    }
}

fn ports(from: Option<i64>, to: Option<i64>) -> Result<(u16, u16), ApiError> {
    let (Some(from), Some(to)) = (from, to) else {
        return Err(ApiError::invalid_parameter_value(
            "Invalid value for portRange. Must specify both from and to ports with TCP/UDP.",
        ));
    };
    match (u16::try_from(from), u16::try_from(to)) {
        (Ok(low), Ok(high)) if low <= high => Ok((low, high)),
        _ => Err(ApiError::invalid_parameter_value(format!(
            "Invalid TCP/UDP port range ({from}:{to})"
        ))),
    }
}

/// Type and code come as ports; -1 stands for all, and all types have all codes.
fn icmp(kind: Option<i64>, code: Option<i64>) -> Result<Protocol, ApiError> {
    let (kind, code) = (kind.unwrap_or(-1), code.unwrap_or(-1));
    let part = |number: i64| match number {
        -1 => Ok(None),
        _ => u8::try_from(number).map(Some),
    };
    match (part(kind), part(code)) {
        (Ok(kind), Ok(code)) if kind.is_some() || code.is_none() => {
            Ok(Protocol::Icmp { kind, code })
        }
        _ => Err(ApiError::invalid_parameter_value(format!(
            "Invalid ICMP type and code ({kind}:{code})"
        ))),
    }
}

fn cidr_peer(text: &str) -> Result<Peer, ApiError> {
    let short = shown(text);
    let cidr = Cidr::parse_lenient(text).map_err(|_| {
        ApiError::invalid_parameter_value(format!("CIDR block {short} is malformed"))
    })?;
    Ok(Peer::Cidr(cidr))
}

/// An empty description is none.
pub fn description(text: Option<&str>) -> Result<Option<String>, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    check_description(text)?;
    Ok(Some(text.to_owned()))
}

pub fn check_description(text: &str) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || DESCRIPTION_MARKS.contains(c);
    if text.chars().count() <= 255 && text.chars().all(allowed) {
        return Ok(());
    }
    Err(ApiError::invalid_parameter_value(format!(
        "Invalid description. Valid descriptions have up to 255 characters from a-zA-Z0-9{DESCRIPTION_MARKS}"
    )))
}

fn no_effect(what: &str) -> ApiError {
    let message = format!("{what} would have no effect: this cloud's networks are IPv4 only.");
    ApiError::new("UnsupportedOperation", message)
}

/// Protocol and ports as the wire has them; `-1` where a rule has no ports.
pub fn wire(protocol: &Protocol) -> (String, i64, i64) {
    let part = |number: &Option<u8>| number.map_or(-1, i64::from);
    match protocol {
        Protocol::All => ("-1".into(), -1, -1),
        Protocol::Tcp { from, to } => ("tcp".into(), i64::from(*from), i64::from(*to)),
        Protocol::Udp { from, to } => ("udp".into(), i64::from(*from), i64::from(*to)),
        Protocol::Icmp { kind, code } => ("icmp".into(), part(kind), part(code)),
        Protocol::Number(number) => (number.to_string(), -1, -1),
    }
}

/// The rules of one direction as AWS lists them: those with the same protocol and ports together.
pub fn permissions(group: &SecurityGroup, direction: Direction) -> Vec<IpPermission> {
    let rules = group.rules.iter();
    let rules = rules.filter(|rule| rule.direction == direction);
    together(
        group,
        rules.map(|rule| (rule.protocol, &rule.peer, rule.description.as_deref())),
    )
}

/// Traffic that no rule lets through, in the same form.
pub fn unknown(group: &SecurityGroup, traffic: &[Traffic]) -> Vec<IpPermission> {
    let traffic = traffic.iter();
    together(
        group,
        traffic.map(|(protocol, peer)| (*protocol, peer, None)),
    )
}

/// A peer, and how its rule is described.
type Described<'a> = (&'a Peer, Option<&'a str>);

fn together<'a>(
    group: &SecurityGroup,
    rules: impl Iterator<Item = (Protocol, &'a Peer, Option<&'a str>)>,
) -> Vec<IpPermission> {
    let mut kinds: Vec<(Protocol, Vec<Described<'a>>)> = Vec::new();
    for (protocol, peer, description) in rules {
        match kinds.iter_mut().find(|(known, _)| *known == protocol) {
            Some((_, peers)) => peers.push((peer, description)),
            None => kinds.push((protocol, vec![(peer, description)])),
        }
    }
    kinds
        .into_iter()
        .map(|(protocol, peers)| {
            let (name, from, to) = wire(&protocol);
            let has_ports = !matches!(protocol, Protocol::All | Protocol::Number(_));
            let pairs = peers.iter().filter_map(|peer| pair(group, peer));
            IpPermission::new()
                .from_port(has_ports.then_some(from))
                .ip_protocol(name)
                .ip_ranges(peers.iter().filter_map(range).collect::<Vec<_>>())
                .ipv6_ranges(Vec::<Value>::new())
                .prefix_list_ids(Vec::<Value>::new())
                .to_port(has_ports.then_some(to))
                .user_id_group_pairs(pairs.collect::<Vec<_>>())
        })
        .collect()
}

fn range((peer, description): &Described<'_>) -> Option<IpRange> {
    match peer {
        Peer::Cidr(cidr) => Some(
            IpRange::new()
                .cidr_ip(cidr.to_string())
                .description(description.map(str::to_owned)),
        ),
        Peer::Group(_) => None,
    }
}

fn pair(group: &SecurityGroup, (peer, description): &Described<'_>) -> Option<UserIdGroupPair> {
    match peer {
        Peer::Group(id) => Some(
            UserIdGroupPair::new()
                .description(description.map(str::to_owned))
                .group_id(id.to_string())
                .user_id(group.owner.as_str().to_owned()),
        ),
        Peer::Cidr(_) => None,
    }
}

/// A rule as an object.
pub fn rule_value(state: &State, group: &SecurityGroup, rule: &Rule) -> SecurityGroupRule {
    let (protocol, from, to) = wire(&rule.protocol);
    let (cidr, referenced) = match &rule.peer {
        Peer::Cidr(cidr) => (Some(cidr.to_string()), None),
        Peer::Group(id) => (None, Some(id)),
    };
    let (region, owner) = (&state.settings.region, &group.owner);
    SecurityGroupRule::new()
        .cidr_ipv4(cidr)
        .description(rule.description.clone())
        .from_port(from)
        .group_id(group.id.to_string())
        .group_owner_id(owner.as_str().to_owned())
        .ip_protocol(protocol)
        .is_egress(rule.direction == Direction::Egress)
        .referenced_group_info(referenced.map(|id| {
            ReferencedSecurityGroup::new()
                .group_id(id.to_string())
                .user_id(owner.as_str().to_owned())
                .vpc_id(group.vpc.to_string())
        }))
        .security_group_rule_arn(format!(
            "arn:aws:ec2:{region}:{owner}:security-group-rule/{}",
            rule.id
        ))
        .security_group_rule_id(rule.id.to_string())
        .tags(super::instance_value::tags(&rule.tags).unwrap_or_default())
        .to_port(to)
}

/// A rule that is gone.
pub fn revoked_value(group: &str, rule: &Rule) -> RevokedSecurityGroupRule {
    let (protocol, from, to) = wire(&rule.protocol);
    let (cidr, referenced) = match &rule.peer {
        Peer::Cidr(cidr) => (Some(cidr.to_string()), None),
        Peer::Group(id) => (None, Some(id.to_string())),
    };
    RevokedSecurityGroupRule::new()
        .cidr_ipv4(cidr)
        .description(rule.description.clone())
        .from_port(from)
        .group_id(group.to_owned())
        .ip_protocol(protocol)
        .is_egress(rule.direction == Direction::Egress)
        .referenced_group_id(referenced)
        .security_group_rule_id(rule.id.to_string())
        .to_port(to)
}
