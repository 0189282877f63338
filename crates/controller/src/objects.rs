//! S3 on the port that every service has: the object store with this cloud's access keys.

use crate::admin::{self, Caller, Problem, Reply};
use crate::controller::Controller;
use crate::listen;
use axum::body::Body;
use axum::extract::{Path as PathOf, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::{Extension, Json};
use boira_model::Wall;
use boira_objects::{Cloud, Front, OpenError, Quota, Rules, Settings, Store};
use boira_store::Cluster;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
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

    fn rules(&self) -> Rules {
        let snapshot = self.0.snapshot();
        let settings = &snapshot.state.settings;
        Rules {
            domain: settings.s3_domain.clone(),
            acls: settings.s3_acls,
            walrus_acls: settings.s3_walrus_acls,
            encryption: settings.s3_encryption,
            requests_per_second: settings.s3_requests_per_second,
        }
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

/// Whether an account, by its name, id or number, has no bucket: nobody could get at one when it is gone.
pub async fn nothing_left(controller: &Controller, name: &str) -> Result<(), Problem> {
    let Ok(id) = admin::account_named(controller, name) else {
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
                "objects": bucket.held.objects,
                "bytes": bucket.held.bytes,
                "older_versions": bucket.held.older,
                "older_bytes": bucket.held.older_bytes,
                "upload_bytes": bucket.held.upload_bytes,
                "quota": bucket.quota,
            })
        })
        .collect();
    Ok(Json(json!({ "buckets": buckets })))
}

/// `PUT /buckets/{name}/quota`: both bounds are set anew; none lifts them.
pub async fn bound_bucket(
    State(controller): State<Arc<Controller>>,
    PathOf(name): PathOf<String>,
    Json(quota): Json<Quota>,
) -> Reply {
    let store = front(&controller).store();
    match store.bound_bucket(name.clone(), quota).await {
        Ok(()) => Ok(Json(json!({ "bucket": name, "quota": quota }))),
        Err(error) if error.code().as_str() == "NoSuchBucket" => Err(Problem(
            StatusCode::NOT_FOUND,
            format!("there is no bucket {name}; `boira bucket ls` lists them"),
        )),
        Err(error) => Err(unreadable(error)),
    }
}

/// `PUT /accounts/{name}/quota`: of all its buckets together.
pub async fn bound_account(
    State(controller): State<Arc<Controller>>,
    PathOf(name): PathOf<String>,
    Json(quota): Json<Quota>,
) -> Reply {
    let account = admin::account_named(&controller, &name)?;
    let store = front(&controller).store();
    let set = store.bound_account(account.clone(), quota).await;
    set.map_err(unreadable)?;
    Ok(Json(json!({ "account": account, "quota": quota })))
}

/// What each account's buckets may hold together, where they are bounded.
pub async fn quotas(controller: &Controller) -> Result<BTreeMap<String, Quota>, Problem> {
    let quotas = front(controller).store().quotas_of_accounts().await;
    quotas.map_err(unreadable)
}

/// What is wrong with the object store.
pub fn problems(controller: &Controller) -> Vec<String> {
    front(controller).store().problems()
}

/// `GET /metrics`, for Prometheus.
pub async fn metrics(State(controller): State<Arc<Controller>>) -> Result<Response, Problem> {
    let text = front(&controller).store().metrics().await;
    let mut response = Response::new(Body::from(text.map_err(unreadable)?));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    Ok(response)
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
