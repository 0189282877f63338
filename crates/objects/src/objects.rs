//! Objects: put, get, head, and what GetObjectAttributes asks.

use crate::Store;
use crate::access::account;
use crate::authorize::{Judge, Who};
use crate::beyond;
use crate::conditions::{Conditions, OfWrite, conditions};
use crate::contents::{Reading, cut};
use crate::crypt::Key;
use crate::describe::{described, etag, headers, http_date, second, with_sums};
use crate::details;
use crate::encryption::{self, Encryption};
use crate::error::{custom, not_allowed};
use crate::front::Besides;
use crate::lifecycle;
use crate::lock::{self, Wish};
use crate::policy;
use crate::quota;
use crate::ranges::{self, Whole};
use crate::read;
use crate::rows::{self, About, Bucket, Put, Version};
use crate::sum::{Algorithm, Covers, Sum};
use crate::upload::{self, Said};
use bytes::Bytes;
use http::header::EXPIRES;
use http::{HeaderValue, StatusCode};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Result, s3_error};
use std::sync::Arc;

/// Bytes of a key, at most (AWS, "Naming Amazon S3 objects").
pub const LONGEST_KEY: usize = 1024;

pub fn checked_key(key: &str) -> S3Result<()> {
    // A form may leave it empty.
    if key.is_empty() {
        return Err(s3_error!(
            InvalidArgument,
            "User key must have a length greater than 0."
        ));
    }
    if key.len() > LONGEST_KEY {
        return Err(s3_error!(KeyTooLongError, "Your key is too long"));
    }
    Ok(())
}

/// What a read looks for.
#[derive(Default)]
pub struct Look {
    pub who: Who,
    pub bucket: String,
    pub key: String,
    pub version: Option<String>,
    pub conditions: Conditions,
    /// Whether it can't be done to a delete marker, however that was found: then it is the method that is
    /// wrong, and not the key.
    pub of_marker: bool,
    /// Whether bytes are wanted, where they are few.
    pub bytes: bool,
    /// The client's key, if it sent one, where it has to be the right one.
    pub opened_by: Option<Option<Key>>,
}

impl Look {
    /// What is found, if it may be seen like this.
    fn judged(
        &self,
        bucket: &Bucket,
        version: Version,
        bytes: Option<Bytes>,
        reading: Reading,
    ) -> S3Result<Found> {
        let told = bucket.told(&version.id);
        let named = self.version.is_some() || self.of_marker;
        readable(&version, named, told.as_ref())?;
        self.who.may(bucket, &version)?;
        self.conditions.allow_read(&version)?;
        if let Some(key) = &self.opened_by {
            encryption::opened_by(&version.about, key.as_ref())?;
        }
        let expiration = lifecycle::expiration(bucket, &version);
        Ok(Found {
            version,
            told,
            expiration,
            bytes,
            reading,
        })
    }
}

impl Found {
    /// Nothing that a client's key opens is kept.
    fn is_keepable(&self) -> bool {
        !matches!(self.version.about.encryption, Some(Encryption::Customer(_)))
    }
}

/// What a read found.
pub struct Found {
    pub version: Version,
    pub told: Option<String>,
    expiration: Option<String>,
    /// The bytes, if they are few and there was no other question.
    bytes: Option<Bytes>,
    /// What keeps them there while they are read.
    reading: Reading,
}

/// Which bytes of an object are wanted.
struct Window {
    start: u64,
    len: u64,
    partial: bool,
    /// Of a part: its own checksum.
    part: Option<Option<Sum>>,
}

impl Window {
    fn of(version: &Version, range: Option<Range>, part: Option<i32>) -> S3Result<Self> {
        let size = version.size;
        match (range, part) {
            (Some(_), Some(_)) => Err(s3_error!(
                InvalidRequest,
                "Cannot specify both Range header and partNumber query parameter"
            )),
            (None, None) => Ok(Self {
                start: 0,
                len: size,
                partial: false,
                part: None,
            }),
            (Some(range), None) => {
                let wanted = range.check(size).map_err(|_| not_satisfiable(size))?;
                Ok(Self {
                    start: wanted.start,
                    len: wanted.end - wanted.start,
                    partial: true,
                    part: None,
                })
            }
            (None, Some(number)) => Self::of_part(version, number),
        }
    }

