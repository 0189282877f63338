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
    if let Some(text) = expires.filter(|text| !is_canonical(text)) {
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

/// Whether it is a date as it will be spelt again.
fn is_canonical(text: &str) -> bool {
    let parsed = Timestamp::parse(TimestampFormat::HttpDate, text);
    parsed.is_ok_and(|time| http_date(&time) == text)
}

/// What a form says of `Expires`, for s3s's type; if that can't hold it, the text is noted beside.
pub fn expires(extensions: &mut Extensions, text: String) -> Timestamp {
    match Timestamp::parse(TimestampFormat::HttpDate, &text) {
        Ok(time) if is_canonical(&text) => time,
        _ => {
            extensions.insert(Beyond(vec![("expires", text)]));
            stamp(0)
        }
    }
}

/// The header `Expires` as it was put, where s3s's type can't say it.
pub fn other_expires(text: &str) -> Option<HeaderValue> {
    let other = !is_canonical(text);
    other.then(|| HeaderValue::from_bytes(text.as_bytes()).ok())?
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
