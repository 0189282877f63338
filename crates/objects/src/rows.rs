//! What the tables hold, and the questions that every operation asks of them.

use crate::acl::Acl;
use crate::contents::Slice;
use crate::db::Tx;
use crate::encryption::Encryption;
use crate::error::{denied, internal};
use crate::lock::Retention;
use crate::quota::Quota;
use crate::sum::{Algorithm, Sum};
use rusqlite::{Connection, OptionalExtension, Row, params};
use s3s::{S3Error, S3Result, s3_error};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The id of a version that was made without versioning.
pub const NULL: &str = "null";

#[derive(Clone, Debug)]
pub struct Bucket {
    pub id: i64,
    pub name: String,
    /// The account.
    pub owner: String,
    pub created_ms: i64,
    pub config: Config,
}

/// A bucket's settings: what was never set is absent. Configurations are s3s's own types.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versioning: Option<Versioning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    /// As its owner wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<s3s::dto::ObjectLockConfiguration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<s3s::dto::CORSConfiguration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<s3s::dto::BucketLifecycleConfiguration>,
    /// What `x-amz-transition-default-minimum-object-size` said, where it isn't AWS's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transition_minimum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_access: Option<s3s::dto::PublicAccessBlockConfiguration>,
    #[serde(skip_serializing_if = "is_default")]
    pub public_access_removed: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub ownership: Ownership,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acl: Option<Acl>,
    /// Whether what comes without a wish is encrypted.
    #[serde(skip_serializing_if = "is_default")]
    pub encrypted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
}

/// Whose an object is that another account puts, and whether ACLs count at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ownership {
    #[default]
    BucketOwnerEnforced,
    BucketOwnerPreferred,
    ObjectWriter,
    /// The controls were deleted, which leaves what was before there were any: the writer's.
    Removed,
}

impl Ownership {
    pub fn named(name: &str) -> Option<Self> {
        let all = [
            Self::BucketOwnerEnforced,
            Self::BucketOwnerPreferred,
            Self::ObjectWriter,
        ];
        all.into_iter().find(|one| one.name() == Some(name))
    }

    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::BucketOwnerEnforced => Some("BucketOwnerEnforced"),
            Self::BucketOwnerPreferred => Some("BucketOwnerPreferred"),
            Self::ObjectWriter => Some("ObjectWriter"),
            Self::Removed => None,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    Enabled,
    Suspended,
}

/// What an object is besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// HTTP's own headers, by their names in lower case.
    #[serde(rename = "h", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// `x-amz-meta-…`, without that.
    #[serde(rename = "m", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(rename = "t", skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The storage class, where it isn't STANDARD.
    #[serde(rename = "c", skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    #[serde(rename = "r", skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Whether it is under legal hold; `None` where nobody has ever said.
    #[serde(rename = "o", skip_serializing_if = "Option::is_none")]
    pub hold: Option<bool>,
    /// The canonical user id of its owner, where that isn't the bucket's.
    #[serde(rename = "w", skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Where it isn't the plain one: everything for the owner, nothing for others.
    #[serde(rename = "a", skip_serializing_if = "Option::is_none")]
    pub acl: Option<Acl>,
    #[serde(rename = "e", skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    pub sum: Option<Sum>,
    #[serde(rename = "p", skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartOf>,
    /// Of an upload: what its parts' checksums are to be.
    #[serde(rename = "u", skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// Of an upload: what the request that began it said of the object, for policies that ask for it; SDKs
    /// say it only there.
    #[serde(rename = "q", skip_serializing_if = "BTreeMap::is_empty")]
    pub said: BTreeMap<String, String>,
    /// Of an upload: the canonical user id of who began it, where that isn't the bucket's owner.
    #[serde(rename = "b", skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A part of a completed upload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartOf {
    #[serde(rename = "n")]
    pub number: i32,
    #[serde(rename = "l")]
    pub size: u64,
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    pub sum: Option<Sum>,
}

