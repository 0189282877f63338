//! Moves that come to nothing, because somebody takes them back or because they can't be expected to get
//! anywhere: the instance goes on where it was.

use super::{disks, ended, moving_to};
use crate::refusal::Thing;
use crate::state::Contact;
use crate::{Draft, Refusal, State};
use boira_model::volume::file;
use boira_model::wire::Arriving;
use boira_model::*;

/// How long a guest that was sent may be halted before it goes on where it was.
const HALTED_MS: i64 = 15_000;
/// How long the other host may take until it waits for the guest: it may have to fetch the image.
const PREPARING_MS: i64 = 15 * 60 * 1000;
/// How often a disk may fail to be brought to the other host.
const FETCHES: u32 = 8;

/// Takes a move back, in whatever phase it is.
pub fn cancel(draft: &mut Draft, id: &str) -> Result<(), Refusal> {
    let row = draft.state.instances.get(id).cloned();
    let row = row.ok_or_else(|| Refusal::NotFound(Thing::Instance, id.into()))?;
    if row.moving_to().is_none() {
        return Err(Refusal::Conflict(format!("{id} is not moving")));
    }
    draft.log(&row.id, "admin", "the move is taken back");
    take_back(draft, &row);
    Ok(())
}

/// Takes back every move to a host that goes away.
pub fn turn_back(draft: &mut Draft, host: &HostId) {
    for id in moving_to(&draft.state, host) {
        // It is moving, so it can be taken back.
        let _ = cancel(draft, id.as_str());
    }
}

/// Ends the moves that get nowhere, and says why.
pub fn end_hopeless(draft: &mut Draft) {
    let state = &draft.state;
    let moving = state.moving.iter().filter_map(|id| state.instances.get(id));
    let hopeless: Vec<_> = moving
        .filter_map(|row| Some((row.clone(), hopeless(state, row, draft.now())?)))
        .collect();
    for (row, (why, counts)) in hopeless {
        match counts {
            true => fail(draft, &row.id, why),
            false => comes_to_nothing(draft, &row, why),
        }
    }
}

/// Why a move gets nowhere, and whether that says something of the next one.
fn hopeless(state: &State, row: &Instance, now: Wall) -> Option<(&'static str, bool)> {
    let here = &row.placement.as_ref()?.host;
    let to = row.moving_to().filter(|to| *to != here)?;
    let host = state.hosts.get(to);
    if host.is_none_or(|host| host.admission == Admission::Revoked) {
        return Some(("the other host was cut off", false));
    }
    let silent = |id: &HostId| state.contact(id) == Contact::Silent;
    let is_past = |since: Wall, ms| now.is_past(since, ms);
    match row.live() {
        Some(live) if live.departed.is_some_and(|since| is_past(since, HALTED_MS)) => {
            Some(("the other host has not got all of it", true))
        }
        Some(live) if !live.ready && is_past(live.since, PREPARING_MS) => {
            Some(("the other host is not ready for it", true))
        }
        // Where both are silent it may be the controller that was away.
        None if silent(to) && !silent(here) => Some(("the other host is not heard of", false)),
        Some(_) | None => None,
    }
}

/// How far the disks are that come to this host. One that can't be brought keeps its instance where it is.
pub fn fetching(draft: &mut Draft, host: &HostId, arriving: &[Arriving]) {
    for id in moving_to(&draft.state, host) {
        let row = draft.state.instances[&id].clone();
        if row.live().is_some() {
            continue;
        }
        let disks = disks(&draft.state, &row);
        let files: Vec<_> = disks
            .iter()
            .filter_map(|disk| Some(file(&disk.id, disk.arriving_at(host)?)))
            .collect();
        let mut failed = arriving.iter().filter(|part| part.failures >= FETCHES);
        let failed = failed.find(|part| files.contains(&part.file));
        let Some(why) = failed.and_then(|part| part.error.as_ref()) else {
            continue;
        };
        let why = format!("its disk can't be brought to the other host: {why}");
        comes_to_nothing(draft, &row, &why);
        // A host that is away for a while says nothing about its disk.
        let here = row.placement.as_ref().map(|placement| &placement.host);
        if here.is_some_and(|host| draft.state.contact(host) == Contact::Live) {
            note(draft, &id, |placement| placement.kept = Some(why));
        }
    }
}

/// Whoever drains a host, or lets it in again, wants to see once more whether its instances can leave.
pub fn try_again(draft: &mut Draft, host: &HostId) {
    let kept = |row: &Instance| row.placement.as_ref().is_some_and(|p| p.kept.is_some());
    let here = draft.state.placed_on(host).filter(|row| kept(row));
    for id in here.map(|row| row.id.clone()).collect::<Vec<_>>() {
        note(draft, &id, |placement| placement.kept = None);
    }
}

/// Nothing goes over running from a host, or to it, whose agent doesn't know how.
pub fn outdated(draft: &mut Draft, host: &HostId) {
    let moving = draft.state.moving.iter();
    let concerned = moving.filter(|id| {
        let placement = draft.state.instances[*id].placement.as_ref();
        placement.is_some_and(|p| p.host == *host || p.moving_to.as_ref() == Some(host))
    });
    for id in concerned.cloned().collect::<Vec<_>>() {
        stay(draft, &id, "an agent is of an older version");
    }
}

/// A guest that was to go over running goes on where it is.
pub fn stay(draft: &mut Draft, id: &InstanceId, why: &str) {
    let row = draft.state.instances.get(id).cloned();
    if let Some(row) = row.filter(|row| row.live().is_some()) {
        comes_to_nothing(draft, &row, why);
    }
}

/// The same, because going over running has failed.
pub fn fail(draft: &mut Draft, id: &InstanceId, why: &str) {
    stay(draft, id, why);
    note(draft, id, |placement| placement.stuck = true);
}

/// Forgets that an instance is moving; what was copied is removed by its host.
pub fn give_up(draft: &mut Draft, id: &InstanceId) {
    let Some(row) = draft.state.instances.get(id).cloned() else {
        return;
    };
    if row.moving_to().is_none() {
        return;
    }
    for disk in disks(&draft.state, &row) {
        if disk.copying.is_some() {
            draft.put(Volume {
                copying: None,
                ..disk
            });
        }
    }
    note(draft, id, |placement| {
        placement.moving_to = None;
        placement.live = None;
    });
}

fn comes_to_nothing(draft: &mut Draft, row: &Instance, why: &str) {
    draft.log(&row.id, "cloud", format!("the move is given up: {why}"));
    take_back(draft, row);
}

fn take_back(draft: &mut Draft, row: &Instance) {
    give_up(draft, &row.id);
    let cold = row.placement.as_ref().filter(|p| p.live.is_none());
    if let (Some(placement), Desired::Running) = (cold, &row.desired) {
        // The button may have been pressed: its guest ends, and is started again in the same place.
        let here = placement.host.clone();
        note(draft, &row.id, |placement| placement.moving_to = Some(here));
        ended(draft, &row.id);
    }
}

fn note(draft: &mut Draft, id: &InstanceId, change: impl FnOnce(&mut Placement)) {
    draft.edit_instance(id, |row| {
        if let Some(placement) = &mut row.placement {
            change(placement);
        }
    });
}
