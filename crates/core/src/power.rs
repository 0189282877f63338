//! Start, stop, reboot and terminate: each call names several instances and changes all or none.

use crate::planted::{Bug, planted};
use crate::refusal::Thing;
use crate::schedule::{self, Need};
use crate::wanted::iso_seconds;
use crate::{Draft, Kind, Refusal, heal, moving, observe};
use boira_model::*;

/// What a call did to one instance: the state before and after.
pub type Moved = (InstanceId, StateName, StateName);

pub fn stop(
    draft: &mut Draft,
    owner: &AccountId,
    ids: &[String],
    how: StopHow,
) -> Result<Vec<Moved>, Refusal> {
    each(draft, owner, ids, |draft, row| {
        match row.state() {
            StateName::Pending | StateName::Running => {}
            StateName::Stopping | StateName::Stopped => {
                // A second, forced stop of an instance that hangs in its clean one is how users help
                // themselves.
                if how == StopHow::Force && row.desired == Desired::Stopped(StopHow::Clean) {
                    draft.edit_instance(&row.id, |row| row.desired = Desired::Stopped(how));
                }
                return Ok(());
            }
            StateName::ShuttingDown | StateName::Terminated => {
                return Err(wrong_state(row, "stopped"));
            }
        }
        if row.stop_protection {
            return Err(Refusal::Protected {
                id: row.id.to_string(),
                verb: "stopped",
                attribute: "disableApiStop",
            });
        }
        settle(
            draft,
            row,
            Desired::Stopped(how),
            "api",
            user("Client.UserInitiatedShutdown"),
        );
        Ok(())
    })
}

pub fn terminate(
    draft: &mut Draft,
    owner: &AccountId,
    ids: &[String],
) -> Result<Vec<Moved>, Refusal> {
    each(draft, owner, ids, |draft, row| {
        if row.desired == Desired::Terminated {
            return Ok(());
        }
        // Protection against a stop protects against the end too, as AWS documents it.
        let protection = [
            (row.termination_protection, "disableApiTermination"),
            (row.stop_protection, "disableApiStop"),
        ];
        if let Some((_, attribute)) = protection.into_iter().find(|(on, _)| *on) {
            return Err(Refusal::Protected {
                id: row.id.to_string(),
                verb: "terminated",
                attribute,
            });
        }
        settle(
            draft,
            row,
            Desired::Terminated,
            "api",
            user("Client.UserInitiatedShutdown"),
        );
        Ok(())
    })
}

pub fn reboot(draft: &mut Draft, owner: &AccountId, ids: &[String]) -> Result<Vec<Moved>, Refusal> {
    each(draft, owner, ids, |draft, row| match row.state() {
        StateName::Running | StateName::Pending => {
            moving::stay(draft, &row.id, "it is rebooted");
            draft.edit_instance(&row.id, |row| row.resets += 1);
            draft.log(&row.id, "api", "reboot asked for");
            Ok(())
        }
        // As AWS documents it.
        StateName::ShuttingDown | StateName::Terminated => Ok(()),
        StateName::Stopping | StateName::Stopped => Err(wrong_state(row, "rebooted")),
    })
}

pub fn start(draft: &mut Draft, owner: &AccountId, ids: &[String]) -> Result<Vec<Moved>, Refusal> {
    each(draft, owner, ids, |draft, row| match row.state() {
        StateName::Running | StateName::Pending => Ok(()),
        StateName::Stopped if row.moving_to().is_some() => start_once_moved(draft, row),
        StateName::Stopped => start_one(draft, row),
        StateName::Stopping | StateName::ShuttingDown | StateName::Terminated => {
            Err(wrong_state(row, "started"))
        }
    })
}

/// One that is on its way to another host starts there.
fn start_once_moved(draft: &mut Draft, row: &Instance) -> Result<(), Refusal> {
    let kind = type_of(draft, row)?;
    let resized = Instance {
        vcpus: kind.vcpus,
        memory_bytes: kind.memory_bytes(),
        ..row.clone()
    };
    moving::may_start(&draft.state, &resized)?;
    let overhead = |id: &HostId| {
        let host = draft.state.hosts.get(id);
        host.map_or(0, |host| host.overhead.of(kind.memory_bytes()))
    };
    let here = row.placement.as_ref().map_or(0, |p| overhead(&p.host));
    let there = row.moving_to().map_or(0, overhead);
    let now = draft.now();
    draft.edit_instance(&row.id, |row| {
        row.vcpus = kind.vcpus;
        row.memory_bytes = kind.memory_bytes();
        row.overhead_bytes = here;
        if let Some(placement) = &mut row.placement {
            placement.overhead_there_bytes = there;
        }
        row.desired = Desired::Running;
        row.launched = now;
        row.since = now;
        row.state_reason = None;
        row.transition_reason = String::new();
    });
    draft.log(&row.id, "api", "start asked for, once it has moved");
    Ok(())
}

