//! The endpoint that agents call, over mutual TLS: `POST /v1/sync`, `POST /v1/certificate`,
//! `GET /v1/blobs/SHA256`, `GET /v1/blobs/SHA256/holder`, `GET /v1/volumes/FILE`, `GET /v1/streams/ID` and
//! `GET /v1/guests/ID/GENERATION/CHANNEL`. Which host speaks is told by its certificate's key
//! and never by what it says. Beside it, `/join` is for who has no certificate yet.

use crate::controller::Controller;
use crate::join;
use crate::pki::{HostCertificate, HostRequest};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use boira_core::{fence, image, observe, sync, wanted};
use boira_model::volume::file;
use boira_model::wire::{
    DIRECT, LIVE, OLDEST_PROTOCOL, PROTOCOL, STREAM_ERROR, StreamKind, SyncAnswer, SyncRequest,
    Ticket,
};
use boira_model::{HostId, Volume};
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncSeekExt;

/// SHA-256 of the public key that the peer has proven, in hex.
#[derive(Clone)]
pub struct PeerKey(pub String);

/// The address that a connection comes from.
#[derive(Clone, Copy)]
pub struct PeerAddress(pub IpAddr);

/// Bytes that a channel passes on at a time.
const PIECE: usize = 64 << 10;
/// A report names everything that a host has: some hundred bytes a guest.
const REPORT_BYTES: usize = 64 << 20;

pub fn router(controller: Arc<Controller>) -> Router {
    Router::new()
        .route("/v1/sync", post(synchronise))
        .layer(DefaultBodyLimit::max(REPORT_BYTES))
        .route("/v1/certificate", post(renew))
        .route("/v1/blobs/{sha256}", get(blob))
        .route("/v1/blobs/{sha256}/holder", get(holder))
        .route("/v1/volumes/{file}", get(volume))
        .route("/v1/streams/{id}", get(stream))
        .route("/v1/guests/{instance}/{generation}/{channel}", get(channel))
        .route_layer(axum::middleware::from_fn(hosts_only))
        .merge(join::router())
        .with_state(controller)
}

async fn hosts_only(request: Request, next: Next) -> Response {
    match request.extensions().get::<PeerKey>() {
        Some(_) => next.run(request).await,
        None => {
            let why =
                "a certificate of this cloud is needed here; `boira host invite` lets a PC join";
            Refused(StatusCode::UNAUTHORIZED, why.into()).into_response()
        }
    }
}

struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

/// Whether a key is this host's; one that is revoked has none.
fn is_host(controller: &Controller, peer: &PeerKey, host: &HostId) -> bool {
    let snapshot = controller.cluster.snapshot();
    let row = snapshot.state.hosts.get(host);
    row.is_some_and(|row| row.key == peer.0)
}

fn unknown() -> Refused {
    let why = "this certificate is no host's: it was cut off from the cloud or forgotten; \
        `boira host invite --host` lets one that was cut off come back";
    Refused(StatusCode::FORBIDDEN, why.into())
}

/// The host behind a key.
fn host_of(controller: &Controller, peer: &PeerKey) -> Result<HostId, Refused> {
    controller
        .cluster
        .snapshot()
        .state
        .hosts
        .values()
        .find(|host| host.key == peer.0)
        .map(|host| host.id.clone())
        .ok_or_else(unknown)
}

