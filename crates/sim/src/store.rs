//! The stores of a run: the shipped SQLite store, or rows in memory behind the shipped codec, either
//! of them with a disk that fills up and a power button.

use boira_core::{Change, Kind, Row};
use boira_model::CloudId;
use boira_store::{Loaded, Sqlite, Store, StoreError};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What becomes of the next commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    Durable,
    /// The disk has no room.
    Full,
    /// It is durable, and the disk's answer is lost.
    Unanswered,
    /// The controller dies before anything is written.
    CrashBefore,
    /// The controller dies when it is written, before it can say so.
    CrashAfter,
}

/// The disk under the controller's store; outlives its processes.
#[derive(Clone)]
pub struct Disk {
    medium: Medium,
    pub cloud: CloudId,
    pub fate: Arc<Mutex<Fate>>,
    /// Set when a commit's fate was the controller's end.
    pub crashed: Arc<Mutex<bool>>,
}

#[derive(Clone)]
enum Medium {
    /// A database in memory that lives as long as one connection to it is kept.
    Sqlite {
        name: String,
        keeper: Arc<Mutex<Connection>>,
    },
    Rows(Arc<Mutex<Rows>>),
}

#[derive(Default)]
struct Rows {
    rows: BTreeMap<(Kind, String), String>,
    seq: u64,
}

impl Disk {
    pub fn new(cloud: CloudId, sqlite: bool) -> Self {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let medium = if sqlite {
            let number = NAMES.fetch_add(1, Ordering::Relaxed);
            let name = format!("file:boira-sim-{number}?mode=memory&cache=shared");
            let keeper = Connection::open(&name).expect("a database in memory can be opened");
            Medium::Sqlite {
                name,
                keeper: Arc::new(Mutex::new(keeper)),
            }
        } else {
            Medium::Rows(Arc::default())
        };
        Self {
            medium,
            cloud,
            fate: Arc::default(),
            crashed: Arc::default(),
        }
    }

    /// Opens the store as a starting controller does.
    pub fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        let store: Box<dyn Store> = match &self.medium {
            Medium::Sqlite { name, .. } => {
                let store = Sqlite::open(name.as_ref(), &self.cloud)?;
                Box::new(store.folding_after(8))
            }
            Medium::Rows(rows) => Box::new(InMemory {
                rows: rows.clone(),
                cloud: self.cloud.clone(),
            }),
        };
        Ok(Box::new(Faulty {
            store,
            disk: self.clone(),
        }))
    }

    fn commit_when_full(
        &self,
        store: &mut dyn Store,
        changes: &[Change],
    ) -> Result<u64, StoreError> {
        let Medium::Sqlite { keeper, .. } = &self.medium else {
            return Err(StoreError::Full);
        };
        // SQLite itself runs out of pages, in the middle of the transaction; what fits, fits.
        let keeper = keeper.lock().expect("one thread per run");
        let limit = |pages: i64| keeper.pragma_update(None, "max_page_count", pages);
        limit(1)?;
        let outcome = store.commit(changes);
        limit(i64::from(u32::MAX - 2))?;
        outcome
    }
}

struct Faulty {
    store: Box<dyn Store>,
    disk: Disk,
}

impl Store for Faulty {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }

    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        let fate = std::mem::take(&mut *self.disk.fate.lock().expect("one thread per run"));
        match fate {
            Fate::Durable => return self.store.commit(changes),
            Fate::Full => return self.disk.commit_when_full(&mut *self.store, changes),
            Fate::Unanswered => {
                self.store.commit(changes)?;
                return Err(StoreError::Full);
            }
            Fate::CrashBefore => {}
            Fate::CrashAfter => {
                self.store.commit(changes)?;
            }
        }
        *self.disk.crashed.lock().expect("one thread per run") = true;
        // Nobody hears this any more.
        Err(StoreError::Full)
    }

    fn tidy(&mut self) -> Result<(), StoreError> {
        self.store.tidy()
    }
}

/// Rows in the shipped JSON form.
struct InMemory {
    rows: Arc<Mutex<Rows>>,
    cloud: CloudId,
}

impl Store for InMemory {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let held = self.rows.lock().expect("one thread per run");
        let rows = held
            .rows
            .iter()
            .map(|((kind, key), json)| {
                Row::from_json(*kind, json)
                    .map_err(|error| StoreError::Corrupt(format!("{kind:?} {key}: {error}")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Loaded {
            cloud: self.cloud.clone(),
            rows,
            seq: held.seq,
        })
    }

    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        let mut held = self.rows.lock().expect("one thread per run");
        for change in changes {
            for row in &change.puts {
                held.rows.insert((row.kind(), row.key()), row.to_json());
            }
            for (kind, key) in &change.deletes {
                held.rows.remove(&(*kind, key.clone()));
            }
            held.seq += 1;
        }
        Ok(held.seq)
    }
}