/// What CreateMultipartUpload said of checksums.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub algorithm: Algorithm,
    pub covers: crate::sum::Covers,
    /// Whether the client asked for it, or it is the default.
    pub explicit: bool,
}

/// An object's version, or a delete marker.
#[derive(Clone, Debug)]
pub struct Version {
    pub key: Vec<u8>,
    pub age: i64,
    pub id: String,
    pub current: bool,
    pub marker: bool,
    pub size: u64,
    pub etag: String,
    pub modified_ms: i64,
    pub about: About,
    pub slices: Vec<Slice>,
}

const VERSION: &str =
    "key, age, id, current, marker, size, etag, modified_ms, about, slices FROM versions";

pub fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data")
}

pub fn parsed<T: serde::de::DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(index)?.as_str()?;
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, error.into())
    })
}

impl Version {
    pub fn of_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            key: row.get(0)?,
            age: row.get(1)?,
            id: row.get(2)?,
            current: row.get(3)?,
            marker: row.get(4)?,
            size: row.get(5)?,
            etag: row.get(6)?,
            modified_ms: row.get(7)?,
            about: parsed(row, 8)?,
            slices: parsed(row, 9)?,
        })
    }

    fn insert(&self, tx: &Tx<'_>, bucket: i64) -> S3Result<()> {
        tx.connection
            .prepare_cached(
                "INSERT INTO versions (bucket, key, age, id, current, marker, size, etag,
                 modified_ms, about, slices) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )
            .and_then(|mut insert| {
                insert.execute(params![
                    bucket,
                    self.key,
                    self.age,
                    self.id,
                    self.current,
                    self.marker,
                    self.size,
                    self.etag,
                    self.modified_ms,
                    json(&self.about),
                    json(&self.slices)
                ])
            })
            .map_err(internal)?;
        Ok(())
    }
}

fn bucket_of_row(row: &Row<'_>) -> rusqlite::Result<Bucket> {
    Ok(Bucket {
        id: row.get(0)?,
        name: row.get(1)?,
        owner: row.get(2)?,
        created_ms: row.get(3)?,
        config: parsed(row, 4)?,
    })
}

pub fn find_bucket(connection: &Connection, name: &str) -> S3Result<Option<Bucket>> {
    bucket_named(connection, name).map_err(internal)
}

pub fn bucket_named(connection: &Connection, name: &str) -> rusqlite::Result<Option<Bucket>> {
    connection
        .prepare_cached("SELECT id, name, owner, created_ms, config FROM buckets WHERE name = ?1")?
        .query_row([name], bucket_of_row)
        .optional()
}

pub fn no_such_bucket() -> S3Error {
    s3_error!(NoSuchBucket, "The specified bucket does not exist")
}

/// The bucket, if it is this account's.
pub fn bucket(connection: &Connection, name: &str, account: &str) -> S3Result<Bucket> {
    let bucket = find_bucket(connection, name)?.ok_or_else(no_such_bucket)?;
    bucket.owned_by(account)?;
    Ok(bucket)
}

/// The account's buckets whose names start with `prefix` and come after `after`.
pub fn buckets(
    connection: &Connection,
    account: &str,
    prefix: &str,
    after: &str,
    most: usize,
) -> S3Result<Vec<Bucket>> {
    let mut select = connection
        .prepare_cached(
            "SELECT id, name, owner, created_ms, config FROM buckets
             WHERE owner = ?1 AND name > ?2 AND substr(name, 1, length(?3)) = ?3
             ORDER BY name LIMIT ?4",
        )
        .map_err(internal)?;
    let rows = select.query_map(params![account, after, prefix, most], bucket_of_row);
    rows.and_then(Iterator::collect).map_err(internal)
}

