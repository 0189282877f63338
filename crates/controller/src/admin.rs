//! Boira's own JSON API below `/boira/v1`: what EC2 has no call for. Signed with signature version 4
//! under the scope `boira`, like everything that listens. `openapi.json` describes it.
//!
//! Ordinary accounts may ask about their own instances and open streams to them; the rest is the
//! administrator's.

use crate::agents::upgrade_answer;
use crate::calls::Call;
use crate::config;
use crate::controller::Controller;
use crate::{hosts, http, moves, objects, recovery, zones};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Extension, Json, Router};
use boira_api::auth::{self, RequestHead};
use boira_api::form;
use boira_core::account::{self, Credentials};
use boira_core::image;
use boira_model::wire::StreamKind;
use boira_model::*;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

pub fn router(controller: Arc<Controller>) -> Router<Arc<Controller>> {
    let own = Router::new()
        .route("/status", get(status))
        .route("/instances/{id}/history", get(history))
        .route("/instances/{id}/recovery", get(recovery::show))
        .route("/instances/{id}/console", get(console))
        .route("/instances/{id}/dial/{port}", get(dial))
        .route("/buckets", get(objects::list))
        .route("/types", get(types));
    let administrators = Router::new()
        .route("/hosts", get(hosts::list).post(hosts::enroll))
        .route("/hosts/{name}", patch(hosts::change).delete(hosts::remove))
        .route("/hosts/{name}/revoke", post(hosts::revoke))
        .route(
            "/instances/{id}/move",
            get(moves::status).post(moves::begin).delete(moves::cancel),
        )
        .route("/invitations", post(hosts::invite))
        .route("/accounts", get(accounts).post(create_account))
        .route("/accounts/{name}", delete(remove_account))
        .route("/accounts/{name}/keys", post(rotate_keys))
        .route("/zones", get(zones::list).post(zones::create))
        .route("/zones/{name}", patch(zones::change).delete(zones::delete))
        .route("/buckets/{name}/quota", put(objects::bound_bucket))
        .route("/accounts/{name}/quota", put(objects::bound_account))
        .route("/objects/check", post(objects::check))
        .route("/metrics", get(objects::metrics))
        .route("/capacity", get(zones::capacity))
        .route("/explain", get(zones::explain))
        .route("/images", post(register_image))
        .route("/images/{id}", delete(remove_image))
        .route("/types/{name}", put(put_type).delete(remove_type))
        .route("/blobs/{sha256}", put(put_blob).head(has_blob))
        .layer(axum::middleware::from_fn(administrators_only));
    own.merge(administrators)
        .route_layer(axum::middleware::from_fn_with_state(
            controller,
            authenticate,
        ))
        .route("/openapi.json", get(openapi))
}

/// An error with what to do about it.
pub struct Problem(pub StatusCode, pub String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<boira_core::Refusal> for Problem {
    fn from(refusal: boira_core::Refusal) -> Self {
        let status = match refusal {
            boira_core::Refusal::NotFound(..) => StatusCode::NOT_FOUND,
            _ => StatusCode::CONFLICT,
        };
        Self(status, refusal.to_string())
    }
}

impl From<boira_store::Unavailable> for Problem {
    fn from(error: boira_store::Unavailable) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

/// The administrator's own files: unreadable, broken or on a full disk.
impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self(StatusCode::CONFLICT, format!("{error:#}"))
    }
}

pub fn bad(why: impl Into<String>) -> Problem {
    Problem(StatusCode::BAD_REQUEST, why.into())
}

fn missing(what: impl std::fmt::Display) -> Problem {
    Problem(StatusCode::NOT_FOUND, format!("{what} does not exist"))
}

pub type Reply = Result<Json<Value>, Problem>;

/// Who asks, after the signature was verified.
#[derive(Clone)]
pub struct Caller {
    pub account: AccountId,
    admin: bool,
}

impl Caller {
    /// The account whose things it may see, where it may not see all.
    pub fn only(&self) -> Option<String> {
        (!self.admin).then(|| self.account.to_string())
    }

