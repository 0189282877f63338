//! What must hold at every step, over the published state and the PCs.

use crate::host::{Host, SimGuest, UNREACHABLE};
use boira_core::{State, schedule};
use boira_model::*;
use std::collections::BTreeMap;

type Verdict = Result<(), String>;

/// Facts of the state alone.
pub fn state(state: &State) -> Verdict {
    capacity_is_not_promised_twice(state)?;
    addresses_are_leased_once(state)?;
    no_launch_ends_for_want_of_a_controller(state)?;
    volumes_are_attached_once(state)
}

fn capacity_is_not_promised_twice(state: &State) -> Verdict {
    for (id, usage) in &state.usage {
        let Some(host) = state.hosts.get(id) else {
            continue;
        };
        let (vcpus, memory_bytes) = schedule::limits(state, host);
        if usage.vcpus > vcpus
            || usage.memory_bytes > memory_bytes
            || usage.disk_bytes > host.capacity.disk_bytes
        {
            return Err(format!(
                "{id} gives {vcpus} vCPUs, {memory_bytes} bytes of memory and {} of disk, and {usage:?} is promised",
                host.capacity.disk_bytes
            ));
        }
    }
    Ok(())
}

/// What was acknowledged waits for its image as long as it takes.
fn no_launch_ends_for_want_of_a_controller(state: &State) -> Verdict {
    for row in state.instances.values() {
        let reason = row.state_reason.as_ref().map(|reason| &reason.message);
        if let Some(reason) = reason.filter(|reason| reason.contains(UNREACHABLE)) {
            return Err(format!("{} was given up: {reason}", row.id));
        }
    }
    Ok(())
}

fn addresses_are_leased_once(state: &State) -> Verdict {
    let mut owners = BTreeMap::new();
    for port in state.interfaces.values() {
        if let Some(other) = owners.insert((&port.vpc, port.ip), &port.id) {
            return Err(format!(
                "{} of {} is {other}'s and {}'s",
                port.ip, port.vpc, port.id
            ));
        }
    }
    for row in state.instances.values() {
        if let Some(lost) = row
            .interfaces
            .iter()
            .find(|id| !state.interfaces.contains_key(*id))
        {
            return Err(format!(
                "{} has the interface {lost}, which is not there",
                row.id
            ));
        }
    }
    Ok(())
}

fn volumes_are_attached_once(state: &State) -> Verdict {
    let mut users = BTreeMap::new();
    for row in state.instances.values() {
        for disk in &row.disks {
            if let Some(other) = users.insert(disk, &row.id) {
                return Err(format!("{disk} is a disk of {other} and of {}", row.id));
            }
            let attached = state
                .volumes
                .get(disk)
                .and_then(|volume| volume.attachment.as_ref());
            if attached.is_none_or(|attached| attached.instance != row.id) {
                return Err(format!("{disk} of {} is attached to {attached:?}", row.id));
            }
        }
    }
    Ok(())
}

