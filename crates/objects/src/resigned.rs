//! Requests that are changed before s3s reads them: a signature over what came is verified here, and
//! replaced by one over what s3s gets.

use crate::access::Cloud;
use crate::error::denied;
use crate::signed::{field, mac_of_version_2};
use crate::subresources;
use boira_api::sigv4::{self, Scope};
use boira_api::{form, time};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use s3s::{Body, S3Result, s3_error};
use std::borrow::Cow;
use std::collections::BTreeMap;
use subtle::ConstantTimeEq;

/// As signatures spell it: what RFC 3986 calls unreserved stays.
fn spelt(text: impl AsRef<[u8]>, keep: &[u8]) -> String {
    let mut out = String::new();
    form::percent_encode(&mut out, text.as_ref(), keep);
    out
}

/// A signature as a request has it.
pub struct Signed {
    access_key: String,
    signature: String,
    in_query: bool,
    /// Whether the body's chunks are signed, too, each after the one before.
    pub chunks: bool,
    pub kind: Kind,
}

pub enum Kind {
    V2,
    V4 {
        scope: Scope,
        headers: Vec<String>,
        time_ms: i64,
    },
}

fn pairs<B>(request: &Request<B>) -> BTreeMap<String, String> {
    let query = request.uri().query().unwrap_or_default();
    // Only here is a plus sign no space.
    let query = query.replace('+', "%2B");
    let pairs = form::parse(query.as_bytes()).unwrap_or_default();
    let owned = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into(), value.into());
    pairs.into_iter().map(owned).collect()
}

/// The signature of a request whose key the cloud knows, and that key's secret.
pub fn known(cloud: &dyn Cloud, request: &Request<Body>) -> Option<(Signed, String)> {
    let signed = Signed::of(request)?;
    let (_, secret) = cloud.find(&signed.access_key)?;
    Some((signed, secret))
}

/// The request with some headers replaced. A signature that covers one of them is renewed.
pub fn with_headers(
    cloud: &dyn Cloud,
    mut request: Request<Body>,
    changes: Vec<(HeaderName, HeaderValue)>,
) -> S3Result<Request<Body>> {
    if changes.is_empty() {
        return Ok(request);
    }
    let path = request.uri().path().to_owned();
    let covers = |(signed, secret): &(Signed, String)| {
        let covered = |(name, _): &(HeaderName, HeaderValue)| signed.covers(name.as_str());
        changes.iter().any(covered) && signed.fits(&request, &path, secret)
    };
    let signed = known(cloud, &request).filter(covers);
    for (name, value) in changes {
        request.headers_mut().insert(name, value);
    }
    if let Some((signed, secret)) = signed {
        signed.renew(&mut request, &path, &secret)?;
    }
    Ok(request)
}

/// What a request was signed with and what would have been signed here, as AWS tells it to who signs
/// otherwise. Of version 2, where the text depends on the host's name, only the former.
pub fn explained<B>(request: &Request<B>) -> Vec<(&'static str, String)> {
    let Some(signed) = Signed::of(request) else {
        return Vec::new();
    };
    let mut told = vec![
        ("AWSAccessKeyId", signed.access_key.clone()),
        ("SignatureProvided", signed.signature.clone()),
    ];
    if let Kind::V4 {
        scope,
        headers,
        time_ms,
    } = &signed.kind
    {
        let canonical = signed.canonical_v4(request, request.uri().path(), headers);
        let text = sigv4::string_to_sign(scope, *time_ms, canonical.as_bytes());
        told.push(("StringToSignBytes", bytes(&text)));
        told.push(("StringToSign", text));
        told.push(("CanonicalRequestBytes", bytes(&canonical)));
        told.push(("CanonicalRequest", canonical));
    }
    told
}

