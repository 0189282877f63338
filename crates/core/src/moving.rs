//! Instances that go from one host to another.
//!
//! Cold: stop, copy, start.
//! ```text
//!  migrate ─► ending ── its guest has ended ──► copying ── the files are there ──► placed anew
//!               │                                  │                               (generation + 1)
//!             cancel: it goes to its own host    cancel: the copies are given up
//! ```
//! Live: its guest is sent while it runs, its disks before its memory.
//! ```text
//!  migrate ─► ready there ─► sending ── here: departed, halted ─┬─► placed anew, with the generation that it was sent with
//!               │                       there: arrived ─────────┘
//!             cancel, or what fails: it goes on here, and what came of it there is removed
//! ```
//! Nothing but rows says how far a move is: `Placement::moving_to`, `Placement::live` and
//! `Volume::copying`. Until it is placed anew the only copy that counts is that of the old host, and
//! nothing of it runs on the new one; from then on it is the new one's, and the old host, where the guest
//! has ended or is halted and isn't let go on as long as the instance is moving, removes what nobody
//! wants of it.

mod given_up;

pub use given_up::{cancel, fetching, give_up, outdated, stay, try_again, turn_back};

use crate::planted::{Bug, planted};
use crate::refusal::Thing;
use crate::schedule::{self, Need};
use crate::state::Contact;
use crate::{Draft, Refusal, State, heal};
use boira_model::volume::file;
use boira_model::wire::{GuestReport, GuestState, LIVE};
use boira_model::*;
use given_up::fail;
use std::sync::Arc;

/// How many instances leave a host at a time when it is emptied: the disk and the wire are shared.
const AT_A_TIME: usize = 2;

/// How an instance moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// One that runs is stopped here and started there.
    Cold,
    /// It runs on.
    Live,
}

/// Sends an instance to another host of its zone: the one that is named, or the best. Answers which.
///
/// # Errors
/// With the reasons of every host, or of the one that was named.
pub fn migrate(draft: &mut Draft, id: &str, to: Option<&Host>, how: How) -> Result<Host, Refusal> {
    let row = draft.state.instances.get(id).cloned();
    let row = row.ok_or_else(|| Refusal::NotFound(Thing::Instance, id.into()))?;
    let target = target(&draft.state, &row, to, how)?;
    let now = draft.now();
    draft.edit_instance(&row.id, |row| {
        if let Some(placement) = &mut row.placement {
            placement.moving_to = Some(target.id.clone());
            placement.kept = None;
            placement.overhead_there_bytes = target.overhead.of(row.memory_bytes);
            if how == How::Live {
                placement.given = placement.next_generation();
                placement.live = Some(Live {
                    generation: placement.given,
                    since: now,
                    ready: false,
                    departed: None,
                    arrived: false,
                });
            }
        }
    });
    keep_room(draft, &row, &target.id, how);
    let what = match how {
        How::Cold => format!("to move to {}", target.name),
        How::Live => format!("to move to {} while it runs", target.name),
    };
    draft.log(&row.id, "admin", what);
    ended(draft, &row.id);
    Ok(target)
}

/// Room for the disks that will be copied; one that no guest has written to is made anew.
fn keep_room(draft: &mut Draft, row: &Instance, to: &HostId, how: How) {
    let live = how == How::Live;
    let disks = disks(&draft.state, row);
    for disk in disks.into_iter().filter(|disk| disk.written || live) {
        let copies = disk.copies + 1;
        let copying = Copying {
            to: to.clone(),
            copy: copies,
            ready: false,
            live,
        };
        draft.put(Volume {
            copies,
            copying: Some(copying),
            ..disk
        });
    }
}

