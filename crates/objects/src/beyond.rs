//! Headers of an object whose text is beyond ASCII, as a `Content-Disposition` that names a file in
//! Chinese. S3 takes them as UTF-8; s3s's types don't.

use http::{Extensions, HeaderName, HeaderValue, Request};
use s3s::Body;
use std::collections::BTreeMap;

/// Those that an object keeps, but for its metadata, which s3s reads as UTF-8.
const KEPT: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
];

/// What the headers said for which something in ASCII stands in.
#[derive(Clone)]
struct Beyond(Vec<(&'static str, String)>);

/// What stands in for those of a request's headers.
pub fn stand_ins(request: &mut Request<Body>) -> Vec<(HeaderName, HeaderValue)> {
    let text = |name: &&'static str| {
        let value = request.headers().get(*name)?.as_bytes();
        let text = String::from_utf8(value.to_vec()).ok()?;
        (!text.is_ascii()).then_some((*name, text))
    };
    let found: Vec<_> = KEPT.iter().filter_map(text).collect();
    if found.is_empty() {
        return Vec::new();
    }
    let ascii = HeaderValue::from_static("utf-8");
    let stand_in =
        |(name, _): &(&'static str, String)| (HeaderName::from_static(name), ascii.clone());
    let stand_ins = found.iter().map(stand_in).collect();
    request.extensions_mut().insert(Beyond(found));
    stand_ins
}

/// Puts what the headers said in place of what stood in.
pub fn restore(extensions: &Extensions, headers: &mut BTreeMap<String, String>) {
    let Some(Beyond(found)) = extensions.get::<Beyond>() else {
        return;
    };
    for (name, text) in found {
        if let Some(value) = headers.get_mut(*name) {
            *value = text.clone();
        }
    }
}
