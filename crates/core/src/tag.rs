//! Tags on every kind of row, and on the parts of a VPC that have no row of their own.

use crate::refusal::Thing;
use crate::{Draft, Refusal, Row, State};
use boira_model::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Tags that a resource may have.
pub const MAX_TAGS: usize = 50;

/// Tags to remove: a key, and the value that it must have where one is given.
pub type Unwanted = (String, Option<String>);

/// Adds or overwrites tags on all named resources; one that isn't there changes none.
pub fn create(
    draft: &mut Draft,
    owner: &AccountId,
    ids: &[String],
    tags: &Tags,
) -> Result<(), Refusal> {
    each(draft, owner, ids, |of| {
        of.extend(tags.iter().map(|(key, value)| (key.clone(), value.clone())));
    })
}

/// Tags that the metadata service shows are names in its tree, so EC2 takes fewer characters there
/// ("Work with instance tags in instance metadata" in the EC2 user guide).
pub fn check_metadata(options: &MetadataOptions, tags: &Tags) -> Result<(), Refusal> {
    let fits = |key: &String| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_+=,.@:".contains(c);
        key.chars().all(fits) && !matches!(key.as_str(), "." | ".." | "_index")
    };
    match tags.keys().find(|key| options.instance_tags && !fits(key)) {
        Some(key) => Err(Refusal::NoMetadataKey(key.clone())),
        None => Ok(()),
    }
}

/// Removes tags from all named resources; without `unwanted` all of them. Tags that aren't there are
/// no error.
pub fn delete(
    draft: &mut Draft,
    owner: &AccountId,
    ids: &[String],
    unwanted: Option<&[Unwanted]>,
) -> Result<(), Refusal> {
    each(draft, owner, ids, |of| match unwanted {
        None => of.clear(),
        Some(unwanted) => {
            for (key, value) in unwanted {
                if value.is_none() || of.get(key) == value.as_ref() {
                    of.remove(key);
                }
            }
        }
    })
}

fn each(
    draft: &mut Draft,
    owner: &AccountId,
    ids: &[String],
    edit: impl Fn(&mut Tags),
) -> Result<(), Refusal> {
    let groups = groups_of_rules(&draft.state, owner, ids);
    for id in ids {
        // Looked up anew each time: two of the ids may be kept in one row.
        let found = match groups.get(id) {
            Some(group) => find_rule(&draft.state, group, id),
            None => find(&draft.state, owner, id),
        };
        let missing = || Refusal::NotFound(Thing::Resource, id.clone());
        let mut found = found.ok_or_else(missing)?;
        let before = found.tags().clone();
        edit(found.tags_mut());
        if found.tags().len() > MAX_TAGS {
            return Err(Refusal::TooManyTags);
        }
        if let Found::Instance(row) = &found {
            check_metadata(&row.metadata, &row.tags)?;
        }
        if *found.tags() != before {
            draft.put(found.into_row());
        }
    }
    Ok(())
}

/// A copy of the row that has a resource's tags.
enum Found {
    Group(SecurityGroup),
    /// A rule, by its place in its group.
    Rule(SecurityGroup, usize),
    Image(Image),
    /// Another account's image, as this one has tagged it.
    Shared(Image, AccountId),
    Instance(Box<Instance>),
    Interface(Interface),
    KeyPair(KeyPair),
    Subnet(Subnet),
    Volume(Volume),
    Vpc(Vpc),
    /// A gateway, a table and the like, by its id.
    Part(Vpc, String),
}

impl Found {
    fn tags(&self) -> &Tags {
        static NONE: Tags = Tags::new();
        match self {
            Self::Group(row) => &row.tags,
            Self::Rule(row, index) => &row.rules[*index].tags,
            Self::Image(row) => &row.tags,
            Self::Shared(row, account) => row.tags_of_others.get(account).unwrap_or(&NONE),
            Self::Instance(row) => &row.tags,
            Self::Interface(row) => &row.tags,
            Self::KeyPair(row) => &row.tags,
            Self::Subnet(row) => &row.tags,
            Self::Volume(row) => &row.tags,
            Self::Vpc(row) => &row.tags,
            Self::Part(row, id) => row.part_tags.get(id).unwrap_or(&NONE),
        }
    }

    fn tags_mut(&mut self) -> &mut Tags {
        match self {
            Self::Group(row) => &mut row.tags,
            Self::Rule(row, index) => &mut row.rules[*index].tags,
            Self::Image(row) => &mut row.tags,
            Self::Shared(row, account) => row.tags_of_others.entry(account.clone()).or_default(),
            Self::Instance(row) => &mut row.tags,
            Self::Interface(row) => &mut row.tags,
            Self::KeyPair(row) => &mut row.tags,
            Self::Subnet(row) => &mut row.tags,
            Self::Volume(row) => &mut row.tags,
            Self::Vpc(row) => &mut row.tags,
            Self::Part(row, id) => row.part_tags.entry(id.clone()).or_default(),
        }
    }

    fn into_row(self) -> Row {
        match self {
            Self::Group(row) | Self::Rule(row, _) => row.into(),
            Self::Image(row) => row.into(),
            Self::Shared(mut row, _) => {
                row.tags_of_others.retain(|_, tags| !tags.is_empty());
                row.into()
            }
            Self::Instance(row) => (*row).into(),
            Self::Interface(row) => row.into(),
            Self::KeyPair(row) => row.into(),
            Self::Subnet(row) => row.into(),
            Self::Volume(row) => row.into(),
            Self::Vpc(row) | Self::Part(row, _) => row.into(),
        }
    }
}

