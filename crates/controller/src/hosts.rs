//! `/hosts` and `/invitations` of Boira's own API: who runs instances, and who may.

use crate::admin::{Problem, Reply, bad, through, time};
use crate::controller::Controller;
use crate::{join, moves, zones};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use boira_core::State as Cluster;
use boira_core::host::{self, HostChange};
use boira_core::state::Contact;
use boira_core::{Refusal, schedule};
use boira_model::wire::Endpoint;
use boira_model::{Admission, Host, Intake};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long an invitation lasts unless it is said: an hour, in seconds.
const VALID_S: u64 = 3600;

pub async fn list(State(controller): State<Arc<Controller>>) -> Json<Value> {
    let snapshot = controller.cluster.snapshot();
    let state = &snapshot.state;
    let mut hosts: Vec<_> = state.hosts.values().collect();
    hosts.sort_by_key(|host| host.number);
    let rows: Vec<Value> = hosts
        .into_iter()
        .map(|host| {
            let used = state.usage.get(&host.id).copied().unwrap_or_default();
            let (vcpus, memory) = schedule::limits(state, host);
            let link = controller.links.of(&host.id);
            let (leaving, kept) = moves::leaving(&controller, host);
            json!({
                "id": host.id,
                "number": host.number,
                "name": host.name,
                "zone": host.zone,
                "state": state_name(host, state.contact(&host.id)),
                "last_seen_s": link.silence().as_secs(),
                "joined": time(host.joined),
                "note": host.note,
                "labels": host.tags,
                "instances": used.instances,
                "cpus": host.capacity.cpus,
                "vcpus_total": vcpus,
                "vcpus_used": used.vcpus,
                "memory_total_bytes": memory,
                "memory_used_bytes": used.memory_bytes,
                "disk_total_bytes": host.capacity.disk_bytes,
                "disk_used_bytes": used.disk_bytes,
                "overhead": host.overhead,
                "intake": intake(&host.intake),
                "network": reach(host),
                "beside_controller": is_beside(&controller, host),
                "evacuating": host.evacuating,
                "quarantine": host.quarantine,
                "placed": state.placed_on(&host.id).count(),
                "leaving": leaving,
                "kept": kept,
                "troubles": link.troubles(),
                "acceleration": host.acceleration,
                "machine": host.machine,
                "protocol": host.protocol,
                "cpu": host.cpu,
            })
        })
        .collect();
    Json(json!({ "hosts": rows }))
}

fn intake(intake: &Intake) -> Value {
    let mut value = json!(intake);
    if let Some(speed) = &intake.speed {
        value["speed"]["at"] = time(speed.at).into();
    }
    value
}

/// How other hosts reach a host's guests.
fn reach(host: &Host) -> Value {
    let endpoint = host.underlay.as_ref().map(|underlay| underlay.endpoint);
    match endpoint {
        None => json!({ "state": "unknown" }),
        Some(None) => json!({ "state": "behind-nat" }),
        Some(Some(Endpoint::At(address))) => json!({ "state": "direct", "endpoint": address }),
        Some(Some(Endpoint::BesideController(port))) => {
            json!({ "state": "beside-controller", "port": port })
        }
    }
}

/// Whether it is the machine that the controller runs on.
pub fn is_beside(controller: &Controller, host: &Host) -> bool {
    let underlay = host.underlay.as_ref();
    match underlay.and_then(|underlay| underlay.endpoint) {
        Some(Endpoint::BesideController(_)) => true,
        Some(Endpoint::At(address)) => address.ip() == controller.options.agents.ip(),
        None => false,
    }
}

/// What is on hosts that were cut off, which nobody reaches, stops or moves, and commands for hosts that
/// aren't there.
pub fn problems(state: &Cluster) -> Vec<String> {
    let cut_off = state.hosts.values().filter(|host| {
        host.admission == Admission::Revoked && state.placed_on(&host.id).next().is_some()
    });
    let problem = |host: &Arc<Host>| {
        let name = &host.name;
        format!(
            "{name} is revoked, and instances are on it: `boira host invite --host {name}` lets it come back, `boira host rm {name} --force` gives them up"
        )
    };
    let named = |wanted: &str| {
        let mut hosts = state.hosts.values();
        hosts.any(|host| host.name == wanted || host.id.as_str() == wanted)
    };
    let commands = state.settings.power_off.keys();
    let missing = commands
        .filter(|name| !named(name))
        .map(|name| format!("power_off: no host is called '{name}'; `boira host ls` lists them"));
    cut_off.map(problem).chain(missing).collect()
}

pub fn state_name(host: &Host, contact: Contact) -> &'static str {
    match (host.admission, contact) {
        (Admission::Revoked, _) => "revoked",
        (Admission::Draining, Contact::Live) => "draining",
        (_, Contact::Live) if host.quarantine.is_some() => "quarantined",
        (_, contact) => zones::contact_name(contact),
    }
}

#[derive(Deserialize)]
pub struct NewHost {
    name: String,
}

