//! What a cloud can still take, zone by zone: for `boira capacity`, and for Eucalyptus' users who ask
//! for the zone `verbose`.

use crate::State;
use crate::schedule::{self, Need, Slots, Verdict};
use crate::state::{Contact, Usage};
use boira_model::*;
use std::sync::Arc;

pub struct ZoneCapacity {
    pub zone: Arc<Zone>,
    /// In the order of their size: the smallest type first.
    pub types: Vec<(InstanceType, Slots)>,
    pub hosts: Vec<HostCapacity>,
}

pub struct HostCapacity {
    pub host: Arc<Host>,
    pub contact: Contact,
    pub used: Usage,
    /// What may be promised in all.
    pub vcpus: u64,
    pub memory_bytes: u64,
}

/// Every zone, with the slots of every type and the hosts.
pub fn zones(state: &State) -> Vec<ZoneCapacity> {
    let mut kinds: Vec<_> = state.types.values().collect();
    kinds.sort_by_key(|kind| (kind.memory_mib, kind.vcpus, kind.disk_gib, &kind.name));
    let zone = |zone: &Arc<Zone>| ZoneCapacity {
        zone: zone.clone(),
        types: kinds
            .iter()
            .map(|kind| ((*kind).clone(), slots_of_zone(state, &zone.name, kind)))
            .collect(),
        hosts: hosts_of(state, &zone.name)
            .map(|host| host_capacity(state, host))
            .collect(),
    };
    state.zones.values().map(zone).collect()
}

/// Host by host, whether an instance could go there now, in the order in which hosts joined.
pub fn explain(state: &State, need: &Need) -> Vec<(Arc<Host>, Verdict)> {
    let mut hosts: Vec<_> = state.hosts.values().collect();
    hosts.sort_by_key(|host| host.number);
    hosts
        .into_iter()
        .map(|host| (host.clone(), schedule::verdict(state, host, need)))
        .collect()
}

fn hosts_of<'a>(state: &'a State, zone: &'a str) -> impl Iterator<Item = &'a Arc<Host>> {
    state.hosts.values().filter(move |host| host.zone == zone)
}

fn slots_of_zone(state: &State, zone: &str, kind: &InstanceType) -> Slots {
    hosts_of(state, zone)
        .map(|host| schedule::slots(state, host, kind))
        .fold(Slots::default(), |sum, one| Slots {
            free: sum.free + one.free,
            max: sum.max + one.max,
        })
}

fn host_capacity(state: &State, host: &Arc<Host>) -> HostCapacity {
    let (vcpus, memory_bytes) = schedule::limits(state, host);
    HostCapacity {
        contact: state.contact(&host.id),
        used: state.usage.get(&host.id).copied().unwrap_or_default(),
        host: host.clone(),
        vcpus,
        memory_bytes,
    }
}