/// Indices hold what follows from the rows.
pub fn indices(state: &State) -> Verdict {
    let mut fresh = State {
        settings: state.settings.clone(),
        types: state.types.clone(),
        silent: state.silent.clone(),
        ..State::default()
    };
    for row in state.rows() {
        fresh.put(row);
    }
    let same = |name: &str, same: bool| match same {
        true => Ok(()),
        false => Err(format!(
            "the index {name} differs from the one made from the rows"
        )),
    };
    fn filled<K: Clone + Ord, V: Clone>(
        map: &imbl::OrdMap<K, V>,
        empty: impl Fn(&V) -> bool,
    ) -> BTreeMap<K, V> {
        let kept = map.iter().filter(|(_, value)| !empty(value));
        kept.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
    let usage = |state: &State| filled(&state.usage, |usage| *usage == Default::default());
    same("usage", usage(&fresh) == usage(state))?;
    let placed = |state: &State| filled(&state.placed, |ids| ids.is_empty());
    same("placed", placed(&fresh) == placed(state))?;
    let fenced = |state: &State| filled(&state.fenced, |ids| ids.is_empty());
    same("fenced", fenced(&fresh) == fenced(state))?;
    let stored = |state: &State| filled(&state.stored, |ids| ids.is_empty());
    same("stored", stored(&fresh) == stored(state))?;
    let members = |state: &State| filled(&state.members, |ips| ips.is_empty());
    same("members", members(&fresh) == members(state))?;
    let up = |state: &State| filled(&state.up, |hosts| hosts.is_empty());
    same("up", up(&fresh) == up(state))?;
    let vpc_hosts = |state: &State| filled(&state.vpc_hosts, |hosts| hosts.is_empty());
    same("vpc_hosts", vpc_hosts(&fresh) == vpc_hosts(state))?;
    let owned = |state: &State| filled(&state.owned, |ids| ids.is_empty());
    same("owned", owned(&fresh) == owned(state))?;
    same("leases", fresh.leases == state.leases)?;
    same("key_names", fresh.key_names == state.key_names)?;
    same("ended", fresh.ended == state.ended)?;
    same("moving", fresh.moving == state.moving)?;
    same("waiting", fresh.waiting == state.waiting)
}

/// Facts of the PCs, and of the state about what lives on them.
pub fn hosts(state: &State, hosts: &[Host]) -> Verdict {
    nothing_is_used_twice(hosts)?;
    for host in hosts {
        for (id, guest) in host.live() {
            placed_where_it_lives(state, host, id)?;
            uses_what_is_its_own(state, host, id, guest)?;
        }
        runs_what_it_can(state, host)?;
    }
    Ok(())
}

/// One live copy of an instance, one user of a disk and of an address, in the whole cloud.
fn nothing_is_used_twice(hosts: &[Host]) -> Verdict {
    let mut copies = BTreeMap::new();
    let mut disks = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    let live = hosts
        .iter()
        .flat_map(|host| host.live().map(move |(id, guest)| (host, id, guest)));
    for (host, id, guest) in live {
        if let Some(other) = copies.insert(id, &host.id) {
            return Err(format!(
                "two live copies of {id}: on {other} and on {}",
                host.id
            ));
        }
        for disk in &guest.disks {
            if let Some(other) = disks.insert(disk, id) {
                return Err(format!("{disk} is used by {other} and {id}"));
            }
        }
        for port in &guest.ports {
            if let Some(other) = addresses.insert((&port.vpc, port.ip), id) {
                return Err(format!("{} is used by {other} and {id}", port.ip));
            }
        }
    }
    Ok(())
}

fn uses_what_is_its_own(state: &State, host: &Host, id: &InstanceId, guest: &SimGuest) -> Verdict {
    if let Some(gone) = guest
        .files
        .iter()
        .find(|id| !host.volumes.contains_key(*id))
    {
        return Err(format!("{id} runs on {gone}, whose file is gone"));
    }
    for port in &guest.ports {
        let lease = state.leases.get(&(port.subnet.clone(), port.ip));
        if lease != Some(&port.interface) {
            return Err(format!(
                "{id} uses {} through {}, and the lease is {lease:?}'s",
                port.ip, port.interface
            ));
        }
    }
    Ok(())
}

fn runs_what_it_can(state: &State, host: &Host) -> Verdict {
    let Some(row) = state.hosts.get(&host.id) else {
        return Ok(());
    };
    let (most_vcpus, most_bytes) = schedule::limits(state, row);
    let vcpus: u64 = host.live().map(|(_, guest)| u64::from(guest.vcpus)).sum();
    let bytes: u64 = host.live().map(|(_, guest)| guest.memory_bytes).sum();
    if vcpus > most_vcpus || bytes > most_bytes {
        return Err(format!(
            "{} can run {most_vcpus} vCPUs and {most_bytes} bytes and runs {vcpus} and {bytes}",
            host.id
        ));
    }
    Ok(())
}

fn placed_where_it_lives(state: &State, host: &Host, id: &InstanceId) -> Verdict {
    let guest = &host.guests[id];
    let Some(row) = state.instances.get(id) else {
        return Err(format!("{id} lives on {} and is forgotten", host.id));
    };
    let name = row.state();
    if matches!(name, StateName::Terminated | StateName::Stopped) {
        return Err(format!(
            "{id} lives on {} and is {}",
            host.id,
            name.as_str()
        ));
    }
    if row.placement.as_ref().is_none_or(|p| p.host != host.id) {
        return Err(format!(
            "{id} lives on {} and is placed on {:?}",
            host.id, row.placement
        ));
    }
    if guest.generation == row.generation() && guest.resets > row.resets {
        return Err(format!(
            "{id} was reset {} times and that was asked for {} times",
            guest.resets, row.resets
        ));
    }
    Ok(())
}

/// Whether a volume's file may go.
pub fn removal(state: &State, host: &Host, file: &VolumeId) -> Verdict {
    if let Some((id, _)) = host.live().find(|(_, guest)| guest.files.contains(file)) {
        return Err(format!("{file} is removed while {id} runs on it"));
    }
    let id = file.as_str().split('.').next().unwrap_or_default();
    match state.volumes.get(id) {
        Some(row)
            if !row.deleting && row.host.as_ref() == Some(&host.id) && row.file() == *file =>
        {
            Err(format!("{file} is removed and its row lives"))
        }
        _ => Ok(()),
    }
}
