//! How a PC becomes a host, served beside the agents' endpoint to who has no certificate yet:
//! `GET /join` is a script, `GET /join/boira` this very program, and `POST /join` takes a token and a
//! certificate request and answers the host's identity.
//!
//! Who runs the script has the pin of this endpoint's key from the administrator; the script carries
//! the cloud's CA, and the token proves that the administrator wants this PC.

use crate::admin::{Problem, through};
use crate::controller::Controller;
use crate::pki::HostRequest;
use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use boira_core::Refusal;
use boira_core::host::{self, Joining};
use boira_model::{CloudId, HostId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::sync::{Arc, OnceLock};

const SCRIPT: &str = include_str!("join.sh");
const INSTALL: &str = include_str!("../../../scripts/install.sh");
/// The program that runs, also after a new build took its file's place.
const PROGRAM: &str = "/proc/self/exe";
const REQUEST_BYTES: usize = 64 << 10;

pub fn router() -> Router<Arc<Controller>> {
    Router::new()
        .route("/join", get(script).post(join))
        .route("/join/boira", get(program))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES))
}

/// As an invitation keeps a token.
pub fn digest(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

/// The line for the PC.
pub fn line(controller: &Controller, token: &str) -> Result<String> {
    Ok(format!(
        "curl -fsSk --pinnedpubkey '{}' https://{}/join | sh -s {token}",
        controller.pki.pin()?,
        controller.options.agents
    ))
}

async fn script(State(controller): State<Arc<Controller>>) -> Response {
    match write_script(&controller).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/x-shellscript")], text).into_response(),
        Err(error) => failure(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")),
    }
}

async fn write_script(controller: &Controller) -> Result<String> {
    let sha256 = program_sha256().await?;
    let authority = controller.pki.authority()?;
    let now_s = boira_store::now().0 / 1000;
    let machine = match std::env::consts::OS {
        "linux" => format!("Linux-{}", std::env::consts::ARCH),
        other => other.to_owned(),
    };
    Ok(SCRIPT
        .replace("@CONTROLLER@", &controller.options.agents.to_string())
        .replace("@SHA256@", &sha256)
        .replace("@CLOUD@", controller.cluster.cloud.as_str())
        .replace("@MACHINE@", &machine)
        .replace("@NOW@", &now_s.to_string())
        .replace("@AUTHORITY@", authority.trim_end())
        .replace("@INSTALL@", INSTALL))
}

async fn program_sha256() -> Result<String> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let hash = tokio::task::spawn_blocking(|| {
        let mut file = std::fs::File::open(PROGRAM)?;
        let mut hasher = Sha256::new();
        std::io::copy(&mut file, &mut hasher)?;
        Ok::<_, std::io::Error>(hex::encode(hasher.finalize()))
    })
    .await
    .context("read this program")?
    .context("read this program")?;
    Ok(KNOWN.get_or_init(|| hash).clone())
}

async fn program() -> Response {
    let open = async {
        let file = tokio::fs::File::open(PROGRAM).await?;
        let length = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, length))
    };
    match open.await {
        Ok((file, length)) => {
            let stream = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10);
            let headers = [
                (header::CONTENT_LENGTH, length.to_string()),
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            ];
            (headers, Body::from_stream(stream)).into_response()
        }
        Err(error) => failure(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub token: String,
    /// The PC's own name.
    pub name: String,
    /// PKCS#10, in PEM.
    pub request: String,
    /// The host that it was until now.
    #[serde(default)]
    pub was: Option<HostId>,
    /// The cloud that it was in until now: an agent never obeys another than its first.
    #[serde(default)]
    pub cloud: Option<CloudId>,
}

async fn join(State(controller): State<Arc<Controller>>, Json(ask): Json<Ask>) -> Response {
    let request = match HostRequest::read(&ask.request) {
        Ok(request) => request,
        Err(error) => return failure(StatusCode::BAD_REQUEST, format!("{error:#}")),
    };
    if !host::is_name(&ask.name) {
        let why = "a host's name has 1 to 63 letters, digits, -, _ or ., and is no number";
        return failure(StatusCode::BAD_REQUEST, why);
    }
    if let Some(other) = ask.cloud.filter(|cloud| *cloud != controller.cluster.cloud) {
        let why = format!("this machine's home is of {other}; choose another with --home");
        return failure(StatusCode::CONFLICT, why);
    }
    let joining = Joining {
        digest: digest(&ask.token),
        key: request.key(),
        name: ask.name,
        was: ask.was,
    };
    let (joined_at, key) = (controller.clone(), request.key());
    let joined = through(async move {
        let decided = joined_at
            .cluster
            .decide(move |draft| {
                let before = draft.state.hosts.clone();
                let host = host::join(draft, &joining)?;
                let other = before.get(&host).map(|row| row.key.clone());
                Ok::<_, Refusal>((host, other.filter(|other| *other != joining.key)))
            })
            .await
            .map_err(|error| Problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
        let (host, other) =
            decided.map_err(|refusal| Problem(StatusCode::FORBIDDEN, refusal.to_string()))?;
        if let Some(other) = other {
            joined_at.links.cut(&host, &other);
        }
        joined_at.links.admit_key(&key);
        Ok(host)
    });
    let host = match joined.await {
        Ok(host) => host,
        Err(Problem(status, why)) => return failure(status, why),
    };
    tracing::info!("{host} has joined");
    let identity = || {
        let certificate = controller.pki.host_certificate(host.as_str(), &request)?;
        let api = controller.options.listen;
        anyhow::Ok(json!({
            "host": host,
            "cloud": controller.cluster.cloud,
            "certificate": certificate.pem,
            "renew_after": certificate.renew_after,
            "authority": controller.pki.authority()?,
            // Its guests can't be led to what listens on the controller's loopback only.
            "api": (!api.ip().is_loopback()).then_some(api),
        }))
    };
    match identity() {
        Ok(identity) => Json(identity).into_response(),
        Err(error) => failure(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")),
    }
}

fn failure(status: StatusCode, why: impl Into<String>) -> Response {
    (status, Json(json!({ "error": why.into() }))).into_response()
}
