//! The metadata: SQLite files of the object store's own, one writer that commits in groups, and
//! readers beside it.
//!
//! What a request changes is one closure over [`Tx`], which runs in the writer's thread within a
//! savepoint of its own; its answer leaves when the group's transaction is on the disk (WAL,
//! `synchronous=FULL`).

use crate::contents::{Contents, New, Slice};
use crate::error::{database_error, gone, internal};
use crate::known::Known;
use crate::quota;
use crate::recent::{Recent, Stamp, Touched};
use crate::rows::{self, Bucket};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use s3s::{S3Error, S3Result};
use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use tokio::sync::{Semaphore, oneshot};

/// 2: contents may be encrypted.
const FORMAT: i64 = 2;
/// Requests that one transaction carries at most.
const GROUP: usize = 256;
/// Reading at once: more than the disk and two cores have use for.
const READERS: usize = 16;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        format INTEGER NOT NULL,
        seq INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS buckets (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        config TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS versions (
        bucket INTEGER NOT NULL,
        key BLOB NOT NULL,
        age INTEGER NOT NULL, -- the number of its change, negative: the newest comes first
        id TEXT NOT NULL,
        current INTEGER NOT NULL,
        marker INTEGER NOT NULL,
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        modified_ms INTEGER NOT NULL,
        about TEXT NOT NULL,
        slices TEXT NOT NULL,
        PRIMARY KEY (bucket, key, age)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS current_objects ON versions (bucket, key)
        WHERE current = 1 AND marker = 0;
    CREATE TABLE IF NOT EXISTS uploads (
        bucket INTEGER NOT NULL,
        key BLOB NOT NULL,
        id TEXT NOT NULL,
        initiated_ms INTEGER NOT NULL,
        about TEXT NOT NULL,
        done TEXT, -- what completing it answered
        PRIMARY KEY (bucket, key, id)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS done_uploads ON uploads (done) WHERE done IS NOT NULL;
    CREATE TABLE IF NOT EXISTS parts (
        upload TEXT NOT NULL,
        number INTEGER NOT NULL,
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        modified_ms INTEGER NOT NULL,
        sum TEXT,
        slices TEXT NOT NULL,
        bucket INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (upload, number)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS contents (
        id INTEGER PRIMARY KEY,
        size INTEGER NOT NULL,
        uses INTEGER NOT NULL CHECK (uses >= 0),
        sums BLOB NOT NULL, -- CRC32C of every block, little-endian
        bytes BLOB,         -- of small ones; others are files
        key BLOB,           -- of encrypted ones, wrapped
        tags BLOB           -- of every block of encrypted ones
    );
    CREATE TABLE IF NOT EXISTS freed (
        n INTEGER PRIMARY KEY AUTOINCREMENT,
        content INTEGER NOT NULL
    );
";

/// One request's part of a transaction.
pub struct Tx<'a> {
    pub connection: &'a Connection,
    pub now_ms: i64,
    seq: &'a Cell<i64>,
    freed: &'a Cell<i64>,
    kept: &'a RefCell<Vec<New>>,
    touched: &'a RefCell<Touched>,
    /// Which of the transaction's requests this is.
    number: usize,
}

impl Tx<'_> {
    /// An object changes: what was read of it before is old.
    pub fn touches(&self, bucket: &str, key: &[u8]) {
        let mut touched = self.touched.borrow_mut();
        touched.object(bucket, key, self.number);
    }

    /// A bucket comes, changes or goes.
    pub fn touches_bucket(&self, name: &str) {
        self.touched.borrow_mut().buckets.insert(name.to_owned());
    }

    /// A number higher than all before.
    pub fn next_seq(&self) -> i64 {
        self.seq.set(self.seq.get() + 1);
        self.seq.get()
    }

    /// Does something that may fail and leave no trace, within a request that goes on.
    pub fn apart<T>(&self, act: impl FnOnce() -> S3Result<T>) -> S3Result<T> {
        let run = |sql| self.connection.execute_batch(sql).map_err(internal);
        let (kept, freed) = (self.kept.borrow().len(), self.freed.get());
        run("SAVEPOINT apart")?;
        let outcome = act();
        if outcome.is_err() {
            run("ROLLBACK TO apart")?;
            self.kept.borrow_mut().truncate(kept);
            self.freed.set(freed);
        }
        run("RELEASE apart")?;
        outcome
    }

    /// Makes a content's row, with one use. Its file stays if, and only if, this is committed.
    pub fn keep(&self, new: New) -> S3Result<()> {
        self.connection
            .prepare_cached(
                "INSERT INTO contents (id, size, uses, sums, bytes, key, tags)
                 VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6)",
            )
            .and_then(|mut insert| {
                insert.execute(params![
                    new.id,
                    new.size,
                    new.sums,
                    new.bytes.as_ref().map(|b| &b[..]),
                    new.sealed.as_ref().map(|(key, _)| &key[..]),
                    new.sealed.as_ref().map(|(_, tags)| &tags[..])
                ])
            })
            .map_err(internal)?;
        self.kept.borrow_mut().push(new);
        Ok(())
    }

    /// One more use of each content.
    pub fn share(&self, slices: &[Slice]) -> S3Result<()> {
        for slice in slices {
            self.connection
                .prepare_cached("UPDATE contents SET uses = uses + 1 WHERE id = ?1")
                .and_then(|mut update| update.execute([slice.content]))
                .map_err(internal)?;
        }
        Ok(())
    }

    /// One use less of each; what has none left is collected later.
    pub fn release(&self, slices: &[Slice]) -> S3Result<()> {
        for slice in slices {
            let release = || -> rusqlite::Result<()> {
                let uses: i64 = self
                    .connection
                    .prepare_cached(
                        "UPDATE contents SET uses = uses - 1 WHERE id = ?1 RETURNING uses",
                    )?
                    .query_row([slice.content], |row| row.get(0))?;
                if uses == 0 {
                    self.connection
                        .prepare_cached("INSERT INTO freed (content) VALUES (?1)")?
                        .execute([slice.content])?;
                    self.freed.set(self.connection.last_insert_rowid());
                }
                Ok(())
            };
            release().map_err(internal)?;
        }
        Ok(())
    }
}

/// Runs in a transaction, and answers what to do when its fate is known.
type Job = Box<dyn FnOnce(&Tx<'_>) -> (bool, Reply) + Send>;
type Reply = Box<dyn FnOnce(Result<&Touched, S3Error>) + Send>;

/// Why an object store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the object store was written by a newer Boira (format {0}, this one knows {FORMAT})")]
    TooNew(i64),
    #[error(
        "{0} is missing or empty, and there are objects beside it: restore it from a backup, or move the folder data/ away to begin anew"
    )]
    Lost(PathBuf),
    #[error("the object store's database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("the object store's files: {0}")]
    Io(#[from] std::io::Error),
}

