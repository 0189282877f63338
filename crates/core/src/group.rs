//! Security groups: rules are objects with ids of their own, and a call changes all that it names or
//! nothing.

use crate::refusal::Thing;
use crate::{Draft, Kind, Refusal, State, network};
use boira_model::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Rules that a group may have in each direction, AWS's default quota.
pub const MAX_RULES: usize = 60;
/// Groups that an account may have, AWS's default quota.
pub const MAX_GROUPS: usize = 2500;

/// What a rule lets through. No two rules of a group and direction have the same.
pub type Traffic = (Protocol, Peer);

/// A rule that isn't in a group yet.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRule {
    pub traffic: Traffic,
    pub description: Option<String>,
}

/// How a call names a rule: by its id or by what it lets through.
#[derive(Clone, Debug, PartialEq)]
pub enum Named {
    Id(String),
    Traffic(Traffic),
}

/// Creates a group that lets everything out and nothing in.
pub fn create(
    draft: &mut Draft,
    owner: &AccountId,
    vpc: &VpcId,
    name: String,
    description: String,
    tags: Tags,
) -> Result<SecurityGroup, Refusal> {
    let owned = || {
        draft
            .state
            .groups
            .values()
            .filter(|row| row.owner == *owner)
    };
    if owned().any(|row| row.vpc == *vpc && row.name.eq_ignore_ascii_case(&name)) {
        return Err(Refusal::Duplicate("security group", name));
    }
    if owned().count() >= MAX_GROUPS {
        return Err(Refusal::GroupLimit);
    }
    let row = SecurityGroup {
        id: GroupId::from_entropy(draft.ctx.entropy()),
        number: draft.number(|c| &mut c.group),
        owner: owner.clone(),
        vpc: vpc.clone(),
        name,
        description,
        rules: vec![network::everything_out(RuleId::from_entropy(
            draft.ctx.entropy(),
        ))],
        created: draft.now(),
        tags,
    };
    draft.put(row.clone());
    Ok(row)
}

/// Deletes a group that no interface has and no other group's rule names.
pub fn delete(draft: &mut Draft, owner: &AccountId, id: &str) -> Result<GroupId, Refusal> {
    let row = find(&draft.state, owner, id)?.clone();
    let state = &draft.state;
    if state
        .vpcs
        .get(&row.vpc)
        .is_some_and(|vpc| vpc.default_group == row.id)
    {
        return Err(Refusal::DefaultGroup);
    }
    if let Some(user) = user_of(state, &row) {
        return Err(Refusal::InUse(format!("resource {id}"), user));
    }
    draft.delete(Kind::Group, id);
    Ok(row.id.clone())
}

fn user_of(state: &State, group: &SecurityGroup) -> Option<String> {
    let members = state.members.get(&group.id);
    let port = members.and_then(|members| members.values().next());
    let names = |rule: &Rule| rule.peer == Peer::Group(group.id.clone());
    let referring = || {
        let others = state.groups.values().filter(|row| row.id != group.id);
        others
            .into_iter()
            .find(|row| row.rules.iter().any(names))
            .map(|row| row.id.to_string())
    };
    port.map(|port| port.to_string()).or_else(referring)
}

/// Adds rules. A peer group must be in the same VPC.
pub fn authorize(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    direction: Direction,
    rules: Vec<NewRule>,
    tags: &Tags,
) -> Result<Vec<Rule>, Refusal> {
    let mut row = SecurityGroup::clone(find(&draft.state, owner, id)?);
    let mut added = Vec::new();
    for rule in rules {
        check_peer(&draft.state, &row, &rule.traffic.1)?;
        let (protocol, peer) = rule.traffic;
        let rule = Rule {
            id: RuleId::from_entropy(draft.ctx.entropy()),
            direction,
            protocol,
            peer,
            description: rule.description,
            tags: tags.clone(),
        };
        row.rules.push(rule.clone());
        added.push(rule);
    }
    check_rules(&row)?;
    draft.put(row);
    Ok(added)
}

/// Removes rules. An id that is none of the group's changes nothing.
pub fn revoke(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    direction: Direction,
    named: &[Named],
) -> Result<Revoked, Refusal> {
    let mut row = SecurityGroup::clone(find(&draft.state, owner, id)?);
    let (mut places, mut unknown) = (BTreeSet::new(), Vec::new());
    for name in named {
        match (place(&row, direction, name), name) {
            (Some(at), _) => {
                places.insert(at);
            }
            (None, Named::Id(id)) => return Err(Refusal::NotFound(Thing::GroupRule, id.clone())),
            (None, Named::Traffic(traffic)) => unknown.push(traffic.clone()),
        }
    }
    // From the end, so that the places before stay true.
    let mut rules: Vec<Rule> = places
        .iter()
        .rev()
        .map(|at| row.rules.remove(*at))
        .collect();
    rules.reverse();
    if !rules.is_empty() {
        draft.put(row);
    }
    Ok(Revoked { rules, unknown })
}

