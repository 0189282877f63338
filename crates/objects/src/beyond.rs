//! Headers of an object that S3 takes and s3s's types don't: text beyond ASCII, as a `Content-Disposition`
//! that names a file in Chinese, which is UTF-8, and an `Expires` that is no date, as `0`.

use crate::describe::{http_date, stamp};
use http::{Extensions, HeaderName, HeaderValue, Request};
use s3s::Body;
use s3s::dto::{Timestamp, TimestampFormat};
use std::collections::BTreeMap;

/// Those that an object keeps, but for its metadata, which s3s reads as UTF-8.
const KEPT: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
];

/// What the headers said for which something else stands in.
#[derive(Clone)]
struct Beyond(Vec<(&'static str, String)>);

/// What stands in for those of a request's headers.
pub fn stand_ins(request: &mut Request<Body>) -> Vec<(HeaderName, HeaderValue)> {
    let text = |name: &&'static str| {
        let value = request.headers().get(*name)?.as_bytes();
        let text = String::from_utf8(value.to_vec()).ok()?;
        (!text.is_ascii()).then_some((*name, text))
    };
    let mut found: Vec<_> = KEPT.iter().filter_map(text).collect();
    let ascii = HeaderValue::from_static("utf-8");
    let stand_in =
        |(name, _): &(&'static str, String)| (HeaderName::from_static(name), ascii.clone());
    let mut stand_ins: Vec<_> = found.iter().map(stand_in).collect();
    let expires = request.headers().get("expires");
    let expires = expires.and_then(|value| String::from_utf8(value.as_bytes().to_vec()).ok());
    if let Some(text) = expires.filter(|text| said_again(text).is_none()) {
        found.push(("expires", text));
        stand_ins.push((
            HeaderName::from_static("expires"),
            HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"),
        ));
    }
    if !found.is_empty() {
        request.extensions_mut().insert(Beyond(found));
    }
    stand_ins
}

/// The date that `Expires` says, if s3s says it again as it was.
pub fn said_again(expires: &str) -> Option<Timestamp> {
    let date = Timestamp::parse(TimestampFormat::HttpDate, expires).ok()?;
    (http_date(&date) == expires).then_some(date)
}

/// What a form says of `Expires`, for s3s's type; if that can't hold it, the text is noted beside.
pub fn expires(extensions: &mut Extensions, text: String) -> Timestamp {
    said_again(&text).unwrap_or_else(|| {
        extensions.insert(Beyond(vec![("expires", text)]));
        stamp(0)
    })
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
