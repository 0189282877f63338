//! The embedded store: SQLite in WAL mode with `synchronous=FULL`, so that a commit is on the disk
//! when it returns.
//!
//! ```text
//!  commit ──► log: changes 1 … applied … seq          appended, a page or two per change
//!                          │
//!  fold   ──►              └──► rows, history         each row once, however often it changed
//! ```
//! A commit only appends to the log. What the log has beyond `applied` is folded into the tables of rows
//! and histories once there are many such changes, after their answers are given. Loading only reads: what
//! isn't folded yet counts all the same. Random places of large tables are so written once for hundreds of commits.

use crate::migrate::{self, FORMAT};
use crate::record::{self, Folded, Record};
use crate::{Loaded, Store, StoreError};
use boira_core::{Change, Kind, Row};
use boira_model::{CloudId, Event, InstanceId, Wall};
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params,
};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The latest changes that the log keeps.
const LOG_KEEPS: u64 = 100_000;
/// Bytes of the database above which the log keeps only so many, which is enough to look at what went wrong.
const LARGE_BYTES: u64 = 1 << 30;
const LOG_KEEPS_LARGE: u64 = 1_000;
/// Changes that may wait to be folded, and their bytes: a launch of a thousand is one change. Folding
/// takes some milliseconds of the writer's time, and memory for what waits.
const FOLD_AFTER: u64 = 256;
const FOLD_AFTER_BYTES: usize = 4 << 20;
/// Old changes that a fold removes for each new one, at most: a log that is too long gets shorter
/// without anybody having to wait for it.
const LOG_CUT_PER_CHANGE: u64 = 4;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        format INTEGER NOT NULL,
        cloud TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        applied INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS rows (
        n INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL,
        key TEXT NOT NULL,
        body TEXT NOT NULL,
        UNIQUE (kind, key)
    );
    CREATE TABLE IF NOT EXISTS log (
        seq INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        change TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS history (
        n INTEGER PRIMARY KEY,
        instance TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        cause TEXT NOT NULL,
        what TEXT NOT NULL,
        took_ms INTEGER
    );
    CREATE INDEX IF NOT EXISTS history_of ON history (instance);
";

pub struct Sqlite {
    connection: Connection,
    epoch: i64,
    /// Sequence number of the newest change.
    seq: u64,
    /// Sequence number of the newest change that is folded.
    applied: u64,
    /// Bytes of the changes that aren't folded.
    waiting_bytes: usize,
    fold_after: u64,
    log_keeps: u64,
    large_bytes: u64,
}

impl Sqlite {
    /// Opens or creates the store and becomes its leader: the epoch goes up by one. A new store is
    /// given the id `fresh`.
    pub fn open(path: &Path, fresh: &CloudId) -> Result<Self, StoreError> {
        keep_private(path)?;
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // In pages, 16 MB: what is written again meanwhile goes to the database once.
        connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(32);
        let found: Option<i64> = match connection.table_exists(None, "meta")? {
            true => connection
                .query_row("SELECT format FROM meta", [], |row| row.get(0))
                .optional()?,
            false => None,
        };
        if let Some(found) = found.filter(|found| *found > FORMAT) {
            return Err(StoreError::TooNew {
                found,
                known: FORMAT,
            });
        }
        if let Some(found) = found.filter(|found| *found < FORMAT) {
            migrate::migrate(&mut connection, path, found)?;
        }
        connection.execute_batch(SCHEMA)?;
        connection.execute(
            "INSERT INTO meta (one, format, cloud, epoch, applied) VALUES (1, ?1, ?2, 1, 0)
             ON CONFLICT (one) DO UPDATE SET epoch = epoch + 1",
            params![FORMAT, fresh.as_str()],
        )?;
        let epoch = connection.query_row("SELECT epoch FROM meta", [], |row| row.get(0))?;
        let mut store = Self {
            connection,
            epoch,
            seq: 0,
            applied: 0,
            waiting_bytes: 0,
            fold_after: FOLD_AFTER,
            log_keeps: LOG_KEEPS,
            large_bytes: LARGE_BYTES,
        };
        store.look()?;
        Ok(store)
    }

    /// Finds out what there is: a transaction that failed may have reached the disk.
    fn look(&mut self) -> Result<(), StoreError> {
        (self.applied, self.seq) = self.connection.query_row(
            "SELECT applied, MAX(applied, (SELECT COALESCE(MAX(seq), 0) FROM log)) FROM meta",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(())
    }

    /// The same store with a log of another length.
    pub fn keeping(self, changes: u64) -> Self {
        Self {
            log_keeps: changes,
            ..self
        }
    }

    /// The same store, large from another number of bytes on.
    pub fn large_from(self, bytes: u64) -> Self {
        Self {
            large_bytes: bytes,
            ..self
        }
    }

    /// The same store, which folds after another number of changes.
    pub fn folding_after(self, changes: u64) -> Self {
        Self {
            fold_after: changes,
            ..self
        }
    }

    fn append(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        let transaction = led(&mut self.connection, self.epoch)?;
        let (mut seq, mut bytes) = (self.seq, 0);
        {
            let mut log = transaction
                .prepare_cached("INSERT INTO log (seq, epoch, change) VALUES (?1, ?2, ?3)")?;
            for change in changes {
                seq += 1;
                let record = record::write(change);
                bytes += record.len();
                log.execute(params![seq, self.epoch, record])?;
            }
        }
        transaction.commit()?;
        self.waiting_bytes += bytes;
        Ok(seq)
    }

    fn read(&mut self) -> Result<Loaded, StoreError> {
        self.look()?;
        let (cloud, leads): (String, i64) =
            self.connection
                .query_row("SELECT cloud, epoch FROM meta", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
        if leads != self.epoch {
            return Err(StoreError::Fenced);
        }
        let mut statement = self
            .connection
            .prepare_cached("SELECT kind, key, body FROM rows ORDER BY kind, key")?;
        let mut found = statement.query([])?;
        let (waiting, waiting_bytes) = self.waiting()?;
        let mut waiting = waiting.into_iter().peekable();
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let (code, body): (u8, _) = (row.get(0)?, text_of(row, 2)?);
            let key = (code, text_of(row, 1)?.to_owned());
            while let Some((new, body)) = waiting.next_if(|(new, _)| *new < key) {
                rows.extend(body.map(|body| row_of(&new, &body)).transpose()?);
            }
            match waiting.next_if(|(new, _)| *new == key) {
                Some((_, body)) => rows.extend(body.map(|body| row_of(&key, &body)).transpose()?),
                None => rows.push(row_of(&key, body)?),
            }
        }
        for (key, body) in waiting {
            rows.extend(body.map(|body| row_of(&key, &body)).transpose()?);
        }
        drop(found);
        drop(statement);
        self.waiting_bytes = waiting_bytes;
        Ok(Loaded {
            cloud: CloudId::from(cloud.as_str()),
            rows,
            seq: self.seq,
        })
    }

    /// What the log has beyond `applied`, and its bytes.
    fn waiting(&self) -> Result<(Folded, usize), StoreError> {
        let (mut rows, mut bytes) = (Folded::new(), 0);
        let mut log = self
            .connection
            .prepare_cached("SELECT change FROM log WHERE seq > ?1 ORDER BY seq")?;
        let mut found = log.query([self.applied])?;
        while let Some(row) = found.next()? {
            let text = text_of(row, 0)?;
            bytes += text.len();
            Record::read(text)?.apply(&mut rows);
        }
        Ok((rows, bytes))
    }

    /// Brings rows and histories up to the end of the log, and cuts off the log's beginning.
    fn fold(&mut self) -> Result<(), StoreError> {
        if self.applied == self.seq {
            return Ok(());
        }
        let transaction = led(&mut self.connection, self.epoch)?;
        let mut rows = BTreeMap::new();
        {
            // A fold that failed may have reached the disk.
            let applied: u64 = transaction
                .prepare_cached("SELECT applied FROM meta")?
                .query_row([], |row| row.get(0))?;
            let mut log =
                transaction.prepare_cached("SELECT change FROM log WHERE seq > ?1 ORDER BY seq")?;
            let mut found = log.query([applied])?;
            while let Some(row) = found.next()? {
                let record = Record::read(text_of(row, 0)?)?;
                note(&transaction, &record)?;
                record.apply(&mut rows);
            }
            put(&transaction, rows)?;
            let keeps = match used_bytes(&transaction)? > self.large_bytes {
                true => self.log_keeps.min(LOG_KEEPS_LARGE),
                false => self.log_keeps,
            };
            let keeps_from = (self.seq + 1).saturating_sub(keeps);
            let most = LOG_CUT_PER_CHANGE * (self.seq - applied);
            transaction
                .prepare_cached(
                    "DELETE FROM log WHERE seq < MIN(?1, (SELECT MIN(seq) FROM log) + ?2)",
                )?
                .execute([keeps_from, most])?;
            transaction
                .prepare_cached("UPDATE meta SET applied = ?1")?
                .execute([self.seq])?;
        }
        transaction.commit()?;
        self.applied = self.seq;
        self.waiting_bytes = 0;
        Ok(())
    }
}

fn text_of<'a>(row: &'a rusqlite::Row<'_>, column: usize) -> Result<&'a str, StoreError> {
    let text = row.get_ref(column)?.as_str();
    text.map_err(|error| StoreError::Corrupt(error.to_string()))
}

fn row_of((code, key): &(u8, String), body: &str) -> Result<Row, StoreError> {
    let kind = Kind::from_code(*code)
        .ok_or_else(|| StoreError::Corrupt(format!("kind {code} is unknown")))?;
    Row::from_json(kind, body)
        .map_err(|error| StoreError::Corrupt(format!("{kind:?} {key}: {error}")))
}

/// Bytes of the database's pages that hold something.
fn used_bytes(connection: &Connection) -> Result<u64, StoreError> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, u64>(0));
    let pages = number("page_count")?.saturating_sub(number("freelist_count")?);
    Ok(pages * number("page_size")?)
}

