//! What a request says of its signature, judged before or beside its verification by s3s: its form, its
//! date, its scope, and whether everything is signed that has to be.

use crate::describe::millis;
use crate::error::{denied, no_tokens, no_uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boira_api::sigv4::{header_field, parse_credential};
use boira_api::{form, time};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri, header};
use ring::hmac;
use s3s::dto::{Timestamp, TimestampFormat};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use std::borrow::Cow;

/// Clocks may differ by so much.
const SKEW_MS: i64 = 15 * 60 * 1000;

/// A query's pairs, decoded as s3s decodes them: what is spelt in another way is the same.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(text: &str) -> S3Result<Self> {
        let pairs = form::parse(text.as_bytes()).map_err(|_| no_uri())?;
        let owned = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into(), value.into());
        Ok(Self(pairs.into_iter().map(owned).collect()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    fn repeats(&self) -> bool {
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.windows(2).any(|two| two[0] == two[1])
    }
}

/// A signature of version 2, in base64 ("Signing and authenticating REST requests").
pub fn mac_of_version_2(secret: &str, text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    STANDARD.encode(hmac::sign(&key, text.as_bytes()))
}

/// A URL that is presigned by version 2 carries the headers that were signed in its query, as boto3 and the
/// SDK for JavaScript put them there; they count, whatever headers are sent beside them.
pub fn take_headers_of_version_2(query: &Query, headers: &mut HeaderMap) {
    if !query.has("AWSAccessKeyId") || !query.has("Signature") {
        return;
    }
    for (name, value) in query.pairs() {
        let name = name.to_ascii_lowercase();
        let is_signed = name.starts_with("x-amz-")
            || name == header::CONTENT_TYPE.as_str()
            || name == "content-md5";
        let header = is_signed
            .then(|| header::HeaderName::from_bytes(name.as_bytes()).ok())
            .flatten();
        if let (Some(header), Ok(value)) = (header, HeaderValue::from_str(value)) {
            headers.insert(header, value);
        }
    }
}

/// What is no signature at all, or more than one, in AWS's words for it.
pub fn check_form(headers: &HeaderMap, query: &Query) -> S3Result<()> {
    let negative = |value: &str| value.parse::<i64>().is_ok_and(|seconds| seconds < 0);
    if query.get("X-Amz-Expires").is_some_and(negative) {
        return Err(s3_error!(
            AuthorizationQueryParametersError,
            "X-Amz-Expires must be non-negative"
        ));
    }
    let date = query.get("X-Amz-Date");
    if date.is_some_and(|date| time::parse_basic(date).is_none()) {
        return Err(s3_error!(
            AuthorizationQueryParametersError,
            "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\""
        ));
    }
    let credential = query.get("X-Amz-Credential");
    if credential.is_some_and(|credential| parse_credential(credential).is_none()) {
        return Err(s3_error!(
            AuthorizationQueryParametersError,
            "Error parsing the X-Amz-Credential parameter; the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\"."
        ));
    }
    let by_v4 = query.has("X-Amz-Signature") || query.has("X-Amz-Credential");
    let by_v2 = query.has("AWSAccessKeyId") || query.has("Signature");
    let header = headers.get_all(header::AUTHORIZATION).iter().count();
    if usize::from(by_v4) + usize::from(by_v2) + header > 1 {
        return Err(s3_error!(
            InvalidArgument,
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified"
        ));
    }
    if by_v4 {
        check_v4_query(query)?;
    }
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return check_v2_query(query, by_v2);
    };
    let value = value.to_str().unwrap_or_default();
    if value.is_empty() {
        return Err(denied());
    }
    if !value.starts_with("AWS ") && !value.starts_with("AWS4-") {
        return Err(s3_error!(InvalidArgument, "Unsupported Authorization Type"));
    }
    let of_v2 = value.strip_prefix("AWS ");
    if of_v2.is_some_and(|rest| !rest.contains(':')) {
        return Err(s3_error!(
            InvalidArgument,
            "AWS authorization header is invalid.  Expected AwsAccessKeyId:signature"
        ));
    }
    let credential = || parse_credential(field(value, "Credential")?);
    if value.starts_with("AWS4-") && credential().is_none() {
        return Err(s3_error!(
            AuthorizationHeaderMalformed,
            "The authorization header is malformed; the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\"."
        ));
    }
    check_v2_query(query, of_v2.is_some())?;
    let date = headers
        .get("x-amz-date")
        .and_then(|date| date.to_str().ok());
    if of_v2.is_none() && date.is_some_and(|date| time::parse_basic(date).is_none()) {
        return Err(dateless());
    }
    let signed = of_v2.is_some() || value.starts_with("AWS4-");
    match signed && !headers.contains_key("x-amz-date") && !headers.contains_key("date") {
        true => Err(dateless()),
        false => Ok(()),
    }
}