/// Where an instance would go, or why nowhere.
pub fn target(state: &State, row: &Instance, to: Option<&Host>, how: How) -> Result<Host, Refusal> {
    let placement = row.placement.as_ref();
    let here = placement.filter(|_| matches!(row.state(), StateName::Running | StateName::Stopped));
    let Some(here) = here else {
        return Err(Refusal::WrongState {
            id: row.id.to_string(),
            verb: "moved",
            state: row.state(),
        });
    };
    if row.moving_to().is_some() {
        let id = &row.id;
        return Err(Refusal::Conflict(format!("{id} is moving already")));
    }
    if state.contact(&here.host) == Contact::Silent {
        let name = state.hosts.get(&here.host).map(|host| &host.name);
        let name = name.map_or(here.host.as_str(), String::as_str);
        return Err(Refusal::Conflict(format!(
            "{} can't be moved while its host {name} is not heard of",
            row.id
        )));
    }
    let need = need(state, row);
    let from = match how {
        How::Cold => None,
        How::Live => Some(leaves_running(state, row, &here.host)?),
    };
    let fits = |host: &Host| from.map_or(Ok(()), |from| goes_running(from, host));
    match to {
        Some(host) => schedule::verdict(state, host, &need)
            .and_then(|_| fits(host))
            .map(|()| host.clone())
            .map_err(|reason| Refusal::NoCapacity {
                reasons: vec![format!("{}: {reason}", host.name)],
            }),
        None => schedule::place_where(state, &need, fits)
            .map(|id| Host::clone(&state.hosts[&id]))
            .map_err(|reasons| Refusal::NoCapacity { reasons }),
    }
}

/// The host of a guest that could be sent running, or why it can't.
fn leaves_running<'a>(
    state: &'a State,
    row: &Instance,
    here: &HostId,
) -> Result<&'a Host, Refusal> {
    let id = &row.id;
    if row.observed != Observed::Running {
        return Err(Refusal::Conflict(format!(
            "{id} doesn't run at the moment, and only what runs can be moved while it runs"
        )));
    }
    let host = state.hosts.get(here).map(|host| &**host);
    let host = host.ok_or_else(|| Refusal::Conflict(format!("{id} has no host")))?;
    match host.protocol >= LIVE {
        true => Ok(host),
        false => Err(Refusal::Conflict(format!(
            "the agent of {} is too old to move {id} while it runs",
            host.name
        ))),
    }
}

/// What keeps guests that run on one host from going on on another.
fn goes_running(from: &Host, to: &Host) -> Result<(), String> {
    if to.protocol < LIVE {
        return Err("its agent is too old to take in a guest that runs".into());
    }
    let by = |host: &Host| match host.acceleration.hardware {
        true => "KVM",
        false => "translation",
    };
    if from.acceleration.hardware != to.acceleration.hardware {
        return Err(format!(
            "its guests run by {}, and what runs by {} can't go on so; a cold move can",
            by(to),
            by(from)
        ));
    }
    // What a CPU does beyond its instructions, such as its clock, differs by who made it.
    let (here, there) = (&from.intake.cpu_vendor, &to.intake.cpu_vendor);
    let are_known = !here.is_empty() && !there.is_empty();
    if from.acceleration.hardware && are_known && here != there {
        return Err(format!(
            "its CPU is by {there}, and what runs by KVM on one by {here} can't go on so; a cold move can"
        ));
    }
    Ok(())
}

/// What an instance asks of a host that it moves to.
fn need(state: &State, row: &Instance) -> Need {
    let disks = row.disks.iter().filter_map(|id| state.volumes.get(id));
    Need {
        vcpus: row.vcpus,
        memory_bytes: row.memory_bytes,
        disk_bytes: disks.map(|disk| disk.size_bytes).sum(),
        zone: Some(row.zone.clone()),
        host: None,
        leaving: row
            .placement
            .as_ref()
            .map(|placement| placement.host.clone()),
        guest: schedule::guest_of(row),
        cpu_level: 0,
    }
}

