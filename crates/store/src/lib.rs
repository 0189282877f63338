//! Where rows are kept (one trait, one embedded database), and the single [`Writer`] that changes them.
//!
//! A commit appends to the log of changes (sequence, epoch, change) in one transaction; rows and the
//! instances' histories follow from the log ([`sqlite`]). It carries the epoch of the leader that made
//! it; a store that another leader has opened since refuses it.

mod migrate;
mod record;
mod sqlite;
mod writer;

pub use sqlite::{History, Sqlite};
pub use writer::{Cluster, Event, Listener, Snapshot, Unavailable, Vital, Writer, now};

use boira_core::{Change, Row};
use boira_model::CloudId;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum StoreError {
    /// A newer leader opened the store; this one must stop.
    #[error("the store was taken over by another controller")]
    Fenced,
    #[error(
        "the store was written by a newer Boira (format {found}, this one knows {known}); upgrade this binary"
    )]
    TooNew { found: i64, known: i64 },
    #[error("a row of the store can't be read: {0}")]
    Corrupt(String),
    #[error("the store failed")]
    Database(#[from] rusqlite::Error),
    #[error("the store's files can't be kept private")]
    Files(#[from] std::io::Error),
    #[error("the store's disk is full")]
    Full,
}

/// What a store holds when it is opened.
pub struct Loaded {
    pub cloud: CloudId,
    pub rows: Vec<Row>,
    /// Sequence number of the last change.
    pub seq: u64,
}

pub trait Store: Send {
    /// Reads every row. Also how a working state is rebuilt after a failed commit.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Makes `changes` durable in order, all or none, and returns the last one's sequence number.
    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError>;

    /// Work that nobody waits for, between commits. What fails of it is tried again.
    fn tidy(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
