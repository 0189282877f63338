//! Availability zones: the clusters of hosts that users choose between, each with its subnet of every
//! default VPC.

use crate::refusal::Thing;
use crate::{Draft, Kind, Refusal, State, network};
use boira_model::*;
use std::sync::Arc;

/// A default VPC is a /16 and a zone's subnet of it a /20, as in AWS.
pub const MAX_ZONES: usize = 16;

/// Creates the zone, and its subnet in every default VPC.
pub fn create(draft: &mut Draft, name: &str) -> Result<(), Refusal> {
    check_name(draft, name)?;
    if draft.state.zones.len() >= MAX_ZONES {
        return Err(Refusal::Limit(format!("{MAX_ZONES} zones")));
    }
    let number = draft.number(|c| &mut c.zone);
    let zone = Zone {
        name: name.into(),
        id: format!("boz1-az{number}"),
        number,
        packing: Packing::default(),
    };
    draft.put(zone.clone());
    let vpcs: Vec<_> = default_vpcs(&draft.state).cloned().collect();
    for vpc in vpcs {
        network::add_default_subnet(draft, &vpc.owner, &vpc.id, &zone);
    }
    Ok(())
}

/// Gives the zone another name, and with it everything that is in the zone. Its id stays.
pub fn rename(draft: &mut Draft, from: &str, to: &str) -> Result<(), Refusal> {
    let zone = find(&draft.state, from)?;
    check_name(draft, to)?;
    draft.delete(Kind::Zone, from);
    draft.put(Zone {
        name: to.into(),
        ..Zone::clone(&zone)
    });
    let State {
        hosts,
        subnets,
        interfaces,
        volumes,
        instances,
        ..
    } = draft.state.clone();
    for row in hosts.values().filter(|row| row.zone == from) {
        draft.put(Host {
            zone: to.into(),
            ..Host::clone(row)
        });
    }
    for row in subnets.values().filter(|row| row.zone == from) {
        draft.put(Subnet {
            zone: to.into(),
            ..Subnet::clone(row)
        });
    }
    for row in interfaces.values().filter(|row| row.zone == from) {
        draft.put(Interface {
            zone: to.into(),
            ..Interface::clone(row)
        });
    }
    for row in volumes.values().filter(|row| row.zone == from) {
        draft.put(Volume {
            zone: to.into(),
            ..Volume::clone(row)
        });
    }
    for row in instances.values().filter(|row| row.zone == from) {
        draft.put(Instance {
            zone: to.into(),
            ..Instance::clone(row)
        });
    }
    Ok(())
}

/// Removes a zone that has nothing in it, with its default subnets.
pub fn delete(draft: &mut Draft, name: &str) -> Result<(), Refusal> {
    let zone = find(&draft.state, name)?;
    if draft.state.zones.len() == 1 {
        return Err(Refusal::Conflict(format!(
            "{name} is the only zone; a cloud has at least one"
        )));
    }
    if let Some(user) = user_of(&draft.state, &zone) {
        return Err(Refusal::InUse(format!("zone {name}"), user));
    }
    let subnets: Vec<_> = draft
        .state
        .subnets
        .values()
        .filter(|row| row.zone == name)
        .map(|row| row.id.clone())
        .collect();
    for id in subnets {
        draft.delete(Kind::Subnet, id.as_str());
    }
    draft.delete(Kind::Zone, name);
    Ok(())
}

/// How launches fill the zone's hosts from now on.
pub fn set_packing(draft: &mut Draft, name: &str, packing: Packing) -> Result<(), Refusal> {
    let zone = find(&draft.state, name)?;
    draft.put(Zone {
        packing,
        ..Zone::clone(&zone)
    });
    Ok(())
}

pub fn find(state: &State, name: &str) -> Result<Arc<Zone>, Refusal> {
    state
        .zones
        .get(name)
        .cloned()
        .ok_or_else(|| Refusal::NotFound(Thing::Zone, name.into()))
}

pub fn default_vpcs(state: &State) -> impl Iterator<Item = &Arc<Vpc>> {
    state.vpcs.values().filter(|row| row.is_default)
}

fn check_name(draft: &Draft, name: &str) -> Result<(), Refusal> {
    let fine = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-');
    // Eucalyptus' clients ask for the zone `verbose` when they want every zone's capacity.
    if !fine || name == "verbose" {
        return Err(Refusal::Conflict(format!(
            "'{name}' is no name for a zone: 1 to 63 lower-case letters, digits and dashes, not \
             'verbose'"
        )));
    }
    match draft.state.zones.contains_key(name) {
        true => Err(Refusal::Duplicate("zone", name.into())),
        false => Ok(()),
    }
}

/// Something that lives in the zone and would be left without one.
fn user_of(state: &State, zone: &Zone) -> Option<String> {
    let here = |name: &String| *name == zone.name;
    let hosts = state.hosts.values().filter(|row| here(&row.zone));
    let instances = state.instances.values().filter(|row| here(&row.zone));
    let volumes = state.volumes.values().filter(|row| here(&row.zone));
    let interfaces = state.interfaces.values().filter(|row| here(&row.zone));
    let subnets = state
        .subnets
        .values()
        .filter(|row| here(&row.zone) && !row.default_for_zone);
    hosts
        .map(|row| format!("host {}", row.name))
        .chain(instances.map(|row| row.id.to_string()))
        .chain(volumes.map(|row| row.id.to_string()))
        .chain(interfaces.map(|row| row.id.to_string()))
        .chain(subnets.map(|row| row.id.to_string()))
        .next()
}
