//! `Range` headers that S3 doesn't understand, as several ranges in one, and that it answers with the
//! whole object. s3s refuses them.

use crate::access::Cloud;
use crate::resigned::{self, Signed};
use http::header::RANGE;
use http::{HeaderValue, Method, Request};
use s3s::dto::Range;
use s3s::{Body, S3Result};

/// The request's range means nothing.
#[derive(Clone, Copy)]
pub struct Whole;

/// The request with a range that s3s takes. A signature that covers the header is renewed.
pub fn understood(cloud: &dyn Cloud, mut request: Request<Body>) -> S3Result<Request<Body>> {
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let Some(range) = request.headers().get(RANGE).filter(|_| reads) else {
        return Ok(request);
    };
    if range
        .to_str()
        .is_ok_and(|range| Range::parse(range).is_ok())
    {
        return Ok(request);
    }
    let path = request.uri().path().to_owned();
    let covers = |(signed, secret): &(Signed, String)| {
        signed.covers(RANGE.as_str()) && signed.fits(&request, &path, secret)
    };
    let signed = resigned::known(cloud, &request).filter(covers);
    let all = HeaderValue::from_static("bytes=0-");
    request.headers_mut().insert(RANGE, all);
    request.extensions_mut().insert(Whole);
    if let Some((signed, secret)) = signed {
        signed.renew(&mut request, &path, &secret)?;
    }
    Ok(request)
}