/// Every bucket of the store.
pub fn all_buckets(connection: &Connection) -> rusqlite::Result<Vec<Bucket>> {
    connection
        .prepare_cached("SELECT id, name, owner, created_ms, config FROM buckets ORDER BY name")?
        .query_map([], bucket_of_row)?
        .collect()
}

/// Versions of keys after this one, in the order of keys, the newest of each first.
pub fn versions_after(
    connection: &Connection,
    bucket: i64,
    after: Option<&[u8]>,
    most: usize,
) -> S3Result<Vec<Version>> {
    let mut select = connection
        .prepare_cached(&format!(
            "SELECT {VERSION} WHERE bucket = ?1 AND (?2 IS NULL OR key > ?2) ORDER BY key, age LIMIT ?3"
        ))
        .map_err(internal)?;
    let rows = select.query_map(params![bucket, after, most], Version::of_row);
    rows.and_then(Iterator::collect).map_err(internal)
}

/// All versions of a key, the newest first.
pub fn versions_of(connection: &Connection, bucket: i64, key: &[u8]) -> S3Result<Vec<Version>> {
    let mut select = connection
        .prepare_cached(&format!(
            "SELECT {VERSION} WHERE bucket = ?1 AND key = ?2 ORDER BY age"
        ))
        .map_err(internal)?;
    let rows = select.query_map(params![bucket, key], Version::of_row);
    rows.and_then(Iterator::collect).map_err(internal)
}

pub fn current(connection: &Connection, bucket: i64, key: &str) -> S3Result<Option<Version>> {
    connection
        .prepare_cached(&format!(
            "SELECT {VERSION} WHERE bucket = ?1 AND key = ?2 ORDER BY age LIMIT 1"
        ))
        .and_then(|mut select| {
            select
                .query_row(params![bucket, key.as_bytes()], Version::of_row)
                .optional()
        })
        .map_err(internal)
}

pub fn version(
    connection: &Connection,
    bucket: i64,
    key: &str,
    id: &str,
) -> S3Result<Option<Version>> {
    connection
        .prepare_cached(&format!(
            "SELECT {VERSION} WHERE bucket = ?1 AND key = ?2 AND id = ?3"
        ))
        .and_then(|mut select| {
            select
                .query_row(params![bucket, key.as_bytes(), id], Version::of_row)
                .optional()
        })
        .map_err(internal)
}

/// A version to read: the one that is named, else the current one. Delete markers are found too.
pub fn named(
    connection: &Connection,
    bucket: i64,
    key: &str,
    id: Option<&str>,
) -> S3Result<Version> {
    match id {
        None => current(connection, bucket, key)?.ok_or_else(no_such_key),
        Some(id) => version(connection, bucket, key, id)?.ok_or_else(|| no_such_version(id)),
    }
}

pub fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

fn no_such_version(id: &str) -> S3Error {
    match check_version(id) {
        Ok(()) => s3_error!(NoSuchVersion, "The specified version does not exist."),
        Err(wrong) => wrong,
    }
}