    /// Whether it may know which hosts there are.
    pub fn is_admin(&self) -> bool {
        self.admin
    }
}

async fn authenticate(
    State(controller): State<Arc<Controller>>,
    original: axum::extract::OriginalUri,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    if let Some(caller) = scraper(&controller, &parts)? {
        parts.extensions.insert(caller);
        return Ok(next.run(Request::from_parts(parts, body)).await);
    }
    let refused = |error: boira_api::ApiError| {
        let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::FORBIDDEN);
        Problem(status, error.message)
    };
    let denied =
        |error: auth::AuthError| refused(error.to_api_error(boira_api::shape::Protocol::Query));
    let is_blob = parts.method == "PUT" && parts.uri.path().starts_with("/blobs/");
    let (hash, body) = match is_blob {
        // The signature covers the hash that names the blob; the store checks the bytes against it.
        true => (declared_hash(parts.uri.path())?, body),
        false => {
            let bytes = http::read_body(body).await.map_err(refused)?;
            (Sha256::digest(&bytes).into(), Body::from(bytes))
        }
    };
    let query = original.0.query().unwrap_or_default().to_owned();
    let account = {
        let parameters = form::parse(query.as_bytes()).map_err(|error| bad(error.message))?;
        let headers = http::headers(&parts);
        let head = RequestHead {
            method: parts.method.as_str(),
            path: original.0.path(),
            query: &query,
            headers: &headers,
            parameters: &parameters,
        };
        let claim = auth::parse(&head).map_err(denied)?;
        http::identify(&controller, &claim, &head, &hash, "boira").map_err(denied)?
    };
    let admin = controller
        .cluster
        .snapshot()
        .state
        .accounts
        .get(&account)
        .is_some_and(|account| account.admin);
    parts.extensions.insert(Caller { account, admin });
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// Who brings the token of the home's file `metrics.token`: it is good for the metrics only.
fn scraper(
    controller: &Controller,
    parts: &axum::http::request::Parts,
) -> Result<Option<Caller>, Problem> {
    let header = parts.headers.get("authorization");
    let header = header.and_then(|header| header.to_str().ok());
    let Some(token) = header.and_then(|header| header.strip_prefix("Bearer ")) else {
        return Ok(None);
    };
    let asks = ["GET", "HEAD"].contains(&parts.method.as_str()) && parts.uri.path() == "/metrics";
    let is_it = Sha256::digest(token) == Sha256::digest(&controller.metrics_token);
    let snapshot = controller.cluster.snapshot();
    let mut accounts = snapshot.state.accounts.values();
    match accounts.find(|account| account.admin) {
        Some(account) if asks && is_it => Ok(Some(Caller {
            account: account.id.clone(),
            admin: true,
        })),
        _ => Err(Problem(
            StatusCode::FORBIDDEN,
            "the only token is that of the home's file metrics.token, for /boira/v1/metrics".into(),
        )),
    }
}

/// An account's id, by its name, id or small number.
pub fn account_named(controller: &Controller, name: &str) -> Result<String, Problem> {
    let snapshot = controller.cluster.snapshot();
    let is_it = |account: &&Arc<Account>| {
        account.name == name || account.id.to_string() == name || account.number.to_string() == name
    };
    let found = snapshot.state.accounts.values().find(is_it);
    let found = found.map(|account| account.id.to_string());
    found.ok_or_else(|| missing(format!("an account {name}")))
}

fn declared_hash(path: &str) -> Result<[u8; 32], Problem> {
    let mut hash = [0; 32];
    let text = path.rsplit('/').next().unwrap_or_default();
    hex::decode_to_slice(text, &mut hash)
        .map_err(|_| bad("a blob is named by the SHA-256 of its bytes in hex"))?;
    Ok(hash)
}

async fn administrators_only(
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    match caller.admin {
        true => Ok(next.run(request).await),
        false => Err(Problem(
            StatusCode::FORBIDDEN,
            "only the administrator's account may do this".into(),
        )),
    }
}

