//! The embedded store: SQLite in WAL mode with `synchronous=FULL`, so that a commit is on the disk
//! when it returns.

use crate::migrate::{self, FORMAT};
use crate::{Loaded, Store, StoreError};
use boira_core::{Change, Kind, Row};
use boira_model::{CloudId, Event, InstanceId, Wall};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::io;
use std::path::{Path, PathBuf};

/// The latest changes that the log keeps.
const LOG_KEEPS: u64 = 100_000;
/// Old changes that a commit removes for each new one, at most: a log that is too long gets shorter
/// without any commit having to wait for it.
const LOG_CUT_PER_CHANGE: u64 = 4;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        format INTEGER NOT NULL,
        cloud TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS rows (
        kind INTEGER NOT NULL,
        key TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID;
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
    seq: u64,
    /// Sequence number of the oldest change in the log.
    log_starts: u64,
    log_keeps: u64,
}

impl Sqlite {
    /// Opens or creates the store and becomes its leader: the epoch goes up by one. A new store is
    /// given the id `fresh`.
    pub fn open(path: &Path, fresh: &CloudId) -> Result<Self, StoreError> {
        keep_private(path)?;
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
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
            "INSERT INTO meta (one, format, cloud, epoch, seq) VALUES (1, ?1, ?2, 1, 0)
             ON CONFLICT (one) DO UPDATE SET epoch = epoch + 1",
            params![FORMAT, fresh.as_str()],
        )?;
        let (epoch, seq) = connection.query_row("SELECT epoch, seq FROM meta", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        let log_starts =
            connection.query_row("SELECT COALESCE(MIN(seq), ?1) FROM log", [seq + 1], |row| {
                row.get(0)
            })?;
        Ok(Self {
            connection,
            epoch,
            seq,
            log_starts,
            log_keeps: LOG_KEEPS,
        })
    }

    /// The same store with a log of another length.
    pub fn keeping(self, changes: u64) -> Self {
        Self {
            log_keeps: changes,
            ..self
        }
    }

    fn write(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut seq = self.seq;
        let mut log_starts = self.log_starts;
        {
            // First of all, or a replaced leader would stumble over the new one's log.
            let led = transaction
                .prepare_cached("UPDATE meta SET seq = ?1 WHERE epoch = ?2")?
                .execute(params![seq + changes.len() as u64, self.epoch])?;
            if led != 1 {
                return Err(StoreError::Fenced);
            }
            let mut put = transaction.prepare_cached(
                "INSERT INTO rows (kind, key, body) VALUES (?1, ?2, ?3)
                 ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body",
            )?;
            let mut delete =
                transaction.prepare_cached("DELETE FROM rows WHERE kind = ?1 AND key = ?2")?;
            let mut log = transaction
                .prepare_cached("INSERT INTO log (seq, epoch, change) VALUES (?1, ?2, ?3)")?;
            let mut history = transaction.prepare_cached(
                "INSERT INTO history (instance, at_ms, cause, what, took_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            let mut forget =
                transaction.prepare_cached("DELETE FROM history WHERE instance = ?1")?;
            for change in changes {
                seq += 1;
                let mut text = String::from("{\"puts\":[");
                for (index, row) in change.puts.iter().enumerate() {
                    let (kind, key, body) = (row.kind() as u8, row.key(), row.to_json());
                    put.execute(params![kind, key, body])?;
                    if index > 0 {
                        text.push(',');
                    }
                    text.push_str(&format!("[{kind},"));
                    text.push_str(&body);
                    text.push(']');
                }
                text.push_str("],\"deletes\":[");
                for (index, (kind, key)) in change.deletes.iter().enumerate() {
                    delete.execute(params![*kind as u8, key])?;
                    let comma = if index > 0 { "," } else { "" };
                    let key = serde_json::Value::from(key.as_str());
                    text.push_str(&format!("{comma}[{},{key}]", *kind as u8));
                }
                text.push_str("]}");
                log.execute(params![seq, self.epoch, text])?;
                for event in &change.events {
                    history.execute(params![
                        event.instance.as_str(),
                        event.at.0,
                        event.cause,
                        event.what,
                        event.took_ms
                    ])?;
                }
                for (kind, key) in &change.deletes {
                    if *kind == Kind::Instance {
                        forget.execute([key])?;
                    }
                }
            }
            let keeps_from = (seq + 1).saturating_sub(self.log_keeps);
            let cut = keeps_from.min(log_starts + LOG_CUT_PER_CHANGE * changes.len() as u64);
            if cut > log_starts {
                transaction
                    .prepare_cached("DELETE FROM log WHERE seq < ?1")?
                    .execute([cut])?;
                log_starts = cut;
            }
        }
        transaction.commit()?;
        self.log_starts = log_starts;
        Ok(seq)
    }
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
        let (cloud, seq): (String, u64) =
            self.connection
                .query_row("SELECT cloud, seq FROM meta", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
        self.seq = seq;
        let mut statement = self
            .connection
            .prepare_cached("SELECT kind, key, body FROM rows ORDER BY kind, key")?;
        let mut found = statement.query([])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let code: u8 = row.get(0)?;
            let body = row
                .get_ref(2)?
                .as_str()
                .map_err(|e| StoreError::Corrupt(e.to_string()))?;
            let kind = Kind::from_code(code)
                .ok_or_else(|| StoreError::Corrupt(format!("kind {code} is unknown")))?;
            rows.push(Row::from_json(kind, body).map_err(|error| {
                let key: String = row.get(1).unwrap_or_default();
                StoreError::Corrupt(format!("{kind:?} {key}: {error}"))
            })?);
        }
        Ok(Loaded {
            cloud: CloudId::from(cloud.as_str()),
            rows,
            seq,
        })
    }

    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        match self.write(changes) {
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
        let connection = Connection::open_with_flags(&self.path, flags)?;
        let mut statement = connection.prepare(
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
        Ok(events.collect::<Result<_, _>>()?)
    }
}
