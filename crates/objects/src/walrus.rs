//! `/services/Walrus`: the path below which Eucalyptus had S3, and below which its users' tools still
//! look for it.
//!
//! Tools sign the path that they send, or the one without the prefix. s3s verifies and routes by one path,
//! so a signature over the whole path is verified here, and replaced by one over the rest.

use crate::access::{Cloud, unavailable};
use crate::resigned::{self, Kind, send_to};
use http::Request;
use s3s::{Body, S3Result};

/// Eucalyptus 4 called it by the second name.
const PREFIXES: [&str; 2] = ["/services/Walrus", "/services/objectstorage"];

/// A request that came below that path.
#[derive(Clone, Copy)]
pub struct Below;

/// The request without the prefix, signed for the rest of its path. Others are what they were.
pub fn stripped(cloud: &dyn Cloud, mut request: Request<Body>) -> S3Result<Request<Body>> {
    let path = request.uri().path().to_owned();
    // s3cmd takes it for a part of the host's name, and writes those small.
    let begins = |prefix: &&&str| {
        let start = path.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let Some(prefix) = PREFIXES.iter().find(begins) else {
        return Ok(request);
    };
    let rest = &path[prefix.len()..];
    if !(rest.is_empty() || rest.starts_with('/')) {
        return Ok(request);
    }
    let rest = if rest.is_empty() { "/" } else { rest };
    request.extensions_mut().insert(Below);
    if let Some((signed, secret)) = resigned::known(cloud, &request) {
        // Version 2 signs a bucket's path with a slash at its end, also where it is sent without.
        let of_bucket = rest.len() > 1 && !rest[1..].contains('/');
        let slashed = matches!(signed.kind, Kind::V2) && of_bucket;
        let fits = |path: &str| signed.fits(&request, path, &secret);
        if fits(&path) || (slashed && fits(&format!("{path}/"))) {
            if signed.chunks {
                return Err(unavailable(
                    "Chunks with signatures of their own can't be verified below /services/Walrus: use the endpoint without that path",
                ));
            }
            let end = if slashed { "/" } else { "" };
            signed.renew(&mut request, &format!("{rest}{end}"), &secret)?;
            return Ok(request);
        }
    }
    let query = request.uri().query().map(ToOwned::to_owned);
    send_to(&mut request, rest, query)?;
    Ok(request)
}