fn failed(error: anyhow::Error) -> Problem {
    Problem(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}"))
}

/// Makes a host's row and answers the identity that its agent starts with: certificate and key.
pub async fn enroll(State(controller): State<Arc<Controller>>, Json(ask): Json<NewHost>) -> Reply {
    if !host::is_name(&ask.name) {
        return Err(bad(
            "a host's name has 1 to 63 letters, digits, -, _ or ., and is no number",
        ));
    }
    let snapshot = controller.cluster.snapshot();
    let mut hosts = snapshot.state.hosts.values();
    let known = hosts.find(|host| host.name == ask.name).cloned();
    if known
        .as_ref()
        .is_some_and(|host| host.admission == Admission::Revoked)
    {
        return Err(Problem(
            StatusCode::CONFLICT,
            format!(
                "{} is revoked; `boira host invite --host` lets it come back",
                ask.name
            ),
        ));
    }
    let enrolling = controller.clone();
    let made = through(async move {
        let made = enrolling.enroll(&ask.name, known).await;
        made.map_err(failed)
    })
    .await?;
    Ok(Json(json!({
        "host": made.host,
        "cloud": controller.cluster.cloud,
        "certificate": made.certificate.pem,
        "renew_after": made.certificate.renew_after,
        "key": made.key,
        "request": made.request,
        "authority": controller.pki.authority().map_err(failed)?,
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewInvitation {
    zone: Option<String>,
    /// A host that comes back with a new key.
    host: Option<String>,
    valid_s: Option<u64>,
}

/// Answers the line to run on the PC. Its token is in no log and in no store.
pub async fn invite(
    State(controller): State<Arc<Controller>>,
    Json(ask): Json<NewInvitation>,
) -> Reply {
    let agents = controller.options.agents;
    if agents.ip().is_loopback() {
        return Err(Problem(
            StatusCode::CONFLICT,
            format!(
                "agents are served at {agents}, where no other machine gets to; start the cloud with \
                 `boira up --listen ADDRESS:PORT` or `--agents ADDRESS:PORT` and an address of this \
                 machine that the others reach"
            ),
        ));
    }
    let token = format!("{:032x}", rand::random::<u128>());
    let line = join::line(&controller, &token).map_err(failed)?;
    let digest = join::digest(&token);
    let valid_ms = i64::try_from(ask.valid_s.unwrap_or(VALID_S))
        .unwrap_or(i64::MAX)
        .saturating_mul(1000);
    let invitation = controller
        .cluster
        .decide(move |draft| {
            let (zone, host) = (ask.zone.as_deref(), ask.host.as_deref());
            host::invite(draft, digest, zone, host, valid_ms)
        })
        .await??;
    let state = &controller.cluster.snapshot().state;
    let mut zones = state.zones.values();
    let zone = zones.find(|zone| zone.id == invitation.zone);
    Ok(Json(json!({
        "command": line,
        "token": token,
        "zone": zone.map(|zone| &zone.name),
        "host": invitation.host,
        "expires": time(invitation.expires),
    })))
}

/// What is to be changed; absent members stay.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    note: Option<String>,
    draining: Option<bool>,
    /// With `draining`: its instances are moved to other hosts.
    #[serde(default)]
    evacuating: bool,
    /// Labels to set, or with `null` to remove.
    #[serde(default)]
    labels: BTreeMap<String, Option<String>>,
}

pub async fn change(
    State(controller): State<Arc<Controller>>,
    Path(name): Path<String>,
    Json(ask): Json<Change>,
) -> Reply {
    let change = HostChange {
        note: ask.note,
        draining: ask.draining,
        evacuating: ask.evacuating,
        labels: ask.labels.into_iter().collect(),
    };
    let host = controller
        .cluster
        .decide(move |draft| host::change(draft, &name, change))
        .await??;
    Ok(Json(json!({ "host": host.id, "name": host.name })))
}

pub async fn revoke(State(controller): State<Arc<Controller>>, Path(name): Path<String>) -> Reply {
    let host = through(async move {
        let (before, host) = controller
            .cluster
            .decide(move |draft| {
                let before = host::find(&draft.state, &name)?;
                Ok::<_, Refusal>((before, host::revoke(draft, &name)?))
            })
            .await??;
        controller.links.cut(&host.id, &before.key);
        tracing::warn!("{} ({}) is revoked", host.id, host.name);
        Ok(host)
    })
    .await?;
    Ok(Json(json!({ "host": host.id, "name": host.name })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    #[serde(default)]
    force: bool,
}

pub async fn remove(
    State(controller): State<Arc<Controller>>,
    Path(name): Path<String>,
    Query(ask): Query<Removal>,
) -> Reply {
    let host = through(async move {
        let host = controller
            .cluster
            .decide(move |draft| host::remove(draft, &name, ask.force))
            .await??;
        controller.links.cut(&host.id, &host.key);
        Ok(host)
    })
    .await?;
    Ok(Json(json!({ "host": host.id, "name": host.name })))
}
