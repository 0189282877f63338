//! Who asks: access keys of the cloud's accounts, the scope of their signatures, and headers that ask
//! for what isn't there.

use crate::Store;
use crate::authorize;
use crate::conditions::time;
use async_trait::async_trait;
use http::{Extensions, HeaderMap};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::{Owner, Timestamp, TimestampFormat};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Clocks may differ by so much.
pub const SKEW_MS: i64 = 15 * 60 * 1000;

/// What the object store asks of the cloud that it is part of.
pub trait Cloud: Send + Sync + 'static {
    /// The account that an access key belongs to, and its secret.
    fn find(&self, access_key: &str) -> Option<(String, String)>;

    /// The domain below which every bucket has a name, if there is one.
    fn domain(&self) -> Option<String>;
}

/// The account that a request acts for.
#[derive(Clone)]
struct Account(String);

/// The same for the source of a copy.
#[derive(Clone)]
struct Source(String);

pub fn source_account(extensions: &Extensions) -> S3Result<String> {
    match extensions.get::<Source>() {
        Some(Source(account)) => Ok(account.clone()),
        None => account(extensions),
    }
}

/// A request's extensions as they are when that account asks.
#[cfg(test)]
pub fn asked_by(account: &str) -> Extensions {
    let mut extensions = Extensions::new();
    extensions.insert(Account(account.to_owned()));
    extensions
}

pub fn account(extensions: &Extensions) -> S3Result<String> {
    match extensions.get::<Account>() {
        Some(Account(account)) => Ok(account.clone()),
        None => Err(denied()),
    }
}

pub fn denied() -> S3Error {
    s3_error!(AccessDenied, "Access Denied")
}

/// An account as owner: its canonical user id is 64 hexadecimal digits, as AWS's are.
pub fn owner(account: &str) -> Owner {
    Owner {
        display_name: Some(account.to_owned()),
        id: Some(hex::encode(Sha256::digest(account.as_bytes()))),
    }
}

pub struct Gate(pub Arc<Store>);

#[async_trait]
impl S3Auth for Gate {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.cloud.find(access_key) {
            Some((_, secret)) => Ok(SecretKey::from(secret)),
            None => Err(s3_error!(
                InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records."
            )),
        }
    }
}

#[async_trait]
impl S3Access for Gate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let account = match cx.credentials() {
            None => None,
            Some(credentials) => {
                let found = self.0.cloud.find(&credentials.access_key);
                Some(found.ok_or_else(denied)?.0)
            }
        };
        let query = cx.uri().query().unwrap_or_default();
        check_scope(cx.headers(), query, &self.0.settings.region)?;
        check_date(cx.headers(), query, (self.0.clock)())?;
        check_query(query, account.is_some())?;
        if cx.headers().contains_key("x-amz-security-token") {
            return Err(s3_error!(
                InvalidToken,
                "The provided token is malformed or otherwise invalid."
            ));
        }
        let acting = authorize::acting(&self.0, cx, account.clone()).await?;
        check_headers(cx.headers(), cx.s3_op().name(), &acting)?;
        if let Some(source) = authorize::acting_for_source(&self.0, cx, account).await? {
            check_source(cx.headers(), &source)?;
            cx.extensions_mut().insert(Source(source));
        }
        cx.extensions_mut().insert(Account(acting));
        Ok(())
    }
}

fn check_source(headers: &HeaderMap, owner: &str) -> S3Result<()> {
    match headers.get("x-amz-source-expected-bucket-owner") {
        Some(expected) if expected.as_bytes() != owner.as_bytes() => Err(denied()),
        _ => Ok(()),
    }
}

