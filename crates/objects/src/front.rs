//! The HTTP side of the object store: what s3s leaves to its caller. Every answer has its request
//! id, every error the resource it is about.

use crate::Store;
use crate::access::{Cloud, Gate};
use crate::beyond;
use crate::chunked;
use crate::conditions;
use crate::copying;
use crate::cors;
use crate::details::Asked;
use crate::documents::{self, Document};
use crate::error::{custom, incomplete, no_chunks, not_allowed, other_hash};
use crate::form;
use crate::metrics::{Done, Operation};
use crate::ranges;
use crate::resigned;
use crate::s3::Api;
use crate::signed::{self, Query};
use crate::subresources;
use crate::walrus;
use boira_api::xml;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
};
use http_body_util::BodyExt;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto::StreamingBlob;
use s3s::host::{S3Host, VirtualHost};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Error, S3Result, s3_error};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");
const FORM: &[u8] = b"multipart/form-data";
/// Dates in signatures are judged in `signed`.
const SKEW_S: u32 = 8 * 24 * 3600;

/// What of an answer s3s's type has no member for: headers, and another status than 200.
#[derive(Clone, Default)]
pub struct Besides(Arc<Mutex<(HeaderMap, Option<StatusCode>)>>);

impl Besides {
    /// Says it of the request's answer.
    pub fn say(extensions: &Extensions, say: impl FnOnce(&mut HeaderMap, &mut Option<StatusCode>)) {
        if let Some(besides) = extensions.get::<Self>() {
            let (headers, status) = &mut *besides.lock();
            say(headers, status);
        }
    }

    /// Adds what was said to an answer that succeeded.
    pub fn add_to(&self, response: &mut Response<Body>) {
        let (headers, status) = std::mem::take(&mut *self.lock());
        response.headers_mut().extend(headers);
        if response.status() == StatusCode::OK
            && let Some(status) = status
        {
            *response.status_mut() = status;
        }
    }