async fn synchronise(
    State(controller): State<Arc<Controller>>,
    Extension(peer): Extension<PeerKey>,
    Extension(PeerAddress(address)): Extension<PeerAddress>,
    Json(request): Json<SyncRequest>,
) -> Result<Json<SyncAnswer>, Refused> {
    // Looked up by what it says and held against what it has shown: a search through everybody's
    // certificates would make each message dearer with every host.
    if !is_host(&controller, &peer, &request.host) {
        let host = host_of(&controller, &peer)?;
        return Err(Refused(
            StatusCode::FORBIDDEN,
            format!("this certificate is {host}'s"),
        ));
    }
    let host = request.host.clone();
    if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&request.v) {
        return Err(Refused(
            StatusCode::UPGRADE_REQUIRED,
            format!(
                "this controller speaks protocols {OLDEST_PROTOCOL} to {PROTOCOL}, the agent {}",
                request.v
            ),
        ));
    }
    let link = controller.links.of(&host);
    let fence_ms = controller.cluster.snapshot().state.settings.fence_ms();
    match link.admit(&request, fence_ms) {
        sync::Admit::Fresh => {}
        sync::Admit::Stale | sync::Admit::Unknown => {
            return Err(Refused(
                StatusCode::CONFLICT,
                "begin a new session with a report".into(),
            ));
        }
    }
    controller.heard_of(&host).await;
    let seq = request.seq;
    if let Some(mut report) = request.report {
        report.protocol = request.v;
        if let Some(underlay) = &mut report.underlay {
            underlay.heard_from = Some(address);
        }
        let reporter = host.clone();
        controller
            .cluster
            .decide(move |draft| {
                // It may have been cut off meanwhile, or another PC may be this host now.
                let row = draft.state.hosts.get(&reporter);
                if row.is_some_and(|row| row.key == peer.0) {
                    observe::report(draft, &reporter, &report);
                }
                Ok::<_, std::convert::Infallible>(())
            })
            .await
            .map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?
            .unwrap_or_else(|never| match never {});
        return Ok(Json(SyncAnswer {
            seq,
            ..SyncAnswer::default()
        }));
    }
    let have = link.have(&request);
    poll(&controller, &peer, &host, (seq, fence_ms), &have)
        .await
        .map(Json)
}

/// Answers when something differs from what the host has, when a stream is wanted, or in the end
/// with nothing. A lease is no longer than the fence by which the poll was noted.
async fn poll(
    controller: &Controller,
    peer: &PeerKey,
    host: &HostId,
    (seq, fence_ms): (u64, u64),
    have: &sync::Have,
) -> Result<SyncAnswer, Refused> {
    let link = controller.links.of(host);
    let begun = tokio::time::Instant::now();
    loop {
        let snapshot = controller.cluster.snapshot();
        if !is_host(controller, peer, host) {
            return Err(unknown());
        }
        let mut told = link.told();
        let state = (&snapshot.state, snapshot.seq);
        let mut answer = sync::tell(
            &mut told,
            state,
            host,
            (&controller.notary, &controller.around),
            have,
        );
        link.note_told(told);
        answer.cloud = Some(controller.cluster.cloud.clone());
        answer.seq = seq;
        answer.streams = link.streams();
        let fence_ms = fence_ms.min(snapshot.state.settings.fence_ms());
        let fenced = snapshot.state.fenced_on(host).next().is_some();
        answer.lease_ms = fenced.then(|| fence::lease_ms(fence_ms));
        let mut patience_ms = snapshot.state.settings.silence_ms() / 2;
        if fenced {
            patience_ms = patience_ms.min(fence::patience_ms(fence_ms));
        }
        let deadline = begun + Duration::from_millis(patience_ms.clamp(200, 20_000));
        if !sync::is_empty(&answer) {
            return Ok(answer);
        }
        // A wake-up that came since the snapshot was taken is kept by `Notify` as a permit.
        if tokio::time::timeout_at(deadline, link.wake.notified())
            .await
            .is_err()
        {
            return Ok(answer);
        }
    }
}

#[derive(Deserialize)]
struct Renewal {
    /// PKCS#10 in PEM, with the key that the host has.
    request: String,
}

/// A certificate that lasts longer, for the same key.
async fn renew(
    State(controller): State<Arc<Controller>>,
    Extension(peer): Extension<PeerKey>,
    Json(ask): Json<Renewal>,
) -> Result<Json<HostCertificate>, Refused> {
    let host = host_of(&controller, &peer)?;
    let bad = |why: String| Refused(StatusCode::BAD_REQUEST, why);
    let request = HostRequest::read(&ask.request).map_err(|error| bad(format!("{error:#}")))?;
    if request.key() != peer.0 {
        return Err(bad("the request is for another key than this host's".into()));
    }
    controller
        .pki
        .host_certificate(host.as_str(), &request)
        .map(Json)
        .map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")))
}