/// Presigned URLs that are worth more than what was signed, or longer than AWS lets them be.
fn check_query(query: &str, signed: bool) -> S3Result<()> {
    let named = |name: &str| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    let value = |name: &str| {
        let pair = |pair: &str| {
            pair.split_once('=')
                .filter(|(found, _)| *found == name)
                .map(|(_, it)| it.to_owned())
        };
        query.split('&').find_map(pair)
    };
    if !signed && query.split('&').any(|pair| pair.starts_with("response-")) {
        return Err(s3_error!(
            InvalidRequest,
            "Request specific response headers cannot be used for anonymous GET requests."
        ));
    }
    if named("X-Amz-Security-Token") {
        return Err(s3_error!(
            InvalidToken,
            "The provided token is malformed or otherwise invalid."
        ));
    }
    let expires = value("X-Amz-Expires").and_then(|seconds| seconds.parse::<u64>().ok());
    if expires.is_some_and(|seconds| seconds > WEEK_S) {
        return Err(s3_error!(
            AuthorizationQueryParametersError,
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds"
        ));
    }
    // What version 2 doesn't sign could be appended by who was given the URL.
    if named("AWSAccessKeyId") && UNSIGNED_BY_V2.iter().any(|name| named(name)) {
        return Err(s3_error!(
            AccessDenied,
            "Signature version 2 does not cover this subresource: presign with version 4."
        ));
    }
    Ok(())
}

const WEEK_S: u64 = 7 * 24 * 3600;
const UNSIGNED_BY_V2: [&str; 8] = [
    "attributes",
    "encryption",
    "intelligent-tiering",
    "legal-hold",
    "ownershipControls",
    "policyStatus",
    "publicAccessBlock",
    "retention",
];

/// A header that version 4 had to sign, and that isn't among those that were (AWS, "Create a signed
/// request": `host` and every `x-amz-*`). Or who is given a presigned URL could ask for more.
pub fn unsigned_header(headers: &HeaderMap, query: &str) -> Option<String> {
    let in_header = headers
        .get(http::header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .filter(|value| value.starts_with("AWS4-"))
        .and_then(|value| value.split_once("SignedHeaders="))
        .map(|(_, rest)| rest.split([',', ' ']).next().unwrap_or_default().to_owned());
    let in_query = || {
        let pair = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("X-Amz-SignedHeaders="));
        pair.and_then(crate::tagging::decoded)
    };
    let signed = in_header.or_else(in_query)?;
    let is_signed = |name: &str| signed.split(';').any(|one| one.eq_ignore_ascii_case(name));
    let must = |name: &&str| name.starts_with("x-amz-") && *name != "x-amz-content-sha256";
    let mut names = headers.keys().map(http::HeaderName::as_str).filter(must);
    names.find(|name| !is_signed(name)).map(ToOwned::to_owned)
}

/// The region and the service of a version 4 signature, which s3s takes as they are.
fn check_scope(headers: &HeaderMap, query: &str, region: &str) -> S3Result<()> {
    let header = headers
        .get(http::header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once("Credential="))
        .map(|(_, rest)| rest.split([',', ' ']).next().unwrap_or_default().to_owned());
    let presigned = || {
        let pair = |pair: &str| {
            pair.strip_prefix("X-Amz-Credential=")
                .map(|it| it.replace("%2F", "/").replace("%2f", "/"))
        };
        query.split('&').find_map(pair)
    };
    let (in_header, credential) = match header {
        Some(credential) => (true, Some(credential)),
        None => (false, presigned()),
    };
    let Some(credential) = credential else {
        return Ok(());
    };
    let mut parts = credential.rsplit('/');
    let (_, service, signed_region) = (parts.next(), parts.next(), parts.next());
    let code = match in_header {
        true => S3ErrorCode::AuthorizationHeaderMalformed,
        false => S3ErrorCode::AuthorizationQueryParametersError,
    };
    let what = if in_header {
        "The authorization header is malformed"
    } else {
        "Error parsing the X-Amz-Credential parameter"
    };
    if service != Some("s3") {
        return Err(S3Error::with_message(
            code,
            format!(
                "{what}; incorrect service {:?}. This endpoint belongs to \"s3\".",
                service.unwrap_or_default()
            ),
        ));
    }
    if signed_region != Some(region) {
        let wrong = signed_region.unwrap_or_default();
        let mut error = S3Error::with_message(
            code,
            format!("{what}; the region '{wrong}' is wrong; expecting '{region}'"),
        );
        let mut headers = HeaderMap::new();
        if let Ok(value) = http::HeaderValue::from_str(region) {
            headers.insert("x-amz-bucket-region", value);
        }
        error.set_headers(headers);
        return Err(error);
    }
    Ok(())
}