    fn lock(&self) -> MutexGuard<'_, (HeaderMap, Option<StatusCode>)> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// Serves requests.
#[derive(Clone)]
pub struct Front {
    service: S3Service,
    store: Arc<Store>,
}

/// What a request is sent to, by its host's name or by its path.
#[derive(Default)]
pub struct Target {
    pub bucket: Option<String>,
    /// As the address spells it.
    pub key: String,
}

impl Target {
    pub fn has_key(&self) -> bool {
        !self.key.is_empty()
    }
}

impl Front {
    pub fn new(store: &Arc<Store>) -> Self {
        let mut builder = S3ServiceBuilder::new(Api(store.clone()));
        builder.set_auth(Gate(store.clone()));
        builder.set_access(Gate(store.clone()));
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config()))));
        builder.set_host(Hosts(store.clone()));
        Self {
            service: builder.build(),
            store: store.clone(),
        }
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Answers a request; `request_id` is 16 characters or more, for logs and support.
    pub async fn call(&self, mut request: Request<Body>, request_id: &str) -> Response<Body> {
        let begun = Instant::now();
        let operation = Operation::default();
        request.extensions_mut().insert(operation.clone());
        let received = length(request.headers());
        let head = request.method() == Method::HEAD;
        let nowhere = Target::default();
        let asked = Asked::of(&request, &nowhere);
        let (bucket, mut response) = match self.routed(request) {
            Ok((request, target)) => {
                let response = self.served(request, &target, request_id).await;
                (target.bucket, response)
            }
            Err(why) => (None, refused(why, &asked, request_id).await),
        };
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(request_id) {
            headers.insert("x-amz-request-id", value.clone());
            headers.insert("x-amz-id-2", value);
        }
        headers.insert("server", HeaderValue::from_static("AmazonS3"));
        self.store.metrics.count(Done {
            operation,
            bucket,
            status: response.status(),
            took: begun.elapsed(),
            received,
            sent: if head { 0 } else { length(response.headers()) },
        });
        response
    }

    /// The request as s3s reads it, and what it is sent to.
    fn routed(&self, request: Request<Body>) -> S3Result<(Request<Body>, Target)> {
        let cloud = &*self.store.cloud;
        let by_host = host(&request).and_then(|host| self.store.bucket_of_host(host));
        if let Some(bucket) = by_host {
            // Its keys may begin like any path.
            let path = request.uri().path();
            let target = Target {
                key: path.strip_prefix('/').unwrap_or(path).to_owned(),
                bucket: Some(bucket),
            };
            return Ok((understood(cloud, request)?, target));
        }
        let request = walrus::stripped(cloud, request)?;
        let request = slashed(cloud, understood(cloud, request)?);
        let path = request.uri().path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let target = Target {
            bucket: (!bucket.is_empty()).then(|| bucket.to_owned()),
            key: key.to_owned(),
        };
        Ok((request, target))
    }

    async fn served(
        &self,
        request: Request<Body>,
        target: &Target,
        request_id: &str,
    ) -> Response<Body> {
        let origin = self.across_origins(&request, target).await;
        let mut response = match *request.method() {
            Method::OPTIONS => {
                let asked = Asked::of(&request, target);
                preflighted(origin.as_ref(), &asked, request_id).await
            }
            _ => self.answer(request, target, request_id).await,
        };
        if let Some(Ok(allowed)) = origin {
            response.headers_mut().extend(allowed);
        }
        response
    }

    /// What a bucket says to a request from a page of another origin: headers, or why not. `None` for
    /// requests that come from no page.
    async fn across_origins(
        &self,
        request: &Request<Body>,
        target: &Target,
    ) -> Option<Result<HeaderMap, &'static str>> {
        let text = |name: &str| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let origin = text("origin")?;
        let bucket = target.bucket.clone()?;
        let asked = cors::Asked {
            origin,
            method: match request.method() {
                &Method::OPTIONS => text(ASKED_METHOD)?,
                other => other.as_str(),
            },
            headers: match request.method() {
                &Method::OPTIONS => text("access-control-request-headers")
                    .map(|names| {
                        names
                            .split(',')
                            .map(str::trim)
                            .filter(|it| !it.is_empty())
                            .collect()
                    })
                    .unwrap_or_default(),
                _ => Vec::new(),
            },
        };
        let rules = self.store.cors_rules(&bucket);
        if rules.is_empty() {
            return Some(Err("CORSResponse: CORS is not enabled for this bucket."));
        }
        let none = "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.";
        Some(cors::allowed(&rules, &asked).ok_or(none))
    }

    async fn answer(
        &self,
        request: Request<Body>,
        target: &Target,
        request_id: &str,
    ) -> Response<Body> {
        let asked = Asked::of(&request, target);
        let attributes = asks_for(asked.uri(), "attributes");
        let mut response = match self.answered(request, target).await {
            Ok(response) => response,
            Err(why) => why.to_http_response().unwrap_or_default(),
        };
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            response = completed(response, &asked, request_id).await;
        }
        if attributes && status == StatusCode::OK {
            response = rewritten(response, unquoted).await;
        }
        // What an object holds is a stranger's text; these are ours, and name keys.
        let names_keys = match *asked.method() {
            Method::GET => !target.has_key() || asks_for(asked.uri(), "uploadId"),
            ref method => *method == Method::POST,
        };
        if names_keys && status == StatusCode::OK {
            response = rewritten(response, spelt_returns).await;
        }
        // Whatever somebody may do, he may know where a bucket is (HeadBucket).
        let hidden = status == StatusCode::FORBIDDEN && asked.method() == Method::HEAD;
        if hidden && !target.has_key() {
            let region = HeaderValue::from_str(&self.store.settings.region);
            let headers = response.headers_mut();
            headers.extend(region.ok().map(|region| (BUCKET_REGION, region)));
        }
        if status == StatusCode::NOT_MODIFIED {
            response.headers_mut().remove(CONTENT_TYPE);
            response.headers_mut().remove(CONTENT_LENGTH);
            *response.body_mut() = unmeasured();
        }
        response
    }

    async fn answered(&self, request: Request<Body>, target: &Target) -> S3Result<Response<Body>> {
        let query = acceptable(&request, target)?;
        if let Some(bucket) = form_for(&request, target)? {
            if let Some(operation) = request.extensions().get::<Operation>() {
                operation.set("PostObject");
            }
            return form::post(&self.store, request, bucket).await;
        }
        let request = chunked::bounded(lifted(said_empty(request, target), &query));
        let mut request = documents::judged(request, target.has_key(), &query)?;
        let document = request.extensions().get::<Document>().cloned();
        let besides = Besides::default();
        request.extensions_mut().insert(besides.clone());
        let hash = request.headers().get("x-amz-content-sha256").cloned();
        let mut response = self.service.call(request).await.map_err(|error| {
            tracing::error!("S3: {error:?}");
            s3_error!(InternalError)
        })?;
        if let Some(wrong) = document.and_then(|document| document.wrong()) {
            return Err(wrong);
        }
        if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
            response = told_apart(response, hash.as_ref()).await?;
        }
        besides.add_to(&mut response);
        Ok(response)
    }
}

