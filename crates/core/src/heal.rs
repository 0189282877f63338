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

use crate::policy::{self, RECOVER};
use crate::schedule::{self, Need};
use crate::state::Contact;
use crate::{Draft, State, moving};
use boira_model::wire::FENCES;
use boira_model::*;

/// What would happen to an instance if its host were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It waits for its host; why nothing else is done.
    Waits(String),
    /// It is started on another host, with disks made anew.
    Reimaged,
}

pub fn prospect(state: &State, row: &Instance) -> Prospect {
    let waits = |why: String| Prospect::Waits(why);
    if !row.auto_recovery {
        return waits("automatic recovery is off for it".into());
    }
    if !state.settings.auto_recovery {
        return waits("automatic recovery is off in this cloud".into());
    }
    if policy::recovery(state, row) == Recovery::Wait {
        let disk = row.disks.first().map(|disk| disk.as_str());
        return waits(format!(
            "its disk {} is on that host only; the tag {RECOVER}=reimage would have it made anew \
             elsewhere",
            disk.unwrap_or("")
        ));
    }
    let kept = |disk: &&std::sync::Arc<Volume>| {
        let attachment = disk.attachment.as_ref();
        !attachment.is_some_and(|attachment| attachment.delete_on_termination)
    };
    let mut disks = row.disks.iter().filter_map(|id| state.volumes.get(id));
    if let Some(disk) = disks.find(kept) {
        return waits(format!("its disk {} is to outlive it", disk.id));
    }
    let mut others = state.hosts.values().filter(|host| {
        let here = row.placement.as_ref().map(|placement| &placement.host);
        host.admission != Admission::Revoked && Some(&host.id) != here
    });
    match others.any(|host| host.zone == row.zone) {
        true => Prospect::Reimaged,
        false => waits(format!("there is no other host in its zone {}", row.zone)),
    }
}

/// Whether the host is to hold the guest at its deadline. One that it holds already stays so for as
/// long as it is there: whether a host has heard of the contrary can't be known once it is silent.
pub fn is_fenced(state: &State, row: &Instance) -> bool {
    row.fenced || (row.desired == Desired::Running && prospect(state, row) == Prospect::Reimaged)
}

/// A placement begins. Its host is told of the fence with the placement itself, so it counts from now.
pub fn fence(draft: &mut Draft, id: &InstanceId) {
    let row = &draft.state.instances[id];
    let host = row.placement.as_ref().map(|placement| &placement.host);
    let host = host.and_then(|host| draft.state.hosts.get(host));
    let understands = host.is_some_and(|host| host.protocol >= FENCES);
    let fenced = understands && prospect(&draft.state, row) == Prospect::Reimaged;
    if row.fenced != fenced {
        draft.edit_instance(id, |row| row.fenced = fenced);
    }
}

/// A host's agent is one that doesn't know of fences: it holds nothing.
pub fn unfence(draft: &mut Draft, host: &HostId) {
    let fenced = draft.state.placed_on(host).filter(|row| row.fenced);
    for id in fenced.map(|row| row.id.clone()).collect::<Vec<_>>() {
        draft.edit_instance(&id, |row| row.fenced = false);
    }
}

/// Whether anything on a host is started elsewhere when it is lost.
pub fn has_fenced(state: &State, host: &HostId) -> bool {
    state.placed_on(host).any(|row| row.fenced)
}

/// A host is out: whatever it has of fenced guests is held. Those that may go on elsewhere do.
pub fn lost(draft: &mut Draft, host: &HostId) {
    if !draft.state.hosts.contains_key(host) {
        return;
    }
    draft.state.silent.insert(host.clone());
    let here: Vec<_> = draft.state.placed_on(host).cloned().collect();
    for row in here {
        let goes_on = row.fenced && row.desired == Desired::Running;
        if goes_on && prospect(&draft.state, &row) == Prospect::Reimaged {
            reimage(draft, &row);
        }
    }
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
    let goes_on = |row: &Instance| {
        row.fenced && row.desired == Desired::Running && prospect(state, row) == Prospect::Reimaged
    };
    // A controller that hears of nobody is the one that is cut off.
    let hears = |id: &HostId| id != host && state.contact(id) == Contact::Live;
    state.hosts.keys().any(hears) && state.placed_on(host).any(|row| goes_on(row))
}
