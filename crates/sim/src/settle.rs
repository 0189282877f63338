//! Whether the cloud has become what it should be, and what is missing where it hasn't.

use crate::controller::Controller;
use crate::host::Host;
use boira_model::wire::GuestState;
use boira_model::*;
use std::collections::BTreeSet;

/// What has not converged, one line each; empty when all has.
pub fn pending(controller: &Controller, hosts: &[Host]) -> Vec<String> {
    let mut lines = Vec::new();
    let snapshot = controller.snapshot();
    let state = &snapshot.state;
    if !controller.is_up() {
        lines.push("there is no controller".into());
    }
    for host in &state.silent {
        lines.push(format!("{host} counts as silent"));
    }
    for host in hosts {
        host_pending(controller, host, &mut lines);
    }
    for row in state.instances.values() {
        instance_pending(row, hosts, &mut lines);
    }
    for id in &state.moving {
        lines.push(format!("{id} is still moving"));
    }
    for row in state.volumes.values().filter(|row| row.deleting) {
        lines.push(format!("{} is still to be deleted", row.id));
    }
    lines
}

fn host_pending(controller: &Controller, host: &Host, lines: &mut Vec<String>) {
    let snapshot = controller.snapshot();
    let wanted = controller.wanted(&host.id);
    match &host.agent {
        Some(agent) if agent.accepted() != Some(&wanted) => {
            lines.push(format!("{} has not accepted what is wanted", host.id));
        }
        Some(agent) if agent.is_busy() => lines.push(format!("{} is busy", host.id)),
        Some(_) => {}
        None => lines.push(format!("{} has no agent", host.id)),
    }
    for id in host.agent.iter().flat_map(|agent| agent.owes_reboots()) {
        lines.push(format!("{id} was not rebooted"));
    }
    for id in host.guests.keys() {
        let here = snapshot
            .state
            .instances
            .get(id)
            .and_then(|row| row.placement.as_ref())
            .is_some_and(|placement| placement.host == host.id);
        if !here {
            lines.push(format!("{} has a leftover of {id}", host.id));
        }
    }
    let rows: BTreeSet<_> = snapshot
        .state
        .stored
        .get(&host.id)
        .into_iter()
        .flat_map(|ids| ids.iter())
        .filter_map(|id| snapshot.state.volumes.get(id))
        .filter(|row| row.host.as_ref() == Some(&host.id))
        .map(|row| row.file())
        .collect();
    for id in host.volumes.keys().filter(|id| !rows.contains(*id)) {
        lines.push(format!("{} has a leftover file of {id}", host.id));
    }
}

fn instance_pending(row: &Instance, hosts: &[Host], lines: &mut Vec<String>) {
    let id = &row.id;
    let guests: Vec<_> = hosts
        .iter()
        .filter_map(|host| Some((host, host.guests.get(id)?)))
        .collect();
    let is_live = guests.iter().any(|(_, guest)| guest.is_live());
    match row.desired {
        Desired::Running => {
            let runs = guests.iter().any(|(host, guest)| {
                guest.runs()
                    && guest.state == GuestState::Running
                    && row.placement.as_ref().is_some_and(|placement| {
                        placement.host == host.id && placement.generation == guest.generation
                    })
            });
            if !runs {
                lines.push(format!(
                    "{id} is to run and its guests are {guests:?}",
                    guests = states(&guests)
                ));
            }
            if row.observed != Observed::Running || row.reachable != Some(true) {
                lines.push(format!(
                    "{id} is to run and is seen {:?}, reachable {:?}",
                    row.observed, row.reachable
                ));
            }
        }
        Desired::Stopped(_) => {
            if row.state() != StateName::Stopped || is_live {
                lines.push(format!("{id} is to be stopped and is {:?}", row.observed));
            }
        }
        Desired::Terminated => {
            let holds =
                row.placement.is_some() || !row.interfaces.is_empty() || !row.disks.is_empty();
            if row.state() != StateName::Terminated || holds || !guests.is_empty() {
                lines.push(format!("{id} is to end and is {:?}", row.observed));
            }
        }
    }
}

fn states(guests: &[(&Host, &crate::host::SimGuest)]) -> Vec<String> {
    guests
        .iter()
        .map(|(host, guest)| {
            format!(
                "{:?} of generation {} on {}",
                guest.state, guest.generation, host.id
            )
        })
        .collect()
}