/// Refuses what can't be a version's id.
pub fn check_version(id: &str) -> S3Result<()> {
    let ours =
        id == NULL || (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    match ours {
        true => Ok(()),
        false => Err(s3_error!(InvalidArgument, "Invalid version id specified")),
    }
}

/// What is put under a key.
pub struct Put {
    pub size: u64,
    pub etag: String,
    pub about: About,
    pub slices: Vec<Slice>,
}

impl Bucket {
    /// Puts a new version in front, as the bucket's versioning says; answers it.
    pub fn put(&self, tx: &Tx<'_>, key: &str, put: Put) -> S3Result<Version> {
        self.put_in_front(tx, key, put, false)
    }

    /// Hides the key behind a delete marker.
    pub fn mark_deleted(&self, tx: &Tx<'_>, key: &str) -> S3Result<Version> {
        let nothing = Put {
            size: 0,
            etag: String::new(),
            about: About::default(),
            slices: Vec::new(),
        };
        self.put_in_front(tx, key, nothing, true)
    }

    fn put_in_front(&self, tx: &Tx<'_>, key: &str, put: Put, marker: bool) -> S3Result<Version> {
        let seq = tx.next_seq();
        let id = match self.config.versioning {
            Some(Versioning::Enabled) => fresh_version(seq),
            Some(Versioning::Suspended) | None => NULL.to_owned(),
        };
        if id == NULL
            && let Some(before) = version(tx.connection, self.id, key, NULL)?
        {
            self.forget(tx, &before)?;
        }
        tx.connection
            .prepare_cached(
                "UPDATE versions SET current = 0 WHERE bucket = ?1 AND key = ?2 AND current = 1",
            )
            .and_then(|mut update| update.execute(params![self.id, key.as_bytes()]))
            .map_err(internal)?;
        let version = Version {
            key: key.as_bytes().to_vec(),
            age: -seq,
            id,
            current: true,
            marker,
            size: put.size,
            etag: put.etag,
            modified_ms: tx.now_ms,
            about: put.about,
            slices: put.slices,
        };
        version.insert(tx, self.id)?;
        tx.touches(&self.name, &version.key);
        Ok(version)
    }

    /// Removes one version for good; what was behind it comes to the front.
    pub fn remove(&self, tx: &Tx<'_>, version: &Version) -> S3Result<()> {
        self.forget(tx, version)?;
        if version.current {
            tx.connection
                .prepare_cached(
                    "UPDATE versions SET current = 1 WHERE bucket = ?1 AND key = ?2 AND age =
                     (SELECT MIN(age) FROM versions WHERE bucket = ?1 AND key = ?2)",
                )
                .and_then(|mut update| update.execute(params![self.id, version.key]))
                .map_err(internal)?;
        }
        Ok(())
    }

    fn forget(&self, tx: &Tx<'_>, version: &Version) -> S3Result<()> {
        tx.touches(&self.name, &version.key);
        let gone = tx
            .connection
            .prepare_cached("DELETE FROM versions WHERE bucket = ?1 AND key = ?2 AND age = ?3")
            .and_then(|mut delete| delete.execute(params![self.id, version.key, version.age]))
            .map_err(internal)?;
        // What was read before may be gone already, and then its bytes are let go of already.
        match gone {
            0 => Ok(()),
            _ => tx.release(&version.slices),
        }
    }

    /// Changes what an object is besides its bytes.
    pub fn describe(&self, tx: &Tx<'_>, version: &Version, about: &About) -> S3Result<()> {
        tx.touches(&self.name, &version.key);
        tx.connection
            .prepare_cached(
                "UPDATE versions SET about = ?4 WHERE bucket = ?1 AND key = ?2 AND age = ?3",
            )
            .and_then(|mut update| {
                update.execute(params![self.id, version.key, version.age, json(about)])
            })
            .map_err(internal)?;
        Ok(())
    }

    pub fn owned_by(&self, account: &str) -> S3Result<()> {
        match self.owner == account {
            true => Ok(()),
            false => Err(denied()),
        }
    }

    pub fn configure(&self, tx: &Tx<'_>, config: &Config) -> S3Result<()> {
        tx.touches_bucket(&self.name);
        tx.connection
            .prepare_cached("UPDATE buckets SET config = ?2 WHERE id = ?1")
            .and_then(|mut update| update.execute(params![self.id, json(config)]))
            .map_err(internal)?;
        Ok(())
    }

    /// Whether what is put takes the place of what was there.
    pub fn replaces(&self) -> bool {
        self.config.versioning != Some(Versioning::Enabled)
    }

    /// What a client is told of a version that it has made: nothing while versioning is suspended.
    pub fn told_maker(&self, id: &str) -> Option<String> {
        let enabled = self.config.versioning == Some(Versioning::Enabled);
        enabled.then(|| id.to_owned())
    }

    /// What a client is told: nothing, as long as versioning was never set.
    pub fn told(&self, id: &str) -> Option<String> {
        self.config.versioning.map(|_| id.to_owned())
    }
}

/// Unguessable, and saying where it lies among the versions of its key, so that a page can begin after one
/// that is gone: `v`, its number, and chance.
fn fresh_version(seq: i64) -> String {
    use rand::Rng;
    use rand::distr::Alphanumeric;
    let chance = rand::rng().sample_iter(Alphanumeric).take(19);
    format!("v{seq:012x}{}", chance.map(char::from).collect::<String>())
}

/// The age of the version that has, or had, this id.
pub fn age_of(id: &str) -> Option<i64> {
    let seq = id.strip_prefix('v')?.get(..12)?;
    i64::from_str_radix(seq, 16).ok().map(|seq| -seq)
}

/// An upload whose parts come in.
#[derive(Clone, Debug)]
pub struct Upload {
    pub key: Vec<u8>,
    pub id: String,
    pub initiated_ms: i64,
    pub about: About,
    /// What completing it answered.
    pub done: Option<Done>,
}

/// The object that an upload became.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub etag: String,
    pub version: Option<String>,
    pub sum: Option<Sum>,
    /// The parts that were named, to tell a repetition from another wish.
    pub parts: String,
    pub at_ms: i64,
    /// Whether it is encrypted by the master key.
    #[serde(default)]
    pub master: bool,
    /// When it expires and by which rule, as it is told.
    #[serde(default)]
    pub expiration: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Part {
    pub number: i32,
    pub size: u64,
    pub etag: String,
    pub modified_ms: i64,
    pub sum: Option<Sum>,
    pub slices: Vec<Slice>,
}

impl Upload {
    pub fn of_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let done: Option<String> = row.get(4)?;
        Ok(Self {
            key: row.get(0)?,
            id: row.get(1)?,
            initiated_ms: row.get(2)?,
            about: parsed(row, 3)?,
            done: done.map(|_| parsed(row, 4)).transpose()?,
        })
    }
}