async fn openapi() -> Response {
    (
        [("content-type", "application/json")],
        include_str!("openapi.json"),
    )
        .into_response()
}

async fn status(
    State(controller): State<Arc<Controller>>,
    caller: Extension<Caller>,
) -> Json<Value> {
    let mut problems = controller.problems();
    let snapshot = controller.cluster.snapshot();
    let state = &snapshot.state;
    if caller.admin {
        problems.extend(objects::problems(&controller));
        problems.extend(hosts::problems(state));
    }
    let count = |name| {
        state
            .instances_of(&caller.account)
            .filter(|row| row.state() == name)
            .count()
    };
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cloud": controller.cluster.cloud,
        "region": state.settings.region,
        "endpoint": controller.facts.endpoint,
        "account": caller.account,
        "hosts": state.hosts.len(),
        "silent_hosts": state.silent.len(),
        "problems": problems,
        "running": count(StateName::Running),
        "pending": count(StateName::Pending),
        "stopped": count(StateName::Stopped),
    }))
}

/// An instance of the caller, by id, small number or `Name` tag.
pub fn find(
    controller: &Controller,
    caller: &Caller,
    name: &str,
) -> Result<Arc<Instance>, Problem> {
    let snapshot = controller.cluster.snapshot();
    if let Some(row) = snapshot.state.instance(&caller.account, name) {
        return Ok(row.clone());
    }
    let called = || {
        let rows = snapshot.state.instances_of(&caller.account);
        rows.filter(|row| {
            row.number.to_string() == name || row.tags.get("Name").is_some_and(|tag| tag == name)
        })
    };
    let is_gone = |row: &&Arc<Instance>| row.state() == StateName::Terminated;
    let alive: Vec<_> = called().filter(|row| !is_gone(row)).collect();
    match (&alive[..], called().max_by_key(|row| row.launched)) {
        ([row], _) => Ok((*row).clone()),
        // Of those that are gone, the last one is meant.
        ([], Some(row)) => Ok(row.clone()),
        ([], None) => Err(missing(format!("instance '{name}'"))),
        _ => Err(Problem(
            StatusCode::CONFLICT,
            format!(
                "{} instances are called '{name}'; give the id of one",
                alive.len()
            ),
        )),
    }
}

/// How this API tells people and programs a time: RFC 3339, UTC.
pub fn time(at: Wall) -> String {
    boira_api::time::format_ms(at.0)
}

