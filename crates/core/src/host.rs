//! Hosts: invited, joined, labelled, drained, cut off and forgotten.
//!
//! ```text
//!  invite ──► Invitation ──join (token, key)──► Host: open ◄──► draining
//!                                                  └──revoke──► revoked ──remove──► gone
//! ```
//! A host is known by its key. The token that lets it in is kept as its digest only, works once, and
//! expires.

use crate::refusal::Thing;
use crate::{Draft, Kind, Refusal, State, moving, observe, power, tag, zone};
use boira_model::*;
use std::sync::Arc;

/// How long an invitation may last: a week, in milliseconds.
pub const MAX_INVITATION_MS: i64 = 7 * 24 * 3600 * 1000;

/// Lets one PC join: a new host of `zone`, by default of the first, or `host` again with a new key.
pub fn invite(
    draft: &mut Draft,
    digest: String,
    zone_name: Option<&str>,
    host: Option<&str>,
    valid_ms: i64,
) -> Result<Invitation, Refusal> {
    if !(1..=MAX_INVITATION_MS).contains(&valid_ms) {
        return Err(Refusal::Conflict(format!(
            "an invitation lasts up to {} hours",
            MAX_INVITATION_MS / 3_600_000
        )));
    }
    let again = host.map(|name| find(&draft.state, name)).transpose()?;
    let zone = match (&again, zone_name) {
        (Some(host), Some(zone)) if host.zone != zone => {
            return Err(Refusal::Conflict(format!(
                "{} is in zone {}; a host that comes back stays there",
                host.name, host.zone
            )));
        }
        (Some(host), _) => zone::find(&draft.state, &host.zone)?,
        (None, Some(name)) => zone::find(&draft.state, name)?,
        (None, None) => first_zone(&draft.state)?,
    };
    forget_expired(draft);
    let invitation = Invitation {
        digest,
        zone: zone.id.clone(),
        host: again.map(|host| host.id.clone()),
        expires: Wall(draft.now().0 + valid_ms),
        used: None,
    };
    draft.put(invitation.clone());
    Ok(invitation)
}

fn first_zone(state: &State) -> Result<Arc<Zone>, Refusal> {
    let first = state.zones.values().min_by_key(|zone| zone.number);
    first
        .cloned()
        .ok_or_else(|| Refusal::NotFound(Thing::Zone, String::new()))
}

fn forget_expired(draft: &mut Draft) {
    let now = draft.now();
    let expired: Vec<_> = draft
        .state
        .invitations
        .values()
        .filter(|row| row.expires <= now)
        .map(|row| row.digest.clone())
        .collect();
    for digest in expired {
        draft.delete(Kind::Invitation, &digest);
    }
}

/// A PC that takes up an invitation.
pub struct Joining {
    /// SHA-256 of the token, in hex.
    pub digest: String,
    /// As [`Host::key`] has it.
    pub key: String,
    pub name: String,
    /// The host that it was until now.
    pub was: Option<HostId>,
}

/// Takes up an invitation. Repeated with the same key it answers the same host, as the first answer
/// may have been lost.
pub fn join(draft: &mut Draft, joining: &Joining) -> Result<HostId, Refusal> {
    let Joining {
        digest,
        key,
        name,
        was,
    } = joining;
    let no = || {
        Refusal::Conflict(
            "this token is unknown, was used or has expired; `boira host invite` gives another"
                .into(),
        )
    };
    let invitation = draft
        .state
        .invitations
        .get(digest.as_str())
        .ok_or_else(no)?;
    let invitation = Invitation::clone(invitation);
    if invitation.expires <= draft.now() {
        return Err(no());
    }
    match &invitation.used {
        Some((host, by)) if *by == *key && draft.state.hosts.contains_key(host) => {
            return Ok(host.clone());
        }
        Some(_) => return Err(no()),
        None => {}
    }
    // One that was forgotten has nothing to come back to.
    if let Some(was) = was
        && draft.state.hosts.contains_key(was)
        && invitation.host.as_ref() != Some(was)
    {
        return Err(Refusal::Conflict(format!(
            "this machine is {was} already; `boira host invite --host {was}` lets it come back"
        )));
    }
    let host = match &invitation.host {
        Some(host) if !draft.state.hosts.contains_key(host) => return Err(no()),
        Some(host) => host.clone(),
        // It joined before and never got its answer.
        None => match draft.state.hosts.values().find(|row| row.key == *key) {
            Some(row) => row.id.clone(),
            None => HostId::from_entropy(draft.ctx.entropy()),
        },
    };
    let mut zones = draft.state.zones.values();
    let zone = zones.find(|zone| zone.id == invitation.zone);
    let zone = zone.map(|zone| zone.name.clone()).ok_or_else(no)?;
    enroll(draft, &host, key, name, Some(&zone))?;
    draft.put(Invitation {
        used: Some((host.clone(), key.clone())),
        ..invitation
    });
    Ok(host)
}

/// What a PC may call itself: as in a host name, and no number.
pub fn is_name(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=63).contains(&name.len())
        && name.bytes().all(letter)
        && !name.bytes().all(|b| b.is_ascii_digit())
}

