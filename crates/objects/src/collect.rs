//! Gives space back: contents that nothing uses and nobody reads any more, uploads that are long done.
//!
//! A content's file goes before its row, so that a crash in between leaves a row whose file is asked
//! for by nobody, and the next run finishes.

use crate::Store;
use crate::error::internal;
use rusqlite::params;
use s3s::S3Result;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Contents that one transaction frees.
const AT_ONCE: usize = 500;
/// How long the answer of a completed upload is kept for clients that ask again.
const DONE_KEPT_MS: i64 = 24 * 3600 * 1000;
/// Pages that one transaction gives back to the file system.
const PAGES: usize = 2000;
/// How often rules are carried out; they count in days.
const LIFECYCLE: Duration = Duration::from_secs(900);
/// How often is looked where no change woke the collector.
const EVERY: Duration = Duration::from_secs(60);

/// Runs as long as there is a store.
pub async fn run(store: Weak<Store>) {
    let mut looked: Option<Instant> = None;
    loop {
        let Some(here) = store.upgrade() else {
            return;
        };
        let woken = here.freed.clone();
        if let Err(error) = here.collect().await {
            tracing::error!("collecting freed objects: {error}");
        }
        if looked.is_none_or(|looked| looked.elapsed() >= LIFECYCLE) {
            looked = Some(Instant::now());
            if let Err(error) = here.forget_done().await {
                tracing::error!("forgetting completed uploads: {error}");
            }
            here.run_lifecycle().await;
        }
        drop(here);
        let _ = tokio::time::timeout(EVERY, woken.notified()).await;
    }
}

impl Store {
    /// Collects until nothing is left that may be.
    pub async fn collect(self: &Arc<Self>) -> S3Result<()> {
        loop {
            let horizon = self.contents.unread();
            let freed = self
                .db
                .read(move |db| {
                    let mut select = db
                        .prepare_cached(
                            "SELECT freed.n, freed.content, contents.bytes IS NULL FROM freed
                             LEFT JOIN contents ON contents.id = freed.content
                             WHERE n <= ?1 ORDER BY n LIMIT ?2",
                        )
                        .map_err(internal)?;
                    let rows = select.query_map(params![horizon, AT_ONCE], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                    });
                    let rows: Result<Vec<(i64, i64, bool)>, _> = rows.and_then(Iterator::collect);
                    rows.map_err(internal)
                })
                .await?;
            if freed.is_empty() {
                break;
            }
            let contents = self.contents.clone();
            let freed = tokio::task::spawn_blocking(move || {
                for (_, id, _) in freed.iter().filter(|(_, _, file)| *file) {
                    contents.remove(*id);
                }
                freed
            })
            .await
            .map_err(internal)?;
            self.db
                .write(move |tx| {
                    for (n, id, _) in freed {
                        let forget = || -> rusqlite::Result<()> {
                            let delete = "DELETE FROM contents WHERE id = ?1";
                            tx.connection.prepare_cached(delete)?.execute([id])?;
                            tx.connection
                                .prepare_cached("DELETE FROM freed WHERE n = ?1")?
                                .execute([n])?;
                            Ok(())
                        };
                        forget().map_err(internal)?;
                    }
                    Ok(())
                })
                .await?;
        }
        self.shrink().await
    }

    /// Gives pages back to the file system.
    async fn shrink(&self) -> S3Result<()> {
        self.db
            .write(|tx| {
                let shrink = || -> rusqlite::Result<()> {
                    let mut shrink = tx
                        .connection
                        .prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
                    let mut pages = shrink.query([])?;
                    while pages.next()?.is_some() {}
                    Ok(())
                };
                shrink().map_err(internal)
            })
            .await
    }

    /// Forgets uploads that were completed long ago.
    async fn forget_done(&self) -> S3Result<()> {
        self.db
            .write(|tx| {
                tx.connection
                    .prepare_cached(
                        "DELETE FROM uploads
                         WHERE done IS NOT NULL AND json_extract(done, '$.at_ms') < ?1",
                    )
                    .and_then(|mut delete| delete.execute([tx.now_ms - DONE_KEPT_MS]))
                    .map_err(internal)?;
                Ok(())
            })
            .await
    }
}
