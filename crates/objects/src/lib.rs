//! The object store: S3 as AWS documents it, by the crate s3s, over files and a database of its own.
//!
//! ```text
//! <home>/objects/objects.db     buckets, versions, uploads, and the bytes of small objects
//!                data/XX/ID     the bytes of others, a file per object or part
//!                master.key     wraps the keys of encrypted ones
//! ```
//!
//! A request comes in by `front` (from old paths by `walrus`, as a form by `form`), is let in by `access`,
//! `signed`, `rates` and `authorize`, and named by `s3`. What it does is in `objects`, `copying`,
//! `deleting`, `tagging`, `multipart`, `listing`, `buckets`, `ownership`, `lock`, `encryption`, `lifecycle`
//! and `cors`; `upload` and `read` move bytes. `acl`, `policy`, `conditions`, `list` and `sum` decide
//! without a store, `describe` and `error` are shapes of answers.
//!
//! `db` and `rows` are the database, with what it counts in `quota`; `contents`, `opened`, `crypt` and
//! `buffers` are the bytes on the disk, which `collect` removes and `check` reads through; `known` (buckets)
//! and `recent` (objects) stay in memory. `metrics` counts.

mod access;
mod acl;
mod assembling;
mod authorize;
mod beyond;
mod buckets;
mod buffers;
mod check;
mod chunked;
mod collect;
mod completing;
mod conditions;
mod contents;
mod copying;
mod cors;
mod crypt;
mod db;
mod deleting;
mod describe;
mod details;
mod documents;
mod encryption;
mod error;
mod expiring;
mod form;
mod front;
mod known;
mod lifecycle;
mod list;
mod listing;
mod lock;
mod metrics;
mod multipart;
mod objects;
mod opened;
mod ownership;
mod policy;
mod quota;
mod ranges;
mod rates;
mod read;
mod recent;
mod resigned;
mod rows;
mod s3;
mod signed;
mod subresources;
mod sum;
mod tagging;
mod upload;
mod walrus;

#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod tests;

pub use access::{Cloud, Rules, canonical};
pub use authorize::Client;
pub use check::{Checked, Damage, Usage};
pub use db::{Clock, OpenError};
pub use front::Front;
pub use quota::Quota;
pub use s3::SERVED;

use contents::Contents;
use db::Db;
use metrics::Metrics;
use rates::Rates;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

/// What an object store is told when it is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cloud's region.
    pub region: String,
    /// The URL that clients use.
    pub endpoint: String,
    /// Where the key is that wraps those of encrypted objects; in the store's folder if that isn't said.
    pub master_key: Option<PathBuf>,
}

/// An open object store.
pub struct Store {
    db: Arc<Db>,
    contents: Arc<Contents>,
    cloud: Arc<dyn Cloud>,
    settings: Settings,
    clock: Clock,
    rates: Rates,
    metrics: Metrics,
    freed: Arc<Notify>,
}

impl Store {
    /// Opens or creates the store in a folder, and starts its writer and its collector. It needs a
    /// runtime of tokio's.
    pub fn open(
        dir: &Path,
        settings: Settings,
        cloud: Arc<dyn Cloud>,
        clock: Clock,
    ) -> Result<Arc<Self>, OpenError> {
        let mut folder = std::fs::DirBuilder::new();
        folder.recursive(true).mode(0o700).create(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| parent.is_dir()) {
            std::fs::File::open(parent)?.sync_all()?;
        }
        let contents = Contents::open(dir, settings.master_key.as_deref())?;
        let db = Db::open(&dir.join("objects.db"), contents.clone(), clock.clone())?;
        let store = Arc::new(Self {
            db,
            contents,
            cloud,
            settings,
            clock,
            rates: Rates::default(),
            metrics: Metrics::default(),
            freed: Arc::new(Notify::new()),
        });
        tokio::spawn(collect::run(Arc::downgrade(&store)));
        tokio::spawn(check::scrub(Arc::downgrade(&store)));
        let damaged = store.contents.damaged.clone();
        tokio::spawn(check::name_damaged(Arc::downgrade(&store), damaged));
        Ok(store)
    }

    /// Something may have been freed.
    fn after_write(&self) {
        self.freed.notify_one();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Who names them ends.
        self.contents.damaged.wake();
    }
}
