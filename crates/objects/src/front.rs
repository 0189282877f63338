//! The HTTP side of the object store: what s3s leaves to its caller. Every answer has its request
//! id, every error the resource it is about, and `/services/Walrus` is cut off before the path is read.

use crate::access::{Gate, SKEW_MS};
use crate::form::FormName;
use crate::s3::Api;
use crate::{Settings, Store};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use s3s::Body;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::host::MultiDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::sync::Arc;

/// The largest file of a browser's form; s3s holds it in memory.
const FORM_BYTES: u64 = 64 << 20;

/// Serves requests.
#[derive(Clone)]
pub struct Front {
    service: S3Service,
}

impl Front {
    pub fn new(store: &Arc<Store>) -> Self {
        let mut builder = S3ServiceBuilder::new(Api(store.clone()));
        builder.set_auth(Gate(store.clone()));
        builder.set_access(Gate(store.clone()));
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config()))));
        if let Some(host) = host(&store.settings) {
            builder.set_host(host);
        }
        Self {
            service: builder.build(),
        }
    }

    /// Answers a request; `request_id` is 16 characters or more, for logs and support.
    pub async fn call(&self, request: Request<Body>, request_id: &str) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let resource = request.uri().path().to_owned();
        let attributes = asks_for(request.uri(), "attributes");
        let (request, form) = watched(request);
        let mut response = match self.service.call(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!("S3: {error:?}");
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        };
        let status = response.status();
        if form.is_some() && status.is_client_error() {
            response = judged_by_policy(response).await;
        }
        if status.is_client_error() || status.is_server_error() {
            response = completed(response, &resource, request_id, head).await;
        }
        if attributes && status == StatusCode::OK {
            response = rewritten(response, unquoted).await;
        }
        if let Some(form) = form
            && status.is_success()
        {
            response = rewritten(response, |text| form.filled_in(&text)).await;
        }
        if status == StatusCode::NOT_MODIFIED {
            *response.body_mut() = Body::empty();
            response.headers_mut().remove(CONTENT_TYPE);
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(request_id) {
            headers.insert("x-amz-request-id", value.clone());
            headers.insert("x-amz-id-2", value);
        }
        headers.insert("server", HeaderValue::from_static("AmazonS3"));
        response
    }
}

fn asks_for(uri: &Uri, what: &str) -> bool {
    let query = uri.query().unwrap_or_default();
    query
        .split('&')
        .any(|pair| pair.split('=').next() == Some(what))
}

/// Looks at a form as it comes in.
fn watched(mut request: Request<Body>) -> (Request<Body>, Option<FormName>) {
    let kind = request.headers().get(CONTENT_TYPE);
    let form = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/form-data"));
    if request.method() != Method::POST || !form {
        return (request, None);
    }
    let name = FormName::default();
    request.extensions_mut().insert(name.clone());
    let request = request.map(|body| name.watch(body));
    (request, Some(name))
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

/// A form that its policy doesn't allow: s3s says that the policy is invalid.
async fn judged_by_policy(response: Response<Body>) -> Response<Body> {
    const INVALID: &str = "<Code>InvalidPolicyDocument</Code><Message>Policy condition";
    let mut denied = false;
    let mut response = rewritten(response, |text| {
        denied = text.contains(INVALID);
        let allowed_by =
            "<Code>AccessDenied</Code><Message>Invalid according to Policy: Policy condition";
        text.replace(INVALID, allowed_by)
    })
    .await;
    if denied {
        *response.status_mut() = StatusCode::FORBIDDEN;
    }
    response
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
    config.post_object_max_file_size = FORM_BYTES;
    config.presigned_url_max_skew_time_secs = (SKEW_MS / 1000) as u32;
    config
}

fn host(settings: &Settings) -> Option<MultiDomain> {
    let domains = settings.domains.iter().map(String::as_str);
    (!settings.domains.is_empty())
        .then(|| MultiDomain::new(domains).ok())
        .flatten()
}

/// An error's body with all that AWS's have: Code, Message, Resource, RequestId, HostId.
async fn completed(
    response: Response<Body>,
    resource: &str,
    request_id: &str,
    head: bool,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    if head {
        // Its length would be waited for.
        parts.headers.remove(CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    let text = String::from_utf8_lossy(&body);
    let Some(start) = text.strip_suffix("</Error>") else {
        return Response::from_parts(parts, Body::from(body));
    };
    let (start, _) = start.split_once("<RequestId>").unwrap_or((start, ""));
    let message = match start.contains("<Message>") {
        true => String::new(),
        false => format!("<Message>{}</Message>", message_of(start)),
    };
    let full = format!(
        "{start}{message}<Resource>{}</Resource><RequestId>{request_id}</RequestId><HostId>{request_id}</HostId></Error>",
        escaped(resource)
    );
    parts
        .headers
        .insert(CONTENT_LENGTH, HeaderValue::from(full.len()));
    Response::from_parts(parts, Body::from(Bytes::from(full)))
}

/// What AWS says with codes for which s3s has no words.
fn message_of(error: &str) -> &'static str {
    let code = error
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    match code.map(|(code, _)| code) {
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

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
