//! Preconditions: `If-Match`, `If-None-Match`, `If-Modified-Since` and `If-Unmodified-Since` of reads
//! and copies (RFC 9110, 13.2.2, as AWS applies it), and the first two of writes.

use crate::describe::{http_date, second};
use crate::details;
use crate::rows::{self, Bucket, Version};
use http::header::{
    CACHE_CONTROL, ETAG, EXPIRES, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED,
};
use http::{HeaderName, HeaderValue, Request};
use rusqlite::Connection;
use s3s::dto::{ETagCondition, Timestamp, TimestampFormat};
use s3s::{Body, S3Error, S3ErrorCode, S3Result, s3_error};
use std::time::{Duration, SystemTime};

/// Headers with the tag of an object.
const TAGGED: [HeaderName; 4] = [
    IF_MATCH,
    IF_NONE_MATCH,
    HeaderName::from_static("x-amz-copy-source-if-match"),
    HeaderName::from_static("x-amz-copy-source-if-none-match"),
];

/// An object's is of hexadecimal digits.
const NO_TAG: &str = "\"none\"";

/// Headers with a date, and one that always holds: what is none is ignored (RFC 9110, 13.1.3 and 13.1.4).
const DATED: [(HeaderName, &str); 4] = [
    (IF_MODIFIED_SINCE, LONG_AGO),
    (IF_UNMODIFIED_SINCE, NEVER),
    (
        HeaderName::from_static("x-amz-copy-source-if-modified-since"),
        LONG_AGO,
    ),
    (
        HeaderName::from_static("x-amz-copy-source-if-unmodified-since"),
        NEVER,
    ),
];
const LONG_AGO: &str = "Thu, 01 Jan 1970 00:00:00 GMT";
const NEVER: &str = "Fri, 31 Dec 9999 23:59:59 GMT";

/// What stands in for tags and dates that s3s refuses, and S3 doesn't: tags with one quote only, or such as
/// no object has; dates as they were spelt once (RFC 9110, 5.6.7), and what is none.
pub fn stand_ins(request: &Request<Body>) -> Vec<(HeaderName, HeaderValue)> {
    let is_read = |value: &HeaderValue| ETagCondition::parse_http_header(value.as_bytes()).is_ok();
    let stand_in = |name: HeaderName| {
        let value = request.headers().get(&name)?;
        if is_read(value) {
            return None;
        }
        let bare = value.to_str().unwrap_or_default().trim_matches('"');
        let whole = HeaderValue::from_str(&format!("\"{bare}\"")).ok();
        let whole = whole.filter(|whole| !bare.is_empty() && is_read(whole));
        Some((name, whole.unwrap_or(HeaderValue::from_static(NO_TAG))))
    };
    let dates = DATED.into_iter().filter_map(|(name, idle)| {
        let text = request.headers().get(&name)?.to_str().unwrap_or_default();
        if Timestamp::parse(TimestampFormat::HttpDate, text).is_ok() {
            return None;
        }
        let spelt = httpdate::parse_http_date(text).map(httpdate::fmt_http_date);
        let spelt = spelt
            .ok()
            .and_then(|date| HeaderValue::from_str(&date).ok());
        Some((name, spelt.unwrap_or(HeaderValue::from_static(idle))))
    });
    let tags = TAGGED.into_iter().filter_map(stand_in);
    tags.chain(dates).collect()
}

/// Takes the conditions of a read, or of a copy's source, out of an input.
macro_rules! conditions {
    ($input:expr) => {
        $crate::conditions::Conditions {
            matches: $input.if_match.take(),
            none_matches: $input.if_none_match.take(),
            modified_since: $input.if_modified_since.take(),
            unmodified_since: $input.if_unmodified_since.take(),
        }
    };
    (source of $input:expr) => {
        $crate::conditions::Conditions {
            matches: $input.copy_source_if_match.take(),
            none_matches: $input.copy_source_if_none_match.take(),
            modified_since: $input.copy_source_if_modified_since.take(),
            unmodified_since: $input.copy_source_if_unmodified_since.take(),
        }
    };
}
pub(crate) use conditions;

#[derive(Debug, Default)]
pub struct Conditions {
    pub matches: Option<ETagCondition>,
    pub none_matches: Option<ETagCondition>,
    pub modified_since: Option<Timestamp>,
    pub unmodified_since: Option<Timestamp>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// The condition of that name.
    Failed(&'static str),
    NotModified(&'static str),
}

fn is(condition: &ETagCondition, etag: &str) -> bool {
    condition.is_any()
        || condition
            .as_etag()
            .is_some_and(|wanted| wanted.value() == etag)
}

/// The last second of the year 9999, beyond which dates have no spelling.
const LATEST_MS: i64 = 253_402_300_799_000;

/// A time by its milliseconds since 1970.
pub fn time(ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms.clamp(0, LATEST_MS) as u64)
}

impl Conditions {
    fn judge(&self, etag: &str, modified_ms: i64) -> Verdict {
        // HTTP's dates have whole seconds.
        let modified = Timestamp::from(time(modified_ms / 1000 * 1000));
        match (&self.matches, &self.unmodified_since) {
            (Some(wanted), _) if !is(wanted, etag) => return Verdict::Failed("If-Match"),
            (None, Some(since)) if modified > *since => {
                return Verdict::Failed("If-Unmodified-Since");
            }
            _ => {}
        }
        match (&self.none_matches, &self.modified_since) {
            (Some(unwanted), _) if is(unwanted, etag) => Verdict::NotModified("If-None-Match"),
            (None, Some(since)) if modified <= *since => Verdict::NotModified("If-Modified-Since"),
            _ => Verdict::Fine,
        }
    }

