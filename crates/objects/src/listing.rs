//! ListObjects, its second version, and ListObjectVersions: pages of a bucket out of the database.

use crate::Store;
use crate::access::{self, account};
use crate::describe::{covers, etag, second};
use crate::error::internal;
use crate::list::{Lister, Step, Wanted};
use crate::objects::page;
use crate::rows::{self, Version};
use crate::sum::Sum;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boira_api::form;
use rusqlite::{Connection, params};
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};
use std::sync::Arc;

const COLUMNS: &str = "key, age, id, current, marker, size, etag, modified_ms, about, slices";

/// Whether names are to be URL-encoded, for clients whose XML can't have all characters.
pub fn wants_url(asked: Option<&EncodingType>) -> S3Result<bool> {
    match asked.map(EncodingType::as_str) {
        None => Ok(false),
        Some(EncodingType::URL) => Ok(true),
        Some(_) => Err(s3_error!(
            InvalidArgument,
            "Invalid Encoding Method specified in Request"
        )),
    }
}

/// URL encoding of names: what stays is as in AWS's answers, and a space is `%20`, because botocore
/// doesn't undo `+`.
pub fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    form::percent_encode(&mut out, name.as_bytes(), b"/*");
    out.replace('~', "%7E")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The common prefixes of a page, spelt as the client wants names.
pub fn common_prefixes(lister: &Lister, show: impl Fn(String) -> String) -> Vec<CommonPrefix> {
    let prefixes = lister.common_prefixes.iter();
    let prefix = |prefix: &Vec<u8>| CommonPrefix {
        prefix: Some(show(text(prefix))),
    };
    prefixes.map(prefix).collect()
}

/// The algorithm of a version's checksum, and what it covers.
fn checksum(version: &Version) -> (Option<Vec<ChecksumAlgorithm>>, Option<ChecksumType>) {
    let sum = version.about.sum.as_ref();
    let name = |sum: &Sum| vec![ChecksumAlgorithm::from(sum.algorithm.name().to_owned())];
    (sum.map(name), sum.map(|sum| covers(sum.covers)))
}

/// A page of objects.
struct Objects {
    contents: Vec<Object>,
    prefixes: Vec<CommonPrefix>,
    truncated: bool,
    /// The last name of the page, as it is.
    last: Option<String>,
}

impl Store {
    async fn page(
        self: &Arc<Self>,
        account: String,
        bucket: String,
        wanted: Wanted,
        url: bool,
        owner: bool,
    ) -> S3Result<Objects> {
        let show = move |name: String| if url { encoded(&name) } else { name };
        let caller = account;
        let (bucket, versions, lister) = self
            .db
            .read(move |db| {
                let bucket = rows::bucket(db, &bucket, &caller)?;
                let (versions, lister) = current(db, bucket.id, wanted)?;
                Ok((bucket, versions, lister))
            })
            .await?;
        let mut owners = self.owners(&bucket);
        let contents = versions.into_iter().map(|version| {
            let (checksum_algorithm, checksum_type) = checksum(&version);
            Object {
                checksum_algorithm,
                checksum_type,
                e_tag: Some(etag(&version.etag)),
                key: Some(show(text(&version.key))),
                last_modified: Some(second(version.modified_ms)),
                owner: owner.then(|| owners(&version.about)),
                size: Some(version.size as i64),
                storage_class: Some(ObjectStorageClass::from(class(&version))),
                ..Default::default()
            }
        });
        let prefixes = common_prefixes(&lister, show);
        Ok(Objects {
            contents: contents.collect(),
            prefixes,
            truncated: lister.truncated,
            last: lister.last().map(text),
        })
    }

