//! Where an instance goes: the live host with the most memory left that has room, or the reasons,
//! host by host, why none has.

use crate::State;
use crate::state::{Contact, Usage};
use boira_model::*;

/// What an instance asks of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub zone: Option<String>,
    /// Its disks are there and nowhere else.
    pub host: Option<HostId>,
}

/// The host to use, or one line per host that was considered.
pub fn place(state: &State, need: &Need) -> Result<HostId, Vec<String>> {
    let mut reasons = Vec::new();
    let mut best: Option<(u64, &HostId)> = None;
    let candidates = state
        .hosts
        .iter()
        .filter(|(id, _)| need.host.as_ref().is_none_or(|only| only == *id))
        .filter(|(_, host)| need.zone.as_ref().is_none_or(|zone| *zone == host.zone));
    for (id, host) in candidates {
        match room(state, host, need) {
            // Free memory first; equal hosts by id, so that the choice is stable.
            Ok(left) => {
                if best.is_none_or(|(most, _)| left > most) {
                    best = Some((left, id));
                }
            }
            Err(reason) => reasons.push(format!("{}: {reason}", host.name)),
        }
    }
    match best {
        Some((_, id)) => Ok(id.clone()),
        None if reasons.is_empty() => Err(vec![match &need.zone {
            Some(zone) => format!("no host has joined zone {zone}"),
            None => "no host has joined the cloud".into(),
        }]),
        None => Err(reasons),
    }
}

/// What may be promised on a host in all: CPUs and bytes of memory.
pub fn limits(state: &State, host: &Host) -> (u64, u64) {
    let vcpus = (f64::from(host.capacity.cpus) * state.settings.cpu_overcommit) as u64;
    let memory = (host.capacity.memory_bytes as f64 * state.settings.memory_overcommit) as u64;
    (vcpus, memory)
}

/// Bytes of memory that would be left, or why there is no room.
fn room(state: &State, host: &Host, need: &Need) -> Result<u64, String> {
    if state.contact(&host.id) == Contact::Silent {
        return Err("has not been heard of lately".into());
    }
    let used = state
        .usage
        .get(&host.id)
        .copied()
        .unwrap_or(Usage::default());
    let (vcpus, memory) = limits(state, host);
    let short =
        |what: &str, needs: u64, has: u64| Err(format!("{what}: needs {needs}, has {has} left"));
    let vcpus_left = vcpus.saturating_sub(used.vcpus);
    if u64::from(need.vcpus) > vcpus_left {
        return short("vCPUs", need.vcpus.into(), vcpus_left);
    }
    let memory_left = memory.saturating_sub(used.memory_bytes);
    let memory_need = need.memory_bytes + host.overhead_bytes;
    if memory_need > memory_left {
        return short("MiB of memory", memory_need >> 20, memory_left >> 20);
    }
    let disk_left = host.capacity.disk_bytes.saturating_sub(used.disk_bytes);
    if need.disk_bytes > disk_left {
        return short("GiB of disk", need.disk_bytes >> 30, disk_left >> 30);
    }
    Ok(memory_left - memory_need)
}
