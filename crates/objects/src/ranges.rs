//! `Range` headers that S3 doesn't understand, as several ranges in one, and that it answers with the
//! whole object. s3s refuses them.

use crate::describe::{http_date, second};
use crate::rows::Version;
use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use s3s::Body;
use s3s::dto::Range;

/// The request's range means nothing.
#[derive(Clone, Copy)]
pub struct Whole;

/// Whether the object is the one that a range is of: `If-Range` names its tag or its date, and if it is
/// another one by now, all of it is sent (RFC 9110, 13.1.5).
pub fn is_of(headers: &HeaderMap, version: &Version) -> bool {
    let Some(named) = headers.get(IF_RANGE) else {
        return true;
    };
    let named = named.to_str().unwrap_or_default();
    named == format!("\"{}\"", version.etag) || named == http_date(&second(version.modified_ms))
}

/// One range with a number that is too large, or another spelling of its unit, as s3s reads it.
fn plain(text: &str) -> Option<HeaderValue> {
    let (unit, range) = text.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true if text.is_empty() => Some(String::new()),
        true => Some(text.parse().unwrap_or(i64::MAX).to_string()),
        false => None,
    };
    let plain = format!("bytes={}-{}", number(first)?, number(last)?);
    let fits = unit.eq_ignore_ascii_case("bytes") && Range::parse(&plain).is_ok();
    fits.then(|| HeaderValue::from_str(&plain).ok())?
}

/// What stands in for a range that s3s refuses.
pub fn stand_in(request: &mut Request<Body>) -> Option<(HeaderName, HeaderValue)> {
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let range = request.headers().get(RANGE).filter(|_| reads)?;
    let text = range.to_str().unwrap_or_default();
    if Range::parse(text).is_ok() {
        return None;
    }
    if let Some(plain) = plain(text) {
        return Some((RANGE, plain));
    }
    request.extensions_mut().insert(Whole);
    Some((RANGE, HeaderValue::from_static("bytes=0-")))
}
