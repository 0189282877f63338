//! What a host's report means. A report is believed only about what is placed on the host that sent
//! it, and only about the placement's current generation.

use crate::planted::{Bug, planted};
use crate::policy::{self, Then};
use crate::{Draft, Kind, heal, host, moving, power};
use boira_model::wire::{Endpoint, FENCES, GuestReport, GuestState, LIVE, Report, UnderlayReport};
use boira_model::*;

/// Takes a report of `host`. Facts that are already known write nothing.
pub fn report(draft: &mut Draft, host: &HostId, report: &Report) {
    note_host(draft, host, report);
    match &report.unable {
        Some(why) => drop(draft.state.unable.insert(host.clone(), why.clone())),
        None => drop(draft.state.unable.remove(host)),
    }
    if report.protocol < FENCES {
        heal::unfence(draft, host);
    }
    if report.protocol < LIVE {
        moving::outdated(draft, host);
    }
    // First of all: what the guests say may end an instance's stay here, and its history with it.
    note_steps(draft, host, report);
    for guest in &report.guests {
        moving::passes(draft, host, guest);
        let row = draft.state.instances.get(&guest.instance).cloned();
        let Some(row) = row.filter(|row| concerns(row, host, guest)) else {
            continue;
        };
        note_guest(draft, &row, guest);
    }
    collect_volumes(draft, host, report);
    moving::arrived(draft, host, &report.volumes);
    moving::fetching(draft, host, &report.arriving);
}

fn note_steps(draft: &mut Draft, host: &HostId, report: &Report) {
    for step in &report.steps {
        let placed_here = draft
            .state
            .instances
            .get(&step.instance)
            .is_some_and(|row| row.placement.as_ref().is_some_and(|p| p.host == *host));
        if placed_here {
            draft.change.events.push(Event {
                instance: step.instance.clone(),
                at: step.at,
                cause: "host".into(),
                what: match &step.error {
                    Some(error) => format!("{}: failed: {error}", step.what),
                    None => step.what.clone(),
                },
                took_ms: Some(step.took_ms),
            });
        }
    }
}

fn concerns(row: &Instance, host: &HostId, guest: &GuestReport) -> bool {
    row.placement.as_ref().is_some_and(|placement| {
        let placed_here = placement.host == *host || planted(Bug::ReportOfAnotherHostBelieved);
        placed_here && placement.generation == guest.generation
    })
}

/// Capacity and the like change when a PC is rebuilt or its hypervisor upgraded.
fn note_host(draft: &mut Draft, id: &HostId, report: &Report) {
    let Some(row) = draft.state.hosts.get(id) else {
        return;
    };
    let mut new = Host::clone(row);
    // A host is named by this when it has to be cut off, so none may call itself like another.
    let taken = |name: &str| draft.state.hosts.values().any(|row| row.name == name);
    if report.name != row.name && host::is_name(&report.name) && !taken(&report.name) {
        new.name = report.name.clone();
    }
    new.capacity = report.capacity;
    new.acceleration = report.acceleration.clone();
    new.machine = report.machine.clone();
    new.cpu = report.cpu.clone();
    new.overhead = report.overhead.clone();
    new.intake = Intake::clone(&report.intake);
    new.underlay = underlay(draft, id, report.underlay.as_ref());
    new.protocol = report.protocol;
    note_boot(&mut new, &report.boot_id, draft.now());
    if new != **row {
        draft.put(new);
    }
}

/// So many starts of a PC within so long, and it is left alone until somebody has looked at it.
const BOOTS: usize = 4;
const BOOTS_MS: i64 = 30 * 60 * 1000;

fn note_boot(host: &mut Host, boot: &str, now: Wall) {
    if host.boot == boot || boot.is_empty() {
        return;
    }
    let first = host.boot.is_empty();
    boot.clone_into(&mut host.boot);
    // Its first report says nothing about what was before.
    if first {
        return;
    }
    // Also where the clock has jumped since.
    host.boots.retain(|at| now.since_ms(*at).abs() < BOOTS_MS);
    host.boots.push(now);
    if host.boots.len() >= BOOTS && host.quarantine.is_none() {
        host.quarantine = Some(format!(
            "it has started {BOOTS} times within {} minutes; `boira host undrain {}` lets it in again",
            BOOTS_MS / 60_000,
            host.name
        ));
    }
}

/// A host that isn't where it says it is is behind address translation, and others don't find it. A
/// key counts for one host: who says another's gets none.
fn underlay(draft: &Draft, id: &HostId, report: Option<&UnderlayReport>) -> Option<Underlay> {
    let report = report?;
    let mut others = draft.state.hosts.values().filter(|row| row.id != *id);
    let taken = |other: &Underlay| other.key == report.key;
    if others.any(|row| row.underlay.as_ref().is_some_and(taken)) {
        return None;
    }
    let endpoint = match report.address {
        None => Some(Endpoint::BesideController(report.port)),
        Some(own) => (report.heard_from == Some(own))
            .then(|| Endpoint::At(std::net::SocketAddr::new(own, report.port))),
    };
    Some(Underlay {
        key: report.key.clone(),
        endpoint,
    })
}

