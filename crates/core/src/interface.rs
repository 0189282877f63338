//! What owners change about their network interfaces. Hosts are told at once.

use crate::refusal::Thing;
use crate::{Draft, Kind, Refusal};
use boira_model::*;

/// Groups that an interface may be in, the most that AWS gives.
pub const MAX_GROUPS: usize = 16;

pub fn describe(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    description: &str,
) -> Result<(), Refusal> {
    change(draft, owner, id, |row| row.description = description.into())
}

/// Without the check the interface may send and receive what isn't addressed to it.
pub fn check_source(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    on: bool,
) -> Result<(), Refusal> {
    change(draft, owner, id, |row| row.source_dest_check = on)
}

/// Whether it is to have a public address, where interfaces have one.
pub fn set_private_only(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    private_only: bool,
) -> Result<(), Refusal> {
    change(draft, owner, id, |row| row.private_only = private_only)
}

/// Replaces the groups; each must be of the interface's own network.
pub fn set_groups(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    groups: &[String],
) -> Result<(), Refusal> {
    let mut row = find(draft, owner, id)?;
    let mut chosen: Vec<GroupId> = Vec::new();
    for name in groups {
        let group = draft
            .state
            .group(owner, name)
            .ok_or_else(|| Refusal::NotFound(Thing::Group, name.clone()))?;
        if group.vpc != row.vpc {
            return Err(Refusal::Conflict(format!(
                "Security group {name} and interface {id} belong to different networks."
            )));
        }
        if !chosen.contains(&group.id) {
            chosen.push(group.id.clone());
        }
    }
    if chosen.len() > MAX_GROUPS {
        return Err(Refusal::TooManyGroups);
    }
    row.groups = chosen;
    put(draft, row);
    Ok(())
}

/// Whether the interface goes with its instance. `Ok(false)`: it has no such attachment.
pub fn delete_on_termination(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    attachment: &str,
    delete: bool,
) -> Result<bool, Refusal> {
    let mut row = find(draft, owner, id)?;
    match &mut row.attachment {
        Some(own) if own.id.as_str() == attachment => own.delete_on_termination = delete,
        _ => return Ok(false),
    }
    put(draft, row);
    Ok(true)
}

/// Only one that its instance has left behind; there is no way to detach one.
pub fn delete(draft: &mut Draft, owner: &AccountId, id: &str) -> Result<(), Refusal> {
    let row = find(draft, owner, id)?;
    if let Some(attachment) = &row.attachment {
        return Err(Refusal::InUse(id.into(), attachment.instance.to_string()));
    }
    draft.delete(Kind::Interface, id);
    Ok(())
}

fn change(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    change: impl FnOnce(&mut Interface),
) -> Result<(), Refusal> {
    let mut row = find(draft, owner, id)?;
    change(&mut row);
    put(draft, row);
    Ok(())
}

fn find(draft: &Draft, owner: &AccountId, id: &str) -> Result<Interface, Refusal> {
    match draft.state.interface(owner, id) {
        Some(row) => Ok(Interface::clone(row)),
        None => Err(Refusal::NotFound(Thing::Interface, id.into())),
    }
}

/// A change that changes nothing writes nothing.
fn put(draft: &mut Draft, row: Interface) {
    if draft
        .state
        .interfaces
        .get(&row.id)
        .is_none_or(|old| **old != row)
    {
        draft.put(row);
    }
}