async fn history(
    State(controller): State<Arc<Controller>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Reply {
    let row = find(&controller, &caller, &name)?;
    let history = controller.history.clone();
    let id = row.id.clone();
    let mut events = tokio::task::spawn_blocking(move || history.of(&id))
        .await
        .map_err(|error| Problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?
        .map_err(|error| Problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    // Hosts tell of a step when it is over and of a state at once; people read by the time of each.
    events.sort_by_key(|event| event.at);
    let events: Vec<_> = events
        .iter()
        .map(|event| {
            json!({
                "instance": event.instance,
                "at": time(event.at),
                "cause": event.cause,
                "what": event.what,
                "took_ms": event.took_ms,
            })
        })
        .collect();
    Ok(Json(
        json!({ "instance": row.id, "state": row.state().as_str(), "events": events }),
    ))
}

async fn console(
    State(controller): State<Arc<Controller>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let row = find(&controller, &caller, &name)?;
    let kind = StreamKind::Console {
        instance: row.id.clone(),
    };
    relay(&controller, &row, kind, request).await
}

async fn dial(
    State(controller): State<Arc<Controller>>,
    Extension(caller): Extension<Caller>,
    Path((name, port)): Path<(String, u16)>,
    request: Request,
) -> Result<Response, Problem> {
    let row = find(&controller, &caller, &name)?;
    let snapshot = controller.cluster.snapshot();
    let interface = row
        .interfaces
        .first()
        .and_then(|id| snapshot.state.interfaces.get(id))
        .ok_or_else(|| missing(format!("a network interface of {}", row.id)))?;
    let kind = StreamKind::Dial {
        vpc: interface.vpc.clone(),
        ip: interface.ip,
        port,
    };
    let call = Call::new(&row.id, host_of_running(&row)?);
    let far = controller.links.open_as(&call.id, &call.host, kind).await;
    let far = far.map_err(|why| Problem(StatusCode::BAD_GATEWAY, why))?;
    tokio::spawn(async move {
        if let Ok(near) = hyper::upgrade::on(request).await {
            // How a stream ends concerns only its two ends.
            let _ = call.carry(&controller, TokioIo::new(near), far).await;
        }
    });
    Ok(upgrade_answer())
}

/// Joins the caller's connection with the stream that the instance's agent opens.
async fn relay(
    controller: &Controller,
    row: &Instance,
    kind: StreamKind,
    request: Request,
) -> Result<Response, Problem> {
    let host = host_of_running(row)?;
    let mut far = controller
        .links
        .open(&host, kind)
        .await
        .map_err(|why| Problem(StatusCode::BAD_GATEWAY, why))?;
    tokio::spawn(async move {
        let Ok(near) = hyper::upgrade::on(request).await else {
            return;
        };
        let mut near = TokioIo::new(near);
        // How a stream ends concerns only its two ends.
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    Ok(upgrade_answer())
}

/// The host of an instance that may have a console and open ports: one that is stopped has a placement
/// too.
fn host_of_running(row: &Instance) -> Result<HostId, Problem> {
    match (row.state(), &row.placement) {
        (StateName::Stopped | StateName::Terminated, _) | (_, None) => Err(Problem(
            StatusCode::CONFLICT,
            format!(
                "{} is {}; it has to run for that",
                row.id,
                row.state().as_str()
            ),
        )),
        (_, Some(placement)) => Ok(placement.host.clone()),
    }
}

/// A new access key of AWS's form: `AKIA` and 16 characters, 40 for the secret.
pub fn fresh_credentials() -> Credentials {
    use rand::distr::{Alphanumeric, SampleString};
    let mut rng = rand::rng();
    let suffix: String = Alphanumeric
        .sample_string(&mut rng, 16)
        .to_ascii_uppercase();
    Credentials {
        access_key: format!("AKIA{suffix}"),
        secret: Alphanumeric.sample_string(&mut rng, 40),
    }
}

#[derive(Deserialize)]
struct NewAccount {
    name: String,
}

#[derive(Serialize)]
struct IssuedKey {
    account: AccountId,
    admin: bool,
    access_key_id: String,
    secret_access_key: String,
}

async fn create_account(
    State(controller): State<Arc<Controller>>,
    Json(ask): Json<NewAccount>,
) -> Result<Json<IssuedKey>, Problem> {
    let fine = (1..=64).contains(&ask.name.len())
        && ask
            .name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b));
    if !fine || ask.name.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad(
            "an account's name has 1 to 64 letters, digits, -, _, . or @, and is no number",
        ));
    }
    let credentials = fresh_credentials();
    let (access_key_id, secret_access_key) =
        (credentials.access_key.clone(), credentials.secret.clone());
    let account = controller
        .cluster
        .decide(move |draft| account::create(draft, &ask.name, false, credentials))
        .await??;
    Ok(Json(IssuedKey {
        account: account.id,
        admin: false,
        access_key_id,
        secret_access_key,
    }))
}

/// Carries a decision and what follows from it through, also where the caller hangs up meanwhile.
pub async fn through<T: Send + 'static>(
    act: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let outcome = tokio::spawn(act).await;
    outcome.map_err(|error| Problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?
}

async fn rotate_keys(
    State(controller): State<Arc<Controller>>,
    Path(name): Path<String>,
) -> Result<Json<IssuedKey>, Problem> {
    let credentials = fresh_credentials();
    let (access_key_id, secret_access_key) =
        (credentials.access_key.clone(), credentials.secret.clone());
    let (account, admin) = through(async move {
        let account = controller
            .cluster
            .decide(move |draft| account::rotate_keys(draft, &name, credentials))
            .await??;
        let snapshot = controller.cluster.snapshot();
        let row = snapshot.state.accounts.get(&account);
        let admin = row.is_some_and(|row| row.admin);
        if admin {
            controller.administrator_changed();
        }
        Ok((account, admin))
    })
    .await?;
    Ok(Json(IssuedKey {
        account,
        admin,
        access_key_id,
        secret_access_key,
    }))
}

async fn remove_account(
    State(controller): State<Arc<Controller>>,
    Path(name): Path<String>,
) -> Reply {
    objects::nothing_left(&controller, &name).await?;
    let account = controller
        .cluster
        .decide(move |draft| account::remove(draft, &name))
        .await??;
    Ok(Json(json!({ "account": account })))
}

async fn accounts(State(controller): State<Arc<Controller>>) -> Reply {
    let quotas = objects::quotas(&controller).await?;
    let snapshot = controller.cluster.snapshot();
    let state = &snapshot.state;
    let mut rows = Vec::new();
    for account in state.accounts.values() {
        let keys: Vec<&str> = state
            .access_keys
            .values()
            .filter(|key| key.owner == account.id)
            .map(|key| key.id.as_str())
            .collect();
        let alive = state
            .instances_of(&account.id)
            .filter(|row| row.state() != StateName::Terminated)
            .count();
        rows.push(json!({
            "id": account.id,
            "number": account.number,
            "name": account.name,
            "admin": account.admin,
            "access_keys": keys,
            "instances": alive,
            "quota": quotas.get(account.id.as_str()),
        }));
    }
    Ok(Json(json!({ "accounts": rows })))
}

/// An image whose blobs were put before.
#[derive(Deserialize)]
struct NewImage {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default = "architecture")]
    architecture: String,
    disk: String,
    format: String,
    virtual_bytes: u64,
    boot: Boot,
    #[serde(default)]
    min_memory_bytes: u64,
    #[serde(default)]
    min_disk_bytes: u64,
    #[serde(default)]
    public: bool,
    #[serde(default)]
    tags: Tags,
}