/// The date of a signature: of version 2 s3s takes any, and of version 4 it is told to, because a
/// form's date may be as old as its policy allows.
fn check_date(headers: &HeaderMap, query: &str, now_ms: i64) -> S3Result<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let off = |ms: i64| Timestamp::from(time(now_ms + ms));
    let skewed = || {
        s3_error!(
            RequestTimeTooSkewed,
            "The difference between the request time and the current time is too large."
        )
    };
    if text("authorization").is_some_and(|value| value.starts_with("AWS4-")) {
        let said = text("x-amz-date").and_then(basic_date).ok_or_else(skewed)?;
        return match said > off(-SKEW_MS) && said < off(SKEW_MS) {
            true => Ok(()),
            false => Err(skewed()),
        };
    }
    let presigned = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("X-Amz-Date="));
    if let Some(date) = presigned {
        // How old it may be, it says itself.
        return match basic_date(date).is_some_and(|said| said < off(SKEW_MS)) {
            true => Ok(()),
            false => Err(s3_error!(AccessDenied, "Request is not valid yet")),
        };
    }
    if !text("authorization").is_some_and(|value| value.starts_with("AWS ")) {
        return Ok(());
    }
    let date = text("x-amz-date").or_else(|| text("date"));
    let date = date.ok_or_else(|| {
        s3_error!(
            AccessDenied,
            "AWS authentication requires a valid Date or x-amz-date header"
        )
    })?;
    // Old clients spell the zone as they like.
    let date = date.replace("+0000", "GMT").replace("UTC", "GMT");
    let said = Timestamp::parse(TimestampFormat::HttpDate, &date).map_err(|_| {
        s3_error!(
            AccessDenied,
            "AWS authentication requires a valid Date or x-amz-date header"
        )
    })?;
    match said > off(-SKEW_MS) && said < off(SKEW_MS) {
        true => Ok(()),
        false => Err(skewed()),
    }
}

/// `20261129T080000Z`.
fn basic_date(text: &str) -> Option<Timestamp> {
    if text.len() != 16 || !text.is_ascii() {
        return None;
    }
    let spelt = format!(
        "{}-{}-{}T{}:{}:{}Z",
        &text[..4],
        &text[4..6],
        &text[6..8],
        &text[9..11],
        &text[11..13],
        &text[13..15]
    );
    Timestamp::parse(TimestampFormat::DateTime, &spelt).ok()
}

/// No option is ignored: what a header asks for is there, or is refused.
fn check_headers(headers: &HeaderMap, operation: &str, account: &str) -> S3Result<()> {
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    if text("x-amz-expected-bucket-owner").is_some_and(|owner| owner != account) {
        return Err(denied());
    }
    for name in headers.keys() {
        let name = name.as_str();
        if name.contains("server-side-encryption") {
            return Err(unavailable(
                "Objects can't be encrypted by this object store yet",
            ));
        }
        if name.starts_with("x-amz-grant-") {
            return Err(no_acls());
        }
        if name == "x-amz-write-offset-bytes" {
            return Err(unavailable("Objects can't be appended to"));
        }
    }
    match text("x-amz-acl") {
        None | Some("private" | "bucket-owner-full-control") => Ok(()),
        Some(_) if operation == "CreateBucket" => Err(s3_error!(
            InvalidBucketAclWithObjectOwnership,
            "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting"
        )),
        Some(_) => Err(no_acls()),
    }
}

pub fn no_acls() -> S3Error {
    s3_error!(
        AccessControlListNotSupported,
        "The bucket does not allow ACLs"
    )
}