/// The bucket that a browser's form is sent to.
fn form_for(request: &Request<Body>, target: &Target) -> S3Result<Option<String>> {
    if request.method() != Method::POST {
        return Ok(None);
    }
    let kind = request.headers().get(CONTENT_TYPE);
    let start = kind.and_then(|kind| kind.as_bytes().get(..FORM.len()));
    let is_form = start.is_some_and(|start| start.eq_ignore_ascii_case(FORM));
    let plain = request.uri().query().is_none() && !target.has_key();
    match (is_form, target.bucket.clone().filter(|_| plain)) {
        (true, Some(bucket)) => Ok(Some(bucket)),
        (false, Some(_)) => Err(form::not_a_form()),
        // s3s would hold it in memory.
        (true, None) => Err(not_allowed()),
        (false, None) => Ok(None),
    }
}

/// What s3s would take, or refuse in words of its own.
fn acceptable(request: &Request<Body>, target: &Target) -> S3Result<Query> {
    let of_nothing = target.bucket.is_none();
    if of_nothing && [Method::PUT, Method::DELETE].contains(request.method()) {
        return Err(not_allowed());
    }
    let query = Query::of(request.uri().query().unwrap_or_default())?;
    if !of_nothing {
        subresources::check(request.method(), target.has_key(), &query)?;
    }
    signed::check_form(request.headers(), &query)?;
    signed::check_headers(request.headers(), &query)?;
    signed::check_hash(request.headers())?;
    Ok(query)
}

/// The name that a request came to: of HTTP/2 it is in the address.
fn host(request: &Request<Body>) -> Option<&str> {
    let header = request
        .headers()
        .get("host")
        .and_then(|host| host.to_str().ok());
    header.or_else(|| request.uri().authority().map(|it| it.as_str()))
}

/// What is wrong with a short body that is read as a whole, s3s calls an internal error, and says nothing
/// more; ours have a message.
async fn told_apart(
    response: Response<Body>,
    hash: Option<&HeaderValue>,
) -> S3Result<Response<Body>> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    let body = body.unwrap_or_default();
    if String::from_utf8_lossy(&body).contains("<Message>") {
        return Ok(Response::from_parts(parts, Body::from(body)));
    }
    let hash = hash.map(HeaderValue::as_bytes).unwrap_or_default();
    Err(match hash {
        _ if hash.starts_with(b"STREAMING-") => no_chunks(),
        _ if hash.len() == 64 => other_hash(),
        _ => incomplete(),
    })
}

const ASKED_METHOD: &str = "access-control-request-method";

/// What a browser's question lacks.
fn incomplete_preflight(asked: &Asked<'_>) -> String {
    match (asked.header("origin"), asked.header(ASKED_METHOD)) {
        (None, _) => "Insufficient information. Origin request header needed.".to_owned(),
        (Some(_), method) => {
            format!(
                "Invalid Access-Control-Request-Method: {}",
                method.unwrap_or("null")
            )
        }
    }
}

/// A browser's question before its request.
async fn preflighted(
    origin: Option<&Result<HeaderMap, &'static str>>,
    asked: &Asked<'_>,
    request_id: &str,
) -> Response<Body> {
    let why = match origin {
        Some(Ok(_)) => return Response::new(Body::empty()),
        Some(Err(_)) if !cors::is_method(asked.header(ASKED_METHOD).unwrap_or_default()) => custom(
            "BadRequest",
            StatusCode::BAD_REQUEST,
            incomplete_preflight(asked),
        ),
        Some(Err(why)) => custom("AccessForbidden", StatusCode::FORBIDDEN, *why),
        None => custom(
            "BadRequest",
            StatusCode::BAD_REQUEST,
            incomplete_preflight(asked),
        ),
    };
    refused(why, asked, request_id).await
}

