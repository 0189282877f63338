//! Requests for services that this cloud doesn't serve, refused in the protocol of who asked, so that
//! its client shows the reason and not a fault of its parser.

use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use boira_api::respond::CONTENT_TYPE;
use boira_api::route::Destination;
use boira_api::shown;
use boira_api::xml::{DECLARATION, escape};
use serde_json::json;

const CODE: &str = "UnsupportedOperation";
/// AWS's services that speak REST and XML; the others that speak REST use JSON.
const REST_XML: [&str; 3] = ["cloudfront", "route53", "s3control"];

/// What S3's directory buckets are signed for.
const DIRECTORY_BUCKETS: &str = "s3express";

/// The refusal for a destination that has no table of operations here.
pub fn refuse(destination: &Destination, parts: &Parts, request_id: &str) -> Response {
    match destination {
        Destination::S3 => unserved("s3", &parts.headers, request_id),
        Destination::Boira => {
            let error = format!("Boira's API has no {}", parts.uri.path());
            (StatusCode::NOT_FOUND, axum::Json(json!({ "error": error }))).into_response()
        }
        Destination::Aws(service) => unserved(service.name, &parts.headers, request_id),
        Destination::Unserved(service) => unserved(service, &parts.headers, request_id),
    }
}

fn unserved(service: &str, headers: &HeaderMap, request_id: &str) -> Response {
    let service = shown(service);
    let message = format!("The service {service} is not served by this cloud.");
    let has = |name: &str, start: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.starts_with(start))
    };
    let (kind, body) = if has("smithy-protocol", "rpc-v2-cbor") {
        ("application/cbor", cbor(&message))
    } else if service == DIRECTORY_BUCKETS {
        (CONTENT_TYPE, s3(&message, request_id))
    } else if has("content-type", "application/x-www-form-urlencoded")
        || REST_XML.contains(&service)
    {
        (CONTENT_TYPE, query(&message, request_id))
    } else {
        let body = json!({ "__type": CODE, "message": message });
        ("application/json", body.to_string().into_bytes())
    };
    let mut response = (
        StatusCode::BAD_REQUEST,
        [("content-type", kind), ("x-amzn-errortype", CODE)],
        body,
    )
        .into_response();
    if let Some(protocol) = headers.get("smithy-protocol") {
        let protocol = protocol.clone();
        response.headers_mut().insert("smithy-protocol", protocol);
    }
    response
}

/// As S3's clients read it.
fn s3(message: &str, request_id: &str) -> Vec<u8> {
    xml(&[
        ("<Error><Code>", CODE),
        ("</Code><Message>", message),
        ("</Message><RequestId>", request_id),
        ("</RequestId></Error>", ""),
    ])
}

fn query(message: &str, request_id: &str) -> Vec<u8> {
    xml(&[
        ("<ErrorResponse><Error><Type>Sender</Type><Code>", CODE),
        ("</Code><Message>", message),
        ("</Message></Error><RequestId>", request_id),
        ("</RequestId></ErrorResponse>", ""),
    ])
}

/// Markup, each followed by text that is escaped.
fn xml(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut out = DECLARATION.to_vec();
    for (markup, text) in parts {
        out.extend_from_slice(markup.as_bytes());
        escape(&mut out, text);
    }
    out
}

/// A map of two texts (RFC 8949).
fn cbor(message: &str) -> Vec<u8> {
    let mut out = vec![0xa2];
    for text in ["__type", CODE, "message", message] {
        // Text, its length in two bytes: everything here is far below 64 KiB.
        out.push(0x79);
        out.extend((text.len() as u16).to_be_bytes());
        out.extend(text.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use http_body_util::BodyExt;

    async fn refused(destination: &Destination, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = Request::builder().uri("/bucket/a&b");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let response = refuse(destination, &parts, "r-1");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("in memory");
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        (status, body)
    }

    #[tokio::test]
    async fn each_protocol_is_refused_in_its_own_words() {
        let form = (
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        );
        let iam = Destination::Unserved("iam".into());
        let (status, body) = refused(&iam, &[form]).await;
        assert_eq!(status, 400);
        assert!(
            body.ends_with(
                "<ErrorResponse><Error><Type>Sender</Type><Code>UnsupportedOperation</Code>\
                 <Message>The service iam is not served by this cloud.</Message></Error>\
                 <RequestId>r-1</RequestId></ErrorResponse>"
            ),
            "{body}"
        );
        let (_, body) = refused(&Destination::Unserved("s3express".into()), &[]).await;
        assert!(
            body.ends_with(
                "<Error><Code>UnsupportedOperation</Code>\
                 <Message>The service s3express is not served by this cloud.</Message>\
                 <RequestId>r-1</RequestId></Error>"
            ),
            "{body}"
        );
        let json = ("content-type", "application/x-amz-json-1.1");
        let (_, body) = refused(&Destination::Unserved("logs".into()), &[json]).await;
        assert_eq!(
            body,
            r#"{"__type":"UnsupportedOperation","message":"The service logs is not served by this cloud."}"#
        );
        let cbor = ("smithy-protocol", "rpc-v2-cbor");
        let (_, body) = refused(&Destination::Unserved("monitoring".into()), &[cbor]).await;
        assert!(body.contains("The service monitoring is not served by this cloud."));
        let (status, body) = refused(&Destination::Boira, &[]).await;
        assert_eq!((status, body.contains("/bucket/a&b")), (404, true));
    }
}