/// A transaction of the leader of this epoch. A replaced leader finds that out first of all, or it would
/// stumble over the new one's log.
fn led(connection: &mut Connection, epoch: i64) -> Result<Transaction<'_>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let leads: i64 = transaction
        .prepare_cached("SELECT epoch FROM meta")?
        .query_row([], |row| row.get(0))?;
    match leads == epoch {
        true => Ok(transaction),
        false => Err(StoreError::Fenced),
    }
}

/// Adds to the histories what a change says, and forgets those of instances that it deletes.
fn note(transaction: &Transaction<'_>, record: &Record<'_>) -> Result<(), StoreError> {
    let mut add = transaction.prepare_cached(
        "INSERT INTO history (instance, at_ms, cause, what, took_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for event in &record.events {
        add.execute(params![
            event.instance.as_str(),
            event.at.0,
            event.cause,
            event.what,
            event.took_ms
        ])?;
    }
    let mut forget = transaction.prepare_cached("DELETE FROM history WHERE instance = ?1")?;
    for instance in record.deleted_instances() {
        forget.execute([instance])?;
    }
    Ok(())
}

fn put(transaction: &Transaction<'_>, rows: Folded) -> Result<(), StoreError> {
    let mut put = transaction.prepare_cached(
        "INSERT INTO rows (kind, key, body) VALUES (?1, ?2, ?3)
         ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body",
    )?;
    let mut delete = transaction.prepare_cached("DELETE FROM rows WHERE kind = ?1 AND key = ?2")?;
    for ((kind, key), body) in rows {
        match body {
            Some(body) => put.execute(params![kind, key, body])?,
            None => delete.execute(params![kind, key])?,
        };
    }
    Ok(())
}