/// An upload by its id, completed ones too.
pub fn find_upload(connection: &Connection, bucket: i64, key: &str, id: &str) -> S3Result<Upload> {
    let found = connection
        .prepare_cached(
            "SELECT key, id, initiated_ms, about, done FROM uploads
             WHERE bucket = ?1 AND key = ?2 AND id = ?3",
        )
        .and_then(|mut select| {
            select
                .query_row(params![bucket, key.as_bytes(), id], Upload::of_row)
                .optional()
        })
        .map_err(internal)?;
    found.ok_or_else(no_such_upload)
}

/// An upload that isn't completed.
pub fn open_upload(connection: &Connection, bucket: i64, key: &str, id: &str) -> S3Result<Upload> {
    let upload = find_upload(connection, bucket, key, id)?;
    match upload.done {
        None => Ok(upload),
        Some(_) => Err(no_such_upload()),
    }
}

fn no_such_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    )
}

/// Parts of an upload with numbers above `after`, in their order.
pub fn parts(
    connection: &Connection,
    upload: &str,
    after: i32,
    most: usize,
) -> S3Result<Vec<Part>> {
    let mut select = connection
        .prepare_cached(
            "SELECT number, size, etag, modified_ms, sum, slices FROM parts
             WHERE upload = ?1 AND number > ?2 ORDER BY number LIMIT ?3",
        )
        .map_err(internal)?;
    let rows = select.query_map(params![upload, after, most], |row| {
        let sum: Option<String> = row.get(4)?;
        Ok(Part {
            number: row.get(0)?,
            size: row.get(1)?,
            etag: row.get(2)?,
            modified_ms: row.get(3)?,
            sum: sum.map(|_| parsed(row, 4)).transpose()?,
            slices: parsed(row, 5)?,
        })
    });
    rows.and_then(Iterator::collect).map_err(internal)
}