/// Makes a host's row, by default in the first zone, or gives an existing host another key.
pub fn enroll(
    draft: &mut Draft,
    id: &HostId,
    key: &str,
    name: &str,
    zone: Option<&str>,
) -> Result<(), Refusal> {
    let taken = |row: &Arc<Host>| row.key == key && row.id != *id;
    if let Some(other) = draft.state.hosts.values().find(|row| taken(row)) {
        return Err(Refusal::Conflict(format!(
            "{} has this key already",
            other.name
        )));
    }
    let row = match draft.state.hosts.get(id) {
        Some(row) => {
            let mut row = Host::clone(row);
            row.key = key.into();
            row.admit(Admission::Open, draft.now());
            row
        }
        None => {
            let zone = match zone {
                None => first_zone(&draft.state)?,
                Some(zone) => zone::find(&draft.state, zone)?,
            };
            let number = draft.number(|c| &mut c.host);
            Host {
                key: key.into(),
                fence_ms: draft.state.settings.fence_ms(),
                ..Host::new(id.clone(), number, name, &zone.name, draft.now())
            }
        }
    };
    draft.put(row);
    Ok(())
}

/// A host by id, number or name.
pub fn find(state: &State, name: &str) -> Result<Arc<Host>, Refusal> {
    if let Some(row) = state.hosts.get(name) {
        return Ok(row.clone());
    }
    let called: Vec<_> = state
        .hosts
        .values()
        .filter(|row| row.name == name || row.number.to_string() == name)
        .collect();
    match called[..] {
        [row] => Ok(row.clone()),
        [] => Err(Refusal::NotFound(Thing::Host, name.into())),
        _ => Err(Refusal::Conflict(format!(
            "{} hosts are called '{name}'; give the number or id of one",
            called.len()
        ))),
    }
}

/// What the administrator may change about a host; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct HostChange {
    pub note: Option<String>,
    pub draining: Option<bool>,
    /// With `draining`: its instances are moved to other hosts, those that run while they run, until it no
    /// longer drains.
    pub evacuating: bool,
    /// Labels to set, and with `None` to remove.
    pub labels: Vec<(String, Option<String>)>,
}

const MAX_NOTE: usize = 500;

pub fn change(draft: &mut Draft, name: &str, change: HostChange) -> Result<Host, Refusal> {
    let mut row = Host::clone(&*find(&draft.state, name)?);
    if let Some(note) = change.note {
        if note.chars().count() > MAX_NOTE || note.contains(char::is_control) {
            return Err(Refusal::Conflict(format!(
                "a note is one line of up to {MAX_NOTE} characters"
            )));
        }
        row.note = note;
    }
    match (change.draining, row.admission) {
        (Some(_), Admission::Revoked) => {
            return Err(Refusal::Conflict(format!("{} is revoked", row.name)));
        }
        (Some(true), _) => {
            row.admit(Admission::Draining, draft.now());
            row.evacuating |= change.evacuating;
        }
        (Some(false), _) => row.admit(Admission::Open, draft.now()),
        (None, _) => {}
    }
    for (label, value) in change.labels {
        match value {
            Some(value) => {
                check_label(&label, &value)?;
                row.tags.insert(label, value);
            }
            None => drop(row.tags.remove(&label)),
        }
    }
    if row.tags.len() > tag::MAX_TAGS {
        return Err(Refusal::TooManyTags);
    }
    draft.put(row.clone());
    if change.draining.is_some() {
        moving::try_again(draft, &row.id);
    }
    Ok(row)
}

fn check_label(label: &str, value: &str) -> Result<(), Refusal> {
    let line = |text: &str| !text.contains(char::is_control);
    let fine = (1..=128).contains(&label.chars().count()) && value.chars().count() <= 256;
    match fine && line(label) && line(value) && !label.contains('=') {
        true => Ok(()),
        false => Err(Refusal::Conflict(format!(
            "'{label}' is no label: 1 to 128 characters without '=', and up to 256 for its value"
        ))),
    }
}

/// Whoever has the PC may have its shell's history too.
fn withdraw_invitations(draft: &mut Draft, host: &HostId) {
    let rows = draft.state.invitations.values();
    let of_it: Vec<_> = rows
        .filter(|row| row.host.as_ref() == Some(host))
        .map(|row| row.digest.clone())
        .collect();
    for digest in of_it {
        draft.delete(Kind::Invitation, &digest);
    }
}

/// Cuts a host off. What is placed on it stays placed there: whether it still runs nobody knows.
pub fn revoke(draft: &mut Draft, name: &str) -> Result<Host, Refusal> {
    let mut row = Host::clone(&*find(&draft.state, name)?);
    row.key.clear();
    row.admit(Admission::Revoked, draft.now());
    withdraw_invitations(draft, &row.id);
    draft.put(row.clone());
    Ok(row)
}

/// Forgets a host that has nothing of anybody. With `force` what is on it ends with it: its instances
/// are terminated and its disks are given up.
pub fn remove(draft: &mut Draft, name: &str, force: bool) -> Result<Host, Refusal> {
    let row = find(&draft.state, name)?;
    moving::turn_back(draft, &row.id);
    let instances: Vec<_> = draft.state.placed_on(&row.id).cloned().collect();
    let volumes: Vec<_> = draft
        .state
        .stored
        .get(&row.id)
        .into_iter()
        .flat_map(|ids| ids.iter().cloned())
        .collect();
    let user = instances.first().map(|row| row.id.to_string());
    let user = user.or_else(|| volumes.first().map(ToString::to_string));
    if let (Some(user), false) = (user, force) {
        return Err(Refusal::InUse(format!("host {}", row.name), user));
    }
    for instance in instances {
        let reason = StateReason {
            code: "Server.InternalError".into(),
            message: format!(
                "Server.InternalError: The host {} was removed with the instance on it",
                row.name
            ),
        };
        power::settle(draft, &instance, Desired::Terminated, "admin", reason);
        observe::release(draft, &instance.id);
    }
    for volume in volumes {
        draft.delete(Kind::Volume, volume.as_str());
    }
    withdraw_invitations(draft, &row.id);
    draft.delete(Kind::Host, row.id.as_str());
    Ok(Host::clone(&row))
}