fn observed(state: &GuestState) -> Observed {
    match state {
        GuestState::Absent => Observed::Absent,
        GuestState::Preparing | GuestState::Incoming => Observed::Preparing,
        // On its way it runs, for all that its owner sees.
        GuestState::Running | GuestState::Arrived | GuestState::Departed { .. } => {
            Observed::Running
        }
        GuestState::Paused => Observed::Paused,
        GuestState::Stopping => Observed::Stopping,
        GuestState::Exited(exit) => Observed::Exited(exit.clone()),
    }
}

fn note_guest(draft: &mut Draft, row: &Instance, guest: &GuestReport) {
    let observed = observed(&guest.state);
    let holds = guest.fenced && row.fencing == Fencing::Asked;
    if holds || row.held.is_some() {
        draft.edit_instance(&row.id, |row| {
            if holds {
                row.fencing = Fencing::Held;
            }
            row.held = None;
        });
    }
    let goes_on = observed == Observed::Running && row.observed == Observed::Running;
    let reachable = match guest.unasked && goes_on {
        true => row.reachable,
        false => guest.reachable,
    };
    if observed != row.observed || reachable != row.reachable {
        let (now, before) = (draft.now(), row.state());
        draft.edit_instance(&row.id, |row| {
            if reachable != row.reachable {
                row.reachable_since = now;
            }
            row.observed = observed.clone();
            row.reachable = reachable;
            if row.state() != before {
                row.since = now;
            }
        });
        if has_run(&observed) {
            note_written(draft, &row.disks);
        }
        let after = draft.state.instances[&row.id].state();
        // What follows from its end is said there.
        let ended = matches!(observed, Observed::Exited(_)) && row.desired == Desired::Running;
        if after != before && !ended {
            draft.log(&row.id, "host", after.as_str());
        } else if observed == Observed::Paused {
            let why = guest
                .paused
                .as_deref()
                .unwrap_or("its host doesn't know why");
            draft.log(&row.id, "host", format!("paused: {why}"));
        }
    }
    note_reboots(draft, &row.id, guest.reboots);
    if matches!(observed, Observed::Exited(_)) {
        moving::stay(draft, &row.id, "it has ended");
    }
    let ran_ms = draft.now().since_ms(row.since);
    let row = draft.state.instances[&row.id].clone();
    match (&row.desired, &row.observed) {
        // It was told to end here.
        (Desired::Running | Desired::Stopped(_), _) if row.moving_to().is_some() => {
            // Or it hasn't ended, and is not meant to.
            moving::ended(draft, &row.id);
        }
        (Desired::Running, Observed::Exited(exit)) => follow_exit(draft, &row, exit, ran_ms),
        (Desired::Terminated, Observed::Absent) => release(draft, &row.id),
        (Desired::Running | Desired::Stopped(_) | Desired::Terminated, _) => {}
    }
}

/// What follows from its guest's having restarted itself. Its host has told so while the guest was still
/// in its firmware, so it ends before its system is up.
fn note_reboots(draft: &mut Draft, id: &InstanceId, count: u64) {
    let row = draft.state.instances[id].clone();
    let now = Reboots {
        generation: row.generation(),
        count,
    };
    let known = match row.reboots.generation == now.generation {
        true => row.reboots.count,
        false => 0,
    };
    if count == known {
        return;
    }
    draft.edit_instance(id, |row| row.reboots = now);
    let desired = match policy::on_reboot(&draft.state, &row) {
        Then::Restart => return,
        Then::Preserve => Desired::Stopped(StopHow::Force),
        Then::Destroy => Desired::Terminated,
    };
    if row.desired == Desired::Running && count > known {
        let code = "Client.InstanceInitiatedShutdown".to_owned();
        let message = format!("{code}: Instance initiated reboot");
        power::settle(draft, &row, desired, "guest", StateReason { code, message });
    }
}

fn note_written(draft: &mut Draft, disks: &[VolumeId]) {
    for disk in disks {
        let row = draft.state.volumes.get(disk).filter(|row| !row.written);
        if let Some(row) = row {
            let row = Volume::clone(row);
            draft.put(Volume {
                written: true,
                ..row
            });
        }
    }
}

/// Whether a guest in this state has had its disks to write on, also where nobody saw it run.
fn has_run(observed: &Observed) -> bool {
    match observed {
        Observed::Running
        | Observed::Paused
        | Observed::Saving
        | Observed::Saved
        | Observed::Stopping
        | Observed::Exited(
            Exit::Poweroff | Exit::Panic | Exit::Failed(_) | Exit::Killed | Exit::Ordered,
        ) => true,
        Observed::Unknown
        | Observed::Absent
        | Observed::Preparing
        | Observed::Exited(Exit::StartFailed(_)) => false,
    }
}

