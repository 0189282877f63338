//! What buckets and accounts hold, and how much they may: counted by triggers of the database, so that no
//! way into it is forgotten, and judged in the transaction that adds.

use crate::Store;
use crate::db::Tx;
use crate::error::{custom, internal};
use crate::rows::{self, Bucket};
use http::StatusCode;
use rusqlite::{Connection, OptionalExtension, params};
use s3s::S3Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS usage (
        bucket INTEGER PRIMARY KEY,
        objects INTEGER NOT NULL DEFAULT 0, -- current ones, and their bytes
        bytes INTEGER NOT NULL DEFAULT 0,
        older INTEGER NOT NULL DEFAULT 0,   -- other versions, and their bytes
        older_bytes INTEGER NOT NULL DEFAULT 0,
        upload_bytes INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE IF NOT EXISTS quotas (
        account TEXT PRIMARY KEY,
        quota TEXT NOT NULL
    );
    CREATE TRIGGER IF NOT EXISTS bucket_made AFTER INSERT ON buckets BEGIN
        INSERT INTO usage (bucket) VALUES (NEW.id);
    END;
    CREATE TRIGGER IF NOT EXISTS bucket_gone AFTER DELETE ON buckets BEGIN
        DELETE FROM usage WHERE bucket = OLD.id;
    END;
    CREATE TRIGGER IF NOT EXISTS version_made AFTER INSERT ON versions WHEN NEW.marker = 0 BEGIN
        UPDATE usage SET
            objects = objects + NEW.current,
            bytes = bytes + NEW.current * NEW.size,
            older = older + 1 - NEW.current,
            older_bytes = older_bytes + (1 - NEW.current) * NEW.size
        WHERE bucket = NEW.bucket;
    END;
    CREATE TRIGGER IF NOT EXISTS version_gone AFTER DELETE ON versions WHEN OLD.marker = 0 BEGIN
        UPDATE usage SET
            objects = objects - OLD.current,
            bytes = bytes - OLD.current * OLD.size,
            older = older - 1 + OLD.current,
            older_bytes = older_bytes - (1 - OLD.current) * OLD.size
        WHERE bucket = OLD.bucket;
    END;
    CREATE TRIGGER IF NOT EXISTS version_aged AFTER UPDATE OF current ON versions
    WHEN NEW.marker = 0 AND NEW.current <> OLD.current BEGIN
        UPDATE usage SET
            objects = objects + NEW.current - OLD.current,
            bytes = bytes + (NEW.current - OLD.current) * NEW.size,
            older = older - NEW.current + OLD.current,
            older_bytes = older_bytes - (NEW.current - OLD.current) * NEW.size
        WHERE bucket = NEW.bucket;
    END;
    CREATE TRIGGER IF NOT EXISTS part_made AFTER INSERT ON parts BEGIN
        UPDATE usage SET upload_bytes = upload_bytes + NEW.size WHERE bucket = NEW.bucket;
    END;
    CREATE TRIGGER IF NOT EXISTS part_gone AFTER DELETE ON parts BEGIN
        UPDATE usage SET upload_bytes = upload_bytes - OLD.size WHERE bucket = OLD.bucket;
    END;
";

/// Counts all that is there, for a database that had no counters.
pub const COUNT: &str = "
    INSERT INTO usage
    SELECT id,
        (SELECT COUNT(*) FROM versions WHERE bucket = buckets.id AND marker = 0 AND current = 1),
        (SELECT COALESCE(SUM(size), 0) FROM versions WHERE bucket = buckets.id AND marker = 0 AND current = 1),
        (SELECT COUNT(*) FROM versions WHERE bucket = buckets.id AND marker = 0 AND current = 0),
        (SELECT COALESCE(SUM(size), 0) FROM versions WHERE bucket = buckets.id AND marker = 0 AND current = 0),
        (SELECT COALESCE(SUM(size), 0) FROM parts WHERE bucket = buckets.id)
    FROM buckets;
";

/// What a bucket holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Current objects, and the bytes of them.
    pub objects: u64,
    pub bytes: u64,
    /// Versions that aren't current, and the bytes of them.
    pub older: u64,
    pub older_bytes: u64,
    /// Bytes of parts of uploads that are not completed.
    pub upload_bytes: u64,
}

const HELD: &str = "SELECT objects, bytes, older, older_bytes, upload_bytes FROM usage";

fn held_of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Held> {
    Ok(Held {
        objects: row.get(0)?,
        bytes: row.get(1)?,
        older: row.get(2)?,
        older_bytes: row.get(3)?,
        upload_bytes: row.get(4)?,
    })
}

