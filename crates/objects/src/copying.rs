//! Copies of objects: a new version of the same bytes, none of which is moved, unless they are to be
//! kept under another key.

use crate::access::account;
use crate::authorize::Who;
use crate::conditions::{self, Conditions};
use crate::contents::{Reading, Slice};
use crate::crypt::Key;
use crate::db::Tx;
use crate::describe::{described, etag, stamp, with_sums};
use crate::encryption;
use crate::lock::Wish;
use crate::objects::checked_key;
use crate::quota;
use crate::rows::{self, Bucket, Put, Version};
use crate::sum::{Algorithm, Covers, Sum};
use crate::upload::Received;
use crate::{Store, read, upload};
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};
use std::sync::Arc;

impl Store {
    pub async fn copy_object(
        self: &Arc<Self>,
        mut request: S3Request<CopyObjectInput>,
    ) -> S3Result<CopyObjectOutput> {
        let from_who = Who::of_source(&request.extensions)?;
        let account = account(&request.extensions)?;
        checked_key(&request.input.key)?;
        let (matches, none_matches) = destination_conditions(&request.headers)?;
        let access = self.acl_wish(&request.headers, &request.extensions)?;
        let wished = encryption::Wish::of(&request.headers)?;
        let opener = encryption::source_key(&request.headers)?;
        let replaced = directive(
            request
                .input
                .metadata_directive
                .as_ref()
                .map(|d| d.as_str()),
        )?;
        let retagged = directive(request.input.tagging_directive.as_ref().map(|d| d.as_str()))?;
        let described = described!(request.input).about()?;
        let input = request.input;
        let (name, key, id) = source(&input.copy_source)?;
        let conditions = Conditions {
            matches: input.copy_source_if_match,
            none_matches: input.copy_source_if_none_match,
            modified_since: input.copy_source_if_modified_since,
            unmodified_since: input.copy_source_if_unmodified_since,
        };
        let wish = Wish::of(
            input.object_lock_mode,
            input.object_lock_retain_until_date,
            input.object_lock_legal_hold_status,
        );
        let itself = name == input.bucket && key == input.key && id.is_none();
        let asked = match &input.checksum_algorithm {
            None => None,
            Some(asked) => {
                Some(Algorithm::named(asked.as_str()).ok_or_else(upload::invalid_algorithm)?)
            }
        };
        let reading = self.contents.reading();
        let (caller, version_asked) = (from_who.clone(), id.clone());
        let (to, to_account) = (input.bucket.clone(), account.clone());
        let (own, encryption, always) = (opener.clone(), wished.clone(), self.encrypts());
        let from = self
            .db
            .read(move |db| {
                let bucket = rows::bucket(db, &name, &caller.account)?;
                let version = rows::named(db, bucket.id, &key, version_asked.as_deref())?;
                if version.marker {
                    return Err(match version_asked {
                        Some(_) => s3_error!(InvalidRequest, "The source of a copy request may not specifically refer to a delete marker by version id."),
                        None => rows::no_such_key(),
                    });
                }
                caller.may(&bucket, &version)?;
                conditions.allow_copy(&version)?;
                encryption::opened_by(&version.about, own.as_ref())?;
                let to = rows::bucket(db, &to, &to_account)?;
                Ok((bucket, version, encryption.lock(&to, always)))
            })
            .await?;
        let (from_bucket, version, lock) = from;
        if version.size > 5 << 30 {
            return Err(s3_error!(
                InvalidRequest,
                "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"
            ));
        }
        let class = described.class.clone();
        let same = class == version.about.class && !wished.is_given();
        if itself && !replaced && !retagged && same {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes."
            ));
        }
        let mut about = version.about.clone();
        if replaced {
            about.headers = described.headers.clone();
            about.metadata = described.metadata.clone();
        }
        if retagged {
            about.tags = described.tags.clone();
        }
        about.class = class;
        about.parts = Vec::new();
        // An object that was made of parts becomes one; its checksum and ETag are of all its bytes then.
        let other =
            asked.is_some_and(|asked| about.sum.as_ref().is_none_or(|sum| sum.algorithm != asked));
        let composite = about
            .sum
            .as_ref()
            .is_none_or(|sum| sum.covers == Covers::Composite);
        let mut tag = version.etag.clone();
        let mut kept = Bytes::Shared(version.slices.clone());
        about.encryption = lock.noted();
        encryption::tell(&request.extensions, about.encryption.as_ref(), lock.key());
        if !lock.is_of(&version.about) {
            let algorithm = asked
                .or(about.sum.as_ref().map(|sum| sum.algorithm))
                .unwrap_or(Algorithm::Crc64Nvme);
            let slices = version.slices.clone();
            let written = self
                .rewritten(reading, slices, opener, &lock, algorithm)
                .await?;
            (tag, about.sum) = (written.md5.clone(), Some(written.sum.clone()));
            kept = Bytes::Own(Box::new(written));
        } else if other || composite || tag.contains('-') {
            let algorithm = asked
                .or(about.sum.as_ref().map(|sum| sum.algorithm))
                .unwrap_or(Algorithm::Crc64Nvme);
            let digests = self
                .digest(reading, version.slices.clone(), opener, algorithm)
                .await?;
            (tag, about.sum) = (lock.etag(digests.0), Some(digests.1));
        }
        let (size, sum, copied) = (version.size, about.sum.clone(), tag.clone());
        let source_told = from_bucket.told(&version.id);
        let (made, told) = self
            .db
            .write(move |tx| {
                let from = rows::bucket(tx.connection, &from_bucket.name, &from_who.account)?;
                unchanged(tx, &from, &version)?;
                let bucket = rows::bucket(tx.connection, &input.bucket, &account)?;
                if matches.is_some() || none_matches.is_some() {
                    let current = rows::current(tx.connection, bucket.id, &input.key)?;
                    conditions::allow_write(
                        matches.as_ref(),
                        none_matches.as_ref(),
                        current.as_ref(),
                    )?;
                }
                wish.apply(&bucket, &mut about, tx.now_ms)?;
                access.apply(&bucket, &mut about)?;
                let put = Put {
                    size,
                    etag: copied,
                    about,
                    slices: kept.used(tx)?,
                };
                let made = bucket.put(tx, &input.key, put)?;
                quota::judge(tx, &bucket)?;
                Ok((made.clone(), bucket.told_maker(&made.id)))
            })
            .await?;
        self.after_write();
        let mut result = CopyObjectResult {
            e_tag: Some(etag(&tag)),
            last_modified: Some(stamp(made.modified_ms)),
            ..Default::default()
        };
        result.checksum_type = with_sums!(result, sum.as_ref());
        Ok(CopyObjectOutput {
            copy_object_result: Some(result),
            copy_source_version_id: source_told,
            version_id: told,
            ..Default::default()
        })
    }

    /// Reads bytes that are here through: their MD5 in hexadecimal digits, and their checksum.
    pub async fn digest(
        self: &Arc<Self>,
        reading: Reading,
        slices: Vec<Slice>,
        key: Option<Key>,
        algorithm: Algorithm,
    ) -> S3Result<(String, Sum)> {
        use futures_util::StreamExt;
        use md5::Digest;
        let mut body = read::body(self, reading, slices, key).await?;
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
            Self::Own(received) => {
                let slices = received.slices();
                if let Some(new) = received.new {
                    tx.keep(new)?;
                }
                Ok(slices)
            }
        }
    }
}