    fn of_part(version: &Version, number: i32) -> S3Result<Self> {
        if !(1..=10_000).contains(&number) {
            return Err(s3_error!(
                InvalidArgument,
                "Part number must be an integer between 1 and 10000, inclusive"
            ));
        }
        let parts = &version.about.parts;
        if parts.is_empty() && number == 1 {
            return Ok(Self {
                start: 0,
                len: version.size,
                partial: true,
                part: None,
            });
        }
        let index = number as usize - 1;
        let part = parts.get(index).ok_or_else(|| {
            custom(
                "InvalidPartNumber",
                StatusCode::RANGE_NOT_SATISFIABLE,
                "The requested partnumber is not satisfiable",
            )
        })?;
        let start = parts[..index].iter().map(|part| part.size).sum();
        Ok(Self {
            start,
            len: part.size,
            partial: true,
            part: Some(part.sum.clone()),
        })
    }

    /// Absent for an empty object, of which no byte can be named.
    fn content_range(&self, size: u64) -> Option<String> {
        let some = self.partial && self.len > 0;
        some.then(|| format!("bytes {}-{}/{size}", self.start, self.start + self.len - 1))
    }

    fn sum<'a>(&'a self, version: &'a Version) -> Option<&'a Sum> {
        match (&self.part, self.partial && self.len != version.size) {
            (Some(sum), _) => sum.as_ref(),
            (None, true) => None,
            (None, false) => version.about.sum.as_ref(),
        }
    }
}

fn not_satisfiable(size: u64) -> S3Error {
    let error = s3_error!(InvalidRange, "The requested range is not satisfiable");
    details::with(error, "ActualObjectSize", size)
}

/// A delete marker can't be read: 404 where it is the current version, 405 where it was asked for.
pub fn readable(version: &Version, named: bool, told: Option<&String>) -> S3Result<()> {
    if !version.marker {
        return Ok(());
    }
    let mut error = match named {
        true => details::with(not_allowed(), "ResourceType", "DeleteMarker"),
        false => rows::no_such_key(),
    };
    let mut headers = error.headers().cloned().unwrap_or_default();
    if named {
        headers.insert(http::header::ALLOW, HeaderValue::from_static("DELETE"));
        let modified = http_date(&second(version.modified_ms));
        if let Ok(modified) = HeaderValue::from_str(&modified) {
            headers.insert(http::header::LAST_MODIFIED, modified);
        }
    }
    headers.insert(
        "x-amz-delete-marker",
        http::HeaderValue::from_static("true"),
    );
    if let Some(id) = told.and_then(|id| http::HeaderValue::from_str(id).ok()) {
        headers.insert("x-amz-version-id", id);
    }
    error.set_headers(headers);
    Err(error)
}

/// What GET and HEAD find, and which bytes of it are asked for: their inputs are two types with the same
/// members.
macro_rules! found {
    ($store:expr, $request:ident, $key:expr, $bytes:expr) => {{
        let input = &mut $request.input;
        let look = Look {
            who: Who::of(&$request.extensions)?,
            bucket: std::mem::take(&mut input.bucket),
            key: std::mem::take(&mut input.key),
            version: input.version_id.take(),
            conditions: conditions!(input),
            of_marker: false,
            bytes: $bytes,
            opened_by: Some($key.clone()),
        };
        let id = look.version.is_some();
        let mut found = $store.find(look).await?;
        if let Some(judge) = $request.extensions.get::<Judge>() {
            shown_to(judge, &mut found.version, id);
        }
        let whole = $request.extensions.get::<Whole>().is_some()
            || !ranges::is_of(&$request.headers, &found.version);
        let range = input.range.filter(|_| !whole);
        let window = Window::of(&found.version, range, input.part_number)?;
        let encryption = found.version.about.encryption.as_ref();
        encryption::tell(&$request.extensions, encryption, $key.as_ref());
        (found, window)
    }};
}

/// Takes away what a reader may not know of a version ("Object Lock considerations").
fn shown_to(judge: &Judge, version: &mut Version, by_id: bool) {
    let key = String::from_utf8_lossy(&version.key).into_owned();
    let may = |operation| judge.may(&policy::action(operation, by_id), &key);
    let about = &mut version.about;
    about.retention = about.retention.filter(|_| may("GetObjectRetention"));
    about.hold = about.hold.filter(|_| may("GetObjectLegalHold"));
    if !about.tags.is_empty() && !may("GetObjectTagging") {
        about.tags.clear();
    }
}

