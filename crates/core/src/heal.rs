//! What becomes of instances whose host is lost.
//!
//! A host that is silent is unknown, not dead: what is on it stays there, with its addresses, and is
//! impaired. Only an instance whose disks may be made anew is started elsewhere, because it asked for
//! that, and only once its host is certain to hold it ([`crate::fence`]).
//!
//! ```text
//!  recover=reimage on the instance, its image or its type, automatic recovery on, no disk to keep
//!     └─► fenced: the host has said that it holds it at its deadline
//!            └─ host out for a whole fence ─► placed on another host, disks anew (generation + 1)
//! ```

use crate::fence::Watch;
use crate::policy::{self, RECOVER};
use crate::schedule::{self, Need};
use crate::{Draft, State, moving};
use boira_model::wire::FENCES;
use boira_model::*;
use std::fmt;

/// What would happen to an instance if its host were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It waits for its host.
    Waits(Why),
    /// It is started on another host, with disks made anew.
    Reimaged,
}

/// Why nothing else is done for an instance than to wait for its host. Put into words where somebody
/// asks: every instance is judged whenever anything has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    OffForIt,
    OffInTheCloud,
    NotAskedFor(Option<VolumeId>),
    KeepsDisk(VolumeId),
    NoOtherHost(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OffForIt => f.write_str("automatic recovery is off for it"),
            Self::OffInTheCloud => f.write_str("automatic recovery is off in this cloud"),
            Self::NotAskedFor(disk) => write!(
                f,
                "its disk {} is on that host only; the tag {RECOVER}=reimage would have it made \
                 anew elsewhere",
                disk.as_ref().map_or("", |disk| disk.as_str())
            ),
            Self::KeepsDisk(disk) => write!(f, "its disk {disk} is to outlive it"),
            Self::NoOtherHost(zone) => write!(f, "there is no other host in its zone {zone}"),
        }
    }
}

pub fn prospect(state: &State, row: &Instance) -> Prospect {
    if !row.auto_recovery {
        return Prospect::Waits(Why::OffForIt);
    }
    if !state.settings.auto_recovery {
        return Prospect::Waits(Why::OffInTheCloud);
    }
    if policy::recovery(state, row) == Recovery::Wait {
        return Prospect::Waits(Why::NotAskedFor(row.disks.first().cloned()));
    }
    let kept = |disk: &&std::sync::Arc<Volume>| {
        let attachment = disk.attachment.as_ref();
        !attachment.is_some_and(|attachment| attachment.delete_on_termination)
    };
    let mut disks = row.disks.iter().filter_map(|id| state.volumes.get(id));
    if let Some(disk) = disks.find(kept) {
        return Prospect::Waits(Why::KeepsDisk(disk.id.clone()));
    }
    let mut others = state.hosts.values().filter(|host| {
        let here = row.placement.as_ref().map(|placement| &placement.host);
        host.admission != Admission::Revoked && Some(&host.id) != here
    });
    match others.any(|host| host.zone == row.zone) {
        true => Prospect::Reimaged,
        false => Prospect::Waits(Why::NoOtherHost(row.zone.clone())),
    }
}

/// A placement begins. Its host is told of the fence with the placement itself, so it counts from now.
pub fn fence(draft: &mut Draft, id: &InstanceId) {
    let row = &draft.state.instances[id];
    let fencing = match wants_fence(&draft.state, row) {
        true => Fencing::Held,
        false => Fencing::No,
    };
    if row.fencing != fencing {
        draft.edit_instance(id, |row| row.fencing = fencing);
    }
}

/// Whether its host should hold the guest, and can.
fn wants_fence(state: &State, row: &Instance) -> bool {
    let host = row.placement.as_ref().map(|placement| &placement.host);
    let host = host.and_then(|host| state.hosts.get(host));
    host.is_some_and(|host| host.protocol >= FENCES)
        && row.desired == Desired::Running
        && prospect(state, row) == Prospect::Reimaged
}

fn unasked(state: &State) -> impl Iterator<Item = &Instance> {
    let rows = state.instances.values().map(|row| &**row);
    rows.filter(|row| row.fencing == Fencing::No && wants_fence(state, row))
}

/// Whether [`tick`] could find anything to do. Looks at every instance.
pub fn has_unasked(state: &State) -> bool {
    unasked(state).next().is_some()
}

/// Instances that are to be fenced from now on, because somebody has tagged them, or their image, or a
/// second host has joined. It is a commit of its own: what a host is told never falls back.
pub fn tick(draft: &mut Draft) {
    let unasked: Vec<_> = unasked(&draft.state).map(|row| row.id.clone()).collect();
    for id in unasked {
        draft.edit_instance(&id, |row| row.fencing = Fencing::Asked);
    }
}

/// A host's agent is one that doesn't know of fences: it holds nothing.
pub fn unfence(draft: &mut Draft, host: &HostId) {
    let fenced = draft.state.fenced_on(host);
    for id in fenced.map(|row| row.id.clone()).collect::<Vec<_>>() {
        draft.edit_instance(&id, |row| row.fencing = Fencing::No);
    }
}