fn architecture() -> String {
    "x86_64".into()
}

async fn register_image(
    State(controller): State<Arc<Controller>>,
    Extension(caller): Extension<Caller>,
    Json(ask): Json<NewImage>,
) -> Reply {
    if !image::is_name(&ask.name) {
        return Err(bad(
            "an image's name has 3 to 128 characters: letters, digits, spaces and ( ) [ ] . / - ' @ _",
        ));
    }
    if !matches!(ask.format.as_str(), "qcow2" | "raw") {
        return Err(bad("an image's format is qcow2 or raw"));
    }
    let mut blobs = vec![ask.disk.clone()];
    if let Boot::Kernel {
        kernel, ramdisk, ..
    } = &ask.boot
    {
        blobs.push(kernel.clone());
        blobs.extend(ramdisk.clone());
    }
    check_disk(&controller, &ask).await?;
    let mut stored_bytes = 0;
    for blob in &blobs {
        let path = controller
            .blob(blob)
            .ok_or_else(|| missing(format!("blob {blob}")))?;
        stored_bytes += std::fs::metadata(path).map(|meta| meta.len()).unwrap_or(0);
    }
    let id = controller
        .cluster
        .decide(move |draft| {
            let taken = draft
                .state
                .images
                .values()
                .any(|row| row.owner == caller.account && row.name == ask.name);
            if taken {
                return Err(boira_core::Refusal::Duplicate("image", ask.name));
            }
            let id = ImageId::from_entropy(draft.ctx.entropy());
            let image = Image {
                id: id.clone(),
                number: draft.number(|c| &mut c.image),
                owner: caller.account,
                alias: ask.public.then(|| "amazon".into()),
                name: ask.name,
                description: ask.description,
                architecture: ask.architecture,
                disk: ask.disk,
                format: ask.format,
                virtual_bytes: ask.virtual_bytes,
                boot: ask.boot,
                min_memory_bytes: ask.min_memory_bytes,
                min_disk_bytes: ask.min_disk_bytes,
                root_device: "/dev/vda".into(),
                public: ask.public,
                tags_of_others: Default::default(),
                launch_accounts: Default::default(),
                deregistration_protection: false,
                deprecated: None,
                stored_bytes,
                created: draft.now(),
                tags: ask.tags,
            };
            draft.put(image);
            Ok(id)
        })
        .await??;
    Ok(Json(json!({ "image": id })))
}