async fn blob(
    State(controller): State<Arc<Controller>>,
    Extension(peer): Extension<PeerKey>,
    Path(sha256): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let host = host_of(&controller, &peer)?;
    let missing = || Refused(StatusCode::NOT_FOUND, "there is no such blob".into());
    if !is_wanted(&controller, &host, &sha256) {
        return Err(missing());
    }
    let path = controller.blob(&sha256).ok_or_else(missing)?;
    let mut file = tokio::fs::File::open(path).await.map_err(|_| missing())?;
    let length = file.metadata().await.map_err(|_| missing())?.len();
    let from = headers.get(header::RANGE).and_then(rest_from);
    let from = from.filter(|from| *from <= length);
    if let Some(from) = from {
        let seeking = file.seek(std::io::SeekFrom::Start(from));
        seeking.await.map_err(|_| missing())?;
    }
    let body = Body::from_stream(tokio_util::io::ReaderStream::with_capacity(file, 256 << 10));
    let rest = length - from.unwrap_or(0);
    let answer = ([(header::CONTENT_LENGTH, rest)], body);
    Ok(match from {
        None => answer.into_response(),
        Some(from) => {
            let range = format!("bytes {from}-{}/{length}", length.saturating_sub(1));
            let headers = [(header::CONTENT_RANGE, range)];
            (StatusCode::PARTIAL_CONTENT, headers, answer).into_response()
        }
    })
}

/// Somebody else's image is no business of a host that has none of its instances.
fn is_wanted(controller: &Controller, host: &HostId, sha256: &str) -> bool {
    let wanted = wanted::images(&controller.cluster.snapshot().state, host);
    wanted.iter().any(|wanted| wanted.sha256 == sha256)
}

#[derive(Deserialize)]
struct Rest {
    /// How many bytes the asker has.
    from: u64,
}

/// A ticket for another host that has a blob.
async fn holder(
    State(controller): State<Arc<Controller>>,
    Extension(peer): Extension<PeerKey>,
    Path(sha256): Path<String>,
    Query(Rest { from }): Query<Rest>,
) -> Result<Response, Refused> {
    let host = host_of(&controller, &peer)?;
    let nobody = || Refused(StatusCode::NOT_FOUND, "no other host is to send it".into());
    let state = &controller.cluster.snapshot().state;
    if !is_wanted(&controller, &host, &sha256) {
        return Err(nobody());
    }
    let sender = image::sender(state, &host, &sha256).ok_or_else(nobody)?;
    let path = controller.blob(&sha256).ok_or_else(nobody)?;
    let length = tokio::fs::metadata(path).await.map_err(|_| nobody())?.len();
    let bytes = length.saturating_sub(from);
    ticket(
        &controller,
        &sender,
        StreamKind::Blob { sha256, from },
        Some(bytes),
    )
}

/// The one form of a range that agents ask for, `bytes=N-`; others are answered with the whole, as
/// RFC 9110, 14.2 allows.
fn rest_from(range: &HeaderValue) -> Option<u64> {
    let from = range.to_str().ok()?.strip_prefix("bytes=")?;
    from.strip_suffix('-')?.parse().ok()
}

/// A volume's file, from the host that has it to the one that it is moving to.
async fn volume(
    State(controller): State<Arc<Controller>>,
    Extension(peer): Extension<PeerKey>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let host = host_of(&controller, &peer)?;
    let snapshot = controller.cluster.snapshot();
    let stored = snapshot.state.stored.get(&host).into_iter().flatten();
    let mut rows = stored.filter_map(|id| snapshot.state.volumes.get(id));
    let asked = |row: &&Arc<Volume>| {
        let copy = row.arriving_at(&host);
        copy.is_some_and(|copy| file(&row.id, copy).as_str() == name)
    };
    let missing = || Refused(StatusCode::NOT_FOUND, "no such disk is moving here".into());
    let row = rows.find(asked).ok_or_else(missing)?;
    let source = row.host.clone().ok_or_else(missing)?;
    let kind = StreamKind::Volume { file: row.file() };
    if headers.contains_key(DIRECT) {
        return ticket(&controller, &source, kind, None);
    }
    let stream = controller
        .links
        .open(&source, kind)
        .await
        .map_err(|why| Refused(StatusCode::SERVICE_UNAVAILABLE, why))?;
    let stream = tokio_util::io::ReaderStream::with_capacity(stream, 256 << 10);
    Ok(Body::from_stream(stream).into_response())
}