/// What a host says of a guest that it sends, or that it was sent.
pub fn passes(draft: &mut Draft, host: &HostId, guest: &GuestReport) {
    let Some(row) = draft.state.instances.get(&guest.instance).cloned() else {
        return;
    };
    let (Some(placement), Some(live)) = (&row.placement, row.live()) else {
        return;
    };
    let mut now = live.clone();
    if placement.host == *host && placement.generation == guest.generation {
        let generation = live.generation;
        match (&guest.stuck, &guest.state) {
            (Some(stuck), _) if stuck.generation == generation => {
                return fail(draft, &row.id, &stuck.why);
            }
            // It isn't started as long as it may have gone.
            (_, GuestState::Absent | GuestState::Preparing | GuestState::Exited(_)) => {
                return stay(draft, &row.id, "it has ended");
            }
            _ => {}
        }
        let departed = guest.state == GuestState::Departed { generation };
        now.departed = departed.then(|| live.departed.unwrap_or(draft.now()));
    } else if placement.moving_to.as_ref() == Some(host) && live.generation == guest.generation {
        if let GuestState::Exited(Exit::StartFailed(why)) = &guest.state {
            return fail(draft, &row.id, why);
        }
        now.arrived = guest.state == GuestState::Arrived;
        // For good: one that has departed must not go on before the move is given up.
        now.ready |= now.arrived || guest.state == GuestState::Incoming;
    }
    if now == *live {
        return;
    }
    let over = now.departed.is_some() && now.arrived;
    draft.edit_instance(&row.id, |row| {
        if let Some(placement) = &mut row.placement {
            placement.live = Some(now);
        }
    });
    if let (true, Some(to)) = (over, row.moving_to()) {
        let admitted = |host: &Arc<Host>| host.admission != Admission::Revoked;
        if !draft.state.hosts.get(to).is_some_and(admitted) {
            return stay(draft, &row.id, "the other host was cut off");
        }
        let row = draft.state.instances[&row.id].clone();
        place(draft, &row, &to.clone());
    }
}

/// If the guest of an instance that moves has ended, its disks are copied, or it is placed at once
/// where there is nothing to copy.
pub fn ended(draft: &mut Draft, id: &InstanceId) {
    let Some(row) = draft.state.instances.get(id).cloned() else {
        return;
    };
    let has_ended = matches!(row.observed, Observed::Exited(_) | Observed::Absent)
        || planted(Bug::CopiedWhileItRuns);
    let (Some(to), true) = (row.moving_to().cloned(), has_ended) else {
        return;
    };
    if row.live().is_some() {
        return;
    }
    let stays = row.placement.as_ref().is_some_and(|p| p.host == to);
    let disks = disks(&draft.state, &row);
    let copied = disks.iter().any(|disk| disk.copying.is_some());
    if stays || !copied {
        return place(draft, &row, &to);
    }
    for mut disk in disks {
        if let Some(copying) = disk.copying.as_mut().filter(|copying| !copying.ready) {
            copying.ready = true;
            draft.log(id, "cloud", format!("copying its disk {}", disk.id));
            draft.put(disk);
        }
    }
}

/// A host has these files: instances whose disks are all there go on there.
pub fn arrived(draft: &mut Draft, host: &HostId, files: &[VolumeId]) {
    for id in moving_to(&draft.state, host) {
        let row = draft.state.instances[&id].clone();
        if row.live().is_some() {
            continue;
        }
        let here = |disk: &Volume| match disk.arriving_at(host) {
            Some(copy) => files.contains(&file(&disk.id, copy)),
            None => disk.copying.is_none() && !disk.written,
        };
        let disks = disks(&draft.state, &row);
        let copied = disks.iter().any(|disk| disk.copying.is_some());
        if copied && disks.iter().all(here) {
            place(draft, &row, host);
        }
    }
}

/// Whether a stopped instance that moves may start where it gets to, or where it is if it is called
/// back: while it was stopped no room was kept for it.
pub fn may_start(state: &State, row: &Instance) -> Result<(), Refusal> {
    let need = Need {
        // Its disks have their place.
        disk_bytes: 0,
        leaving: None,
        ..need(state, row)
    };
    let here = row.placement.iter().map(|placement| &placement.host);
    for host in here
        .chain(row.moving_to())
        .filter_map(|id| state.hosts.get(id))
    {
        let need = Need {
            host: Some(host.id.clone()),
            ..need.clone()
        };
        let reason = schedule::verdict(state, host, &need).err();
        if let Some(reason) = reason {
            let reasons = vec![format!("{}: {reason}", host.name)];
            return Err(Refusal::NoCapacity { reasons });
        }
    }
    Ok(())
}

/// What time alone changes: moves that get nowhere end, and hosts that are emptied send the next instances
/// off.
pub fn tick(draft: &mut Draft) {
    given_up::end_hopeless(draft);
    let emptied = draft.state.hosts.values().filter(|host| host.evacuating);
    for host in emptied.map(|host| host.id.clone()).collect::<Vec<_>>() {
        send_off(draft, &host);
    }
}