/// The request with headers as s3s takes them, where S3 takes more.
fn understood(cloud: &dyn Cloud, mut request: Request<Body>) -> S3Result<Request<Body>> {
    let query = Query::of(request.uri().query().unwrap_or_default())?;
    signed::take_headers_of_version_2(&query, request.headers_mut());
    let mut stand_ins = beyond::stand_ins(&mut request);
    stand_ins.extend(ranges::stand_in(&mut request));
    stand_ins.extend(conditions::stand_ins(&request));
    stand_ins.extend(copying::stand_in(&request));
    resigned::with_headers(cloud, request, stand_ins)
}

/// No body, of which nobody says how long it is: where an answer stands for another one, that would be
/// taken for the other's length (RFC 9110, 8.6).
fn unmeasured() -> Body {
    let nothing = futures_util::stream::empty::<Result<Bytes, std::io::Error>>();
    StreamingBlob::wrap(nothing).into()
}

/// A bucket's path as it was signed by version 2: with a slash, or as it came.
fn slashed(cloud: &dyn Cloud, mut request: Request<Body>) -> Request<Body> {
    let Some(uri) = signed::with_slash(request.uri(), request.headers()) else {
        return request;
    };
    let as_it_came = resigned::known(cloud, &request)
        .is_some_and(|(signed, secret)| signed.fits(&request, request.uri().path(), &secret));
    if !as_it_came {
        *request.uri_mut() = uri;
    }
    request
}

/// A request that has no body and doesn't say so, as curl sends it, is as good as one that does. s3s sees that by
/// itself where no document is looked at on its way (`documents`); and who writes an object has to say how
/// long it is.
fn said_empty(mut request: Request<Body>, target: &Target) -> Request<Body> {
    let headers = request.headers();
    let silent = !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING);
    let writes = target.has_key() && !asks_for(request.uri(), "acl");
    if silent && !writes && http_body::Body::is_end_stream(request.body()) {
        let none = HeaderValue::from_static("0");
        request.headers_mut().insert(CONTENT_LENGTH, none);
    }
    request
}

fn length(headers: &HeaderMap) -> u64 {
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok());
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

fn asks_for(uri: &Uri, what: &str) -> bool {
    let query = uri.query().unwrap_or_default();
    query
        .split('&')
        .any(|pair| pair.split('=').next() == Some(what))
}

/// Options in a presigned URL count as headers (AWS, "Authenticating Requests: Using Query Parameters");
/// s3s looks for them among the headers only. Those of a checksum were computed without the body.
fn lifted(mut request: Request<Body>, query: &Query) -> Request<Body> {
    if let Some(date) = signed::date_header(request.headers()) {
        request.headers_mut().insert("x-amz-date", date);
    }
    if !query.has("X-Amz-Signature") {
        return request;
    }
    for (name, value) in query.pairs() {
        let option = name.starts_with("x-amz-")
            && !name.contains("checksum")
            && name != "x-amz-content-sha256";
        let header = option
            .then(|| HeaderName::from_bytes(name.as_bytes()).ok())
            .flatten();
        let value = HeaderValue::from_str(value);
        if let (Some(header), Ok(value)) = (header, value) {
            request.headers_mut().entry(header).or_insert(value);
        }
    }
    request
}

/// An answer with another text; it is one of those that are short.
async fn rewritten(
    response: Response<Body>,
    change: impl FnOnce(String) -> String,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        return Response::from_parts(parts, Body::empty());
    };
    let text = change(String::from_utf8_lossy(&body.to_bytes()).into_owned());
    if parts.headers.contains_key(CONTENT_LENGTH) {
        parts
            .headers
            .insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    }
    Response::from_parts(parts, Body::from(Bytes::from(text)))
}

/// A carriage return of a key, which readers of XML would take for the end of a line (AWS, "XML related
/// object key constraints").
fn spelt_returns(text: String) -> String {
    match text.contains('\r') {
        true => text.replace('\r', "&#13;"),
        false => text,
    }
}

