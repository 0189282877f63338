//! `Range` headers that S3 doesn't understand, as several ranges in one, and that it answers with the
//! whole object. s3s refuses them.

use http::header::RANGE;
use http::{HeaderName, HeaderValue, Method, Request};
use s3s::Body;
use s3s::dto::Range;

/// The request's range means nothing.
#[derive(Clone, Copy)]
pub struct Whole;

/// What stands in for a range that s3s refuses.
pub fn stand_in(request: &mut Request<Body>) -> Option<(HeaderName, HeaderValue)> {
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let range = request.headers().get(RANGE).filter(|_| reads)?;
    if range
        .to_str()
        .is_ok_and(|range| Range::parse(range).is_ok())
    {
        return None;
    }
    request.extensions_mut().insert(Whole);
    Some((RANGE, HeaderValue::from_static("bytes=0-")))
}