/// The settings are in force: before a longer lease is given it is known how long to wait for it.
pub fn lengthen(draft: &mut Draft) {
    let fence_ms = draft.state.settings.fence_ms();
    let shorter = draft
        .state
        .hosts
        .values()
        .filter(|row| row.fence_ms < fence_ms);
    for row in shorter.cloned().collect::<Vec<_>>() {
        draft.put(Host {
            fence_ms,
            ..Host::clone(&row)
        });
    }
}

/// No lease of a host is left that was longer than the settings have it.
pub fn shorten(draft: &mut Draft, host: &HostId) {
    let fence_ms = draft.state.settings.fence_ms();
    if let Some(row) = draft
        .state
        .hosts
        .get(host)
        .filter(|row| row.fence_ms > fence_ms)
    {
        let row = Host::clone(row);
        draft.put(Host { fence_ms, ..row });
    }
}

/// What is to be done about a host, as of now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// [`shorten`].
    pub shorten: bool,
    /// [`lost`]; until that is decided it isn't answered.
    pub lost: bool,
    /// Who says that its silence is its own: with one on another machine than the controller's, a command
    /// may switch it off.
    pub witnesses: Vec<HostId>,
}

/// Judges a host by its watch. `others` are the watches of the other hosts, or of all; they are looked at
/// only where something depends on it.
pub fn judge(
    state: &State,
    host: &Host,
    watch: &mut Watch,
    others: &dyn Fn() -> Vec<(HostId, Watch)>,
    now_ms: u64,
) -> Judged {
    let (fence_ms, silence_ms) = (state.settings.fence_ms(), state.settings.silence_ms());
    let shorten = host.fence_ms > fence_ms && watch.has_none_longer(now_ms, fence_ms);
    let is_revoked = |id: &HostId| {
        let row = state.hosts.get(id);
        row.is_none_or(|row| row.admission == Admission::Revoked)
    };
    let is_witness = |(id, other): &(HostId, Watch)| {
        *id != host.id && !is_revoked(id) && watch.is_witnessed_by(other, silence_ms)
    };
    // Who was heard of lately has no witnesses against it, so its instances needn't be looked at.
    let is_asked = !watch.is_out() && watch.silence_ms(now_ms) >= silence_ms;
    let witnesses: Vec<_> = match is_asked && is_due(state, &host.id) {
        true => others().into_iter().filter(is_witness).collect(),
        false => Vec::new(),
    };
    // Without any witness it is the controller that is cut off.
    let lost = watch.is_out() || (!witnesses.is_empty() && watch.put_out(now_ms, fence_ms));
    Judged {
        shorten,
        lost,
        witnesses: witnesses.into_iter().map(|(id, _)| id).collect(),
    }
}

/// A host is out: whatever it has of fenced guests is held. Those that may go on elsewhere do.
pub fn lost(draft: &mut Draft, host: &HostId) {
    if !draft.state.hosts.contains_key(host) {
        return;
    }
    draft.state.silent.insert(host.clone());
    let here: Vec<_> = draft.state.fenced_on(host).cloned().collect();
    for row in here {
        if goes_on_elsewhere(&draft.state, &row) {
            reimage(draft, &row);
        }
    }
}

fn goes_on_elsewhere(state: &State, row: &Instance) -> bool {
    row.fencing == Fencing::Held
        && row.desired == Desired::Running
        && prospect(state, row) == Prospect::Reimaged
}

fn reimage(draft: &mut Draft, row: &Instance) {
    let disks = row
        .disks
        .iter()
        .filter_map(|id| draft.state.volumes.get(id));
    let placement = row.placement.as_ref();
    let need = Need {
        vcpus: row.vcpus,
        memory_bytes: row.memory_bytes,
        disk_bytes: disks.map(|disk| disk.size_bytes).sum(),
        zone: Some(row.zone.clone()),
        host: None,
        leaving: placement.map(|placement| placement.host.clone()),
        guest: schedule::guest_of(row),
        cpu_level: 0,
    };
    match schedule::place(&draft.state, &need) {
        Ok(to) => {
            draft.log(
                &row.id,
                "cloud",
                "its host is lost; its disks are made anew",
            );
            moving::give_up(draft, &row.id);
            draft.edit_instance(&row.id, |row| {
                row.held = None;
                row.reimaged += 1;
            });
            let row = draft.state.instances[&row.id].clone();
            moving::place_with(draft, &row, &to, |disk| Volume {
                copy: disk.copies + 1,
                copies: disk.copies + 1,
                written: false,
                ..disk
            });
        }
        Err(reasons) => {
            let held = Some(Held::NoCapacity(reasons));
            if row.held != held {
                draft.log(&row.id, "cloud", "its host is lost, and no other has room");
                draft.edit_instance(&row.id, |row| row.held = held);
            }
        }
    }
}

/// Whether a host that is lost has something to be started elsewhere.
pub fn is_due(state: &State, host: &HostId) -> bool {
    state
        .fenced_on(host)
        .any(|row| goes_on_elsewhere(state, row))
}