/// What a presigned URL of version 4 has to say ("Authenticating Requests: Using Query Parameters").
fn check_v4_query(query: &Query) -> S3Result<()> {
    const ALL: [&str; 6] = [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Signature",
        "X-Amz-Date",
        "X-Amz-SignedHeaders",
        "X-Amz-Expires",
    ];
    if !ALL.iter().all(|name| query.has(name)) {
        return Err(s3_error!(
            AuthorizationQueryParametersError,
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
        ));
    }
    if query.get("X-Amz-Algorithm") != Some("AWS4-HMAC-SHA256") {
        return Err(s3_error!(
            AuthorizationQueryParametersError,
            "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""
        ));
    }
    let expires = query.get("X-Amz-Expires");
    if expires.is_some_and(|seconds| seconds.parse::<i64>().is_err()) {
        return Err(s3_error!(
            AuthorizationQueryParametersError,
            "X-Amz-Expires should be a number"
        ));
    }
    Ok(())
}

/// A field of `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`.
pub fn field<'h>(authorization: &'h str, name: &str) -> Option<&'h str> {
    let (_, fields) = authorization.split_once(' ')?;
    header_field(fields, name)
}

/// What version 2 doesn't sign could be appended by who was given the URL: subresources that it doesn't
/// know, and those that are named twice, of which s3s signs none.
fn check_v2_query(query: &Query, by_v2: bool) -> S3Result<()> {
    let unsigned = UNSIGNED_BY_V2.iter().any(|name| query.has(name));
    match by_v2 && (unsigned || query.repeats()) {
        true => Err(s3_error!(
            AccessDenied,
            "Signature version 2 does not cover this query: use version 4."
        )),
        false => Ok(()),
    }
}

fn dateless() -> S3Error {
    s3_error!(
        AccessDenied,
        "AWS authentication requires a valid Date or x-amz-date header"
    )
}

/// The header `x-amz-date` of a request of version 4 that has only a `Date` (AWS, "Elements of an AWS API
/// request signature"); s3s knows the one only.
pub fn date_header(headers: &HeaderMap) -> Option<HeaderValue> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if headers.contains_key("x-amz-date") || !text("authorization")?.starts_with("AWS4-") {
        return None;
    }
    let date = text("date")?;
    let said = time::parse_basic(date).or_else(|| http_date(date))?;
    HeaderValue::from_str(&time::format_basic(said)).ok()
}

/// Presigned URLs that are worth more, or longer, than AWS lets them be.
pub fn check_query(query: &Query, signed: bool) -> S3Result<()> {
    let rewrites = |(name, _): &(String, String)| name.starts_with("response-");
    if !signed && query.pairs().iter().any(rewrites) {
        return Err(s3_error!(
            InvalidRequest,
            "Request specific response headers cannot be used for anonymous GET requests."
        ));
    }
    if query.has("X-Amz-Security-Token") {
        return Err(no_tokens());
    }
    let expires = query.get("X-Amz-Expires");
    let expires = expires.and_then(|seconds| seconds.parse::<u64>().ok());
    if expires.is_some_and(|seconds| seconds > WEEK_S) {
        return Err(s3_error!(
            AuthorizationQueryParametersError,
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds"
        ));
    }
    Ok(())
}

const WEEK_S: u64 = 7 * 24 * 3600;
const UNSIGNED_BY_V2: [&str; 12] = [
    "attributes",
    "encryption",
    "events",
    "id",
    "intelligent-tiering",
    "legal-hold",
    "metadataTable",
    "ownershipControls",
    "policyStatus",
    "publicAccessBlock",
    "retention",
    "session",
];