/// GetObjectAttributes is the one answer in which AWS's ETag has no quotes.
fn unquoted(text: String) -> String {
    let unquoted = text.split_once("<ETag>").and_then(|(before, rest)| {
        let (tag, after) = rest.split_once("</ETag>")?;
        let tag = tag.replace("&quot;", "").replace('"', "");
        Some(format!("{before}<ETag>{tag}</ETag>{after}"))
    });
    unquoted.unwrap_or(text)
}

fn config() -> S3Config {
    let mut config = S3Config::default();
    // Forms are read here.
    config.post_object_max_file_size = 0;
    config.form_max_field_size = 0;
    config.form_max_fields_size = 0;
    config.presigned_url_max_skew_time_secs = SKEW_S;
    config
}

/// Buckets by the names of hosts, as the cloud's setting has them now.
struct Hosts(Arc<Store>);

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let found = VirtualHost::new(host);
        Ok(match self.0.bucket_of_host(host) {
            Some(bucket) => found.with_bucket(bucket),
            None => found,
        })
    }
}

impl Store {
    /// `bucket.DOMAIN[:PORT]`.
    fn bucket_of_host(&self, host: &str) -> Option<String> {
        let domain = self.cloud.rules().domain?;
        let host = host
            .rsplit_once(':')
            .map_or(host, |(host, _)| host)
            .to_ascii_lowercase();
        let bucket = host
            .strip_suffix(&domain.to_ascii_lowercase())?
            .strip_suffix('.')?;
        (!bucket.is_empty()).then(|| bucket.to_owned())
    }
}

async fn refused(why: S3Error, asked: &Asked<'_>, request_id: &str) -> Response<Body> {
    let response = why.to_http_response().unwrap_or_default();
    completed(response, asked, request_id).await
}

/// An error's body with all that AWS's have: Code, Message, what it is about, RequestId, HostId.
async fn completed(
    response: Response<Body>,
    asked: &Asked<'_>,
    request_id: &str,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let text = String::from_utf8_lossy(&body);
    let about = asked.elements(code_of(&text).unwrap_or_default(), &mut parts.headers);
    if *asked.method() == Method::HEAD {
        // Its length would be waited for.
        parts.headers.remove(CONTENT_LENGTH);
        return Response::from_parts(parts, unmeasured());
    }
    let Some(start) = text.strip_suffix("</Error>") else {
        return Response::from_parts(parts, Body::from(body.clone()));
    };
    let (start, _) = start.split_once("<RequestId>").unwrap_or((start, ""));
    let message = match start.contains("<Message>") {
        true => String::new(),
        false => format!("<Message>{}</Message>", message_of(start)),
    };
    let full = format!(
        "{start}{message}{about}<Resource>{}</Resource><RequestId>{request_id}</RequestId><HostId>{request_id}</HostId></Error>",
        escaped(asked.uri().path())
    );
    parts
        .headers
        .insert(CONTENT_LENGTH, HeaderValue::from(full.len()));
    // An error with headers of its own has lost it in s3s.
    let xml = HeaderValue::from_static("application/xml");
    parts.headers.insert(CONTENT_TYPE, xml);
    Response::from_parts(parts, Body::from(Bytes::from(full)))
}

fn code_of(error: &str) -> Option<&str> {
    let (_, rest) = error.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code)
}

/// What AWS says with codes for which s3s has no words.
fn message_of(error: &str) -> &'static str {
    match code_of(error) {
        Some("AccessDenied") => "Access Denied",
        Some("InvalidBucketName") => "The specified bucket is not valid.",
        Some("InvalidURI") => "Couldn't parse the specified URI.",
        Some("KeyTooLongError") => "Your key is too long",
        Some("MalformedXML") => {
            "The XML you provided was not well-formed or did not validate against our published schema"
        }
        Some("MethodNotAllowed") => "The specified method is not allowed against this resource.",
        Some("MissingContentLength") => "You must provide the Content-Length HTTP header.",
        Some("NotImplemented") => {
            "A header or query you provided implies functionality that is not implemented."
        }
        Some("RequestTimeTooSkewed") => {
            "The difference between the request time and the current time is too large."
        }
        Some("SignatureDoesNotMatch") => {
            "The request signature we calculated does not match the signature you provided. Check your key and signing method."
        }
        _ => "The request is not valid.",
    }
}

pub fn escaped(text: &str) -> String {
    let mut out = Vec::new();
    xml::escape(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}