/// A guest that ended although it should run. One that was killed from outside is started again by
/// its agent under the same generation; the others chose to end or can't start.
fn follow_exit(draft: &mut Draft, row: &Instance, exit: &Exit, ran_ms: i64) {
    let (then, cause, code, message) = match exit {
        Exit::Poweroff => (
            policy::on_poweroff(&draft.state, row),
            "guest",
            "Client.InstanceInitiatedShutdown",
            "Instance initiated shutdown".to_owned(),
        ),
        Exit::Panic => (
            policy::on_crash(&draft.state, row),
            "guest",
            "Server.InternalError",
            "The guest's kernel panicked; see the console output".to_owned(),
        ),
        Exit::StartFailed(why) => (
            Then::Preserve,
            "host",
            "Server.InternalError",
            format!("The instance could not be started: {why}"),
        ),
        Exit::Killed | Exit::Ordered | Exit::Failed(_) => return,
    };
    let (desired, message) = match then {
        Then::Restart => match restart(draft, row, &message, ran_ms >= STEADY_MS) {
            Ok(()) => return,
            Err(why) => (
                Desired::Stopped(StopHow::Force),
                format!("{message}; {why}"),
            ),
        },
        Then::Preserve => (Desired::Stopped(StopHow::Force), message),
        Then::Destroy => (Desired::Terminated, message),
    };
    let reason = StateReason {
        code: code.into(),
        message: format!("{code}: {message}"),
    };
    power::settle(draft, row, desired, cause, reason);
}

/// How often an instance is started again without having run for [`STEADY_MS`] in between. The pauses
/// before grow, so it takes some minutes.
const RESTARTS: u32 = 8;
const STEADY_MS: i64 = 10 * 60 * 1000;

/// Starts it again where it is; why not where that has been of no use.
fn restart(draft: &mut Draft, row: &Instance, why: &str, steady: bool) -> Result<(), String> {
    let now = draft.now();
    let restarts = if steady { 1 } else { row.restarts + 1 };
    if restarts > RESTARTS {
        return Err(format!("it was started again {RESTARTS} times in a row"));
    }
    draft.edit_instance(&row.id, |row| {
        if let Some(placement) = &mut row.placement {
            placement.generation = placement.next_generation();
        }
        row.restarts = restarts;
        row.observed = Observed::Unknown;
        row.resets = 0;
        row.reachable = None;
        row.reachable_since = now;
        row.since = now;
    });
    heal::fence(draft, &row.id);
    draft.log(&row.id, "cloud", format!("started again: {why}"));
    Ok(())
}

/// The end of a terminated instance: its host has nothing of it any more, so its addresses are free.
pub fn release(draft: &mut Draft, id: &InstanceId) {
    let Some(row) = draft.state.instances.get(id).cloned() else {
        return;
    };
    let now = draft.now();
    for interface in &row.interfaces {
        let Some(port) = draft.state.interfaces.get(interface).cloned() else {
            continue;
        };
        match port
            .attachment
            .as_ref()
            .is_some_and(|a| a.delete_on_termination)
        {
            true => draft.delete(Kind::Interface, interface.as_str()),
            false => draft.put(Interface {
                attachment: None,
                ..Interface::clone(&port)
            }),
        }
    }
    for volume in &row.disks {
        let Some(disk) = draft.state.volumes.get(volume).cloned() else {
            continue;
        };
        let delete = disk
            .attachment
            .as_ref()
            .is_some_and(|a| a.delete_on_termination);
        match (delete, &disk.host) {
            (true, None) => draft.delete(Kind::Volume, volume.as_str()),
            (true, Some(_)) => draft.put(Volume {
                deleting: true,
                ..Volume::clone(&disk)
            }),
            (false, _) => draft.put(Volume {
                attachment: None,
                ..Volume::clone(&disk)
            }),
        }
    }
    draft.edit_instance(id, |row| {
        row.last_host = row.placement.take().map(|placement| placement.host);
        row.observed = Observed::Absent;
        row.interfaces.clear();
        row.disks.clear();
        row.since = now;
    });
    draft.log(id, "cloud", "terminated");
}

/// Volumes that were to go and whose files the host no longer has.
fn collect_volumes(draft: &mut Draft, host: &HostId, report: &Report) {
    let gone: Vec<_> = draft
        .state
        .stored
        .get(host)
        .into_iter()
        .flat_map(|ids| ids.iter())
        .filter(|id| {
            let row = draft.state.volumes.get(*id);
            row.is_some_and(|row| row.deleting && !report.volumes.contains(&row.file()))
        })
        .cloned()
        .collect();
    for id in gone {
        let of = draft.state.volumes[&id].attachment.as_ref();
        if let Some(instance) = of.map(|attachment| attachment.instance.clone()) {
            draft.log(&instance, "host", format!("disk {id} removed"));
        }
        draft.delete(Kind::Volume, id.as_str());
    }
}