async fn stream(
    State(controller): State<Arc<Controller>>,
    Extension(peer): Extension<PeerKey>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let host = host_of(&controller, &peer)?;
    let waiting = controller
        .links
        .of(&host)
        .claim(&id)
        .ok_or_else(|| Refused(StatusCode::NOT_FOUND, "nobody waits for this stream".into()))?;
    if let Some(why) = request.headers().get(STREAM_ERROR) {
        let why = String::from_utf8_lossy(why.as_bytes()).into_owned();
        // Whoever waited may have given up.
        let _ = waiting.send(Err(why));
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            // Whoever waited may have given up; then the stream just closes.
            let _ = waiting.send(Ok(controller.links.until_revoked(&peer.0, upgraded)));
        }
    });
    Ok(upgrade_answer())
}

/// What gets a host a stream from another one without the controller in between.
fn ticket(
    controller: &Controller,
    host: &HostId,
    kind: StreamKind,
    bytes: Option<u64>,
) -> Result<Response, Refused> {
    let snapshot = controller.cluster.snapshot();
    let row = snapshot.state.hosts.get(host);
    let reached = row
        .filter(|row| row.protocol >= LIVE)
        .and_then(|row| row.peer());
    let Some((_, endpoint)) = reached else {
        let why = "that host can't be reached by others";
        return Err(Refused(StatusCode::CONFLICT, why.into()));
    };
    let ticket = Ticket {
        ticket: controller.links.expect(host, kind),
        host: host.clone(),
        endpoint,
        bytes,
    };
    Ok(Json(ticket).into_response())
}

/// A channel of a guest from the host that sends it to the one that it goes to.
async fn channel(
    State(controller): State<Arc<Controller>>,
    Extension(peer): Extension<PeerKey>,
    Path((instance, generation, channel)): Path<(String, u64, String)>,
    request: Request,
) -> Result<Response, Refused> {
    let host = host_of(&controller, &peer)?;
    let missing = || {
        Refused(
            StatusCode::NOT_FOUND,
            "no such guest leaves from there".into(),
        )
    };
    let snapshot = controller.cluster.snapshot();
    let row = snapshot.state.instances.get(instance.as_str());
    let row = row.ok_or_else(missing)?;
    let leaves = row
        .placement
        .as_ref()
        .is_some_and(|placement| placement.host == host)
        && row.live().is_some_and(|live| live.generation == generation);
    let to = row.moving_to().filter(|_| leaves).ok_or_else(missing)?;
    let kind = StreamKind::Arrival {
        instance: row.id.clone(),
        generation,
        channel,
    };
    if request.headers().contains_key(DIRECT) {
        return ticket(&controller, to, kind, None);
    }
    let far = controller.links.open(to, kind).await;
    let mut far = far.map_err(|why| Refused(StatusCode::SERVICE_UNAVAILABLE, why))?;
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let mut near = controller.links.until_revoked(&peer.0, upgraded);
            // How it ends concerns only its two ends.
            let _ =
                tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, PIECE, PIECE).await;
        }
    });
    Ok(upgrade_answer())
}

/// `101 Switching Protocols` to Boira's plain byte streams.
pub fn upgrade_answer() -> Response {
    (
        StatusCode::SWITCHING_PROTOCOLS,
        [
            (header::CONNECTION, "upgrade"),
            (header::UPGRADE, "boira-stream"),
        ],
    )
        .into_response()
}