/// Whether [`tick`] could find anything to do.
pub fn is_due(state: &State) -> bool {
    let emptied = |host: &Host| {
        host.evacuating
            && state
                .placed
                .get(&host.id)
                .is_some_and(|ids| !ids.is_empty())
    };
    !state.moving.is_empty() || state.hosts.values().any(|host| emptied(host))
}

fn send_off(draft: &mut Draft, host: &HostId) {
    let here: Vec<_> = draft.state.placed_on(host).cloned().collect();
    let leaving = here.iter().filter(|row| row.moving_to().is_some()).count();
    let kept = |row: &Instance| row.placement.as_ref().is_some_and(|p| p.kept.is_some());
    let next = here
        .iter()
        .filter(|row| row.moving_to().is_none() && !kept(row));
    let mut places = AT_A_TIME.saturating_sub(leaving);
    for row in next {
        if places == 0 {
            return;
        }
        // One that can't be moved says why where somebody asks (`obstacles`).
        if migrate(draft, row.id.as_str(), None, way_out(&draft.state, row)).is_ok() {
            places -= 1;
        }
    }
}

/// How an instance leaves a host that is emptied: running if it can, and if that has not failed before.
fn way_out(state: &State, row: &Instance) -> How {
    let stuck = row.placement.as_ref().is_some_and(|p| p.stuck);
    match !stuck && target(state, row, None, How::Live).is_ok() {
        true => How::Live,
        false => How::Cold,
    }
}

/// What keeps the instances of a host from moving to another one; those that could, or do, are not in
/// it.
pub fn obstacles(state: &State, host: &HostId) -> Vec<(InstanceId, String)> {
    state
        .placed_on(host)
        .filter(|row| row.moving_to().is_none() && row.desired != Desired::Terminated)
        .filter_map(|row| {
            let kept = row.placement.as_ref().and_then(|p| p.kept.clone());
            let why = kept.or_else(|| Some(target(state, row, None, How::Cold).err()?.to_string()));
            Some((row.id.clone(), why?))
        })
        .collect()
}

fn moving_to(state: &State, host: &HostId) -> Vec<InstanceId> {
    let moving = state.moving.iter();
    moving
        .filter(|id| state.instances[*id].moving_to() == Some(host))
        .cloned()
        .collect()
}

fn disks(state: &State, row: &Instance) -> Vec<Volume> {
    let disks = row.disks.iter().filter_map(|id| state.volumes.get(id));
    disks.map(|disk| Volume::clone(disk)).collect()
}

/// From here on it is the host's where it was moving to.
fn place(draft: &mut Draft, row: &Instance, to: &HostId) {
    place_with(draft, row, to, |disk| {
        // One that is made anew gets a new name, too: if it goes to and fro, the old one's removal may be
        // on its way.
        let anew = disk.copying.is_none() && disk.host.as_ref() != Some(to);
        let copies = disk.copies + u64::from(anew);
        let kept = if anew { copies } else { disk.copy };
        Volume {
            copy: disk.copying.as_ref().map_or(kept, |made| made.copy),
            copies,
            copying: None,
            ..disk
        }
    });
}

/// From here on it is this host's, with its disks as `arrives` has them.
pub fn place_with(
    draft: &mut Draft,
    row: &Instance,
    to: &HostId,
    arrives: impl Fn(Volume) -> Volume,
) {
    for disk in disks(&draft.state, row) {
        draft.put(Volume {
            host: Some(to.clone()),
            ..arrives(disk)
        });
    }
    let Some(host) = draft.state.hosts.get(to).cloned() else {
        return;
    };
    let now = draft.now();
    let live = row.live().map(|live| live.generation);
    draft.edit_instance(&row.id, |row| {
        let generation = live.unwrap_or_else(|| row.next_generation());
        let before = row.placement.take().filter(|before| before.host == *to);
        row.placement = Some(Placement {
            kept: before.and_then(|before| before.kept),
            ..Placement::new(to.clone(), generation)
        });
        row.overhead_bytes = host.overhead.of(row.memory_bytes);
        row.resets = 0;
        if live.is_some() {
            return;
        }
        row.observed = match row.desired {
            Desired::Running => Observed::Unknown,
            Desired::Stopped(_) | Desired::Terminated => Observed::Absent,
        };
        row.reachable = None;
        row.reachable_since = now;
    });
    heal::fence(draft, &row.id);
    draft.log(&row.id, "cloud", format!("placed on {}", host.name));
}
