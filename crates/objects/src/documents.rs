//! XML in requests, on its way to s3s: whether it is what the client says of it, at which s3s doesn't look,
//! and what s3s's reader would pass over in silence.

use crate::error::{malformed, no_blocked_encryption};
use crate::signed::Query;
use crate::sum::{Algorithm, Digester, Sum};
use crate::upload::{check_sum_headers, other_md5, other_sum, said_md5, said_sum};
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Method, Request};
use md5::{Digest, Md5};
use s3s::dto::{TagSet, Tagging};
use s3s::stream::{ByteStream, DynByteStream};
use s3s::xml::{Deserialize, Deserializer};
use s3s::{Body, S3Error, S3Result, StdError, s3_error};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

/// A word, and why it is refused.
type Refused = (&'static [u8], fn() -> S3Error);

/// What documents may not have. Text in `CDATA` is left out by s3s's reader.
const REFUSED: [Refused; 2] = [
    (b"<![CDATA[", malformed),
    (b"<BlockedEncryptionTypes>", no_blocked_encryption),
];
/// Of a document of which all is looked at here.
const MOST_KEPT: usize = 64 << 10;

/// What was found out about a request's document, once it has been read.
#[derive(Clone, Debug, Default)]
pub struct Document(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    wrong: Option<S3Error>,
    kept: Vec<u8>,
}

impl Document {
    /// Why it was not passed on to its end.
    pub fn wrong(&self) -> Option<S3Error> {
        self.lock().wrong.take()
    }

    /// The tags in the document that a bucket is created with, for which s3s's type has no member.
    pub fn bucket_tags(&self) -> S3Result<TagSet> {
        let found = self.lock();
        let text = String::from_utf8_lossy(&found.kept);
        let inner = text.split_once("<Tags>").and_then(|(_, rest)| {
            let (inner, _) = rest.split_once("</Tags>")?;
            Some(format!("<Tagging><TagSet>{inner}</TagSet></Tagging>"))
        });
        let Some(inner) = inner else {
            return Ok(TagSet::default());
        };
        let mut reader = Deserializer::new(inner.as_bytes());
        let tagging = Tagging::deserialize(&mut reader).map_err(|_| malformed())?;
        Ok(tagging.tag_set)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Found> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    CreateBucket,
    DeleteObjects,
    /// Its checksum is the object's.
    Complete,
    Other,
}

/// What kind of document the body of such a request is; an object's bytes are none.
fn kind(method: &Method, has_key: bool, query: &Query) -> Option<Kind> {
    let any = |names: &[&str]| names.iter().any(|name| query.has(name));
    let plain = || {
        query
            .pairs()
            .iter()
            .all(|(name, _)| name.starts_with("x-") || name.starts_with("X-"))
    };
    match (method.as_str(), has_key) {
        ("PUT", false) if plain() => Some(Kind::CreateBucket),
        ("PUT", false) => Some(Kind::Other),
        ("PUT", true) if any(&["acl", "legal-hold", "retention", "tagging"]) => Some(Kind::Other),
        ("POST", false) if query.has("delete") => Some(Kind::DeleteObjects),
        ("POST", true) if query.has("uploadId") => Some(Kind::Complete),
        _ => None,
    }
}

/// The request, with a body that ends in an error where its document isn't what its headers say.
pub fn judged(mut request: Request<Body>, has_key: bool, query: &Query) -> S3Result<Request<Body>> {
    let headers = request.headers();
    let Some(kind) = kind(request.method(), has_key, query) else {
        return Ok(request);
    };
    let md5 = said_md5(headers)?;
    let sum = match kind {
        Kind::Complete => {
            check_sum_headers(headers)?;
            None
        }
        Kind::CreateBucket | Kind::DeleteObjects | Kind::Other => said_sum(headers)?,
    };
    if kind == Kind::DeleteObjects && md5.is_none() && sum.is_none() && !is_hashed(headers) {
        return Err(s3_error!(
            InvalidRequest,
            "Missing required header for this request: Content-MD5 OR x-amz-checksum-*"
        ));
    }
    let document = Document::default();
    request.extensions_mut().insert(document.clone());
    let body: DynByteStream = Box::pin(Watched {
        body: std::mem::take(request.body_mut()),
        keeps: kind == Kind::CreateBucket,
        md5: md5.map(|said| (Md5::new(), said)),
        // What trailers say is said of what s3s decodes.
        sum: sum.and_then(|(algorithm, said)| Some((algorithm, Digester::new(algorithm), said?))),
        last: Vec::new(),
        document,
        ended: false,
    });
    *request.body_mut() = Body::from(body);
    Ok(request)
}

/// Whether the signature covers the body.
fn is_hashed(headers: &HeaderMap) -> bool {
    let hash = headers.get("x-amz-content-sha256");
    hash.is_some_and(|hash: &HeaderValue| hash.len() == 64)
}

struct Watched {
    body: Body,
    keeps: bool,
    md5: Option<(Md5, Vec<u8>)>,
    sum: Option<(Algorithm, Digester, String)>,
    /// The end of what went by, in which a word may begin.
    last: Vec<u8>,
    document: Document,
    ended: bool,
}

impl Watched {
    fn see(&mut self, bytes: &Bytes) -> S3Result<()> {
        if let Some((md5, _)) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some((_, digester, _)) = &mut self.sum {
            digester.update(bytes);
        }
        if self.keeps {
            let kept = &mut self.document.lock().kept;
            if kept.len() + bytes.len() > MOST_KEPT {
                return Err(malformed());
            }
            kept.extend_from_slice(bytes);
        }
        self.last.extend_from_slice(bytes);
        let mut longest = 0;
        for (word, why) in REFUSED {
            if self.last.windows(word.len()).any(|found| found == word) {
                return Err(why());
            }
            longest = longest.max(word.len());
        }
        self.last
            .drain(..self.last.len().saturating_sub(longest - 1));
        Ok(())
    }

    fn end(&mut self) -> S3Result<()> {
        if let Some((md5, said)) = self.md5.take()
            && md5.finalize()[..] != said[..]
        {
            return Err(other_md5());
        }
        if let Some((algorithm, digester, said)) = self.sum.take()
            && !Sum::of_bytes(algorithm, &digester.finish()).is(&said)
        {
            return Err(other_sum(algorithm));
        }
        Ok(())
    }
}

impl Stream for Watched {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let read = match Pin::new(&mut this.body).poll_next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(read) => read,
        };
        let judged = match &read {
            Some(Ok(bytes)) => this.see(bytes),
            Some(Err(_)) => Ok(()),
            None => this.end(),
        };
        if let Err(wrong) = judged {
            this.ended = true;
            this.document.lock().wrong = Some(wrong);
            return Poll::Ready(Some(Err("the document is not what was said of it".into())));
        }
        Poll::Ready(read)
    }
}

