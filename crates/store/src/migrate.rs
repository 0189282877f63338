//! From one format of the store to the next: all steps in one transaction, after a copy of the whole.
//!
//! A format is more than tables: rows are JSON, and an older program would drop what it doesn't know of
//! them. So every release whose rows say something new has a format of its own, which older programs
//! refuse to open, and `tests/fixtures` keeps one store of each.

use crate::StoreError;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::path::{Path, PathBuf};

/// What this program writes.
pub const FORMAT: i64 = 4;

type Step = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// The step that leads to each format from the one before.
const STEPS: [(i64, Step); 3] = [
    // Fences, restarts and quarantine: all of them absent in older rows, which means what it meant.
    (2, |_| Ok(())),
    // Rows follow from the log; a log of before is folded already, to its last change.
    (3, |transaction| {
        transaction.execute_batch(
            "ALTER TABLE meta RENAME COLUMN seq TO applied;
             ALTER TABLE rows RENAME TO rows_by_key;
             CREATE TABLE rows (
                 n INTEGER PRIMARY KEY,
                 kind INTEGER NOT NULL,
                 key TEXT NOT NULL,
                 body TEXT NOT NULL,
                 UNIQUE (kind, key)
             );
             INSERT INTO rows (kind, key, body)
                 SELECT kind, key, body FROM rows_by_key ORDER BY kind, key;
             DROP TABLE rows_by_key;",
        )
    }),
    // What instances, interfaces and subnets are asked for beside what they do; absent, they weren't.
    (4, |_| Ok(())),
];

/// Where the copy is that was made before a store left this format, when its newest change had this
/// number: whoever went back to an older program and comes again gets another one.
pub fn backup_path(store: &Path, format: i64, seq: i64) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(format!(".format-{format}-{seq}"));
    name.into()
}

/// Brings a store of format `found` to [`FORMAT`].
pub fn migrate(connection: &mut Connection, path: &Path, found: i64) -> Result<(), StoreError> {
    let last = match found {
        ..3 => "SELECT seq FROM meta",
        _ => "SELECT max(applied, (SELECT coalesce(max(seq), 0) FROM log)) FROM meta",
    };
    let seq = connection.query_row(last, [], |row| row.get(0))?;
    back_up(connection, &backup_path(path, found, seq))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another controller may have done it meanwhile.
    let found: i64 = transaction.query_row("SELECT format FROM meta", [], |row| row.get(0))?;
    for (format, step) in STEPS.iter().filter(|(format, _)| *format > found) {
        step(&transaction)?;
        tracing::info!("the store has format {format} now");
    }
    transaction.execute("UPDATE meta SET format = ?1", params![FORMAT])?;
    transaction.commit()?;
    Ok(())
}

/// The copy takes its name when it is complete and on the disk; one that is there was complete.
fn back_up(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    if path.exists() {
        return Ok(());
    }
    let partial = boira_files::unfinished(path);
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    crate::sqlite::keep_private(&partial)?;
    // Into an empty file, which `VACUUM INTO` takes (https://sqlite.org/lang_vacuum.html).
    let name = partial.to_string_lossy();
    connection.execute("VACUUM INTO ?1", params![name])?;
    std::fs::File::open(&partial)?.sync_all()?;
    boira_files::publish(&partial, path)?;
    tracing::info!("a copy of the store as it was is {}", path.display());
    Ok(())
}