pub struct Db {
    path: PathBuf,
    jobs: Mutex<mpsc::Sender<Job>>,
    idle: Mutex<Vec<Connection>>,
    reading: Arc<Semaphore>,
    pub recent: Arc<Recent>,
    pub known: Arc<Known>,
    /// A commit failed in a way that leaves open what is on the disk: only a new start can tell.
    broken: Arc<AtomicBool>,
}

pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

impl Db {
    /// Opens or creates the database and starts its writer.
    pub fn open(
        path: &Path,
        contents: Arc<Contents>,
        clock: Clock,
    ) -> Result<Arc<Self>, OpenError> {
        // SQLite gives the files beside the database its mode.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // In pages, 16 MB: what is written again meanwhile goes to the database once.
        connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
        connection.set_prepared_statement_cache_capacity(128);
        if connection.table_exists(None, "meta")? {
            let found: Option<i64> = connection
                .query_row("SELECT format FROM meta", [], |row| row.get(0))
                .optional()?;
            if let Some(found) = found.filter(|found| *found > FORMAT) {
                return Err(OpenError::TooNew(found));
            }
        }
        if !connection.table_exists(None, "meta")? && contents.has_files()? {
            return Err(OpenError::Lost(path.to_owned()));
        }
        connection.execute_batch(SCHEMA)?;
        upgrade(&connection)?;
        connection.execute(
            "INSERT INTO meta (one, format, seq) VALUES (1, ?1, 0) ON CONFLICT DO NOTHING",
            [FORMAT],
        )?;
        contents.reconcile(&connection)?;
        let recent = Arc::new(Recent::default());
        let known = Arc::new(Known::default());
        for bucket in rows::all_buckets(&connection)? {
            known.note(&bucket.name.clone(), Some(bucket));
        }
        let (jobs, queue) = mpsc::channel();
        let broken = Arc::new(AtomicBool::new(false));
        let memory = (recent.clone(), known.clone());
        let writer = Writer::new(connection, contents, memory, broken.clone(), clock)?;
        std::thread::Builder::new()
            .name("objects-writer".into())
            .spawn(move || writer.run(&queue))?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            jobs: Mutex::new(jobs),
            idle: Mutex::default(),
            reading: Arc::new(Semaphore::new(READERS)),
            recent,
            known,
            broken,
        }))
    }

    /// Whether nothing can be changed until the store is opened anew.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Decides and changes; answers when that is durable. An error changes nothing.
    pub async fn write<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Tx<'_>) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        self.job(decide, |_, _| ())
            .await
            .map(|(outcome, ())| outcome)
    }

    /// The same for one who makes an object; answers also a stamp under which it can be kept, unless
    /// another request of the same transaction has changed it after that.
    pub async fn write_object<T: Send + 'static>(
        &self,
        (bucket, key): (String, String),
        decide: impl FnOnce(&Tx<'_>) -> S3Result<T> + Send + 'static,
    ) -> S3Result<(T, Option<Stamp>)> {
        let recent = self.recent.clone();
        let stamp = move |touched: &Touched, number| {
            let last = touched.was_last(&bucket, &key, number);
            last.then(|| recent.stamp(&bucket, &key))
        };
        self.job(decide, stamp).await
    }

    /// `look` runs after the commit, and before the next one.
    async fn job<T: Send + 'static, U: Send + 'static>(
        &self,
        decide: impl FnOnce(&Tx<'_>) -> S3Result<T> + Send + 'static,
        look: impl FnOnce(&Touched, usize) -> U + Send + 'static,
    ) -> S3Result<(T, U)> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            let outcome = decide(tx);
            let (fine, number) = (outcome.is_ok(), tx.number);
            let reply: Reply = Box::new(move |fate| {
                let outcome = fate.and_then(|touched| Ok((outcome?, look(touched, number))));
                // Who asked may be gone.
                let _ = answer.send(outcome);
            });
            (fine, reply)
        });
        let sent = self
            .jobs
            .lock()
            .expect("no holder of this lock panics")
            .send(job);
        sent.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Reads what is committed, on a thread that may block.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Connection) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let place = self.reading.clone().acquire_owned().await;
        let db = self.clone();
        tokio::task::spawn_blocking(move || {
            // Held for as long as it is read, also when nobody waits for it any more.
            let _place = place.expect("it is never closed");
            let idle = db.idle.lock().expect("no holder of this lock panics").pop();
            let connection = match idle {
                Some(connection) => connection,
                None => db.reader().map_err(internal)?,
            };
            // All that is read belongs to one moment.
            let run = |sql| connection.prepare_cached(sql)?.execute([]);
            run("BEGIN").map_err(internal)?;
            let found = look(&connection);
            run("COMMIT").map_err(internal)?;
            db.idle
                .lock()
                .expect("no holder of this lock panics")
                .push(connection);
            found
        })
        .await
        .map_err(internal)?
    }

    fn reader(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }
}

