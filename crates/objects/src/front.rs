//! The HTTP side of the object store: what s3s leaves to its caller. Every answer has its request
//! id, every error the resource it is about, and `/services/Walrus` is cut off before the path is read.

use crate::access::{Gate, SKEW_MS};
use crate::s3::Api;
use crate::{Settings, Store};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
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
        if status.is_client_error() || status.is_server_error() {
            response = completed(response, &resource, request_id, head).await;
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