/// In hexadecimal digits, apart.
fn bytes(text: &str) -> String {
    let digits: Vec<String> = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

impl Signed {
    fn of<B>(request: &Request<B>) -> Option<Self> {
        let headers = request.headers();
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let query = pairs(request);
        let asked = |name: &str| query.get(name).cloned();
        let chunks =
            text("x-amz-content-sha256").is_some_and(|hash| hash.starts_with("STREAMING-AWS4-"));
        let v4 = |credential: &str, signed: &str, signature: &str, date: &str, in_query| {
            let scope = sigv4::parse_credential(credential)?;
            Some(Self {
                access_key: scope.access_key.clone(),
                signature: signature.to_owned(),
                in_query,
                chunks,
                kind: Kind::V4 {
                    scope,
                    headers: signed.split(';').map(ToOwned::to_owned).collect(),
                    time_ms: time::parse_basic(date)?,
                },
            })
        };
        let v2 = |access_key, signature, in_query| Self {
            access_key,
            signature,
            in_query,
            chunks: false,
            kind: Kind::V2,
        };
        match text("authorization") {
            Some(header) if header.starts_with("AWS4-") => v4(
                field(&header, "Credential")?,
                field(&header, "SignedHeaders")?,
                field(&header, "Signature")?,
                &text("x-amz-date")?,
                false,
            ),
            Some(header) => {
                let (access_key, signature) = header.strip_prefix("AWS ")?.split_once(':')?;
                Some(v2(access_key.to_owned(), signature.to_owned(), false))
            }
            None if query.contains_key("X-Amz-Signature") => v4(
                &asked("X-Amz-Credential")?,
                &asked("X-Amz-SignedHeaders")?,
                &asked("X-Amz-Signature")?,
                &asked("X-Amz-Date")?,
                true,
            ),
            None => Some(v2(asked("AWSAccessKeyId")?, asked("Signature")?, true)),
        }
    }

    /// Whether a header can't be another one without the signature being another one.
    pub fn covers(&self, header: &str) -> bool {
        match &self.kind {
            Kind::V2 => header == CONTENT_TYPE || header.starts_with("x-amz-"),
            Kind::V4 { headers, .. } => headers.iter().any(|name| name == header),
        }
    }

    /// Whether it is the request's, sent to that path.
    pub fn fits(&self, request: &Request<Body>, path: &str, secret: &str) -> bool {
        let wanted = self.over(request, path, secret);
        wanted.as_bytes().ct_eq(self.signature.as_bytes()).into()
    }

    /// Signs the request, which was changed since, for that path, and sends it there.
    pub fn renew(&self, request: &mut Request<Body>, path: &str, secret: &str) -> S3Result<()> {
        let again = self.over(request, path, secret);
        let query = request.uri().query().map(|query| match self.in_query {
            true => {
                let (old, new) = (spelt(&self.signature, b""), spelt(&again, b""));
                query.replace(&old, &new)
            }
            false => query.to_owned(),
        });
        if !self.in_query {
            let header = request.headers().get(AUTHORIZATION);
            let header = header.and_then(|it| it.to_str().ok()).unwrap_or_default();
            let header = header.replace(&self.signature, &again);
            let header = HeaderValue::from_str(&header).map_err(|_| denied())?;
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        send_to(request, path, query)
    }

    /// The signature of the request as if it had that path.
    fn over(&self, request: &Request<Body>, path: &str, secret: &str) -> String {
        match &self.kind {
            Kind::V2 => mac_of_version_2(secret, &self.text_v2(request, path)),
            Kind::V4 {
                scope,
                headers,
                time_ms,
            } => {
                let canonical = self.canonical_v4(request, path, headers);
                let canonical = canonical.as_bytes();
                hex::encode(sigv4::signature(secret, scope, *time_ms, canonical))
            }
        }
    }

    fn text_v2<B>(&self, request: &Request<B>, path: &str) -> String {
        let (headers, query) = (request.headers(), pairs(request));
        let date = match (self.in_query, headers.contains_key("x-amz-date")) {
            (true, _) => query.get("Expires").cloned().unwrap_or_default(),
            (false, true) => String::new(),
            (false, false) => joined(headers, "date"),
        };
        let mut text = format!(
            "{}\n{}\n{}\n{date}\n",
            request.method(),
            joined(headers, "content-md5"),
            joined(headers, "content-type")
        );
        let mut names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        for name in names.into_iter().filter(|name| name.starts_with("x-amz-")) {
            text.push_str(&format!("{name}:{}\n", joined(headers, name)));
        }
        text.push_str(path);
        let signed = |name: &String| subresources::is_signed_by_2(name);
        let mut joint = '?';
        for (name, value) in query.iter().filter(|(name, _)| signed(name)) {
            text.push(joint);
            text.push_str(name);
            if !value.is_empty() {
                text.push_str(&format!("={value}"));
            }
            joint = '&';
        }
        text
    }

    fn canonical_v4<B>(&self, request: &Request<B>, path: &str, signed: &[String]) -> String {
        let plain = form::percent_decode(path.as_bytes()).unwrap_or_default();
        let mut query: Vec<String> = pairs(request)
            .iter()
            .filter(|(name, _)| *name != "X-Amz-Signature")
            .map(|(name, value)| format!("{}={}", spelt(name, b""), spelt(value, b"")))
            .collect();
        query.sort_unstable();
        let headers: String = signed
            .iter()
            .map(|name| match (name.as_str(), request.uri().authority()) {
                // HTTP/2 has it in the address.
                ("host", Some(host)) if !request.headers().contains_key("host") => {
                    format!("host:{host}\n")
                }
                _ => format!("{name}:{}\n", joined(request.headers(), name)),
            })
            .collect();
        let hash = match self.in_query {
            true => "UNSIGNED-PAYLOAD".to_owned(),
            false => joined(request.headers(), "x-amz-content-sha256"),
        };
        format!(
            "{}\n{}\n{}\n{headers}\n{}\n{hash}",
            request.method(),
            spelt(plain, b"/"),
            query.join("&"),
            signed.join(";")
        )
    }
}

pub fn send_to(request: &mut Request<Body>, path: &str, query: Option<String>) -> S3Result<()> {
    let whole = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let wrong = || s3_error!(InvalidURI, "Couldn't parse the specified URI.");
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(whole.parse::<PathAndQuery>().map_err(|_| wrong())?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| wrong())?;
    Ok(())
}

/// A header's values as they are signed.
fn joined(headers: &HeaderMap, name: &str) -> String {
    let values = headers.get_all(name).iter();
    let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let trimmed = values.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "));
    trimmed.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    /// AWS, "Examples: Signature Calculations in AWS Signature Version 4", "GET Object".
    #[test]
    fn version_4_is_as_in_aws_example() {
        let authorization = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        let request = request(
            "/test.txt",
            &[
                ("host", "examplebucket.s3.amazonaws.com"),
                ("range", "bytes=0-9"),
                (
                    "x-amz-content-sha256",
                    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                ),
                ("x-amz-date", "20130524T000000Z"),
                ("authorization", authorization),
            ],
        );
        let signed = Signed::of(&request).unwrap();
        assert_eq!(signed.access_key, "AKIAIOSFODNN7EXAMPLE");
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        assert_eq!(signed.over(&request, "/test.txt", secret), signed.signature);
        assert_ne!(
            signed.over(&request, "/other.txt", secret),
            signed.signature
        );
        let told = explained(&request);
        let text = told.iter().find(|(name, _)| *name == "StringToSign");
        assert_eq!(
            text.map(|(_, text)| text.as_str()),
            Some(
                "AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n\
                 7344ae5b7ee6c3e7e6b0fe0640412a37625d1fbfff95c48bbb2dc43964946972"
            )
        );
    }

    /// AWS, "Signing and authenticating REST requests", "Object GET".
    #[test]
    fn version_2_is_as_in_aws_example() {
        let request = request(
            "/photos/puppy.jpg",
            &[
                ("date", "Tue, 27 Mar 2007 19:36:42 +0000"),
                (
                    "authorization",
                    "AWS AKIAIOSFODNN7EXAMPLE:bWq2s1WEIj+Ydj0vQ697zp+IXMU=",
                ),
            ],
        );
        let signed = Signed::of(&request).unwrap();
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let path = "/johnsmith/photos/puppy.jpg";
        assert_eq!(signed.over(&request, path, secret), signed.signature);
    }
}
