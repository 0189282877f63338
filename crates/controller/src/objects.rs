//! S3 on the port that every service has: the object store with this cloud's access keys.

use crate::admin::{self, Caller, Problem, Reply};
use crate::controller::Controller;
use crate::listen;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use boira_model::Wall;
use boira_objects::{Cloud, Front, OpenError, Settings, Store};
use boira_store::Cluster;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Bytes that one answer of a check is about.
const CHECKED_BYTES: u64 = 64 << 20;

struct ThisCloud(Cluster);

impl Cloud for ThisCloud {
    fn find(&self, access_key: &str) -> Option<(String, String)> {
        let snapshot = self.0.snapshot();
        let key = snapshot.state.access_keys.get(access_key)?;
        Some((key.owner.to_string(), key.secret.clone()))
    }

    fn account_of(&self, canonical: &str) -> Option<String> {
        let snapshot = self.0.snapshot();
        let mut accounts = snapshot.state.accounts.values();
        let named = |id: &String| boira_objects::canonical(id) == canonical;
        accounts.find_map(|account| Some(account.id.to_string()).filter(named))
    }

    fn acls(&self, walrus: bool) -> bool {
        let snapshot = self.0.snapshot();
        let settings = &snapshot.state.settings;
        match walrus {
            true => settings.s3_walrus_acls,
            false => settings.s3_acls,
        }
    }

    fn encrypts(&self) -> bool {
        self.0.snapshot().state.settings.s3_encryption
    }

    fn domain(&self) -> Option<String> {
        self.0.snapshot().state.settings.s3_domain.clone()
    }
}

/// Opens the object store of a home.
pub fn open(home: &Path, cluster: &Cluster, settings: Settings) -> Result<Front, OpenError> {
    let cloud = Arc::new(ThisCloud(cluster.clone()));
    let clock = Arc::new(|| boira_store::now().0);
    let store = Store::open(&home.join("objects"), settings, cloud, clock)?;
    Ok(Front::new(&store))
}

fn front(controller: &Controller) -> &Front {
    let opened = controller.objects.get();
    opened.expect("it is opened before anything is served")
}

/// Answers a request of S3.
pub async fn serve(controller: &Controller, mut request: Request) -> Response {
    let front = front(controller);
    if let Some(client) = request.extensions().get::<listen::Client>().copied() {
        request.extensions_mut().insert(boira_objects::Client {
            address: client.address,
            tls: client.tls,
        });
    }
    let request_id = format!("{:016X}", rand::random::<u64>());
    let request = request.map(s3s::Body::http_body_unsync);
    front.call(request, &request_id).await.map(Body::new)
}

fn unreadable(error: impl std::fmt::Display) -> Problem {
    Problem(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("the object store: {error}"),
    )
}

/// Whether an account, by its name, has no bucket: nobody could get at one when it is gone.
pub async fn nothing_left(controller: &Controller, name: &str) -> Result<(), Problem> {
    let id = {
        let snapshot = controller.cluster.snapshot();
        let mut accounts = snapshot.state.accounts.values();
        accounts
            .find(|account| account.name == name)
            .map(|account| account.id.to_string())
    };
    let Some(id) = id else {
        // What isn't there is refused in the words for that.
        return Ok(());
    };
    let buckets = front(controller)
        .store()
        .usage(Some(id))
        .await
        .map_err(unreadable)?;
    let names: Vec<String> = buckets.into_iter().map(|bucket| bucket.name).collect();
    match names.is_empty() {
        true => Ok(()),
        false => Err(Problem(
            StatusCode::CONFLICT,
            format!(
                "account {name} still has buckets: {}; empty and delete them first, with its keys",
                names.join(", ")
            ),
        )),
    }
}

/// `GET /buckets` of Boira's own API.
pub async fn list(
    State(controller): State<Arc<Controller>>,
    Extension(caller): Extension<Caller>,
) -> Reply {
    let buckets = front(&controller).store().usage(caller.only()).await;
    let buckets: Vec<Value> = buckets
        .map_err(unreadable)?
        .into_iter()
        .map(|bucket| {
            json!({
                "name": bucket.name,
                "account": bucket.owner,
                "created": admin::time(Wall(bucket.created_ms)),
                "versioning": bucket.versioning,
                "objects": bucket.objects,
                "bytes": bucket.bytes,
                "older_versions": bucket.older,
                "older_bytes": bucket.older_bytes,
                "upload_bytes": bucket.upload_bytes,
            })
        })
        .collect();
    Ok(Json(json!({ "buckets": buckets })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct From {
    #[serde(default)]
    after: i64,
}

/// `POST /objects/check`: a stretch of it, so that who waits sees how far it is.
pub async fn check(State(controller): State<Arc<Controller>>, Query(from): Query<From>) -> Reply {
    let checked = front(&controller)
        .store()
        .check(from.after, CHECKED_BYTES, None)
        .await;
    let checked = checked.map_err(unreadable)?;
    let damaged = checked.damaged.into_iter().map(|damage| {
        json!({ "content": format!("{:016x}", damage.content), "belongs_to": damage.belongs_to })
    });
    Ok(Json(json!({
        "next": checked.next,
        "contents": checked.contents,
        "bytes": checked.bytes,
        "total_bytes": checked.total_bytes,
        "damaged": damaged.collect::<Vec<_>>(),
    })))
}
