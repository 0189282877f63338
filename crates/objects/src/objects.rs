//! Objects: put, get, head, copy, delete, what they are besides their bytes.

use crate::Store;
use crate::access::{account, denied, source_account};
use crate::authorize::{Judge, OfForm};
use crate::conditions::{self, Conditions, time};
use crate::contents::{Reading, Slice, cut};
use crate::db::Tx;
use crate::error::{custom, is_ours};
use crate::form::FormName;
use crate::lifecycle;
use crate::lock::{self, Wish};
use crate::policy;
use crate::read;
use crate::rows::{self, About, Bucket, Put, Version, Versioning};
use crate::sum::{Algorithm, Covers, Sum};
use crate::upload::{self, Said};
use bytes::Bytes;
use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Result, s3_error};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a key, at most (AWS, "Naming Amazon S3 objects").
const KEY_BYTES: usize = 1024;
/// Bytes of names and values of user metadata together.
const METADATA_BYTES: usize = 2048;
/// Storage classes that mean nothing here but their name. Those of archives would need a restore.
const CLASSES: [&str; 6] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
];

/// Headers of HTTP that an object keeps, as the operations' inputs have them.
pub struct Described {
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_type: Option<String>,
    pub expires: Option<Timestamp>,
    pub website_redirect_location: Option<String>,
    pub metadata: Option<Metadata>,
    pub storage_class: Option<StorageClass>,
    pub tagging: Option<String>,
}

/// Takes those members of an input.
#[macro_export]
macro_rules! described {
    ($input:expr) => {
        $crate::objects::Described {
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_type: $input.content_type.take(),
            expires: $input.expires.take(),
            website_redirect_location: $input.website_redirect_location.take(),
            metadata: $input.metadata.take(),
            storage_class: $input.storage_class.take(),
            tagging: $input.tagging.take(),
        }
    };
}

impl Described {
    pub fn about(self) -> S3Result<About> {
        let mut headers = BTreeMap::new();
        // What the SDKs say of the transfer is none of the object's.
        let encoding = self.content_encoding.map(|value| {
            let kept = value
                .split(',')
                .map(str::trim)
                .filter(|one| *one != "aws-chunked");
            kept.collect::<Vec<_>>().join(",")
        });
        let expires = self.expires.map(|expires| http_date(&expires));
        for (name, value) in [
            ("cache-control", self.cache_control),
            ("content-disposition", self.content_disposition),
            (
                "content-encoding",
                encoding.filter(|value| !value.is_empty()),
            ),
            ("content-language", self.content_language),
            ("content-type", self.content_type),
            ("expires", expires),
            ("location", self.website_redirect_location),
        ] {
            if let Some(value) = value {
                headers.insert(name.to_owned(), value);
            }
        }
        let metadata: BTreeMap<String, String> =
            self.metadata.unwrap_or_default().into_iter().collect();
        let bytes: usize = metadata
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if bytes > METADATA_BYTES {
            return Err(s3_error!(
                MetadataTooLarge,
                "Your metadata headers exceed the maximum allowed metadata size"
            ));
        }
        let class = self.storage_class.map(|class| class.as_str().to_owned());
        if let Some(class) = &class
            && !CLASSES.contains(&class.as_str())
        {
            return Err(s3_error!(
                InvalidStorageClass,
                "The storage class you specified is not valid"
            ));
        }
        Ok(About {
            headers,
            metadata,
            tags: tags_of_header(self.tagging.as_deref())?,
            class: class.filter(|class| class != StorageClass::STANDARD),
            ..About::default()
        })
    }
}

