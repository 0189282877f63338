//! `/zones`, `/capacity` and `/explain` of Boira's own API: where instances can go.

use crate::admin::{Caller, Problem, Reply, bad, find};
use crate::controller::Controller;
use crate::hosts;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use boira_core::capacity::{self, HostCapacity, ZoneCapacity};
use boira_core::refusal::Thing;
use boira_core::schedule::Need;
use boira_core::state::Contact;
use boira_core::{Refusal, launch, zone};
use boira_model::{Desired, Packing, StateName};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

pub async fn list(State(controller): State<Arc<Controller>>) -> Json<Value> {
    let state = &controller.cluster.snapshot().state;
    let rows: Vec<Value> = state
        .zones
        .values()
        .map(|zone| {
            let hosts: Vec<_> = state
                .hosts
                .values()
                .filter(|host| host.zone == zone.name)
                .collect();
            let silent = hosts
                .iter()
                .filter(|host| state.contact(&host.id) == Contact::Silent)
                .count();
            let instances = state
                .instances
                .values()
                .filter(|row| row.zone == zone.name && row.state() != StateName::Terminated)
                .count();
            json!({
                "id": zone.id,
                "number": zone.number,
                "name": zone.name,
                "packing": zone.packing,
                "hosts": hosts.len(),
                "silent_hosts": silent,
                "instances": instances,
            })
        })
        .collect();
    Json(json!({ "zones": rows }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewZone {
    name: String,
    packing: Option<Packing>,
}

pub async fn create(State(controller): State<Arc<Controller>>, Json(ask): Json<NewZone>) -> Reply {
    let name = ask.name.clone();
    controller
        .cluster
        .decide(move |draft| {
            zone::create(draft, &ask.name)?;
            match ask.packing {
                Some(packing) => zone::set_packing(draft, &ask.name, packing),
                None => Ok(()),
            }
        })
        .await??;
    Ok(Json(json!({ "zone": name })))
}

/// What is to be changed; absent members stay.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneChange {
    name: Option<String>,
    packing: Option<Packing>,
}

pub async fn change(
    State(controller): State<Arc<Controller>>,
    Path(name): Path<String>,
    Json(ask): Json<ZoneChange>,
) -> Reply {
    let after = ask.name.clone().unwrap_or_else(|| name.clone());
    controller
        .cluster
        .decide(move |draft| {
            zone::find(&draft.state, &name)?;
            if let Some(packing) = ask.packing {
                zone::set_packing(draft, &name, packing)?;
            }
            match ask.name.filter(|new| *new != name) {
                Some(new) => zone::rename(draft, &name, &new),
                None => Ok(()),
            }
        })
        .await??;
    Ok(Json(json!({ "zone": after })))
}

pub async fn delete(State(controller): State<Arc<Controller>>, Path(name): Path<String>) -> Reply {
    let zone = name.clone();
    controller
        .cluster
        .decide(move |draft| zone::delete(draft, &name))
        .await??;
    Ok(Json(json!({ "zone": zone })))
}

pub async fn capacity(State(controller): State<Arc<Controller>>) -> Json<Value> {
    let zones = capacity::zones(&controller.cluster.snapshot().state);
    let zones: Vec<Value> = zones.iter().map(zone_value).collect();
    Json(json!({ "zones": zones }))
}

fn zone_value(zone: &ZoneCapacity) -> Value {
    let types: Vec<Value> = zone
        .types
        .iter()
        .map(|(kind, slots)| {
            json!({
                "name": kind.name,
                "free": slots.free,
                "max": slots.max,
                "vcpus": kind.vcpus,
                "memory_mib": kind.memory_mib,
                "disk_gib": kind.disk_gib,
            })
        })
        .collect();
    json!({
        "name": zone.zone.name,
        "packing": zone.zone.packing,
        "types": types,
        "hosts": zone.hosts.iter().map(host_value).collect::<Vec<_>>(),
    })
}

fn host_value(row: &HostCapacity) -> Value {
    json!({
        "name": row.host.name,
        "state": hosts::state_name(&row.host, row.contact),
        "instances": row.used.instances,
        "vcpus_total": row.vcpus,
        "vcpus_used": row.used.vcpus,
        "memory_total_bytes": row.memory_bytes,
        "memory_used_bytes": row.used.memory_bytes,
        "disk_total_bytes": row.host.capacity.disk_bytes,
        "disk_used_bytes": row.used.disk_bytes,
    })
}

pub fn contact_name(contact: Contact) -> &'static str {
    match contact {
        Contact::Live => "up",
        Contact::Silent => "unknown",
    }
}

/// What is to be placed: an instance as it is, or one of a type.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    instance: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    zone: Option<String>,
    image: Option<String>,
}

pub async fn explain(
    State(controller): State<Arc<Controller>>,
    Extension(caller): Extension<Caller>,
    Query(question): Query<Question>,
) -> Reply {
    let state = &controller.cluster.snapshot().state;
    let need = match (&question.instance, &question.kind) {
        (Some(id), None) if question.zone.is_none() && question.image.is_none() => {
            let row = match state.instances.get(id.as_str()) {
                Some(row) => row.clone(),
                None => find(&controller, &caller, id)?,
            };
            if row.desired == Desired::Terminated {
                return Err(bad(format!("{} is terminated", row.id)));
            }
            Need::of(state, &row)
        }
        (None, Some(name)) => {
            let kind = state.types.get(name);
            let kind = kind.ok_or_else(|| Refusal::NoSuchType(name.clone()))?;
            if let Some(zone) = &question.zone {
                zone::find(state, zone)?;
            }
            let zone = question.zone.clone();
            match &question.image {
                Some(id) => {
                    let image = state.image(&caller.account, id);
                    let missing = || Refusal::NotFound(Thing::Image, id.clone());
                    launch::need_of(image.ok_or_else(missing)?, kind, zone)?
                }
                None => Need {
                    vcpus: kind.vcpus,
                    memory_bytes: kind.memory_bytes(),
                    disk_bytes: kind.disk_gib << 30,
                    zone,
                    host: None,
                    leaving: None,
                    guest: None,
                    cpu_level: kind.cpu_level,
                },
            }
        }
        _ => {
            return Err(bad(
                "name an instance, or a type and perhaps a zone and an image",
            ));
        }
    };
    let hosts: Vec<Value> = capacity::explain(state, &need)
        .into_iter()
        .map(|(host, verdict)| {
            json!({
                "host": host.name,
                "zone": host.zone,
                "fits": verdict.is_ok(),
                "memory_left_bytes": verdict.as_ref().ok(),
                "reason": verdict.as_ref().err(),
            })
        })
        .collect();
    Ok::<_, Problem>(Json(json!({ "hosts": hosts })))
}