/// Makes a database of an older Boira one of today's.
fn upgrade(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN")?;
    if !connection.column_exists(None, "contents", "key")? {
        connection.execute_batch(
            "ALTER TABLE contents ADD COLUMN key BLOB;
             ALTER TABLE contents ADD COLUMN tags BLOB;",
        )?;
    }
    if !connection.column_exists(None, "parts", "bucket")? {
        connection.execute_batch(
            "ALTER TABLE parts ADD COLUMN bucket INTEGER NOT NULL DEFAULT 0;
             UPDATE parts SET bucket =
                 COALESCE((SELECT bucket FROM uploads WHERE uploads.id = parts.upload), 0);",
        )?;
    }
    let counted = connection.table_exists(None, "usage")?;
    connection.execute_batch(quota::SCHEMA)?;
    if !counted {
        connection.execute_batch(quota::COUNT)?;
    }
    connection.execute("UPDATE meta SET format = ?1", [FORMAT])?;
    connection.execute_batch("COMMIT")
}

struct Writer {
    connection: Connection,
    contents: Arc<Contents>,
    clock: Clock,
    seq: Cell<i64>,
    freed: Cell<i64>,
    recent: Arc<Recent>,
    known: Arc<Known>,
    broken: Arc<AtomicBool>,
}

impl Writer {
    fn new(
        connection: Connection,
        contents: Arc<Contents>,
        (recent, known): (Arc<Recent>, Arc<Known>),
        broken: Arc<AtomicBool>,
        clock: Clock,
    ) -> rusqlite::Result<Self> {
        let seq = connection.query_row("SELECT seq FROM meta", [], |row| row.get(0))?;
        let freed = connection.query_row(
            "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'freed'), 0)",
            [],
            |row| row.get(0),
        )?;
        contents.freed_up_to(freed);
        Ok(Self {
            connection,
            contents,
            clock,
            seq: Cell::new(seq),
            freed: Cell::new(freed),
            recent,
            known,
            broken,
        })
    }