/// `If-Match` and `If-None-Match` of a copy are about what it would replace; s3s doesn't read them.
fn destination_conditions(
    headers: &http::HeaderMap,
) -> S3Result<(Option<ETagCondition>, Option<ETagCondition>)> {
    let read = |name: &str| match headers.get(name) {
        None => Ok(None),
        Some(value) => ETagCondition::parse_http_header(value.as_bytes())
            .map(Some)
            .map_err(|_| s3_error!(InvalidArgument, "Invalid ETag in a condition")),
    };
    Ok((read("if-match")?, read("if-none-match")?))
}

fn directive(value: Option<&str>) -> S3Result<bool> {
    match value {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "Unknown metadata directive.")),
    }
}

/// Bucket, key and version of a copy's source.
pub fn source(source: &CopySource) -> S3Result<(String, String, Option<String>)> {
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

/// What was looked at may be gone by now: its bytes would be, too.
pub fn unchanged(tx: &Tx<'_>, from: &Bucket, version: &Version) -> S3Result<()> {
    let key = String::from_utf8_lossy(&version.key);
    let still = rows::version(tx.connection, from.id, &key, &version.id)?;
    match still.is_some_and(|still| still.age == version.age) {
        true => Ok(()),
        false => Err(s3_error!(
            OperationAborted,
            "The source changed while it was copied. Try again."
        )),
    }
}