    pub async fn list_objects(
        self: &Arc<Self>,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<ListObjectsOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let url = wants_url(input.encoding_type.as_ref())?;
        let show = move |name: String| if url { encoded(&name) } else { name };
        let most = page(input.max_keys)?;
        let marker = input.marker.unwrap_or_default();
        let wanted = wanted(
            input.prefix.as_ref(),
            input.delimiter.as_ref(),
            &marker,
            most,
        );
        let page = self
            .page(account, input.bucket.clone(), wanted, url, true)
            .await?;
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        // AWS names it only where a delimiter may hide the last key.
        let next = page.last.filter(|_| page.truncated && delimiter.is_some());
        Ok(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(show(input.prefix.unwrap_or_default())),
            marker: Some(show(marker)),
            max_keys: Some(most as i32),
            is_truncated: Some(page.truncated),
            contents: Some(page.contents),
            common_prefixes: Some(page.prefixes),
            delimiter: delimiter.map(show),
            next_marker: next.map(show),
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }

    pub async fn list_objects_v2(
        self: &Arc<Self>,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<ListObjectsV2Output> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let url = wants_url(input.encoding_type.as_ref())?;
        let show = move |name: String| if url { encoded(&name) } else { name };
        let most = page(input.max_keys)?;
        let after = match &input.continuation_token {
            Some(token) => from_token(token)?,
            None => input.start_after.clone().unwrap_or_default(),
        };
        let wanted = wanted(
            input.prefix.as_ref(),
            input.delimiter.as_ref(),
            &after,
            most,
        );
        let owner = input.fetch_owner == Some(true);
        let page = self
            .page(account, input.bucket.clone(), wanted, url, owner)
            .await?;
        let next = page.last.filter(|_| page.truncated);
        Ok(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(show(input.prefix.unwrap_or_default())),
            max_keys: Some(most as i32),
            key_count: Some((page.contents.len() + page.prefixes.len()) as i32),
            continuation_token: input.continuation_token,
            is_truncated: Some(page.truncated),
            next_continuation_token: next.map(|last| token(&last)),
            contents: Some(page.contents),
            common_prefixes: Some(page.prefixes),
            delimiter: input
                .delimiter
                .filter(|delimiter| !delimiter.is_empty())
                .map(show),
            encoding_type: input.encoding_type,
            start_after: input.start_after.map(show),
            ..Default::default()
        })
    }

    pub async fn list_object_versions(
        self: &Arc<Self>,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<ListObjectVersionsOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let url = wants_url(input.encoding_type.as_ref())?;
        let show = move |name: String| if url { encoded(&name) } else { name };
        let most = page(input.max_keys)?;
        let key_marker = input.key_marker.unwrap_or_default();
        let id_marker = input.version_id_marker.filter(|id| !id.is_empty());
        if id_marker.is_some() && key_marker.is_empty() {
            return Err(s3_error!(
                InvalidArgument,
                "A version-id marker cannot be specified without a key marker."
            ));
        }
        let wanted = wanted(
            input.prefix.as_ref(),
            input.delimiter.as_ref(),
            &key_marker,
            most,
        );
        let (name, caller) = (input.bucket.clone(), account.clone());
        let begun = id_marker.clone().map(|id| (key_marker.clone(), id));
        let (bucket, found, lister) = self
            .db
            .read(move |db| {
                let bucket = rows::bucket(db, &name, &caller)?;
                let (found, lister) = versions(db, bucket.id, wanted, begun)?;
                Ok((bucket, found, lister))
            })
            .await?;
        let mut owners = self.owners(&bucket);
        let last_id = found.last().map(|version| version.id.clone());
        let last_is_version = found
            .last()
            .is_some_and(|last| Some(&last.key[..]) == lister.last());
        let (mut shown, mut markers) = (Vec::new(), Vec::new());
        for version in found {
            if version.marker {
                markers.push(DeleteMarkerEntry {
                    is_latest: Some(version.current),
                    key: Some(show(text(&version.key))),
                    last_modified: Some(second(version.modified_ms)),
                    owner: Some(access::owner(&account)),
                    version_id: Some(version.id),
                });
                continue;
            }
            let (checksum_algorithm, checksum_type) = checksum(&version);
            shown.push(ObjectVersion {
                checksum_algorithm,
                checksum_type,
                e_tag: Some(etag(&version.etag)),
                is_latest: Some(version.current),
                key: Some(show(text(&version.key))),
                last_modified: Some(second(version.modified_ms)),
                owner: Some(owners(&version.about)),
                size: Some(version.size as i64),
                storage_class: Some(ObjectVersionStorageClass::from(class(&version))),
                version_id: Some(version.id),
                ..Default::default()
            });
        }
        let prefixes = common_prefixes(&lister, show);
        let truncated = lister.truncated;
        let next = lister.last().map(text).filter(|_| truncated);
        Ok(ListObjectVersionsOutput {
            common_prefixes: Some(prefixes),
            delete_markers: Some(markers),
            delimiter: input
                .delimiter
                .filter(|delimiter| !delimiter.is_empty())
                .map(show),
            encoding_type: input.encoding_type,
            is_truncated: Some(truncated),
            key_marker: Some(show(key_marker)),
            max_keys: Some(most as i32),
            name: Some(input.bucket),
            next_key_marker: next.map(show),
            next_version_id_marker: last_id.filter(|_| truncated && last_is_version),
            prefix: Some(show(input.prefix.unwrap_or_default())),
            version_id_marker: id_marker,
            versions: Some(shown),
            ..Default::default()
        })
    }
}