fn http_date(timestamp: &Timestamp) -> String {
    let mut text = Vec::new();
    let _ = timestamp.format(TimestampFormat::HttpDate, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

pub fn tags_of_header(text: Option<&str>) -> S3Result<BTreeMap<String, String>> {
    let Some(text) = text else {
        return Ok(BTreeMap::new());
    };
    let wrong = || {
        s3_error!(
            InvalidArgument,
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates."
        )
    };
    let mut tags = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        tags.push((
            decoded(name).ok_or_else(wrong)?,
            decoded(value).ok_or_else(wrong)?,
        ));
    }
    judged(tags, 10)
}

pub fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

/// Tags within AWS's limits ("Categorizing your storage using tags"): `most` of them.
pub fn judged(tags: Vec<(String, String)>, most: usize) -> S3Result<BTreeMap<String, String>> {
    let invalid = |message: &'static str| s3_error!(InvalidTag, "{message}");
    if tags.len() > most {
        let message = format!("Object tags cannot be greater than {most}");
        return Err(custom("BadRequest", StatusCode::BAD_REQUEST, message));
    }
    let allowed = |text: &str| {
        text.chars()
            .all(|c| c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c))
    };
    let mut found = BTreeMap::new();
    for (name, value) in tags {
        if name.is_empty() || name.chars().count() > 128 || !allowed(&name) {
            return Err(invalid("The TagKey you have provided is invalid"));
        }
        if value.chars().count() > 256 || !allowed(&value) {
            return Err(invalid("The TagValue you have provided is invalid"));
        }
        if name.starts_with("aws:") {
            return Err(invalid("System tags cannot be added/updated by requester"));
        }
        if found.insert(name, value).is_some() {
            return Err(invalid("Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(found)
}

pub fn judged_set(set: TagSet, most: usize) -> S3Result<BTreeMap<String, String>> {
    let pair = |tag: Tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
    judged(set.into_iter().map(pair).collect(), most)
}

pub fn tag_set(tags: &BTreeMap<String, String>) -> TagSet {
    let tag = |(key, value): (&String, &String)| Tag {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    tags.iter().map(tag).collect()
}

pub fn checked_key(key: &str) -> S3Result<()> {
    if key.len() > KEY_BYTES {
        return Err(s3_error!(KeyTooLongError, "Your key is too long"));
    }
    Ok(())
}

pub fn etag(value: &str) -> ETag {
    ETag::Strong(value.to_owned())
}

pub fn stamp(ms: i64) -> Timestamp {
    Timestamp::from(time(ms))
}

/// A checksum among the five members that the outputs have for it.
#[derive(Default)]
pub struct Sums {
    pub crc32: Option<String>,
    pub crc32c: Option<String>,
    pub crc64nvme: Option<String>,
    pub sha1: Option<String>,
    pub sha256: Option<String>,
    pub kind: Option<ChecksumType>,
}

impl Sums {
    pub fn of(sum: Option<&Sum>) -> Self {
        let mut sums = Self::default();
        let Some(sum) = sum else {
            return sums;
        };
        let value = Some(sum.value.clone());
        match sum.algorithm {
            Algorithm::Crc32 => sums.crc32 = value,
            Algorithm::Crc32c => sums.crc32c = value,
            Algorithm::Crc64Nvme => sums.crc64nvme = value,
            Algorithm::Sha1 => sums.sha1 = value,
            Algorithm::Sha256 => sums.sha256 = value,
        }
        sums.kind = Some(covers(sum.covers));
        sums
    }
}

pub fn covers(covers: Covers) -> ChecksumType {
    ChecksumType::from_static(match covers {
        Covers::FullObject => ChecksumType::FULL_OBJECT,
        Covers::Composite => ChecksumType::COMPOSITE,
    })
}

/// Fills an output's checksum members.
#[macro_export]
macro_rules! with_sums {
    ($output:expr, $sum:expr) => {{
        let sums = $crate::objects::Sums::of($sum);
        $output.checksum_crc32 = sums.crc32;
        $output.checksum_crc32c = sums.crc32c;
        $output.checksum_crc64nvme = sums.crc64nvme;
        $output.checksum_sha1 = sums.sha1;
        $output.checksum_sha256 = sums.sha256;
        sums.kind
    }};
}

/// What a read found.
struct Found {
    version: Version,
    told: Option<String>,
    expiration: Option<String>,
    /// The bytes, if they are few and there was no other question.
    bytes: Option<Bytes>,
    _reading: Reading,
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
                let wanted = range.check(size).map_err(|_| not_satisfiable())?;
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

fn not_satisfiable() -> S3Error {
    s3_error!(InvalidRange, "The requested range is not satisfiable")
}

/// A delete marker can't be read: 404 where it is the current version, 405 where it was asked for.
fn readable(version: &Version, named: bool, told: Option<&String>) -> S3Result<()> {
    if !version.marker {
        return Ok(());
    }
    let mut error = match named {
        true => s3_error!(
            MethodNotAllowed,
            "The specified method is not allowed against this resource."
        ),
        false => rows::no_such_key(),
    };
    let mut headers = http::HeaderMap::new();
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

impl Store {
    pub async fn put_object(
        self: &Arc<Self>,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<PutObjectOutput> {
        let account = account(&request.extensions)?;
        if let Some(form) = request.extensions.get::<FormName>() {
            request.input.key = form.filled_in(&request.input.key);
        }
        if let Some(form) = request.extensions.get::<OfForm>() {
            form.judge(&request.input)?;
        }
        checked_key(&request.input.key)?;
        let said = Said::of(&request, request.input.body.as_ref())?;
        let mut about = described!(request.input).about()?;
        let input = request.input;
        let wish = Wish::of(
            input.object_lock_mode.clone(),
            input.object_lock_retain_until_date.clone(),
            input.object_lock_legal_hold_status.clone(),
        );
        // What would be refused anyway shouldn't be sent first; the writer decides once more.
        let (name, key) = (input.bucket.clone(), input.key.clone());
        let (matches, none_matches) = (input.if_match.clone(), input.if_none_match.clone());
        let caller = account.clone();
        self.db
            .read(move |db| {
                let bucket = rows::bucket(db, &name, &caller)?;
                if matches.is_none() && none_matches.is_none() {
                    return Ok(());
                }
                let current = rows::current(db, bucket.id, &key)?;
                conditions::allow_write(matches.as_ref(), none_matches.as_ref(), current.as_ref())
            })
            .await?;
        let algorithm = said.algorithm().unwrap_or(Algorithm::Crc64Nvme);
        let received = upload::receive(&self.contents, &said, input.body, algorithm).await?;
        about.sum = Some(received.sum.clone());
        let (size, tag, sum) = (received.size, received.md5.clone(), received.sum.clone());
        let (version, told, expiration) = self
            .db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &input.bucket, &account)?;
                if input.if_match.is_some() || input.if_none_match.is_some() {
                    let current = rows::current(tx.connection, bucket.id, &input.key)?;
                    let (matches, none) = (input.if_match.as_ref(), input.if_none_match.as_ref());
                    conditions::allow_write(matches, none, current.as_ref())?;
                }
                wish.apply(&bucket, &mut about, tx.now_ms)?;
                let slices = received.slices();
                if let Some(new) = received.new {
                    tx.keep(new)?;
                }
                let put = Put {
                    size: received.size,
                    etag: received.md5,
                    about,
                    slices,
                };
                let version = bucket.put(tx, &input.key, put)?;
                let told = bucket.told(&version.id);
                let expiration = lifecycle::expiration(&bucket, &version);
                Ok((version, told, expiration))
            })
            .await?;
        self.after_write();
        debug_assert_eq!(version.size, size);
        let mut output = PutObjectOutput {
            e_tag: Some(etag(&tag)),
            expiration,
            version_id: told,
            ..Default::default()
        };
        output.checksum_type = with_sums!(output, Some(&sum));
        Ok(output)
    }

    /// The version that a read is about, once its conditions hold.
    async fn find(
        self: &Arc<Self>,
        account: String,
        name: String,
        key: String,
        id: Option<String>,
        conditions: Conditions,
        bytes: bool,
    ) -> S3Result<Found> {
        let reading = self.contents.reading();
        let contents = self.contents.clone();
        self.db
            .read(move |db| {
                let bucket = rows::bucket(db, &name, &account)?;
                let version = rows::named(db, bucket.id, &key, id.as_deref())?;
                let told = bucket.told(&version.id);
                readable(&version, id.is_some(), told.as_ref())?;
                conditions.allow_read(&version)?;
                let small = bytes && version.size <= crate::contents::INLINE as u64;
                let bytes = match (&version.slices[..], small) {
                    ([slice], true) => Some(contents.read(db, *slice)?),
                    _ => None,
                };
                let expiration = lifecycle::expiration(&bucket, &version);
                Ok(Found {
                    version,
                    told,
                    expiration,
                    bytes,
                    _reading: reading,
                })
            })
            .await
    }

    pub async fn get_object(
        self: &Arc<Self>,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<GetObjectOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let conditions = Conditions {
            matches: input.if_match,
            none_matches: input.if_none_match,
            modified_since: input.if_modified_since,
            unmodified_since: input.if_unmodified_since,
        };
        let found = self
            .find(
                account,
                input.bucket,
                input.key,
                input.version_id,
                conditions,
                true,
            )
            .await?;
        let version = &found.version;
        let window = Window::of(version, input.range, input.part_number)?;
        let (lock_mode, lock_until, hold) = lock::shown(&version.about);
        let mut output = GetObjectOutput {
            expiration: found.expiration.clone(),
            object_lock_mode: lock_mode,
            object_lock_retain_until_date: lock_until,
            object_lock_legal_hold_status: hold,
            accept_ranges: Some("bytes".into()),
            content_length: Some(window.len as i64),
            content_range: window.content_range(version.size),
            e_tag: Some(etag(&version.etag)),
            last_modified: Some(stamp(version.modified_ms)),
            metadata: Some(version.about.metadata.clone().into_iter().collect()),
            parts_count: parts_count(version, input.part_number),
            storage_class: version.about.class.clone().map(StorageClass::from),
            tag_count: Some(version.about.tags.len() as i32).filter(|count| *count > 0),
            version_id: found.told.clone(),
            ..Default::default()
        };
        headers(&version.about, |name, value| match name {
            "cache-control" => output.cache_control = Some(value),
            "content-disposition" => output.content_disposition = Some(value),
            "content-encoding" => output.content_encoding = Some(value),
            "content-language" => output.content_language = Some(value),
            "content-type" => output.content_type = Some(value),
            "expires" => output.expires = Timestamp::parse(TimestampFormat::HttpDate, &value).ok(),
            _ => output.website_redirect_location = Some(value),
        });
        if input.checksum_mode.is_some() {
            output.checksum_type = with_sums!(output, window.sum(version));
        }
        output.body = Some(match found.bytes {
            Some(bytes) => {
                let end = window.start + window.len;
                read::whole(bytes.slice(window.start as usize..end as usize))
            }
            None => {
                let slices = cut(&version.slices, window.start, window.len);
                read::body(self, found._reading, slices).await?
            }
        });
        Ok(output)
    }

    pub async fn head_object(
        self: &Arc<Self>,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<HeadObjectOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let conditions = Conditions {
            matches: input.if_match,
            none_matches: input.if_none_match,
            modified_since: input.if_modified_since,
            unmodified_since: input.if_unmodified_since,
        };
        let found = self
            .find(
                account,
                input.bucket,
                input.key,
                input.version_id,
                conditions,
                false,
            )
            .await?;
        let version = &found.version;
        let window = Window::of(version, input.range, input.part_number)?;
        let (lock_mode, lock_until, hold) = lock::shown(&version.about);
        let mut output = HeadObjectOutput {
            expiration: found.expiration.clone(),
            object_lock_mode: lock_mode,
            object_lock_retain_until_date: lock_until,
            object_lock_legal_hold_status: hold,
            accept_ranges: Some("bytes".into()),
            content_length: Some(window.len as i64),
            content_range: window.content_range(version.size),
            e_tag: Some(etag(&version.etag)),
            last_modified: Some(stamp(version.modified_ms)),
            metadata: Some(version.about.metadata.clone().into_iter().collect()),
            parts_count: parts_count(version, input.part_number),
            storage_class: version.about.class.clone().map(StorageClass::from),
            version_id: found.told.clone(),
            ..Default::default()
        };
        headers(&version.about, |name, value| match name {
            "cache-control" => output.cache_control = Some(value),
            "content-disposition" => output.content_disposition = Some(value),
            "content-encoding" => output.content_encoding = Some(value),
            "content-language" => output.content_language = Some(value),
            "content-type" => output.content_type = Some(value),
            "expires" => output.expires = Timestamp::parse(TimestampFormat::HttpDate, &value).ok(),
            _ => output.website_redirect_location = Some(value),
        });
        if input.checksum_mode.is_some() {
            output.checksum_type = with_sums!(output, window.sum(version));
        }
        Ok(output)
    }

    pub async fn copy_object(
        self: &Arc<Self>,
        mut request: S3Request<CopyObjectInput>,
    ) -> S3Result<CopyObjectOutput> {
        let from_account = source_account(&request.extensions)?;
        let account = account(&request.extensions)?;
        checked_key(&request.input.key)?;
        let (matches, none_matches) = destination_conditions(&request.headers)?;
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
        let (caller, version_asked) = (from_account.clone(), id.clone());
        let from = self
            .db
            .read(move |db| {
                let bucket = rows::bucket(db, &name, &caller)?;
                let version = rows::named(db, bucket.id, &key, version_asked.as_deref())?;
                if version.marker {
                    return Err(match version_asked {
                        Some(_) => s3_error!(InvalidRequest, "The source of a copy request may not specifically refer to a delete marker by version id."),
                        None => rows::no_such_key(),
                    });
                }
                conditions.allow_copy(&version)?;
                Ok((bucket, version))
            })
            .await?;
        let (from_bucket, version) = from;
        if version.size > 5 << 30 {
            return Err(s3_error!(
                InvalidRequest,
                "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"
            ));
        }
        let class = described.class.clone();
        if itself && !replaced && !retagged && class == version.about.class {
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
        if other || composite || tag.contains('-') {
            let algorithm = asked
                .or(about.sum.as_ref().map(|sum| sum.algorithm))
                .unwrap_or(Algorithm::Crc64Nvme);
            let digests = self
                .digest(reading, version.slices.clone(), algorithm)
                .await?;
            (tag, about.sum) = (digests.0, Some(digests.1));
        }
        let (size, sum, copied) = (version.size, about.sum.clone(), tag.clone());
        let source_told = from_bucket.told(&version.id);
        let (made, told) = self
            .db
            .write(move |tx| {
                let from = rows::bucket(tx.connection, &from_bucket.name, &from_account)?;
                // What was looked at may be gone by now: its bytes would be, too.
                let key = String::from_utf8_lossy(&version.key).into_owned();
                let still = rows::version(tx.connection, from.id, &key, &version.id)?;
                if still.is_none_or(|still| still.age != version.age) {
                    return Err(s3_error!(
                        OperationAborted,
                        "The source changed while it was copied. Try again."
                    ));
                }
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
                tx.share(&version.slices)?;
                let put = Put {
                    size,
                    etag: copied,
                    about,
                    slices: version.slices.clone(),
                };
                let made = bucket.put(tx, &input.key, put)?;
                Ok((made.clone(), bucket.told(&made.id)))
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
        algorithm: Algorithm,
    ) -> S3Result<(String, Sum)> {
        use futures_util::StreamExt;
        use md5::Digest;
        let mut body = read::body(self, reading, slices).await?;
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

    pub async fn delete_object(
        self: &Arc<Self>,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<DeleteObjectOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let bypass = input.bypass_governance_retention == Some(true);
        let must_exist = input.if_match.as_ref().is_some_and(ETagCondition::is_any);
        let wanted = ObjectIdentifier {
            key: input.key,
            version_id: input.version_id,
            e_tag: input
                .if_match
                .and_then(|condition| condition.as_etag().cloned()),
            last_modified_time: input.if_match_last_modified_time,
            size: input.if_match_size,
        };
        let deleted = self
            .db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &input.bucket, &account)?;
                delete(tx, &bucket, &wanted, bypass, must_exist)
            })
            .await?;
        self.after_write();
        Ok(DeleteObjectOutput {
            delete_marker: deleted.delete_marker,
            version_id: deleted.delete_marker_version_id.or(deleted.version_id),
            ..Default::default()
        })
    }

    pub async fn delete_objects(
        self: &Arc<Self>,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<DeleteObjectsOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let judge = request.extensions.get::<Judge>().cloned();
        let bypass = input.bypass_governance_retention == Some(true);
        let quiet = input.delete.quiet == Some(true);
        let wanted = input.delete.objects;
        if wanted.is_empty() || wanted.len() > 1000 {
            return Err(s3_error!(
                MalformedXML,
                "The XML you provided was not well-formed or did not validate against our published schema"
            ));
        }
        let outcomes = self
            .db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &input.bucket, &account)?;
                let mut outcomes = Vec::new();
                for one in wanted {
                    let action = policy::action("DeleteObjects", one.version_id.is_some());
                    if judge
                        .as_ref()
                        .is_some_and(|judge| !judge.may(&action, &one.key))
                    {
                        outcomes.push((one, Err(denied())));
                        continue;
                    }
                    let may_bypass =
                        |judge: &Judge| judge.may("s3:BypassGovernanceRetention", &one.key);
                    let bypass = bypass && judge.as_ref().is_none_or(may_bypass);
                    let outcome = tx.apart(|| delete(tx, &bucket, &one, bypass, false));
                    // Each has its own fate, but for what is wrong with the store itself.
                    if outcome.as_ref().is_err_and(is_ours) {
                        return Err(outcome.err().unwrap_or_else(denied));
                    }
                    outcomes.push((one, outcome));
                }
                Ok(outcomes)
            })
            .await?;
        self.after_write();
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for (one, outcome) in outcomes {
            match outcome {
                Ok(done) => deleted.push(done),
                Err(error) => errors.push(s3s::dto::Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(one.key),
                    message: error.message().map(ToOwned::to_owned),
                    version_id: one.version_id,
                }),
            }
        }
        Ok(DeleteObjectsOutput {
            deleted: Some(if quiet { Vec::new() } else { deleted }),
            errors: Some(errors),
            ..Default::default()
        })
    }

    pub async fn get_object_attributes(
        self: &Arc<Self>,
        request: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<GetObjectAttributesOutput> {
        let account = account(&request.extensions)?;
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
        let found = self
            .find(
                account,
                input.bucket,
                input.key,
                input.version_id,
                Conditions::default(),
                false,
            )
            .await?;
        let version = found.version;
        let about = &version.about;
        let mut output = GetObjectAttributesOutput {
            last_modified: Some(stamp(version.modified_ms)),
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
            checksum.checksum_type = with_sums!(checksum, about.sum.as_ref());
            output.checksum = Some(checksum);
        }
        if asked(ObjectAttributes::OBJECT_PARTS) && !about.parts.is_empty() {
            let most = page(input.max_parts)?;
            output.object_parts = Some(object_parts(about, input.part_number_marker, most));
        }
        Ok(output)
    }

    pub async fn get_object_tagging(
        self: &Arc<Self>,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<GetObjectTaggingOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let found = self
            .find(
                account,
                input.bucket,
                input.key,
                input.version_id,
                Conditions::default(),
                false,
            )
            .await?;
        Ok(GetObjectTaggingOutput {
            tag_set: tag_set(&found.version.about.tags),
            version_id: found.told,
        })
    }

    pub async fn put_object_tagging(
        self: &Arc<Self>,
        request: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<PutObjectTaggingOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let tags = judged_set(input.tagging.tag_set, 10)?;
        let version_id = self
            .tag(account, input.bucket, input.key, input.version_id, tags)
            .await?;
        Ok(PutObjectTaggingOutput { version_id })
    }

    pub async fn delete_object_tagging(
        self: &Arc<Self>,
        request: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<DeleteObjectTaggingOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let tags = BTreeMap::new();
        let version_id = self
            .tag(account, input.bucket, input.key, input.version_id, tags)
            .await?;
        Ok(DeleteObjectTaggingOutput { version_id })
    }

    async fn tag(
        &self,
        account: String,
        name: String,
        key: String,
        id: Option<String>,
        tags: BTreeMap<String, String>,
    ) -> S3Result<Option<String>> {
        self.db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &name, &account)?;
                let version = rows::named(tx.connection, bucket.id, &key, id.as_deref())?;
                let told = bucket.told(&version.id);
                readable(&version, id.is_some(), told.as_ref())?;
                let about = About {
                    tags,
                    ..version.about.clone()
                };
                bucket.describe(tx, &version, &about)?;
                Ok(told)
            })
            .await
    }
}

