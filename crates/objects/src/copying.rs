//! Copies of objects: a new version of the same bytes, none of which is moved, unless they are to be
//! kept under another key.

use crate::access::account;
use crate::authorize::Who;
use crate::conditions::{Conditions, OfWrite, conditions};
use crate::contents::{Reading, Slice};
use crate::crypt::{Key, Lock};
use crate::db::Tx;
use crate::describe::{described, etag, second, with_sums};
use crate::encryption;
use crate::lifecycle;
use crate::lock::Wish;
use crate::objects::checked_key;
use crate::quota;
use crate::rows::{self, About, Bucket, Put, Version};
use crate::sum::{Algorithm, Covers, Sum};
use crate::upload::{Received, Said};
use crate::{Store, read, upload};
use http::{HeaderName, HeaderValue, Request};
use s3s::dto::*;
use s3s::{Body, S3Request, S3Result, s3_error};
use std::sync::Arc;

/// What a copy is made of.
pub struct Source {
    who: Who,
    bucket: Bucket,
    pub version: Version,
    /// The client's key that opens it.
    opener: Option<Key>,
    reading: Arc<Reading>,
}

/// The header that says where a website sends on to from an object, as objects keep it.
const REDIRECT: &str = "location";

const COPY_SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");

/// What stands in for the header that names a copy's source. It is encoded as forms are, where a plus is a
/// space, and some clients send its text beyond ASCII as it is (fog); s3s takes neither.
pub fn stand_in(request: &Request<Body>) -> Option<(HeaderName, HeaderValue)> {
    let source = request.headers().get(COPY_SOURCE)?.as_bytes();
    if !source.iter().any(|byte| *byte == b'+' || !byte.is_ascii()) {
        return None;
    }
    let encoded = |byte: &u8| match byte {
        b'+' => "%20".to_owned(),
        byte if byte.is_ascii() => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let whole: String = source.iter().map(encoded).collect();
    Some((COPY_SOURCE, HeaderValue::from_str(&whole).ok()?))
}

impl Source {
    /// What the client is told of the version.
    pub fn told(&self) -> Option<String> {
        self.bucket.told(&self.version.id)
    }

    /// What was looked at may be gone by now: its bytes would be, too.
    pub fn unchanged(&self, tx: &Tx<'_>) -> S3Result<()> {
        let bucket = rows::bucket(tx.connection, &self.bucket.name, &self.who.account)?;
        let key = String::from_utf8_lossy(&self.version.key);
        let still = rows::version(tx.connection, bucket.id, &key, &self.version.id)?;
        match still.is_some_and(|still| still.age == self.version.age) {
            true => Ok(()),
            false => Err(s3_error!(
                OperationAborted,
                "The source changed while it was copied. Try again."
            )),
        }
    }

    /// Bytes of it as they are kept in another place, with their ETag and checksum: shared where they are
    /// locked alike, else written anew.
    pub async fn kept(
        &self,
        store: &Arc<Store>,
        slices: Vec<Slice>,
        lock: &Lock,
        algorithm: Algorithm,
    ) -> S3Result<(String, Sum, Bytes)> {
        let (reading, opener) = (self.reading.clone(), self.opener.clone());
        let body = read::body(store, reading, slices.clone(), opener).await?;
        if lock.is_of(&self.version.about) {
            let (md5, sum) = digest(body, algorithm).await?;
            return Ok((lock.etag(md5), sum, Bytes::Shared(slices)));
        }
        let said = Said::of_length(slices.iter().map(|slice| slice.len).sum());
        let written = upload::receive(&store.contents, &said, Some(body), algorithm, lock).await?;
        let (tag, sum) = (written.md5.clone(), written.sum.clone());
        Ok((tag, sum, Bytes::Own(Box::new(written))))
    }
}

/// What a copy makes of its source besides the bytes.
struct Changes {
    described: About,
    replaced: bool,
    /// A storage class is asked for, be it the one that the source has.
    classed: bool,
    retagged: bool,
    /// The checksum's algorithm, where another is wished.
    sum: Option<Algorithm>,
}

impl Changes {
    fn of(request: &mut S3Request<CopyObjectInput>) -> S3Result<Self> {
        let classed = request.input.storage_class.is_some();
        let described = described!(request.input).about(&request.extensions)?;
        let input = &request.input;
        let named = |asked: &ChecksumAlgorithm| {
            Algorithm::named(asked.as_str()).ok_or_else(upload::invalid_algorithm)
        };
        Ok(Self {
            replaced: directive(input.metadata_directive.as_ref().map(|it| it.as_str()))?,
            classed,
            retagged: directive(input.tagging_directive.as_ref().map(|it| it.as_str()))?,
            sum: input.checksum_algorithm.as_ref().map(named).transpose()?,
            described,
        })
    }

    /// Whether an object that is copied onto itself would be another one.
    fn are_any(&self, version: &Version) -> bool {
        self.replaced
            || self.retagged
            || self.classed
            || version.about.class.is_some()
            || self.described.headers.contains_key(REDIRECT)
    }

    fn applied(&self, version: &Version) -> About {
        let mut about = version.about.clone();
        // It never goes along ("CopyObject" in AWS's reference).
        about.headers.remove(REDIRECT);
        if let Some(location) = self.described.headers.get(REDIRECT) {
            about.headers.insert(REDIRECT.to_owned(), location.clone());
        }
        if self.replaced {
            about.headers = self.described.headers.clone();
            about.metadata = self.described.metadata.clone();
        }
        if self.retagged {
            about.tags = self.described.tags.clone();
        }
        about.class = self.described.class.clone();
        about.parts = Vec::new();
        about
    }

    /// Whether the copy's ETag or checksum can't be its source's: an object that was made of parts becomes
    /// one, and they are of all its bytes then.
    fn need_digests(&self, version: &Version) -> bool {
        let sum = version.about.sum.as_ref();
        let other = self
            .sum
            .is_some_and(|asked| sum.is_none_or(|sum| sum.algorithm != asked));
        let composite = sum.is_none_or(|sum| sum.covers == Covers::Composite);
        other || composite || version.etag.contains('-')
    }

    fn algorithm(&self, version: &Version) -> Algorithm {
        let sum = version.about.sum.as_ref().map(|sum| sum.algorithm);
        self.sum.or(sum).unwrap_or(Algorithm::Crc64Nvme)
    }
}

impl Store {
    pub async fn copy_object(
        self: &Arc<Self>,
        mut request: S3Request<CopyObjectInput>,
    ) -> S3Result<CopyObjectOutput> {
        let account = account(&request.extensions)?;
        checked_key(&request.input.key)?;
        let conditions = destination_conditions(&request.headers)?;
        let access = self.acl_wish(&request.headers, &request.extensions)?;
        let wished = encryption::Wish::of(&request.headers)?;
        let changes = Changes::of(&mut request)?;
        let of_source = conditions!(source of request.input);
        let place = request.input.copy_source.clone();
        let source = self.source(&request, &place, of_source).await?;
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        let lock = wished.lock(&bucket, self.encrypts());
        let input = request.input;
        let version = &source.version;
        if version.size > 5 << 30 {
            return Err(s3_error!(
                InvalidRequest,
                "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"
            ));
        }
        if !lock.is_of(&version.about) && !bucket.replaces() {
            let (bucket, size) = (bucket.clone(), version.size);
            self.db
                .read(move |db| quota::judge_with(db, &bucket, size))
                .await?;
        }
        let (name, key, id) = named(&place)?;
        let itself = name == input.bucket && key == input.key && id.is_none();
        if itself && !changes.are_any(version) && !wished.is_given() {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes."
            ));
        }
        let mut about = changes.applied(version);
        about.encryption = lock.noted();
        encryption::tell(&request.extensions, about.encryption.as_ref(), lock.key());
        let mut tag = version.etag.clone();
        let mut bytes = Bytes::Shared(version.slices.clone());
        if !lock.is_of(&version.about) || changes.need_digests(version) {
            let (slices, algorithm) = (version.slices.clone(), changes.algorithm(version));
            let kept = source.kept(self, slices, &lock, algorithm).await?;
            (tag, about.sum, bytes) = (kept.0, Some(kept.1), kept.2);
        }
        let wish = Wish::of(
            input.object_lock_mode,
            input.object_lock_retain_until_date,
            input.object_lock_legal_hold_status,
        );
        let (sum, copied, source_told) = (about.sum.clone(), tag.clone(), source.told());
        let (made, told, expiration) = self
            .db
            .write(move |tx| {
                source.unchanged(tx)?;
                let bucket = rows::bucket(tx.connection, &input.bucket, &account)?;
                conditions.judge(tx.connection, &bucket, &input.key)?;
                wish.apply(&bucket, &mut about, tx.now_ms)?;
                access.apply(&bucket, &mut about)?;
                let put = Put {
                    size: source.version.size,
                    etag: copied,
                    about,
                    slices: bytes.used(tx)?,
                };
                let made = bucket.put(tx, &input.key, put)?;
                quota::judge(tx, &bucket)?;
                let expiration = lifecycle::expiration(&bucket, &made);
                let told = bucket.told_maker(&made.id);
                Ok((made, told, expiration))
            })
            .await?;
        self.after_write();
        let mut result = CopyObjectResult {
            e_tag: Some(etag(&tag)),
            last_modified: Some(second(made.modified_ms)),
            ..Default::default()
        };
        result.checksum_type = with_sums!(result, sum.as_ref());
        Ok(CopyObjectOutput {
            copy_object_result: Some(result),
            copy_source_version_id: source_told,
            expiration,
            version_id: told,
            ..Default::default()
        })
    }

    /// The version that a copy is made of: let in, its conditions met, opened by its key.
    pub async fn source<T>(
        self: &Arc<Self>,
        request: &S3Request<T>,
        place: &CopySource,
        conditions: Conditions,
    ) -> S3Result<Source> {
        let who = Who::of_source(&request.extensions)?;
        let opener = encryption::source_key(&request.headers)?;
        let (name, key, id) = named(place)?;
        let reading = Arc::new(self.contents.reading());
        self.db
            .read(move |db| {
                let bucket = rows::bucket(db, &name, &who.account)?;
                let version = rows::named(db, bucket.id, &key, id.as_deref())?;
                if version.marker {
                    return Err(match id {
                        Some(_) => s3_error!(InvalidRequest, "The source of a copy request may not specifically refer to a delete marker by version id."),
                        None => rows::no_such_key(),
                    });
                }
                who.may(&bucket, &version)?;
                conditions.allow_copy(&version)?;
                encryption::opened_by(&version.about, opener.as_ref())?;
                Ok(Source { who, bucket, version, opener, reading })
            })
            .await
    }
}