    /// For GET and HEAD: 412, or 304.
    pub fn allow_read(&self, version: &Version) -> S3Result<()> {
        match self.judge(&version.etag, version.modified_ms) {
            Verdict::Fine => Ok(()),
            Verdict::Failed(name) => Err(failed(name)),
            Verdict::NotModified(_) => Err(not_modified(version)),
        }
    }

    /// For the source of a copy, where both cases are 412.
    pub fn allow_copy(&self, version: &Version) -> S3Result<()> {
        match self.judge(&version.etag, version.modified_ms) {
            Verdict::Fine => Ok(()),
            Verdict::Failed(name) | Verdict::NotModified(name) => {
                Err(failed(&format!("x-amz-copy-source-{name}")))
            }
        }
    }
}

/// With what a cache brings its copy up to date by (RFC 9110, 15.4.5).
fn not_modified(version: &Version) -> S3Error {
    let said = [
        (ETAG, Some(format!("\"{}\"", version.etag))),
        (LAST_MODIFIED, Some(http_date(&second(version.modified_ms)))),
        (
            CACHE_CONTROL,
            version.about.headers.get("cache-control").cloned(),
        ),
        (EXPIRES, version.about.headers.get("expires").cloned()),
    ];
    let said = said.into_iter().filter_map(|(name, value)| {
        let value = HeaderValue::from_str(&value?).ok()?;
        Some((name, value))
    });
    let mut error = S3Error::with_message(S3ErrorCode::NotModified, "Not Modified");
    error.set_headers(said.collect());
    error
}

/// Conditions on what a write would replace.
#[derive(Clone, Debug, Default)]
pub struct OfWrite {
    pub matches: Option<ETagCondition>,
    pub none_matches: Option<ETagCondition>,
}

impl OfWrite {
    pub fn judge(&self, db: &Connection, bucket: &Bucket, key: &str) -> S3Result<()> {
        if self.matches.is_none() && self.none_matches.is_none() {
            return Ok(());
        }
        let current = rows::current(db, bucket.id, key)?;
        let current = current.filter(|version| !version.marker);
        allow_write(
            self.matches.as_ref(),
            self.none_matches.as_ref(),
            current.as_ref(),
        )
    }
}

/// For PUT and CompleteMultipartUpload (AWS, "How to prevent object overwrites with conditional
/// writes"): `If-None-Match` takes `*` only, `If-Match` of a key that isn't there is NoSuchKey.
fn allow_write(
    matches: Option<&ETagCondition>,
    none_matches: Option<&ETagCondition>,
    current: Option<&Version>,
) -> S3Result<()> {
    if let Some(unwanted) = none_matches {
        if !unwanted.is_any() {
            return Err(s3_error!(
                NotImplemented,
                "A header you provided implies functionality that is not implemented: If-None-Match takes * here."
            ));
        }
        if current.is_some() {
            return Err(failed("If-None-Match"));
        }
    }
    match (matches, current) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(rows::no_such_key()),
        (Some(wanted), Some(version)) if is(wanted, &version.etag) => Ok(()),
        (Some(_), Some(_)) => Err(failed("If-Match")),
    }
}

/// The condition of that name does not hold.
pub fn failed(name: &str) -> S3Error {
    let error = s3_error!(
        PreconditionFailed,
        "At least one of the pre-conditions you specified did not hold"
    );
    details::with(error, "Condition", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::dto::ETag;

    fn tag(value: &str) -> Option<ETagCondition> {
        Some(ETagCondition::ETag(ETag::Strong(value.into())))
    }

    fn since(ms: i64) -> Option<Timestamp> {
        Some(Timestamp::from(time(ms)))
    }

    /// The four headers together, as AWS's page of GetObject has them.
    #[test]
    fn precedence() {
        let judged = |matches, none_matches, modified_since, unmodified_since| {
            Conditions {
                matches,
                none_matches,
                modified_since,
                unmodified_since,
            }
            .judge("e", 5_700)
        };
        assert_eq!(judged(None, None, None, None), Verdict::Fine);
        assert_eq!(judged(tag("e"), None, None, since(1_000)), Verdict::Fine);
        assert_eq!(
            judged(tag("x"), None, None, since(9_000)),
            Verdict::Failed("If-Match")
        );
        assert_eq!(
            judged(None, None, None, since(4_000)),
            Verdict::Failed("If-Unmodified-Since")
        );
        assert_eq!(judged(None, None, None, since(5_000)), Verdict::Fine);
        assert_eq!(
            judged(None, tag("e"), since(1_000), None),
            Verdict::NotModified("If-None-Match")
        );
        assert_eq!(judged(None, tag("x"), since(9_000), None), Verdict::Fine);
        assert_eq!(
            judged(None, None, since(5_000), None),
            Verdict::NotModified("If-Modified-Since")
        );
        assert_eq!(judged(None, None, since(4_000), None), Verdict::Fine);
    }
}