/// What became of the rules that were to be revoked. In a default VPC those that aren't there are no error
/// ("RevokeSecurityGroupIngress" in the EC2 API reference), and there are no other VPCs.
pub struct Revoked {
    pub rules: Vec<Rule>,
    pub unknown: Vec<Traffic>,
}

/// Replaces what rules let through and how they are described; ids, directions and tags stay.
pub fn modify(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    updates: Vec<(String, NewRule)>,
) -> Result<(), Refusal> {
    let mut row = SecurityGroup::clone(find(&draft.state, owner, id)?);
    for (rule_id, new) in updates {
        check_peer(&draft.state, &row, &new.traffic.1)?;
        let rule = row
            .rules
            .iter_mut()
            .find(|rule| rule.id.as_str() == rule_id);
        let rule = rule.ok_or(Refusal::NotFound(Thing::GroupRule, rule_id))?;
        (rule.protocol, rule.peer) = new.traffic;
        rule.description = new.description;
    }
    check_rules(&row)?;
    draft.put(row);
    Ok(())
}

/// Replaces or removes the descriptions of rules.
pub fn describe(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    direction: Direction,
    texts: Vec<(Named, Option<String>)>,
) -> Result<(), Refusal> {
    let mut row = SecurityGroup::clone(find(&draft.state, owner, id)?);
    for (name, text) in texts {
        let at = place(&row, direction, &name).ok_or(match name {
            Named::Id(id) => Refusal::NotFound(Thing::GroupRule, id),
            Named::Traffic(_) => Refusal::NoSuchRule,
        })?;
        row.rules[at].description = text;
    }
    draft.put(row);
    Ok(())
}

fn find<'a>(
    state: &'a State,
    owner: &AccountId,
    id: &str,
) -> Result<&'a Arc<SecurityGroup>, Refusal> {
    state
        .group(owner, id)
        .ok_or_else(|| Refusal::NotFound(Thing::Group, id.to_owned()))
}

fn place(row: &SecurityGroup, direction: Direction, name: &Named) -> Option<usize> {
    row.rules.iter().position(|rule| {
        rule.direction == direction
            && match name {
                Named::Id(id) => rule.id.as_str() == id,
                Named::Traffic((protocol, peer)) => {
                    rule.protocol == *protocol && rule.peer == *peer
                }
            }
    })
}

fn check_peer(state: &State, row: &SecurityGroup, peer: &Peer) -> Result<(), Refusal> {
    let Peer::Group(id) = peer else { return Ok(()) };
    let other = find(state, &row.owner, id.as_str())?;
    match other.vpc == row.vpc {
        true => Ok(()),
        false => Err(Refusal::NotFound(Thing::Group, id.to_string())),
    }
}

/// Quota and uniqueness, after a change.
fn check_rules(row: &SecurityGroup) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for rule in &row.rules {
        if !seen.insert((rule.direction, &rule.protocol, &rule.peer)) {
            return Err(Refusal::Duplicate(
                "rule",
                traffic_text(&rule.protocol, &rule.peer),
            ));
        }
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        if row
            .rules
            .iter()
            .filter(|rule| rule.direction == direction)
            .count()
            > MAX_RULES
        {
            return Err(Refusal::TooManyRules);
        }
    }
    Ok(())
}

/// As AWS's message about a duplicate rule has it.
fn traffic_text(protocol: &Protocol, peer: &Peer) -> String {
    let peer = match peer {
        Peer::Cidr(cidr) => cidr.to_string(),
        Peer::Group(id) => id.to_string(),
    };
    let what = match protocol {
        Protocol::All => "ALL".to_owned(),
        Protocol::Tcp { from, to } => format!("TCP, from port: {from}, to port: {to}"),
        Protocol::Udp { from, to } => format!("UDP, from port: {from}, to port: {to}"),
        Protocol::Icmp { kind, code } => {
            let number = |part: &Option<u8>| part.map_or(-1, i32::from);
            format!("ICMP, type: {}, code: {}", number(kind), number(code))
        }
        Protocol::Number(number) => format!("protocol {number}"),
    };
    format!("peer: {peer}, {what}, ALLOW")
}
