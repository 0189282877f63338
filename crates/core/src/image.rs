//! What owners change about their images. An image is only a recipe: instances keep the blobs they
//! were made from, so it may go while they run.

use crate::refusal::Thing;
use crate::state::Contact;
use crate::{Draft, Kind, Refusal, State};
use boira_model::wire::{Endpoint, IMAGES};
use boira_model::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Who may launch an image beside its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    Everyone,
    Account(AccountId),
}

/// What an image may be called (AWS, RegisterImage).
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "()[] ./-'@_".contains(c);
    (3..=128).contains(&name.len()) && name.chars().all(fits)
}

/// Takes the image from the list of those that can be launched.
pub fn deregister(draft: &mut Draft, id: &str) -> Result<(), Refusal> {
    let row = find(draft, id)?;
    if row.deregistration_protection {
        return Err(Refusal::Protected {
            id: id.into(),
            verb: "deregistered",
            attribute: "deregistrationProtection",
        });
    }
    draft.delete(Kind::Image, id);
    Ok(())
}

/// Gives and takes launch permissions; only accounts that exist can get one.
pub fn permit(
    draft: &mut Draft,
    id: &str,
    add: &[Grantee],
    remove: &[Grantee],
) -> Result<(), Refusal> {
    let mut row = find(draft, id)?;
    for grantee in add {
        match grantee {
            Grantee::Everyone => row.public = true,
            Grantee::Account(account) if !draft.state.accounts.contains_key(account) => {
                return Err(Refusal::NotFound(Thing::Account, account.to_string()));
            }
            Grantee::Account(account) => drop(row.launch_accounts.insert(account.clone())),
        }
    }
    for grantee in remove {
        match grantee {
            Grantee::Everyone => row.public = false,
            Grantee::Account(account) => drop(row.launch_accounts.remove(account)),
        }
    }
    put(draft, row);
    Ok(())
}

/// Only the owner may launch it.
pub fn reset_permissions(draft: &mut Draft, id: &str) -> Result<(), Refusal> {
    let mut row = find(draft, id)?;
    row.public = false;
    row.launch_accounts.clear();
    put(draft, row);
    Ok(())
}

pub fn describe(draft: &mut Draft, id: &str, description: &str) -> Result<(), Refusal> {
    let mut row = find(draft, id)?;
    row.description = description.into();
    put(draft, row);
    Ok(())
}

pub fn protect(draft: &mut Draft, id: &str, protected: bool) -> Result<(), Refusal> {
    let mut row = find(draft, id)?;
    row.deregistration_protection = protected;
    put(draft, row);
    Ok(())
}

/// From `at` on, others than the owner find the image only by its id; `None` takes that back.
pub fn deprecate(draft: &mut Draft, id: &str, at: Option<Wall>) -> Result<(), Refusal> {
    let mut row = find(draft, id)?;
    row.deprecated = at;
    put(draft, row);
    Ok(())
}

fn find(draft: &Draft, id: &str) -> Result<Image, Refusal> {
    match draft.state.images.get(id) {
        Some(row) => Ok(Image::clone(row)),
        None => Err(Refusal::NotFound(Thing::Image, id.into())),
    }
}

/// A change that changes nothing writes nothing.
fn put(draft: &mut Draft, row: Image) {
    if draft
        .state
        .images
        .get(&row.id)
        .is_none_or(|old| **old != row)
    {
        draft.put(row);
    }
}

/// The host that is to send a blob to another one; `None` where that is the controller. Those that lack it
/// are spread over those that have it, of which the controller is one.
pub fn sender(state: &State, asker: &HostId, sha256: &str) -> Option<HostId> {
    let asker = state.hosts.get(asker)?;
    // Beside the controller nothing is nearer than that.
    if matches!(asker.peer(), Some((_, Endpoint::BesideController(_)))) {
        return None;
    }
    let able = |row: &&Arc<Host>| {
        row.id != asker.id
            && row.protocol >= IMAGES
            && matches!(row.peer(), Some((_, Endpoint::At(_))))
            && state.contact(&row.id) == Contact::Live
    };
    let holders = holders(state, sha256);
    let rows = holders.iter().filter_map(|id| state.hosts.get(id));
    let able: Vec<_> = rows.filter(able).collect();
    let turn = asker.number as usize % (able.len() + 1);
    able.get(turn.checked_sub(1)?).map(|row| row.id.clone())
}

/// The hosts that a guest has run on from this blob. One that has none of its guests any more may have given
/// it up.
fn holders(state: &State, sha256: &str) -> BTreeSet<HostId> {
    let run_from = state.volumes.values().filter(|volume| volume.written);
    let has = |volume: &&Arc<Volume>| {
        let disk = matches!(&volume.source, VolumeSource::Image { blob, .. } if blob == sha256);
        let instance = volume.attachment.as_ref().map(|one| &one.instance);
        let boot = instance.and_then(|id| state.instances.get(id));
        disk || boot.is_some_and(|row| boots_from(&row.boot).any(|blob| blob == sha256))
    };
    let hosts = run_from.filter(has);
    hosts.filter_map(|volume| volume.host.clone()).collect()
}

/// What is outside of the disk.
fn boots_from(boot: &Boot) -> impl Iterator<Item = &String> {
    let parts = match boot {
        Boot::Kernel {
            kernel, ramdisk, ..
        } => [Some(kernel), ramdisk.as_ref()],
        Boot::Firmware => [None, None],
    };
    parts.into_iter().flatten()
}

/// The blobs that anything is made of, or may be made of again, by their SHA-256 in hex.
pub fn named_blobs(state: &State) -> BTreeSet<String> {
    let boots = (state.images.values().map(|row| &row.boot))
        .chain(state.instances.values().map(|row| &row.boot));
    let mut named: BTreeSet<String> = state.images.values().map(|row| row.disk.clone()).collect();
    for volume in state.volumes.values() {
        if let VolumeSource::Image { blob, .. } = &volume.source {
            named.insert(blob.clone());
        }
    }
    for boot in boots {
        named.extend(boots_from(boot).cloned());
    }
    named
}