/// What GET and HEAD say of an object: their outputs are two types with the same members.
macro_rules! shown {
    ($output:ident, $input:expr, $found:expr, $window:expr, $said:expr) => {{
        let version = &$found.version;
        let (lock_mode, lock_until, hold) = lock::shown(&version.about);
        let mut output = $output {
            expiration: $found.expiration.clone(),
            object_lock_mode: lock_mode,
            object_lock_retain_until_date: lock_until,
            object_lock_legal_hold_status: hold,
            accept_ranges: Some("bytes".into()),
            content_length: Some($window.len as i64),
            content_range: $window.content_range(version.size),
            e_tag: Some(etag(&version.etag)),
            last_modified: Some(second(version.modified_ms)),
            metadata: Some(version.about.metadata.clone().into_iter().collect()),
            parts_count: parts_count(version, $input.part_number),
            storage_class: version.about.class.clone().map(StorageClass::from),
            version_id: $found.told.clone(),
            ..Default::default()
        };
        headers(&version.about, |name, value| match name {
            "cache-control" => output.cache_control = Some(value),
            "content-disposition" => output.content_disposition = Some(value),
            "content-encoding" => output.content_encoding = Some(value),
            "content-language" => output.content_language = Some(value),
            "content-type" => output.content_type = Some(value),
            "expires" => {
                output.expires = beyond::said_again(&value);
                // What was asked for goes before what was put.
                if output.expires.is_none() && $input.response_expires.is_none() {
                    Besides::say($said, |headers, _| {
                        let value = HeaderValue::from_bytes(value.as_bytes());
                        headers.extend(value.ok().map(|value| (EXPIRES, value)));
                    });
                }
            }
            _ => output.website_redirect_location = Some(value),
        });
        if $input.checksum_mode.is_some() {
            output.checksum_type = with_sums!(output, $window.sum(version));
        }
        output
    }};
}

