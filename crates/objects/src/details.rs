//! What an error tells beyond its code and message, in elements of its own that programs look at: the
//! key, the bucket, the condition that failed (AWS, "Error responses", and what its answers have).

use crate::copying;
use crate::front::{Target, escaped};
use crate::objects;
use crate::resigned;
use crate::signed::Query;
use boira_api::form;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use s3s::dto::CopySource;
use s3s::{Body, S3Error};

/// Carries what only who refuses knows, from there to the body; it doesn't leave the house.
const CARRIER: HeaderName = HeaderName::from_static("x-boira-error-detail");

const SOURCE: &str = "x-amz-copy-source";

/// Errors of a bucket's that name it.
const OF_BUCKETS: [&str; 17] = [
    "BucketAlreadyExists",
    "BucketAlreadyOwnedByYou",
    "BucketNotEmpty",
    "InvalidBucketAclWithObjectOwnership",
    "InvalidBucketName",
    "InvalidBucketState",
    "NoSuchBucket",
    "NoSuchBucketPolicy",
    "NoSuchCORSConfiguration",
    "NoSuchLifecycleConfiguration",
    "NoSuchPublicAccessBlockConfiguration",
    "NoSuchTagSet",
    "NoSuchWebsiteConfiguration",
    "ObjectLockConfigurationNotFoundError",
    "OwnershipControlsNotFoundError",
    "ReplicationConfigurationNotFoundError",
    "ServerSideEncryptionConfigurationNotFoundError",
];

/// The error with one more element, its name and its value.
pub fn with(mut error: S3Error, name: &'static str, value: impl std::fmt::Display) -> S3Error {
    let mut headers = error.headers().cloned().unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(&format!("{name}={value}")) {
        headers.append(CARRIER, value);
    }
    error.set_headers(headers);
    error
}