/// The rows hold secrets of access keys. SQLite gives the files beside the database its mode, so that
/// has to be right before the first of them is made; what an earlier Boira left is mended.
pub fn keep_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let name = path.as_os_str();
    if name.as_encoded_bytes().starts_with(b"file:") {
        // A URI, which names no file of this folder.
        return Ok(());
    }
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    for suffix in ["", "-wal", "-shm"] {
        let mut file = name.to_owned();
        file.push(suffix);
        match std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

impl Store for Sqlite {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        boira_model::id::sharing(|| self.read())
    }

    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        match self.append(changes) {
            Ok(seq) => {
                self.seq = seq;
                Ok(seq)
            }
            Err(StoreError::Database(error))
                if error.sqlite_error_code() == Some(ErrorCode::DiskFull) =>
            {
                Err(StoreError::Full)
            }
            Err(error) => Err(error),
        }
    }

    fn tidy(&mut self) -> Result<(), StoreError> {
        let many = self.seq - self.applied >= self.fold_after;
        match many || self.waiting_bytes >= FOLD_AFTER_BYTES {
            true => self.fold(),
            false => Ok(()),
        }
    }
}

/// Reads instances' histories beside the writer.
#[derive(Clone, Debug)]
pub struct History {
    path: PathBuf,
}

impl History {
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// All that happened to one instance, oldest first.
    pub fn of(&self, instance: &InstanceId) -> Result<Vec<Event>, StoreError> {
        let flags =
            rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.path, flags)?;
        // One moment of the store: a fold moves lines from the log to the histories.
        let moment = connection.transaction()?;
        let mut statement = moment.prepare(
            "SELECT at_ms, cause, what, took_ms FROM history WHERE instance = ?1 ORDER BY n",
        )?;
        let events = statement.query_map([instance.as_str()], |row| {
            Ok(Event {
                instance: instance.clone(),
                at: Wall(row.get(0)?),
                cause: row.get(1)?,
                what: row.get(2)?,
                took_ms: row.get(3)?,
            })
        })?;
        let mut events = events.collect::<Result<Vec<_>, _>>()?;
        let mut log = moment.prepare(
            "SELECT change FROM log WHERE seq > (SELECT applied FROM meta) ORDER BY seq",
        )?;
        let mut found = log.query([])?;
        while let Some(row) = found.next()? {
            let text: String = row.get(0)?;
            let record = Record::read(&text)?;
            if record.deleted_instances().any(|id| id == instance.as_str()) {
                events.clear();
            } else {
                let own = record.events.into_iter();
                events.extend(own.filter(|event| event.instance == *instance));
            }
        }
        Ok(events)
    }
}