pub fn held(db: &Connection, bucket: i64) -> S3Result<Held> {
    db.prepare_cached(&format!("{HELD} WHERE bucket = ?1"))
        .and_then(|mut select| select.query_row([bucket], held_of_row))
        .map_err(internal)
}

/// How much may be held; what isn't said has no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Bytes of all versions and of the parts of unfinished uploads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Versions, delete markers aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
}

impl Quota {
    fn some(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }

    fn allows(&self, held: &Held, of: &str) -> S3Result<()> {
        let bytes = held.bytes + held.older_bytes + held.upload_bytes;
        let objects = held.objects + held.older;
        let exceeded = |what: &str, most: u64| {
            Err(custom(
                "QuotaExceeded",
                StatusCode::FORBIDDEN,
                format!(
                    "The quota of {of} is {most} {what}. Delete something, or ask the administrator for more."
                ),
            ))
        };
        match (self.bytes, self.objects) {
            (Some(most), _) if bytes > most => exceeded("bytes", most),
            (_, Some(most)) if objects > most => exceeded("objects", most),
            _ => Ok(()),
        }
    }
}

/// Whether what was just added to a bucket may stay.
pub fn judge(tx: &Tx<'_>, bucket: &Bucket) -> S3Result<()> {
    judge_with(tx.connection, bucket, 0)
}

/// The same with so many bytes more, which are still to come.
pub fn judge_with(db: &Connection, bucket: &Bucket, more: u64) -> S3Result<()> {
    if let Some(quota) = &bucket.config.quota {
        let mut held = held(db, bucket.id)?;
        held.upload_bytes += more;
        quota.allows(&held, &format!("the bucket {}", bucket.name))?;
    }
    if let Some(quota) = of_account(db, &bucket.owner)? {
        let mut all = db
            .prepare_cached(
                "SELECT SUM(objects), SUM(bytes), SUM(older), SUM(older_bytes), SUM(upload_bytes)
                 FROM usage JOIN buckets ON buckets.id = usage.bucket WHERE owner = ?1",
            )
            .and_then(|mut select| select.query_row([&bucket.owner], held_of_row))
            .map_err(internal)?;
        all.upload_bytes += more;
        quota.allows(&all, &format!("the account {}", bucket.owner))?;
    }
    Ok(())
}

fn of_account(db: &Connection, account: &str) -> S3Result<Option<Quota>> {
    db.prepare_cached("SELECT quota FROM quotas WHERE account = ?1")
        .and_then(|mut select| {
            let quota = |row: &rusqlite::Row<'_>| rows::parsed(row, 0);
            select.query_row([account], quota).optional()
        })
        .map_err(internal)
}

impl Store {
    /// Bounds a bucket, whoever's it is; `Quota::default()` is no bound.
    pub async fn bound_bucket(self: &Arc<Self>, name: String, quota: Quota) -> S3Result<()> {
        self.db
            .write(move |tx| {
                let bucket = rows::find_bucket(tx.connection, &name)?;
                let bucket = bucket.ok_or_else(rows::no_such_bucket)?;
                let mut config = bucket.config.clone();
                config.quota = quota.some();
                bucket.configure(tx, &config)
            })
            .await
    }

    /// Bounds all buckets of an account together.
    pub async fn bound_account(self: &Arc<Self>, account: String, quota: Quota) -> S3Result<()> {
        self.db
            .write(move |tx| {
                let set = match quota.some() {
                    None => tx
                        .connection
                        .execute("DELETE FROM quotas WHERE account = ?1", [&account]),
                    Some(quota) => tx.connection.execute(
                        "INSERT OR REPLACE INTO quotas (account, quota) VALUES (?1, ?2)",
                        params![account, rows::json(&quota)],
                    ),
                };
                set.map(|_| ()).map_err(internal)
            })
            .await
    }

    /// What accounts may hold, by their numbers; those without a bound are not in it.
    pub async fn quotas_of_accounts(self: &Arc<Self>) -> S3Result<BTreeMap<String, Quota>> {
        self.db
            .read(|db| {
                db.prepare_cached("SELECT account, quota FROM quotas")
                    .and_then(|mut select| {
                        let row =
                            |row: &rusqlite::Row<'_>| Ok((row.get(0)?, rows::parsed(row, 1)?));
                        select.query_map([], row)?.collect()
                    })
                    .map_err(internal)
            })
            .await
    }
}