impl Store {
    pub async fn put_object(
        self: &Arc<Self>,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<PutObjectOutput> {
        let account = account(&request.extensions)?;
        checked_key(&request.input.key)?;
        let said = Said::of(&request, request.input.body.as_ref())?;
        let access = self.acl_wish(&request.headers, &request.extensions)?;
        let mut about = described!(request.input).about(&request.extensions)?;
        let input = request.input;
        let wish = Wish::of(
            input.object_lock_mode.clone(),
            input.object_lock_retain_until_date.clone(),
            input.object_lock_legal_hold_status.clone(),
        );
        let encryption = encryption::Wish::of(&request.headers)?;
        let conditions = OfWrite {
            matches: input.if_match.clone(),
            none_matches: input.if_none_match.clone(),
        };
        // What would be refused anyway shouldn't be sent first; the writer decides once more.
        let known = self.known(&input.bucket, &account)?;
        access.apply(&known.row, &mut About::default())?;
        wish.wants_digest(&known.row, said.has_digest())?;
        let lock = encryption.lock(&known.row, self.encrypts());
        if !said.is_little() {
            let (key, coming, first) = (input.key.clone(), said.at_least(), conditions.clone());
            self.db
                .read(move |db| {
                    // What it replaces goes only then; the writer counts exactly.
                    if !known.row.replaces() {
                        quota::judge_with(db, &known.row, coming)?;
                    }
                    first.judge(db, &known.row, &key)
                })
                .await?;
        }
        let algorithm = said.algorithm().unwrap_or(Algorithm::Crc64Nvme);
        let received = upload::receive(&self.contents, &said, input.body, algorithm, &lock).await?;
        about.encryption = lock.noted();
        encryption::tell(&request.extensions, about.encryption.as_ref(), lock.key());
        about.sum = Some(received.sum.clone());
        let (size, tag, sum) = (received.size, received.md5.clone(), received.sum.clone());
        let made = tag.clone();
        let bytes = received.plain();
        let name = (input.bucket.clone(), input.key.clone());
        let ((bucket, version), stamp) = self
            .db
            .write_object(name, move |tx| {
                let bucket = rows::bucket(tx.connection, &input.bucket, &account)?;
                conditions.judge(tx.connection, &bucket, &input.key)?;
                wish.apply(&bucket, &mut about, tx.now_ms)?;
                access.apply(&bucket, &mut about)?;
                let put = Put {
                    size,
                    etag: made,
                    about,
                    slices: received.kept(tx)?,
                };
                let version = bucket.put(tx, &input.key, put)?;
                quota::judge(tx, &bucket)?;
                Ok((bucket, version))
            })
            .await?;
        self.after_write();
        let mut output = PutObjectOutput {
            e_tag: Some(etag(&tag)),
            expiration: lifecycle::expiration(&bucket, &version),
            version_id: bucket.told_maker(&version.id),
            ..Default::default()
        };
        output.checksum_type = with_sums!(output, Some(&sum));
        // Many are read right after they were written.
        if let (Some(stamp), Some(bytes)) = (stamp, bytes) {
            self.db.recent.keep(stamp, &bucket, version, Some(bytes));
        }
        Ok(output)
    }

    /// The version that a read is about, once its conditions hold.
    pub async fn find(self: &Arc<Self>, look: Look) -> S3Result<Found> {
        let reading = self.contents.reading();
        let recent = self.db.recent.clone();
        let current = look.version.is_none();
        let kept = current
            .then(|| recent.get(&look.bucket, &look.key))
            .flatten();
        let known = kept.is_some();
        if let Some(kept) = kept.filter(|kept| kept.bytes.is_some() || !look.bytes) {
            let bucket = &self.known(&look.bucket, &look.who.account)?.row;
            if kept.is_in(bucket) {
                return look.judged(bucket, kept.version.clone(), kept.bytes.clone(), reading);
            }
        }
        let contents = self.contents.clone();
        let stamp = recent.stamp(&look.bucket, &look.key);
        self.db
            .read(move |db| {
                let bucket = rows::bucket(db, &look.bucket, &look.who.account)?;
                let version = rows::named(db, bucket.id, &look.key, look.version.as_deref())?;
                let mut found = look.judged(&bucket, version, None, reading)?;
                let version = &found.version;
                let small = look.bytes && version.size <= crate::contents::INLINE as u64;
                found.bytes = match (&version.slices[..], small) {
                    ([], true) => Some(Bytes::new()),
                    ([slice], true) => {
                        let key = look.opened_by.as_ref().and_then(Option::as_ref);
                        Some(contents.opened(db, slice.content, key)?.read(*slice)?)
                    }
                    _ => None,
                };
                if current && found.is_keepable() && (!known || found.bytes.is_some()) {
                    recent.keep(stamp, &bucket, found.version.clone(), found.bytes.clone());
                }
                Ok(found)
            })
            .await
    }

    pub async fn get_object(
        self: &Arc<Self>,
        mut request: S3Request<GetObjectInput>,
    ) -> S3Result<GetObjectOutput> {
        let key = encryption::customer_key(&request.headers)?;
        let (found, window) = found!(self, request, key, true);
        let version = &found.version;
        let mut output = shown!(
            GetObjectOutput,
            request.input,
            found,
            window,
            &request.extensions
        );
        output.tag_count = Some(version.about.tags.len() as i32).filter(|count| *count > 0);
        output.body = Some(match found.bytes {
            Some(bytes) => {
                let end = window.start + window.len;
                read::whole(bytes.slice(window.start as usize..end as usize))
            }
            None => {
                let slices = cut(&version.slices, window.start, window.len);
                read::body(self, Arc::new(found.reading), slices, key).await?
            }
        });
        Ok(output)
    }

    pub async fn head_object(
        self: &Arc<Self>,
        mut request: S3Request<HeadObjectInput>,
    ) -> S3Result<HeadObjectOutput> {
        let key = encryption::customer_key(&request.headers)?;
        let (found, window) = found!(self, request, key, false);
        let tags = found.version.about.tags.len();
        let input = &request.input;
        let expires = input.response_expires.as_ref().map(http_date);
        Besides::say(&request.extensions, |headers, status| {
            // s3s knows one status of HEAD.
            *status = window.partial.then_some(StatusCode::PARTIAL_CONTENT);
            if tags > 0 {
                headers.insert("x-amz-tagging-count", tags.into());
            }
            for (name, value) in [
                ("cache-control", input.response_cache_control.as_ref()),
                (
                    "content-disposition",
                    input.response_content_disposition.as_ref(),
                ),
                ("content-encoding", input.response_content_encoding.as_ref()),
                ("content-language", input.response_content_language.as_ref()),
                ("content-type", input.response_content_type.as_ref()),
                ("expires", expires.as_ref()),
            ] {
                if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                    headers.insert(name, value);
                }
            }
        });
        Ok(shown!(
            HeadObjectOutput,
            request.input,
            found,
            window,
            &request.extensions
        ))
    }