    fn run(self, queue: &mpsc::Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let group = std::iter::once(first).chain(queue.try_iter()).take(GROUP);
            let mut replies = Vec::new();
            let (kept, touched) = (RefCell::default(), RefCell::default());
            let fate = self.group(group, (&kept, &touched), &mut replies);
            let touched = touched.into_inner();
            match &fate {
                Ok(buckets) => {
                    kept.into_inner().into_iter().for_each(New::stays);
                    for (name, row) in buckets {
                        self.known.note(name, row.clone());
                    }
                }
                // Whether the rows are there is open: the files stay until a start has looked.
                Err(_) if self.broken.load(Ordering::Relaxed) => {
                    kept.into_inner().into_iter().for_each(New::stays);
                }
                Err(_) => drop(kept),
            }
            self.contents.freed_up_to(self.freed.get());
            // Before anybody hears of it.
            self.recent.ends(&touched);
            for reply in replies {
                reply(match &fate {
                    Ok(_) => Ok(&touched),
                    Err(error) => Err(database_error(error)),
                });
            }
        }
    }

    /// Answers what the buckets are now that were touched.
    fn group(
        &self,
        jobs: impl Iterator<Item = Job>,
        (kept, touched): (&RefCell<Vec<New>>, &RefCell<Touched>),
        replies: &mut Vec<Reply>,
    ) -> rusqlite::Result<Vec<(String, Option<Bucket>)>> {
        let (seq, freed) = (self.seq.get(), self.freed.get());
        let begun = match self.broken.load(Ordering::Relaxed) {
            true => Err(rusqlite::Error::InvalidQuery),
            false => self.connection.execute_batch("BEGIN IMMEDIATE"),
        };
        let mut tx = Tx {
            connection: &self.connection,
            now_ms: (self.clock)(),
            seq: &self.seq,
            freed: &self.freed,
            kept,
            touched,
            number: 0,
        };
        let mut done = begun;
        for job in jobs {
            let before = (kept.borrow().len(), self.freed.get());
            tx.number += 1;
            if done.is_ok() {
                done = self.connection.execute_batch("SAVEPOINT request");
            }
            if done.is_err() {
                // Who waits for it hears that nothing was written.
                drop(job);
                continue;
            }
            // A bug in one request must not end all writing; who asked hears that nothing was written.
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| job(&tx)));
            let fine = match outcome {
                Ok((fine, reply)) => {
                    replies.push(reply);
                    fine
                }
                Err(_) => false,
            };
            // After some errors SQLite gives up the whole transaction by itself.
            if self.connection.is_autocommit() {
                done = Err(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
                    None,
                ));
                continue;
            }
            if !fine {
                done = self.connection.execute_batch("ROLLBACK TO request");
                kept.borrow_mut().truncate(before.0);
                self.freed.set(before.1);
            }
            if done.is_ok() {
                done = self.connection.execute_batch("RELEASE request");
            }
        }
        let committed = done.and_then(|()| {
            if self.seq.get() != seq {
                self.connection
                    .prepare_cached("UPDATE meta SET seq = ?1")?
                    .execute([self.seq.get()])?;
            }
            let touched = touched.borrow();
            let mut buckets = Vec::new();
            for name in &touched.buckets {
                buckets.push((name.clone(), rows::bucket_named(&self.connection, name)?));
            }
            self.recent.begins(&touched);
            self.connection
                .execute_batch("COMMIT")
                .inspect_err(|error| {
                    if error.sqlite_error_code() != Some(ErrorCode::DiskFull) {
                        tracing::error!(
                            "the object store stops writing until it is started anew: {error}"
                        );
                        self.broken.store(true, Ordering::Relaxed);
                    }
                })?;
            Ok(buckets)
        });
        if committed.is_err() {
            if !self.connection.is_autocommit() {
                let _ = self.connection.execute_batch("ROLLBACK");
            }
            self.seq.set(seq);
            self.freed.set(freed);
        }
        committed
    }
}