fn wanted(prefix: Option<&String>, delimiter: Option<&String>, after: &str, max: usize) -> Wanted {
    let bytes = |text: Option<&String>| text.cloned().unwrap_or_default().into_bytes();
    Wanted {
        prefix: bytes(prefix),
        delimiter: bytes(delimiter),
        after: (!after.is_empty()).then(|| after.as_bytes().to_vec()),
        max,
    }
}

fn class(version: &Version) -> String {
    version
        .about
        .class
        .clone()
        .unwrap_or_else(|| ObjectStorageClass::STANDARD.to_owned())
}

/// Where the next page goes on. Clients may keep it, but not look into it.
pub fn token(last: &str) -> String {
    format!("1{}", URL_SAFE_NO_PAD.encode(last))
}

pub fn from_token(token: &str) -> S3Result<String> {
    token
        .strip_prefix('1')
        .and_then(|rest| URL_SAFE_NO_PAD.decode(rest).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| {
            s3_error!(
                InvalidArgument,
                "The continuation token provided is incorrect"
            )
        })
}

/// A page of current objects.
fn current(db: &Connection, bucket: i64, wanted: Wanted) -> S3Result<(Vec<Version>, Lister)> {
    let mut select = db
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM versions WHERE bucket = ?1 AND key >= ?2
             AND current = 1 AND marker = 0 ORDER BY key"
        ))
        .map_err(internal)?;
    let mut lister = Lister::new(wanted);
    let mut found = Vec::new();
    let mut from = lister.start();
    'seek: while let Some(start) = from.take() {
        let mut rows = select.query(params![bucket, start]).map_err(internal)?;
        while let Some(row) = rows.next().map_err(internal)? {
            let key = row
                .get_ref(0)
                .and_then(|key| Ok(key.as_blob()?))
                .map_err(internal)?;
            match lister.offer(key) {
                Step::Take => found.push(Version::of_row(row).map_err(internal)?),
                Step::Seek(next) => {
                    from = Some(next);
                    continue 'seek;
                }
                Step::Stop => break 'seek,
            }
        }
    }
    Ok((found, lister))
}

/// A page of all versions, the newest of each key first; `begun` is the version that was last.
fn versions(
    db: &Connection,
    bucket: i64,
    wanted: Wanted,
    begun: Option<(String, String)>,
) -> S3Result<(Vec<Version>, Lister)> {
    let mut select = db
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM versions WHERE bucket = ?1 AND (key, age) > (?2, ?3)
             ORDER BY key, age"
        ))
        .map_err(internal)?;
    let mut lister = Lister::new(wanted);
    let mut found = Vec::new();
    let mut from = match &begun {
        None => lister.start().map(|key| (key, i64::MIN)),
        Some((key, id)) => {
            let age = match rows::version(db, bucket, key, id)? {
                Some(version) => Some(version.age),
                None => rows::age_of(id),
            };
            match age.filter(|_| lister.covers(key.as_bytes())) {
                Some(age) => Some((key.clone().into_bytes(), age)),
                // Where it lay nobody knows: go on after its key, rather than show any version twice.
                None => lister.start().map(|key| (key, i64::MIN)),
            }
        }
    };
    'seek: while let Some((key, age)) = from.take() {
        let mut rows = select.query(params![bucket, key, age]).map_err(internal)?;
        while let Some(row) = rows.next().map_err(internal)? {
            let key = row
                .get_ref(0)
                .and_then(|key| Ok(key.as_blob()?))
                .map_err(internal)?;
            match lister.offer(key) {
                Step::Take => found.push(Version::of_row(row).map_err(internal)?),
                Step::Seek(next) => {
                    from = Some((next, i64::MIN));
                    continue 'seek;
                }
                Step::Stop => break 'seek,
            }
        }
    }
    Ok((found, lister))
}