/// The type that an instance has from its next start on.
fn type_of(draft: &Draft, row: &Instance) -> Result<InstanceType, Refusal> {
    let kind = draft.state.types.get(&row.instance_type).cloned();
    kind.ok_or_else(|| Refusal::NoSuchType(row.instance_type.clone()))
}

fn start_one(draft: &mut Draft, row: &Instance) -> Result<(), Refusal> {
    let kind = type_of(draft, row)?;
    let home = row
        .disks
        .iter()
        .find_map(|id| draft.state.volumes.get(id)?.host.clone());
    let need = Need {
        vcpus: kind.vcpus,
        memory_bytes: kind.memory_bytes(),
        disk_bytes: 0,
        zone: Some(row.zone.clone()),
        host: home,
        leaving: None,
        guest: schedule::guest_of(row),
        cpu_level: 0,
    };
    let host =
        schedule::place(&draft.state, &need).map_err(|reasons| Refusal::NoCapacity { reasons })?;
    let (overhead, name) = {
        let host = &draft.state.hosts[&host];
        (host.overhead.of(kind.memory_bytes()), host.name.clone())
    };
    let now = draft.now();
    draft.edit_instance(&row.id, |row| {
        row.placement = Some(Placement::new(host, row.next_generation()));
        row.vcpus = kind.vcpus;
        row.memory_bytes = kind.memory_bytes();
        row.overhead_bytes = overhead;
        row.desired = Desired::Running;
        row.observed = Observed::Unknown;
        row.resets = 0;
        row.restarts = 0;
        row.reachable = None;
        row.reachable_since = now;
        row.launched = now;
        row.since = now;
        row.state_reason = None;
        row.transition_reason = String::new();
    });
    heal::fence(draft, &row.id);
    draft.log(&row.id, "api", format!("start asked for, placed on {name}"));
    draft.log(&row.id, "api", StateName::Pending.as_str());
    Ok(())
}

/// Turns the wish to `desired` because of `cause`, and finishes at once what no host needs to do.
pub fn settle(
    draft: &mut Draft,
    row: &Instance,
    desired: Desired,
    cause: &str,
    reason: StateReason,
) {
    let now = draft.now();
    let text = match reason.code.as_str() {
        "Client.UserInitiatedShutdown" => "User initiated".to_owned(),
        _ => reason.message.clone(),
    };
    let before = row.state();
    match desired {
        Desired::Running => {}
        Desired::Stopped(_) => moving::stay(draft, &row.id, "it is to stop"),
        Desired::Terminated => moving::give_up(draft, &row.id),
    }
    let at = iso_seconds(now).replace('T', " ");
    draft.edit_instance(&row.id, |row| {
        row.desired = desired;
        row.state_reason = Some(reason);
        row.transition_reason = format!("{text} ({} GMT)", at.trim_end_matches('Z'));
        row.held = None;
        if row.state() != before {
            row.since = now;
        }
    });
    let what = match desired {
        Desired::Running => "to run",
        Desired::Stopped(_) => "to stop",
        Desired::Terminated => "to terminate",
    };
    draft.log(&row.id, cause, format!("{what}: {text}"));
    let after = draft.state.instances[&row.id].state();
    if after != before && after != StateName::Terminated {
        draft.log(&row.id, cause, after.as_str());
    }
    // A host that said so has nothing new to say.
    let nothing_left = row.placement.is_none() || row.observed == Observed::Absent;
    if desired == Desired::Terminated && planted(Bug::AddressFreedEarly) {
        for port in &row.interfaces {
            draft.delete(Kind::Interface, port.as_str());
        }
        draft.edit_instance(&row.id, |row| row.interfaces.clear());
    }
    if desired == Desired::Terminated && nothing_left {
        observe::release(draft, &row.id);
    }
}

fn user(code: &str) -> StateReason {
    StateReason {
        code: code.into(),
        message: format!("{code}: User initiated shutdown"),
    }
}

fn wrong_state(row: &Instance, verb: &'static str) -> Refusal {
    Refusal::WrongState {
        id: row.id.to_string(),
        verb,
        state: row.state(),
    }
}

/// Runs `act` over the named instances, in the order of the call; all must exist first.
fn each(
    draft: &mut Draft,
    owner: &AccountId,
    ids: &[String],
    act: impl Fn(&mut Draft, &Instance) -> Result<(), Refusal>,
) -> Result<Vec<Moved>, Refusal> {
    let missing: Vec<&str> = ids
        .iter()
        .filter(|id| draft.state.instance(owner, id).is_none())
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        return Err(Refusal::NotFound(Thing::Instance, missing.join(", ")));
    }
    let mut moved: Vec<Moved> = Vec::new();
    for id in ids {
        let Some(row) = draft.state.instance(owner, id).cloned() else {
            continue;
        };
        if moved.iter().any(|(seen, _, _)| *seen == row.id) {
            continue;
        }
        act(draft, &row)?;
        let after = draft.state.instances[&row.id].state();
        moved.push((row.id.clone(), row.state(), after));
    }
    Ok(moved)
}