/// Every header that version 4 has to sign is among those that were (AWS, "Create a signed request":
/// `host` and every `x-amz-*`). Or who is given a presigned URL could ask for more.
pub fn check_headers(headers: &HeaderMap, query: &Query) -> S3Result<()> {
    let unsigned = || {
        s3_error!(
            AccessDenied,
            "There were headers present in the request which were not signed"
        )
    };
    let value = headers.get(header::AUTHORIZATION);
    let value = value.and_then(|value| value.to_str().ok());
    let signed = match value.filter(|value| value.starts_with("AWS4-")) {
        Some(value) => field(value, "SignedHeaders").ok_or_else(unsigned)?,
        None if query.has("X-Amz-Signature") => {
            query.get("X-Amz-SignedHeaders").ok_or_else(unsigned)?
        }
        None => return Ok(()),
    };
    let is_signed = |name: &str| signed.split(';').any(|one| one.eq_ignore_ascii_case(name));
    let must = |name: &&str| name.starts_with("x-amz-") && *name != "x-amz-content-sha256";
    let mut names = headers.keys().map(http::HeaderName::as_str).filter(must);
    match names.find(|name| !is_signed(name)) {
        None => Ok(()),
        Some(name) => {
            tracing::debug!("{name} is not signed");
            Err(unsigned())
        }
    }
}

/// The hash that a version 4 signature covers, or how it is signed instead.
pub fn check_hash(headers: &HeaderMap) -> S3Result<()> {
    let Some(hash) = headers.get("x-amz-content-sha256") else {
        return Ok(());
    };
    let hash = hash.as_bytes();
    let is_digest = hash.len() == 64 && hash.iter().all(u8::is_ascii_hexdigit);
    match is_digest || hash == b"UNSIGNED-PAYLOAD" || hash.starts_with(b"STREAMING-") {
        true => Ok(()),
        false => Err(s3_error!(
            InvalidArgument,
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value."
        )),
    }
}