/// The groups of those ids that are rules. All groups are walked once, and not for each id.
fn groups_of_rules(state: &State, owner: &AccountId, ids: &[String]) -> BTreeMap<String, GroupId> {
    let is_rule = |id: &&String| id.starts_with(RuleId::PREFIX);
    let wanted: BTreeSet<&str> = ids.iter().filter(is_rule).map(String::as_str).collect();
    let mut found = BTreeMap::new();
    if wanted.is_empty() {
        return found;
    }
    for group in groups_of(state, owner) {
        let rules = group.rules.iter().map(|rule| rule.id.as_str());
        for rule in rules.filter(|rule| wanted.contains(rule)) {
            found.insert(rule.to_owned(), group.id.clone());
        }
    }
    found
}

fn find_rule(state: &State, group: &GroupId, id: &str) -> Option<Found> {
    let group = state.groups.get(group)?;
    let index = group.rules.iter().position(|rule| rule.id.as_str() == id)?;
    Some(Found::Rule(SecurityGroup::clone(group), index))
}

/// All but rules.
fn find(state: &State, owner: &AccountId, id: &str) -> Option<Found> {
    let (prefix, _) = id.rsplit_once('-')?;
    match prefix {
        GroupId::PREFIX => copy(state.group(owner, id)).map(Found::Group),
        ImageId::PREFIX => {
            copy(state.image(owner, id)).map(|row: Image| match row.owner == *owner {
                true => Found::Image(row),
                false => Found::Shared(row, owner.clone()),
            })
        }
        InstanceId::PREFIX => {
            copy(state.instance(owner, id)).map(|row| Found::Instance(row.into()))
        }
        InterfaceId::PREFIX => copy(state.interface(owner, id)).map(Found::Interface),
        KeyPairId::PREFIX => {
            copy(state.key_pairs.get(id).filter(|row| row.owner == *owner)).map(Found::KeyPair)
        }
        SubnetId::PREFIX => copy(state.subnet(owner, id)).map(Found::Subnet),
        VolumeId::PREFIX => copy(state.volume(owner, id)).map(Found::Volume),
        VpcId::PREFIX => copy(state.vpc(owner, id)).map(Found::Vpc),
        _ => vpcs_of(state, owner)
            .find(|vpc| parts(vpc).iter().any(|(part, _)| *part == id))
            .map(|vpc| Found::Part(Vpc::clone(vpc), id.to_owned())),
    }
}

fn copy<T: Clone>(row: Option<&Arc<T>>) -> Option<T> {
    row.map(|row| T::clone(row))
}

/// The parts of a VPC that have tags, with EC2's names of their types.
fn parts(vpc: &Vpc) -> [(&str, &'static str); 4] {
    [
        (vpc.acl.as_str(), "network-acl"),
        (vpc.dhcp_options.as_str(), "dhcp-options"),
        (vpc.gateway.as_str(), "internet-gateway"),
        (vpc.main_route_table.as_str(), "route-table"),
    ]
}

/// A resource with its type as EC2 calls it (`ResourceType`).
pub struct Tagged<'a> {
    pub id: &'a str,
    pub kind: &'static str,
    pub tags: &'a Tags,
}

/// Everything of an account that has tags.
pub fn all<'a>(state: &'a State, owner: &'a AccountId) -> Vec<Tagged<'a>> {
    let mut all = Vec::new();
    let mut add = |id: &'a str, kind, tags: &'a Tags| {
        if !tags.is_empty() {
            all.push(Tagged { id, kind, tags });
        }
    };
    for group in groups_of(state, owner) {
        add(group.id.as_str(), "security-group", &group.tags);
        for rule in &group.rules {
            add(rule.id.as_str(), "security-group-rule", &rule.tags);
        }
    }
    for vpc in vpcs_of(state, owner) {
        add(vpc.id.as_str(), "vpc", &vpc.tags);
        for (id, kind) in parts(vpc) {
            if let Some(tags) = vpc.part_tags.get(id) {
                add(id, kind, tags);
            }
        }
    }
    for row in state.instances_of(owner) {
        add(row.id.as_str(), "instance", &row.tags);
    }
    for row in state.images.values() {
        match row.owner == *owner {
            true => add(row.id.as_str(), "image", &row.tags),
            false if state.image(owner, row.id.as_str()).is_none() => {}
            false => {
                if let Some(tags) = row.tags_of_others.get(owner) {
                    add(row.id.as_str(), "image", tags);
                }
            }
        }
    }
    for row in state.interfaces.values().filter(|row| row.owner == *owner) {
        add(row.id.as_str(), "network-interface", &row.tags);
    }
    for row in state.key_pairs.values().filter(|row| row.owner == *owner) {
        add(row.id.as_str(), "key-pair", &row.tags);
    }
    for row in state.subnets.values().filter(|row| row.owner == *owner) {
        add(row.id.as_str(), "subnet", &row.tags);
    }
    for row in state.volumes.values().filter(|row| row.owner == *owner) {
        add(row.id.as_str(), "volume", &row.tags);
    }
    all
}

fn groups_of<'a>(
    state: &'a State,
    owner: &'a AccountId,
) -> impl Iterator<Item = &'a Arc<SecurityGroup>> {
    state.groups.values().filter(move |row| row.owner == *owner)
}

fn vpcs_of<'a>(state: &'a State, owner: &'a AccountId) -> impl Iterator<Item = &'a Arc<Vpc>> {
    state.vpcs.values().filter(move |row| row.owner == *owner)
}