/// A disk names no other file: whoever opens it would read that for its author.
async fn check_disk(controller: &Controller, ask: &NewImage) -> Result<(), Problem> {
    let path = controller
        .blob(&ask.disk)
        .ok_or_else(|| missing(format!("blob {}", ask.disk)))?;
    let looking = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(&path).map_err(|error| error.to_string())?;
        boira_images::inspect(&mut file).map_err(|error| error.to_string())
    });
    let info = looking
        .await
        .map_err(|error| Problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?
        .map_err(bad)?;
    if info.format.name() != ask.format {
        return Err(bad(format!(
            "the disk is {} and not {}",
            info.format.name(),
            ask.format
        )));
    }
    match info.virtual_size_bytes == ask.virtual_bytes {
        true => Ok(()),
        false => Err(bad(format!(
            "the disk has {} bytes and not {}",
            info.virtual_size_bytes, ask.virtual_bytes
        ))),
    }
}

async fn remove_image(State(controller): State<Arc<Controller>>, Path(id): Path<String>) -> Reply {
    let removed = controller
        .cluster
        .decide(move |draft| image::deregister(draft, &id).map(|()| id))
        .await??;
    Ok(Json(json!({ "image": removed })))
}

async fn types(State(controller): State<Arc<Controller>>) -> Json<Value> {
    let snapshot = controller.cluster.snapshot();
    let rows: Vec<_> = snapshot.state.types.values().collect();
    Json(json!({ "types": rows }))
}

async fn put_type(
    State(controller): State<Arc<Controller>>,
    Path(name): Path<String>,
    Json(mut row): Json<InstanceType>,
) -> Reply {
    row.name = name;
    config::check_type(&row).map_err(|error| bad(format!("{error:#}")))?;
    change_types(&controller, move |types| {
        types.insert(row.name.clone(), row);
        Ok(())
    })
    .await
}

async fn remove_type(State(controller): State<Arc<Controller>>, Path(name): Path<String>) -> Reply {
    change_types(&controller, move |types| match types.remove(&name) {
        Some(_) => Ok(()),
        None => Err(missing(format!("instance type {name}"))),
    })
    .await
}

async fn change_types(
    controller: &Controller,
    change: impl FnOnce(&mut boira_core::InstanceTypes) -> Result<(), Problem>,
) -> Reply {
    let count = controller.change_types(change).await?;
    Ok(Json(json!({ "types": count })))
}

async fn has_blob(
    State(controller): State<Arc<Controller>>,
    Path(sha256): Path<String>,
) -> StatusCode {
    match controller.blob(&sha256) {
        Some(_) => StatusCode::OK,
        None => StatusCode::NOT_FOUND,
    }
}

async fn put_blob(
    State(controller): State<Arc<Controller>>,
    Path(sha256): Path<String>,
    body: Body,
) -> Reply {
    let stream =
        futures_util::TryStreamExt::map_err(body.into_data_stream(), std::io::Error::other);
    let reader = tokio_util::io::StreamReader::new(stream);
    let mut reader = tokio_util::io::SyncIoBridge::new(Box::pin(reader));
    let blobs = controller.blobs.clone();
    let digest = sha256.parse().map_err(|error| bad(format!("{error}")))?;
    let put = move || {
        let put = blobs.put(&mut reader, digest);
        // One that is there isn't read, and who sends it would be cut off in the middle.
        if put.is_ok() {
            let _ = std::io::copy(&mut reader, &mut std::io::sink());
        }
        put
    };
    tokio::task::spawn_blocking(put)
        .await
        .map_err(|error| Problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?
        .map_err(|error| bad(format!("the blob was not kept: {error}")))?;
    Ok(Json(json!({ "sha256": sha256 })))
}