/// Reads bytes through: their MD5 in hexadecimal digits, and their checksum.
async fn digest(mut body: StreamingBlob, algorithm: Algorithm) -> S3Result<(String, Sum)> {
    use futures_util::StreamExt;
    use md5::Digest;
    let (mut md5, mut sum) = (md5::Md5::new(), crate::sum::Digester::new(algorithm));
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| crate::error::internal(error.to_string()))?;
        (md5, sum) = tokio::task::spawn_blocking(move || {
            md5.update(&piece);
            sum.update(&piece);
            (md5, sum)
        })
        .await
        .map_err(crate::error::internal)?;
    }
    Ok((
        hex::encode(md5.finalize()),
        Sum::of_bytes(algorithm, &sum.finish()),
    ))
}

/// The bytes of a copy: its source's, or its own where they are kept in another way.
pub enum Bytes {
    Shared(Vec<Slice>),
    Own(Box<Received>),
}

impl Bytes {
    pub fn used(self, tx: &Tx<'_>) -> S3Result<Vec<Slice>> {
        match self {
            Self::Shared(slices) => {
                tx.share(&slices)?;
                Ok(slices)
            }
            Self::Own(received) => received.kept(tx),
        }
    }
}

/// `If-Match` and `If-None-Match` of a copy are about what it would replace; s3s doesn't read them.
fn destination_conditions(headers: &http::HeaderMap) -> S3Result<OfWrite> {
    let read = |name: &str| match headers.get(name) {
        None => Ok(None),
        Some(value) => ETagCondition::parse_http_header(value.as_bytes())
            .map(Some)
            .map_err(|_| s3_error!(InvalidArgument, "Invalid ETag in a condition")),
    };
    Ok(OfWrite {
        matches: read("if-match")?,
        none_matches: read("if-none-match")?,
    })
}

fn directive(value: Option<&str>) -> S3Result<bool> {
    match value {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "Unknown metadata directive.")),
    }
}

/// Bucket, key and version of a copy's source.
pub fn named(source: &CopySource) -> S3Result<(String, String, Option<String>)> {
    match source {
        CopySource::Bucket {
            bucket,
            key,
            version_id,
        } => Ok((
            bucket.to_string(),
            key.to_string(),
            version_id.as_deref().map(ToOwned::to_owned),
        )),
        _ => Err(s3_error!(
            NotImplemented,
            "There are no access points here."
        )),
    }
}
