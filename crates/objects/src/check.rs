//! Looks after what is there: how much each bucket holds, and whether all bytes are still what was
//! written. A scrubber does the latter slowly all the time; who asks gets it at full speed.

use crate::Store;
use crate::contents::{BLOCK, Slice};
use crate::crypt::MasterError;
use crate::error::internal;
use crate::opened::{Damaged, is_damage};
use crate::quota::{self, Held, Quota};
use rusqlite::{Connection, OptionalExtension, params};
use s3s::S3Result;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// What the scrubber reads in a second, at most.
const SCRUB_BYTES: u64 = 4 << 20;
/// Between two rounds.
const SCRUB_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Contents that are looked up at once.
const AT_ONCE: usize = 200;

/// What a bucket holds.
#[derive(Clone, Debug)]
pub struct Usage {
    pub name: String,
    /// The account.
    pub owner: String,
    pub created_ms: i64,
    /// `Enabled` or `Suspended`, or never set.
    pub versioning: Option<&'static str>,
    pub held: Held,
    pub quota: Option<Quota>,
}

/// A content that isn't what was written, and what it belongs to.
#[derive(Clone, Debug)]
pub struct Damage {
    pub content: i64,
    /// `bucket/key (version)`, or an upload's part.
    pub belongs_to: Vec<String>,
}

/// A stretch of a check.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Where the next stretch begins; `None` when all is checked.
    pub next: Option<i64>,
    pub contents: u64,
    pub bytes: u64,
    /// Bytes of all contents, for who wants to know how long it takes; told at the beginning only.
    pub total_bytes: Option<u64>,
    pub damaged: Vec<Damage>,
}

impl Store {
    /// What the buckets hold: all of them, or an account's.
    pub async fn usage(self: &Arc<Self>, account: Option<String>) -> S3Result<Vec<Usage>> {
        self.db
            .read(move |db| {
                let buckets = crate::rows::all_buckets(db).map_err(internal)?;
                let wanted = |bucket: &crate::rows::Bucket| {
                    account
                        .as_ref()
                        .is_none_or(|account| bucket.owner == *account)
                };
                buckets
                    .iter()
                    .filter(|bucket| wanted(bucket))
                    .map(|bucket| usage(db, bucket))
                    .collect()
            })
            .await
    }