fn decoded(text: &str) -> String {
    let bytes = form::percent_decode(text.as_bytes()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The details that came along with an error, taken off its headers.
fn carried(headers: &mut HeaderMap) -> Vec<(String, String)> {
    let lines = headers.get_all(CARRIER).iter();
    let pair = |line: &HeaderValue| {
        let (name, value) = line.to_str().ok()?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    let found = lines.filter_map(pair).collect();
    headers.remove(CARRIER);
    found
}

/// What a request is about, as far as its errors tell.
pub struct Asked<'a> {
    target: &'a Target,
    head: Request<()>,
}

impl<'a> Asked<'a> {
    pub fn of(request: &Request<Body>, target: &'a Target) -> Self {
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.headers_mut() = request.headers().clone();
        Self { target, head }
    }

    pub fn method(&self) -> &Method {
        self.head.method()
    }

    pub fn uri(&self) -> &Uri {
        self.head.uri()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name)?.to_str().ok()
    }

    fn query(&self, name: &str) -> Option<String> {
        let query = Query::of(self.uri().query().unwrap_or_default()).ok()?;
        query.get(name).map(ToOwned::to_owned)
    }

    /// The key that is looked for and its version: of a copy, its source's.
    fn wanted(&self) -> (String, Option<String>) {
        let source = self.header(SOURCE);
        let source = source.and_then(|text| CopySource::parse(text).ok());
        match source.and_then(|source| copying::named(&source).ok()) {
            Some((_, key, version)) => (key, version),
            None => (decoded(&self.target.key), self.query("versionId")),
        }
    }

    fn told(&self, code: &str) -> Vec<(&'static str, Option<String>)> {
        match code {
            "NoSuchKey" => vec![("Key", Some(self.wanted().0))],
            "NoSuchVersion" => {
                let (key, version) = self.wanted();
                vec![("Key", Some(key)), ("VersionId", version)]
            }
            "NoSuchUpload" => vec![("UploadId", self.query("uploadId"))],
            "SignatureDoesNotMatch" => {
                let explained = resigned::explained(&self.head);
                let some = |(name, value)| (name, Some(value));
                explained.into_iter().map(some).collect()
            }
            "KeyTooLongError" => {
                let size = decoded(&self.target.key).len().to_string();
                let most = objects::LONGEST_KEY.to_string();
                vec![("Size", Some(size)), ("MaxSizeAllowed", Some(most))]
            }
            "InvalidRange" => {
                let range = self.header("range").map(ToOwned::to_owned);
                vec![("RangeRequested", range)]
            }
            "MethodNotAllowed" => {
                let kind = match (&self.target.bucket, self.target.has_key()) {
                    (None, _) => "SERVICE",
                    (Some(_), false) => "BUCKET",
                    (Some(_), true) => "OBJECT",
                };
                let method = self.method().as_str().to_owned();
                vec![
                    ("Method", Some(method)),
                    ("ResourceType", Some(kind.into())),
                ]
            }
            // Which of a copy's two it is, isn't known here.
            "NoSuchBucket" if self.header(SOURCE).is_some() => Vec::new(),
            code if OF_BUCKETS.contains(&code) => vec![("BucketName", self.target.bucket.clone())],
            _ => Vec::new(),
        }
    }

    /// The elements for an error with this code; what its headers carry is taken off them and comes first.
    pub fn elements(&self, code: &str, headers: &mut HeaderMap) -> String {
        let mut found = carried(headers);
        let region = headers.get("x-amz-bucket-region");
        if code == "AuthorizationHeaderMalformed"
            && let Some(region) = region.and_then(|region| region.to_str().ok())
        {
            found.push(("Region".into(), region.to_owned()));
        }
        for (name, value) in self.told(code) {
            if let Some(value) = value
                // Which XML can't say.
                && !value.contains(|c: char| c.is_control() && c != '\n')
                && found.iter().all(|(one, _)| one != name)
            {
                found.push((name.to_owned(), value));
            }
        }
        let element =
            |(name, value): &(String, String)| format!("<{name}>{}</{name}>", escaped(value));
        found.iter().map(element).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::s3_error;

    fn elements(uri: &str, headers: &[(&'static str, &str)], error: &S3Error) -> String {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (path, _) = uri.split_once('?').unwrap_or((uri, ""));
        let (bucket, key) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let target = Target {
            bucket: Some(bucket.to_owned()),
            key: key.to_owned(),
        };
        let request = request.body(Body::empty()).unwrap();
        let mut headers = error.headers().cloned().unwrap_or_default();
        let found = Asked::of(&request, &target).elements(error.code().as_str(), &mut headers);
        assert!(headers.is_empty(), "{headers:?}");
        found
    }

    #[test]
    fn an_error_names_what_it_is_about() {
        let no_key = s3_error!(NoSuchKey);
        let of_key = |uri| elements(uri, &[], &no_key);
        assert_eq!(of_key("/b/a%20%3C/c"), "<Key>a &lt;/c</Key>");
        assert_eq!(of_key("/b/a%01"), "");
        let source = [("x-amz-copy-source", "/from/a%20b?versionId=v")];
        assert_eq!(elements("/b/k", &source, &no_key), "<Key>a b</Key>");
        assert_eq!(
            elements("/b/k", &source, &s3_error!(NoSuchVersion)),
            "<Key>a b</Key><VersionId>v</VersionId>"
        );
        assert_eq!(
            elements(
                "/b/k?uploadId=u%2B&partNumber=1",
                &[],
                &s3_error!(NoSuchUpload)
            ),
            "<UploadId>u+</UploadId>"
        );
        let bucket = elements("/b?tagging", &[], &s3_error!(NoSuchTagSet));
        assert_eq!(bucket, "<BucketName>b</BucketName>");
        assert_eq!(elements("/b/k", &[], &s3_error!(AccessDenied)), "");
    }

    #[test]
    fn what_comes_along_goes_before_what_follows_from_the_request() {
        let error = with(s3_error!(MethodNotAllowed), "ResourceType", "DeleteMarker");
        assert_eq!(
            elements("/b/k", &[], &error),
            "<ResourceType>DeleteMarker</ResourceType><Method>GET</Method>"
        );
    }
}