fn headers(about: &About, mut set: impl FnMut(&str, String)) {
    // What AWS gives an object that came without.
    if !about.headers.contains_key("content-type") {
        set("content-type", "binary/octet-stream".into());
    }
    for (name, value) in &about.headers {
        set(name, value.clone());
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

/// Deletes one object as DeleteObject does: a version for good, else what versioning says.
fn delete(
    tx: &Tx<'_>,
    bucket: &Bucket,
    wanted: &ObjectIdentifier,
    bypass: bool,
    must_exist: bool,
) -> S3Result<DeletedObject> {
    let key = &wanted.key;
    let conditional = must_exist
        || wanted.e_tag.is_some()
        || wanted.size.is_some()
        || wanted.last_modified_time.is_some();
    let target = match &wanted.version_id {
        None => rows::current(tx.connection, bucket.id, key)?,
        Some(id) => rows::version(tx.connection, bucket.id, key, id)?,
    };
    if conditional {
        let found = target
            .as_ref()
            .filter(|version| !version.marker)
            .ok_or_else(rows::no_such_key)?;
        let tag = wanted
            .e_tag
            .as_ref()
            .is_none_or(|tag| tag.value() == found.etag);
        let size = wanted.size.is_none_or(|size| size == found.size as i64);
        let modified = stamp(found.modified_ms / 1000 * 1000);
        let time = wanted
            .last_modified_time
            .as_ref()
            .is_none_or(|time| *time == modified);
        if !(tag && size && time) {
            return Err(conditions::failed());
        }
    }
    let mut deleted = DeletedObject {
        key: Some(key.clone()),
        version_id: wanted.version_id.clone(),
        ..Default::default()
    };
    if wanted.version_id.is_some() {
        // A version that isn't there is as good as deleted.
        if let Some(version) = target {
            lock::removable(&version, bypass, tx.now_ms)?;
            bucket.remove(tx, &version)?;
            deleted.delete_marker = version.marker.then_some(true);
            deleted.delete_marker_version_id = version.marker.then_some(version.id);
        }
        return Ok(deleted);
    }
    match (bucket.config.versioning, target) {
        (None, None) => {}
        (None, Some(version)) => bucket.remove(tx, &version)?,
        (Some(Versioning::Enabled | Versioning::Suspended), _) => {
            let marker = bucket.mark_deleted(tx, key)?;
            deleted.delete_marker = Some(true);
            deleted.delete_marker_version_id = Some(marker.id);
        }
    }
    Ok(deleted)
}