    pub async fn get_object_attributes(
        self: &Arc<Self>,
        request: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<GetObjectAttributesOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        // One header may name several.
        let names = input
            .object_attributes
            .iter()
            .flat_map(|names| names.as_str().split(','));
        let names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
        let asked = |name: &str| names.iter().any(|one| one == name);
        const KNOWN: [&str; 5] = [
            ObjectAttributes::CHECKSUM,
            ObjectAttributes::ETAG,
            ObjectAttributes::OBJECT_PARTS,
            ObjectAttributes::OBJECT_SIZE,
            ObjectAttributes::STORAGE_CLASS,
        ];
        if names.iter().any(|name| !KNOWN.contains(&name.as_str())) {
            return Err(s3_error!(
                InvalidArgument,
                "Invalid attribute name specified."
            ));
        }
        let look = Look {
            who,
            bucket: input.bucket,
            key: input.key,
            version: input.version_id,
            opened_by: Some(encryption::customer_key(&request.headers)?),
            ..Look::default()
        };
        let found = self.find(look).await?;
        let version = found.version;
        let about = &version.about;
        let mut output = GetObjectAttributesOutput {
            last_modified: Some(second(version.modified_ms)),
            version_id: found.told,
            ..Default::default()
        };
        if asked(ObjectAttributes::ETAG) {
            output.e_tag = Some(etag(&version.etag));
        }
        if asked(ObjectAttributes::OBJECT_SIZE) {
            output.object_size = Some(version.size as i64);
        }
        if asked(ObjectAttributes::STORAGE_CLASS) {
            let class = about
                .class
                .clone()
                .unwrap_or_else(|| StorageClass::STANDARD.to_owned());
            output.storage_class = Some(StorageClass::from(class));
        }
        if asked(ObjectAttributes::CHECKSUM) && about.sum.is_some() {
            let mut checksum = Checksum::default();
            let plain = about.sum.as_ref().map(Sum::without_count);
            checksum.checksum_type = with_sums!(checksum, plain.as_ref());
            output.checksum = Some(checksum);
        }
        if asked(ObjectAttributes::OBJECT_PARTS) && !about.parts.is_empty() {
            let most = page(input.max_parts)?;
            output.object_parts = Some(object_parts(about, input.part_number_marker, most));
        }
        Ok(output)
    }
}

fn parts_count(version: &Version, asked: Option<i32>) -> Option<i32> {
    let count = version.about.parts.len() as i32;
    asked.filter(|_| count > 0).map(|_| count)
}

/// A page's size of at most 1,000, which is also what there is without a wish.
pub fn page(asked: Option<i32>) -> S3Result<usize> {
    match asked {
        None => Ok(1000),
        Some(asked) if asked < 0 => Err(s3_error!(
            InvalidArgument,
            "Argument must be an integer between 0 and 2147483647"
        )),
        Some(asked) => Ok((asked as usize).min(1000)),
    }
}

fn object_parts(about: &About, marker: Option<i32>, most: usize) -> GetObjectAttributesParts {
    let marker_or_start = marker.unwrap_or(0);
    let mut left = about
        .parts
        .iter()
        .filter(|part| part.number > marker_or_start);
    let shown: Vec<&rows::PartOf> = left.by_ref().take(most).collect();
    // AWS names the parts only where they have checksums of their own.
    let composite = about
        .sum
        .as_ref()
        .is_some_and(|sum| sum.covers == Covers::Composite);
    let parts = shown.iter().map(|part| {
        let mut out = ObjectPart {
            part_number: Some(part.number),
            size: Some(part.size as i64),
            ..Default::default()
        };
        let _ = with_sums!(out, part.sum.as_ref());
        out
    });
    GetObjectAttributesParts {
        is_truncated: Some(left.next().is_some()),
        max_parts: Some(most as i32),
        next_part_number_marker: Some(shown.last().map_or(marker_or_start, |part| part.number)),
        part_number_marker: Some(marker_or_start),
        parts: composite.then(|| parts.collect()),
        total_parts_count: Some(about.parts.len() as i32),
    }
}
