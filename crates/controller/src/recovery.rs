//! `GET /instances/{id}/recovery`: what would happen if an instance's host were lost.

use crate::admin::{Caller, Reply, find};
use crate::controller::Controller;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use boira_core::heal::{self, Prospect};
use boira_core::state::Contact;
use boira_model::Fencing;
use serde_json::json;
use std::sync::Arc;

pub async fn show(
    State(controller): State<Arc<Controller>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Reply {
    let row = find(&controller, &caller, &name)?;
    let state = &controller.cluster.snapshot().state;
    let (prospect, why) = match heal::prospect(state, &row) {
        Prospect::Reimaged => ("reimage", None),
        Prospect::Waits(why) => ("wait", Some(why.to_string())),
    };
    let host = row.placement.as_ref().map(|placement| &placement.host);
    let name = host
        .and_then(|id| state.hosts.get(id))
        .map(|host| &host.name);
    let silent = host.is_some_and(|host| state.contact(host) == Contact::Silent);
    Ok(Json(json!({
        "instance": row.id,
        "recovery": prospect,
        "why": why,
        "after_s": state.settings.fence_s,
        "fenced": row.fencing == Fencing::Held,
        "reimaged": row.reimaged,
        "host_is_silent": silent,
        "host": name.filter(|_| caller.is_admin()),
    })))
}
