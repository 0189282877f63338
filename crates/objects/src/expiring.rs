//! Lifecycle rules carried out: a walk over the buckets that have rules finds what is due, and the
//! transaction that removes it decides once more.

use crate::Store;
use crate::db::Tx;
use crate::error::internal;
use crate::lifecycle::{Due, Seen, abortion, due};
use crate::lock;
use crate::multipart;
use crate::rows::{self, Bucket, Upload, Version, Versioning};
use rusqlite::{Connection, params};
use s3s::S3Result;
use s3s::dto::LifecycleRule;
use std::sync::Arc;

/// Versions that are looked at in one read.
const LOOKED_AT: usize = 500;
/// Keys that are changed in one transaction, which others wait for.
const CHANGED: usize = 50;

impl Store {
    /// Carries out what is due now, in all buckets. One that can't be read keeps no other one waiting.
    pub async fn run_lifecycle(self: &Arc<Self>) {
        let buckets = self.db.known.all();
        let with_rules = buckets
            .iter()
            .map(|known| &known.row)
            .filter(|row| row.config.lifecycle.is_some());
        for bucket in with_rules {
            if let Err(error) = self.run_lifecycle_of(&bucket.name).await {
                tracing::error!("lifecycle rules of {}: {error}", bucket.name);
            }
        }
        self.after_write();
    }

    async fn run_lifecycle_of(self: &Arc<Self>, name: &str) -> S3Result<()> {
        let mut after = None;
        loop {
            let page = self.due_after(name, after).await?;
            for keys in page.due.chunks(CHANGED) {
                self.expire(name, keys.to_vec()).await?;
            }
            after = page.last;
            if after.is_none() {
                break;
            }
        }
        for upload in self.old_uploads(name).await? {
            self.abort_old(name, upload).await?;
        }
        Ok(())
    }

    async fn due_after(self: &Arc<Self>, name: &str, after: Option<Vec<u8>>) -> S3Result<Page> {
        let (name, now_ms) = (name.to_owned(), (self.clock)());
        self.db
            .read(move |db| {
                let Some((bucket, rules)) = ruled(db, &name)? else {
                    return Ok(Page::default());
                };
                let versions = rows::versions_after(db, bucket.id, after.as_deref(), LOOKED_AT)?;
                let more = versions.len() >= LOOKED_AT;
                let mut keys: Vec<&[Version]> = versions.chunk_by(|a, b| a.key == b.key).collect();
                // The last one may go on beyond what was read.
                let whole;
                if more && keys.len() > 1 {
                    keys.pop();
                } else if more {
                    whole = rows::versions_of(db, bucket.id, &keys[0][0].key)?;
                    keys = vec![&whole];
                }
                let is_due = |versions: &&&[Version]| {
                    let mut dues = dues((&bucket, &rules), &versions[0].key, versions, now_ms);
                    dues.next().is_some()
                };
                let key = |versions: &&[Version]| versions[0].key.clone();
                Ok(Page {
                    due: keys.iter().filter(is_due).map(key).collect(),
                    last: keys.last().map(key).filter(|_| more),
                })
            })
            .await
    }

    /// Decides once more for each key: whoever uses it may have removed it meanwhile.
    pub async fn expire(self: &Arc<Self>, name: &str, keys: Vec<Vec<u8>>) -> S3Result<()> {
        let name = name.to_owned();
        self.db
            .write(move |tx| {
                let Some((bucket, rules)) = ruled(tx.connection, &name)? else {
                    return Ok(());
                };
                for key in keys {
                    let versions = rows::versions_of(tx.connection, bucket.id, &key)?;
                    for (version, due) in dues((&bucket, &rules), &key, &versions, tx.now_ms) {
                        carry_out(tx, &bucket, version, due)?;
                    }
                }
                Ok(())
            })
            .await
    }

