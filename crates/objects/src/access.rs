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
        check_date(cx.headers(), (self.0.clock)())?;
        let acting = authorize::acting(&self.0, cx, account.clone()).await?;
        check_headers(cx.headers(), cx.s3_op().name(), &acting)?;
        let headers = cx.headers();
        if headers.contains_key("x-amz-copy-source") {
            let headers = headers.clone();
            let source = authorize::acting_for_source(
                &self.0,
                &headers,
                account.as_deref(),
                cx.extensions_mut(),
            )?;
            check_source(&headers, &source)?;
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

/// The date of a version 2 signature in the header, which s3s takes as it is.
fn check_date(headers: &HeaderMap, now_ms: i64) -> S3Result<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
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
    let off = |ms: i64| Timestamp::from(time(now_ms + ms));
    match said > off(-SKEW_MS) && said < off(SKEW_MS) {
        true => Ok(()),
        false => Err(s3_error!(
            RequestTimeTooSkewed,
            "The difference between the request time and the current time is too large."
        )),
    }
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
            check_date(&headers, now_ms).map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(dated("Sun, 29 Nov 2026 08:10:00 GMT"), Ok(()));
        assert_eq!(dated("Sun, 29 Nov 2026 07:50:00 +0000"), Ok(()));
        assert_eq!(
            dated("Sun, 29 Nov 2026 08:20:00 GMT"),
            Err("RequestTimeTooSkewed".into())
        );
        assert_eq!(dated("yesterday"), Err("AccessDenied".into()));
        assert!(check_date(&of("AWS AK:signature"), now_ms).is_err());
        assert!(check_date(&of("AWS4-HMAC-SHA256 x"), now_ms).is_ok());
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