impl ByteStream for Watched {}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    /// What comes of a document with these headers, which arrives in pieces of a size.
    async fn sent(
        uri: &str,
        headers: &[(&'static str, &str)],
        text: &str,
        size: usize,
    ) -> Result<Document, String> {
        let pieces: Vec<_> = text
            .as_bytes()
            .chunks(size)
            .map(Bytes::copy_from_slice)
            .collect();
        let pieces = pieces.into_iter().map(Ok::<_, StdError>);
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(
            pieces.map(|piece| piece.map(http_body::Frame::data)),
        ));
        let mut request = Request::builder()
            .uri(uri)
            .method(if uri.contains("delete") {
                "POST"
            } else {
                "PUT"
            });
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::http_body(body)).expect("it is one");
        let code = |error: S3Error| error.code().as_str().to_owned();
        let query = Query::of(request.uri().query().unwrap_or_default()).expect("well formed");
        let mut request = judged(request, false, &query).map_err(code)?;
        let document = request
            .extensions()
            .get::<Document>()
            .expect("it is one")
            .clone();
        while let Some(piece) = request.body_mut().next().await {
            if piece.is_err() {
                return Err(code(document.wrong().expect("a reason")));
            }
        }
        Ok(document)
    }

    #[tokio::test]
    async fn documents_are_what_their_headers_say() {
        let text = "<Delete><Object><Key>a</Key></Object></Delete>";
        use base64::Engine;
        let encoded = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let md5 = encoded(&Md5::digest(text));
        let other = encoded(&Md5::digest("other"));
        let hash = "0".repeat(64);
        for (headers, found) in [
            (&[("content-md5", md5.as_str())][..], Ok(())),
            (&[("content-md5", &other)], Err("BadDigest")),
            (&[("content-md5", "x")], Err("InvalidDigest")),
            (&[("x-amz-checksum-crc32", "AAAAAA==")], Err("BadDigest")),
            (&[("x-amz-checksum-crc32", "AA")], Err("InvalidRequest")),
            (
                &[("x-amz-content-sha256", "UNSIGNED-PAYLOAD")],
                Err("InvalidRequest"),
            ),
            (&[("x-amz-content-sha256", &hash)], Ok(())),
        ] {
            for size in [1, 1000] {
                let outcome = sent("/b?delete", headers, text, size).await.map(drop);
                assert_eq!(outcome, found.map_err(str::to_owned), "{headers:?}");
            }
        }
        for size in [1, 5, 1000] {
            let text = "<Delete><Object><Key><![CDATA[a]]></Key></Object></Delete>";
            let outcome = sent("/b?delete", &[("x-amz-content-sha256", &hash)], text, size).await;
            assert_eq!(outcome.map(drop), Err("MalformedXML".to_owned()));
            let text = "<Rule><BlockedEncryptionTypes><EncryptionType>NONE</EncryptionType></BlockedEncryptionTypes></Rule>";
            let outcome = sent("/b?encryption", &[], text, size).await;
            assert_eq!(outcome.map(drop), Err("NotImplemented".to_owned()));
        }
    }

    #[tokio::test]
    async fn a_buckets_first_tags_are_found() {
        let text = "<CreateBucketConfiguration><Tags><Tag><Key>a</Key><Value>b &amp; c</Value></Tag></Tags></CreateBucketConfiguration>";
        let document = sent("/b", &[], text, 7).await.expect("it is one");
        let tags = document.bucket_tags().expect("they are tags");
        assert_eq!((tags.len(), tags[0].value.as_deref()), (1, Some("b & c")));
        let document = sent("/b", &[], "", 7).await.expect("it is none");
        assert!(document.bucket_tags().expect("there are none").is_empty());
        let document = sent("/b?versioning", &[], text, 7)
            .await
            .expect("it is one");
        assert!(
            document
                .bucket_tags()
                .expect("it creates nothing")
                .is_empty()
        );
        let long = "x".repeat(MOST_KEPT + 1);
        assert!(sent("/b", &[], &long, 100).await.is_err());
    }
}