    async fn old_uploads(self: &Arc<Self>, name: &str) -> S3Result<Vec<Upload>> {
        let (name, now_ms) = (name.to_owned(), (self.clock)());
        self.db
            .read(move |db| {
                let Some((bucket, rules)) = ruled(db, &name)? else {
                    return Ok(Vec::new());
                };
                let mut select = db
                    .prepare_cached(
                        "SELECT key, id, initiated_ms, about, done FROM uploads
                         WHERE bucket = ?1 AND done IS NULL",
                    )
                    .map_err(internal)?;
                let uploads: Result<Vec<Upload>, _> = select
                    .query_map(params![bucket.id], Upload::of_row)
                    .and_then(Iterator::collect);
                let mut uploads = uploads.map_err(internal)?;
                uploads.retain(|upload| is_old(&rules, upload, now_ms));
                Ok(uploads)
            })
            .await
    }

    async fn abort_old(self: &Arc<Self>, name: &str, upload: Upload) -> S3Result<()> {
        let name = name.to_owned();
        self.db
            .write(move |tx| {
                let Some((bucket, rules)) = ruled(tx.connection, &name)? else {
                    return Ok(());
                };
                let key = String::from_utf8_lossy(&upload.key);
                // It may have been completed meanwhile, or aborted.
                match rows::open_upload(tx.connection, bucket.id, &key, &upload.id) {
                    Ok(upload) if is_old(&rules, &upload, tx.now_ms) => {
                        multipart::abort(tx, bucket.id, &upload)
                    }
                    Err(error) if *error.code() != s3s::S3ErrorCode::NoSuchUpload => Err(error),
                    Ok(_) | Err(_) => Ok(()),
                }
            })
            .await
    }
}

/// What was found in a run of keys.
#[derive(Default)]
struct Page {
    /// Keys of which something is due.
    due: Vec<Vec<u8>>,
    /// The last key that was looked at, if there are more.
    last: Option<Vec<u8>>,
}

/// A bucket and its rules, if both are there still.
fn ruled(connection: &Connection, name: &str) -> S3Result<Option<(Bucket, Vec<LifecycleRule>)>> {
    let bucket = rows::find_bucket(connection, name)?;
    Ok(bucket.and_then(|bucket| {
        let rules = bucket.config.lifecycle.as_ref()?.rules.clone();
        Some((bucket, rules))
    }))
}

fn is_old(rules: &[LifecycleRule], upload: &Upload, now_ms: i64) -> bool {
    let end = abortion(rules, &upload.key, upload.initiated_ms);
    end.is_some_and(|(at, _)| now_ms >= at)
}

/// What is due for versions of one key, the newest first, as far as their locks let it happen.
fn dues<'a>(
    (bucket, rules): (&'a Bucket, &'a [LifecycleRule]),
    key: &[u8],
    versions: &'a [Version],
    now_ms: i64,
) -> impl Iterator<Item = (&'a Version, Due)> + use<'a> {
    let key = String::from_utf8_lossy(key).into_owned();
    versions
        .iter()
        .enumerate()
        .filter_map(move |(index, version)| {
            let newer = index.checked_sub(1);
            let seen = Seen {
                key: &key,
                size: version.size,
                tags: &version.about.tags,
                class: version.about.class.as_deref(),
                modified_ms: version.modified_ms,
                marker: version.marker,
                alone: versions.len() == 1,
                noncurrent: newer.map(|newer| (versions[newer].modified_ms, newer)),
            };
            let due = due(rules, &seen, now_ms)?;
            let removes = match due {
                Due::Move(_) => false,
                Due::Remove => true,
                // A marker takes the place of the version `null` alone.
                Due::Expire => match bucket.config.versioning {
                    None => true,
                    Some(Versioning::Suspended) => version.id == rows::NULL,
                    Some(Versioning::Enabled) => false,
                },
            };
            let may = !removes || lock::removable(version, false, now_ms).is_ok();
            may.then_some((version, due))
        })
}

fn carry_out(tx: &Tx<'_>, bucket: &Bucket, version: &Version, due: Due) -> S3Result<()> {
    match due {
        Due::Move(class) => {
            let about = rows::About {
                class: Some(class.to_owned()),
                ..version.about.clone()
            };
            bucket.describe(tx, version, &about)?;
        }
        Due::Expire if bucket.config.versioning.is_some() => {
            bucket.mark_deleted(tx, &String::from_utf8_lossy(&version.key))?;
        }
        Due::Expire | Due::Remove => bucket.remove(tx, version)?,
    }
    Ok(())
}