/// The region and the service of a version 4 signature, which s3s takes as they are.
pub fn check_scope(headers: &HeaderMap, query: &Query, region: &str) -> S3Result<()> {
    let header = headers.get(header::AUTHORIZATION);
    let header = header.and_then(|value| field(value.to_str().ok()?, "Credential"));
    let (code, what, credential) = match (header, query.get("X-Amz-Credential")) {
        (Some(credential), _) => (
            S3ErrorCode::AuthorizationHeaderMalformed,
            "The authorization header is malformed",
            credential,
        ),
        (None, Some(credential)) => (
            S3ErrorCode::AuthorizationQueryParametersError,
            "Error parsing the X-Amz-Credential parameter",
            credential,
        ),
        (None, None) => return Ok(()),
    };
    let wrong = |why: String| S3Error::with_message(code.clone(), format!("{what}; {why}"));
    let scope = parse_credential(credential);
    let scope = scope.ok_or_else(|| wrong("the Credential is mal-formed".into()))?;
    if scope.service != "s3" {
        return Err(wrong(format!(
            "incorrect service {:?}. This endpoint belongs to \"s3\".",
            scope.service
        )));
    }
    if scope.region != region {
        let mut error = wrong(format!(
            "the region '{}' is wrong; expecting '{region}'",
            scope.region
        ));
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
pub fn check_date(headers: &HeaderMap, query: &Query, now_ms: i64) -> S3Result<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_about_now = |said: i64| (said - now_ms).abs() < SKEW_MS;
    let skewed = || {
        s3_error!(
            RequestTimeTooSkewed,
            "The difference between the request time and the current time is too large."
        )
    };
    if text("authorization").is_some_and(|value| value.starts_with("AWS4-")) {
        let said = text("x-amz-date").and_then(time::parse_basic);
        return match said.is_some_and(is_about_now) {
            true => Ok(()),
            false => Err(skewed()),
        };
    }
    if let Some(date) = query.get("X-Amz-Date") {
        // How old it may be, it says itself.
        return match time::parse_basic(date).is_some_and(|said| said < now_ms + SKEW_MS) {
            true => Ok(()),
            false => Err(s3_error!(AccessDenied, "Request is not valid yet")),
        };
    }
    if !text("authorization").is_some_and(|value| value.starts_with("AWS ")) {
        return Ok(());
    }
    let date = text("x-amz-date").or_else(|| text("date"));
    let date = date.ok_or_else(dateless)?;
    let said = http_date(date).filter(|said| *said >= 0);
    match is_about_now(said.ok_or_else(dateless)?) {
        true => Ok(()),
        false => Err(skewed()),
    }
}

/// `Sun, 29 Nov 2026 08:00:00 GMT`; old clients spell the zone as they like.
fn http_date(text: &str) -> Option<i64> {
    let zones = ["+0000", "-0000", "UTC"];
    let spelt = zones
        .iter()
        .fold(text.to_owned(), |text, zone| text.replace(zone, "GMT"));
    let date = Timestamp::parse(TimestampFormat::HttpDate, &spelt).ok()?;
    Some(millis(&date))
}

/// Most tools sign a bucket's path with a slash in version 2, whether they send it with one or not.
pub fn with_slash(uri: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let header = headers.get(header::AUTHORIZATION);
    let header = header.is_some_and(|value| value.as_bytes().starts_with(b"AWS "));
    let query = uri.query().unwrap_or_default();
    let presigned = query
        .split('&')
        .any(|pair| pair.starts_with("AWSAccessKeyId="));
    let bucket = uri.path().len() > 1 && !uri.path()[1..].contains('/');
    if !bucket || !(header || presigned) {
        return None;
    }
    let path = match uri.query() {
        Some(query) => format!("{}/?{query}", uri.path()),
        None => format!("{}/", uri.path()),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", authorization.parse().unwrap());
        headers
    }

    fn query(text: &str) -> Query {
        Query::of(text).unwrap()
    }

    #[test]
    fn dates_of_version_2() {
        let now_ms = 1_795_939_200_000; // 2026-11-29T08:00:00Z
        let dated = |date: &str| {
            let mut headers = of("AWS AK:signature");
            headers.insert("date", date.parse().unwrap());
            check_date(&headers, &query(""), now_ms)
                .map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(dated("Sun, 29 Nov 2026 08:10:00 GMT"), Ok(()));
        assert_eq!(dated("Sun, 29 Nov 2026 07:50:00 +0000"), Ok(()));
        assert_eq!(
            dated("Sun, 29 Nov 2026 08:20:00 GMT"),
            Err("RequestTimeTooSkewed".into())
        );
        assert_eq!(dated("yesterday"), Err("AccessDenied".into()));
        assert!(check_date(&of("AWS AK:signature"), &query(""), now_ms).is_err());
        let mut v4 = of("AWS4-HMAC-SHA256 x");
        v4.insert("x-amz-date", "20261129T081000Z".parse().unwrap());
        assert!(check_date(&v4, &query(""), now_ms).is_ok());
        assert!(check_date(&v4, &query(""), now_ms + 2 * SKEW_MS).is_err());
        assert!(
            check_date(
                &HeaderMap::new(),
                &query("X-Amz-Date=20261129T070000Z"),
                now_ms
            )
            .is_ok()
        );
        assert!(
            check_date(
                &HeaderMap::new(),
                &query("X-Amz-Date=20261129T090000Z"),
                now_ms
            )
            .is_err()
        );
        assert!(check_date(&of("AWS4-HMAC-SHA256 x"), &query(""), now_ms).is_err());
    }

    #[test]
    fn every_option_is_signed() {
        let signed = "X-Amz-Signature=0&X-Amz-SignedHeaders=host%3Bx-amz-meta-a";
        let refused =
            |headers: &HeaderMap, text: &str| check_headers(headers, &query(text)).is_err();
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-meta-a", "1".parse().unwrap());
        assert!(!refused(&headers, signed));
        headers.insert("x-amz-copy-source", "b/k".parse().unwrap());
        assert!(refused(&headers, signed));
        let spelt = "X-Amz-Signature=0&%58-Amz-SignedHeaders=host%3Bx-amz-meta-a";
        assert!(refused(&headers, spelt), "in whatever spelling");
        assert!(refused(&headers, "X-Amz-Signature=0"), "none are named");
        assert!(!refused(&headers, ""), "nothing is signed by version 4");
        headers.insert(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host;x-amz-copy-source, Signature=0"
                .parse()
                .unwrap(),
        );
        assert!(refused(&headers, ""));
        // One that is only there to be looked at instead of the query's.
        let both = check_form(&headers, &query(signed)).unwrap_err();
        assert_eq!(both.code().as_str(), "InvalidArgument");
    }

    #[test]
    fn presigned_urls_have_limits() {
        let fine = |text: &str, signed| check_query(&query(text), signed).is_ok();
        assert!(fine("X-Amz-Expires=604800", true));
        assert!(!fine("X-Amz-Expires=604801", true));
        assert!(fine("response-content-type=a", true));
        assert!(!fine("response-content-type=a", false));
        assert!(!fine("%72esponse-content-type=a", false));
        let v2 = |text: &str| check_form(&HeaderMap::new(), &query(text)).is_ok();
        assert!(v2("AWSAccessKeyId=AK&Signature=x&acl"));
        for more in ["retention", "%72etention", "legal%2Dhold", "acl&acl"] {
            assert!(
                !v2(&format!("AWSAccessKeyId=AK&Signature=x&{more}")),
                "{more}"
            );
            assert!(!v2(&format!("%41WSAccessKeyId=AK&{more}")), "{more}");
        }
        assert!(v2("retention"));
        assert!(Query::of("a=%zz").is_err());
    }

    #[test]
    fn scopes() {
        let scoped = |scope: &str| {
            of(&format!(
                "AWS4-HMAC-SHA256 Credential=AK/20260101/{scope}/aws4_request, SignedHeaders=host, Signature=0"
            ))
        };
        assert!(check_scope(&scoped("here/s3"), &query(""), "here").is_ok());
        assert!(check_scope(&of("AWS AK:sig"), &query(""), "here").is_ok());
        let wrong = check_scope(&scoped("there/s3"), &query(""), "here").unwrap_err();
        assert_eq!(wrong.code().as_str(), "AuthorizationHeaderMalformed");
        assert!(
            wrong
                .message()
                .unwrap()
                .ends_with("the region 'there' is wrong; expecting 'here'")
        );
        assert!(check_scope(&scoped("here/ec2"), &query(""), "here").is_err());
        let presigned =
            "X-Amz-Credential=AK%2F20260101%2Fthere%2Fs3%2Faws4_request&X-Amz-Expires=1";
        let wrong = check_scope(&HeaderMap::new(), &query(presigned), "here").unwrap_err();
        assert_eq!(wrong.code().as_str(), "AuthorizationQueryParametersError");
    }

    #[test]
    fn the_form_of_a_signature() {
        let code = |headers: &HeaderMap, query: &str| {
            check_form(headers, &super::tests::query(query))
                .map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(code(&HeaderMap::new(), ""), Ok(()));
        assert_eq!(code(&of(""), ""), Err("AccessDenied".into()));
        assert_eq!(code(&of("AWS HAHAHA"), ""), Err("InvalidArgument".into()));
        assert_eq!(code(&of("AWS AK:x"), ""), Err("AccessDenied".into()));
        let credential = "AWS4-HMAC-SHA256 Credential=AK/20261129/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let mut dated = of(credential);
        assert_eq!(code(&dated, ""), Err("AccessDenied".into()));
        let other = of(&credential.replace("20261129", "2026112-"));
        assert_eq!(code(&other, ""), Err("AuthorizationHeaderMalformed".into()));
        dated.insert("date", "Sun, 29 Nov 2026 08:10:00 GMT".parse().unwrap());
        assert_eq!(code(&dated, ""), Ok(()));
        assert_eq!(date_header(&dated).unwrap(), "20261129T081000Z");
        let negative = code(&HeaderMap::new(), "X-Amz-Expires=-7");
        assert_eq!(negative, Err("AuthorizationQueryParametersError".into()));
    }

    #[test]
    fn buckets_of_version_2_end_with_a_slash() {
        let signed = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            headers
        };
        let rewritten = |uri: &str, headers: &HeaderMap| {
            with_slash(&uri.parse().expect("a URI"), headers).map(|uri| uri.to_string())
        };
        let v2 = signed("AWS AK:signature");
        assert_eq!(rewritten("/b?acl", &v2).as_deref(), Some("/b/?acl"));
        assert_eq!(rewritten("/b", &v2).as_deref(), Some("/b/"));
        for uri in ["/", "/b/", "/b/k"] {
            assert_eq!(rewritten(uri, &v2), None);
        }
        let query = "/b?AWSAccessKeyId=AK&Expires=1&Signature=x";
        assert!(rewritten(query, &HeaderMap::new()).is_some());
        assert_eq!(
            rewritten("/b", &signed("AWS4-HMAC-SHA256 Credential=x")),
            None
        );
    }
}
