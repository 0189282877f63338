//! Moves of instances between hosts, for the administrator.

use crate::admin::{Caller, Problem, Reply, find};
use crate::controller::Controller;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use boira_core::moving::How;
use boira_core::{host, moving};
use boira_model::volume::file;
use boira_model::*;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The host to go to; the best one where it is absent.
    to: Option<String>,
    /// Whether an instance that runs is stopped and started for it; else it goes over running.
    #[serde(default)]
    restart: bool,
    /// Only while it runs.
    #[serde(default)]
    live: bool,
}

/// The instance of that id, whoever owns it, or one of the caller's own.
fn instance(
    controller: &Controller,
    caller: &Caller,
    name: &str,
) -> Result<Arc<Instance>, Problem> {
    let snapshot = controller.cluster.snapshot();
    match snapshot.state.instances.get(name) {
        Some(row) => Ok(row.clone()),
        None => find(controller, caller, name),
    }
}

pub async fn begin(
    State(controller): State<Arc<Controller>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Json(ask): Json<Ask>,
) -> Reply {
    let id = instance(&controller, &caller, &name)?.id.clone();
    let moved = id.clone();
    controller
        .cluster
        .decide(move |draft| {
            let to = match &ask.to {
                Some(name) => Some(host::find(&draft.state, name)?),
                None => None,
            };
            let row = draft.state.instances.get(&moved);
            let runs = row.is_some_and(|row| row.desired == Desired::Running);
            let how = match (runs || ask.live) && !ask.restart {
                true => How::Live,
                false => How::Cold,
            };
            moving::migrate(draft, moved.as_str(), to.as_deref(), how)
        })
        .await??;
    Ok(Json(status_of(&controller, &id)))
}

pub async fn cancel(
    State(controller): State<Arc<Controller>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Reply {
    let id = instance(&controller, &caller, &name)?.id.clone();
    let moved = id.clone();
    controller
        .cluster
        .decide(move |draft| moving::cancel(draft, moved.as_str()))
        .await??;
    Ok(Json(status_of(&controller, &id)))
}

pub async fn status(
    State(controller): State<Arc<Controller>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Reply {
    let id = instance(&controller, &caller, &name)?.id.clone();
    Ok(Json(status_of(&controller, &id)))
}

/// Where an instance is, and how far its move has got if it is moving.
pub fn status_of(controller: &Controller, id: &InstanceId) -> Value {
    let snapshot = controller.cluster.snapshot();
    let state = &snapshot.state;
    let Some(row) = state.instances.get(id) else {
        return json!({ "instance": id, "phase": "none" });
    };
    let name = |id: &HostId| match state.hosts.get(id) {
        Some(host) => host.name.clone(),
        None => id.to_string(),
    };
    let placed = row.placement.as_ref().map(|placement| &placement.host);
    let at = placed.map(name);
    let mut told = json!({
        "instance": id,
        "state": row.state().as_str(),
        "host": at,
        "host_id": placed,
        "phase": "none",
    });
    let Some(to) = row.moving_to() else {
        return told;
    };
    told["to"] = json!(name(to));
    if let Some(live) = row.live() {
        told["live"] = json!(true);
        told["phase"] = json!(match (live.ready, live.departed) {
            (false, _) => "preparing",
            (true, None) => "sending",
            (true, Some(_)) => "switching",
        });
        let from = row.placement.as_ref().map(|placement| &placement.host);
        if let Some(passing) = from.and_then(|from| controller.links.of(from).leaving(id)) {
            told["done_bytes"] = json!(passing.done_bytes);
            told["of_bytes"] = json!(passing.of_bytes);
        }
        return told;
    }
    told["phase"] = json!("ending");
    let disks = row.disks.iter().filter_map(|id| state.volumes.get(id));
    let copies: Vec<_> = disks
        .filter_map(|disk| Some(file(&disk.id, disk.arriving_at(to)?)))
        .collect();
    if copies.is_empty() {
        return told;
    }
    let arriving = controller.links.of(to).arriving();
    let mut arriving = arriving.iter().filter(|part| copies.contains(&part.file));
    told["phase"] = json!("copying");
    told["done_bytes"] = json!(arriving.clone().map(|part| part.done_bytes).sum::<u64>());
    told["of_bytes"] = json!(arriving.clone().map(|part| part.of_bytes).sum::<u64>());
    told["error"] = json!(arriving.find_map(|part| part.error.clone()));
    told
}

/// What a host that is emptied has left: the moves that are under way, and what keeps the others.
pub fn leaving(controller: &Controller, host: &Host) -> (Vec<Value>, Vec<Value>) {
    let snapshot = controller.cluster.snapshot();
    let state = &snapshot.state;
    let moving = state
        .placed_on(&host.id)
        .filter(|row| row.moving_to().is_some());
    let moves = moving.map(|row| status_of(controller, &row.id)).collect();
    let kept = match host.evacuating {
        true => moving::obstacles(state, &host.id),
        false => Vec::new(),
    };
    let kept = kept
        .into_iter()
        .map(|(instance, why)| json!({ "instance": instance, "why": why }));
    (moves, kept.collect())
}