pub fn unavailable(what: &str) -> S3Error {
    S3Error::with_message(
        S3ErrorCode::NotImplemented,
        format!("A header you provided implies functionality that is not implemented. {what}."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", authorization.parse().unwrap());
        headers
    }

    #[test]
    fn dates_of_version_2() {
        let now_ms = 1_795_939_200_000; // 2026-11-29T08:00:00Z
        let dated = |date: &str| {
            let mut headers = of("AWS AK:signature");
            headers.insert("date", date.parse().unwrap());
            check_date(&headers, "", now_ms).map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(dated("Sun, 29 Nov 2026 08:10:00 GMT"), Ok(()));
        assert_eq!(dated("Sun, 29 Nov 2026 07:50:00 +0000"), Ok(()));
        assert_eq!(
            dated("Sun, 29 Nov 2026 08:20:00 GMT"),
            Err("RequestTimeTooSkewed".into())
        );
        assert_eq!(dated("yesterday"), Err("AccessDenied".into()));
        assert!(check_date(&of("AWS AK:signature"), "", now_ms).is_err());
        let mut v4 = of("AWS4-HMAC-SHA256 x");
        v4.insert("x-amz-date", "20261129T081000Z".parse().unwrap());
        assert!(check_date(&v4, "", now_ms).is_ok());
        assert!(check_date(&v4, "", now_ms + 2 * SKEW_MS).is_err());
        assert!(check_date(&HeaderMap::new(), "X-Amz-Date=20261129T070000Z", now_ms).is_ok());
        assert!(check_date(&HeaderMap::new(), "X-Amz-Date=20261129T090000Z", now_ms).is_err());
        assert!(check_date(&of("AWS4-HMAC-SHA256 x"), "", now_ms).is_err());
    }

    #[test]
    fn every_option_is_signed() {
        let query = "X-Amz-SignedHeaders=host%3Bx-amz-meta-a";
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-meta-a", "1".parse().unwrap());
        assert_eq!(unsigned_header(&headers, query), None);
        headers.insert("x-amz-copy-source", "b/k".parse().unwrap());
        assert_eq!(
            unsigned_header(&headers, query).as_deref(),
            Some("x-amz-copy-source")
        );
        assert_eq!(
            unsigned_header(&headers, ""),
            None,
            "nothing is signed by version 4"
        );
        headers.insert(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host;x-amz-copy-source, Signature=0"
                .parse()
                .unwrap(),
        );
        assert_eq!(
            unsigned_header(&headers, "").as_deref(),
            Some("x-amz-meta-a")
        );
    }

    #[test]
    fn presigned_urls_have_limits() {
        assert!(check_query("X-Amz-Expires=604800", true).is_ok());
        assert!(check_query("X-Amz-Expires=604801", true).is_err());
        assert!(check_query("response-content-type=a", true).is_ok());
        assert!(check_query("response-content-type=a", false).is_err());
        assert!(check_query("AWSAccessKeyId=AK&retention", true).is_err());
        assert!(check_query("retention&X-Amz-Date=x", true).is_ok());
    }

    #[test]
    fn scopes() {
        let scoped = |scope: &str| {
            of(&format!(
                "AWS4-HMAC-SHA256 Credential=AK/20260101/{scope}/aws4_request, SignedHeaders=host, Signature=0"
            ))
        };
        assert!(check_scope(&scoped("here/s3"), "", "here").is_ok());
        assert!(check_scope(&of("AWS AK:sig"), "", "here").is_ok());
        let wrong = check_scope(&scoped("there/s3"), "", "here").unwrap_err();
        assert_eq!(wrong.code().as_str(), "AuthorizationHeaderMalformed");
        assert!(
            wrong
                .message()
                .unwrap()
                .ends_with("the region 'there' is wrong; expecting 'here'")
        );
        assert!(check_scope(&scoped("here/ec2"), "", "here").is_err());
        let query = "X-Amz-Credential=AK%2F20260101%2Fthere%2Fs3%2Faws4_request&X-Amz-Expires=1";
        let wrong = check_scope(&HeaderMap::new(), query, "here").unwrap_err();
        assert_eq!(wrong.code().as_str(), "AuthorizationQueryParametersError");
    }
}