    /// Verifies contents with ids above `after`, about so many bytes of them; `rate` is how many bytes a
    /// second are read at most.
    pub async fn check(
        self: &Arc<Self>,
        after: i64,
        most_bytes: u64,
        rate: Option<u64>,
    ) -> S3Result<Checked> {
        let (rows, total) = self
            .db
            .read(move |db| {
                let mut select = db
                    .prepare_cached(
                        "SELECT id, size FROM contents WHERE id > ?1 AND uses > 0 ORDER BY id LIMIT ?2",
                    )
                    .map_err(internal)?;
                let rows = select.query_map(params![after, AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)));
                let rows: Result<Vec<(i64, u64)>, _> = rows.and_then(Iterator::collect);
                // It takes a look at every row.
                let total = match after {
                    0 => db
                        .query_row(
                            "SELECT COALESCE(SUM(size), 0) FROM contents WHERE uses > 0",
                            [],
                            |row| row.get(0),
                        )
                        .map(Some),
                    _ => Ok(None),
                };
                let total: Option<u64> = total.map_err(internal)?;
                Ok((rows.map_err(internal)?, total))
            })
            .await?;
        let mut checked = Checked {
            total_bytes: total,
            ..Checked::default()
        };
        let all = rows.len();
        for (id, size) in rows {
            if !self.is_sound(id, size, rate).await? {
                let found = Damage {
                    content: id,
                    belongs_to: self.users_of(id).await?,
                };
                checked.damaged.push(found);
            }
            checked.contents += 1;
            checked.bytes += size;
            checked.next = Some(id);
            if checked.bytes >= most_bytes {
                return Ok(checked);
            }
        }
        if all < AT_ONCE {
            checked.next = None;
        }
        Ok(checked)
    }

    async fn is_sound(self: &Arc<Self>, id: i64, size: u64, rate: Option<u64>) -> S3Result<bool> {
        let step = 4 * BLOCK as u64;
        let mut offset = 0;
        while offset < size {
            if let Some(rate) = rate {
                let pause = step.min(size) as f64 / rate as f64;
                tokio::time::sleep(Duration::from_secs_f64(pause)).await;
            }
            let slice = Slice {
                content: id,
                offset,
                len: step.min(size - offset),
            };
            let contents = self.contents.clone();
            // For one piece only: the collector waits for who reads.
            let reading = self.contents.reading();
            let look = move |db: &Connection| {
                let _reading = reading;
                match is_used(db, id)? {
                    true => contents.check(db, slice).map(|()| true),
                    false => Ok(false),
                }
            };
            match self.db.read(look).await {
                Ok(true) => {}
                Ok(false) => return Ok(true),
                Err(error) if is_damage(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
            offset += slice.len;
        }
        Ok(true)
    }

    /// What is wrong with the store, for who looks after it.
    pub fn problems(&self) -> Vec<String> {
        let key = self.contents.no_master().map(MasterError::consequence);
        let damaged = self.contents.damaged.all().len();
        let damage = (damaged > 0).then(|| {
            format!(
                "objects are damaged on the disk: `boira bucket check` names them ({damaged} found)"
            )
        });
        let broken = self.db.is_broken().then(|| {
            "the object store takes no changes since its disk failed it: mend the disk, then start \
             the cloud anew"
                .to_owned()
        });
        key.into_iter().chain(damage).chain(broken).collect()
    }

    pub async fn users_of(self: &Arc<Self>, id: i64) -> S3Result<Vec<String>> {
        self.db
            .read(move |db| users_of(db, id).map_err(internal))
            .await
    }
}

/// Whether anything needs a content still.
fn is_used(db: &Connection, id: i64) -> S3Result<bool> {
    let uses: Option<i64> = db
        .prepare_cached("SELECT uses FROM contents WHERE id = ?1")
        .and_then(|mut select| select.query_row([id], |row| row.get(0)).optional())
        .map_err(internal)?;
    Ok(uses.is_some_and(|uses| uses > 0))
}

fn usage(db: &Connection, bucket: &crate::rows::Bucket) -> S3Result<Usage> {
    Ok(Usage {
        name: bucket.name.clone(),
        owner: bucket.owner.clone(),
        created_ms: bucket.created_ms,
        versioning: bucket.config.versioning.map(|it| match it {
            crate::rows::Versioning::Enabled => "Enabled",
            crate::rows::Versioning::Suspended => "Suspended",
        }),
        held: quota::held(db, bucket.id)?,
        quota: bucket.config.quota,
    })
}

fn users_of(db: &Connection, id: i64) -> rusqlite::Result<Vec<String>> {
    let named = format!("%[{id},%");
    let mut found = Vec::new();
    let mut versions = db.prepare(
        "SELECT buckets.name, versions.key, versions.id FROM versions
         JOIN buckets ON buckets.id = versions.bucket WHERE slices LIKE ?1",
    )?;
    let mut rows = versions.query([&named])?;
    while let Some(row) = rows.next()? {
        let (bucket, key, version): (String, Vec<u8>, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        found.push(format!(
            "{bucket}/{}{}",
            String::from_utf8_lossy(&key),
            if version == crate::rows::NULL {
                String::new()
            } else {
                format!(" ({version})")
            }
        ));
    }
    let part = db
        .query_row(
            "SELECT upload || ', part ' || number FROM parts WHERE slices LIKE ?1",
            [&named],
            |row| row.get(0),
        )
        .optional()?;
    found.extend(part);
    Ok(found)
}

/// Says in the log what the contents belong to that are found damaged, by whomever.
pub async fn name_damaged(store: Weak<Store>, damaged: Arc<Damaged>) {
    let mut named = BTreeSet::new();
    loop {
        damaged.found().await;
        let Some(here) = store.upgrade() else {
            return;
        };
        let mut unnamed = damaged.all();
        unnamed.retain(|id| !named.contains(id));
        for id in unnamed {
            match here.users_of(id).await {
                Ok(users) => {
                    tracing::error!("damaged content {id:016x} belongs to {}", users.join(", "));
                    named.insert(id);
                }
                // With the next one.
                Err(error) => tracing::error!("whose content {id:016x} is: {error}"),
            }
        }
    }
}

/// Reads everything through again and again, slowly.
pub async fn scrub(store: Weak<Store>) {
    let mut after = 0;
    loop {
        let Some(here) = store.upgrade() else {
            return;
        };
        let pause = match here.check(after, 16 * SCRUB_BYTES, Some(SCRUB_BYTES)).await {
            Ok(Checked {
                next: Some(next), ..
            }) => {
                after = next;
                Duration::ZERO
            }
            Ok(_) => {
                after = 0;
                SCRUB_EVERY
            }
            Err(error) => {
                tracing::error!("scrubbing objects: {error}");
                Duration::from_secs(60)
            }
        };
        drop(here);
        tokio::time::sleep(pause).await;
    }
}
