//! A power cut at any moment: every prefix of the store's recorded writes and syncs is opened. What
//! was acknowledged is there, and no commit is there by half.

mod recording;

use boira_core::{Change, Kind, Row};
use boira_model::{CloudId, Event, InstanceId, Wall, Zone};
use boira_store::{Sqlite, Store};
use recording::{Disk, Op, Unsynced};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;

type Rows = BTreeMap<(Kind, String), String>;

/// What the store should hold after each commit, by sequence number, and when it was acknowledged.
#[derive(Default)]
struct Journal {
    states: BTreeMap<u64, Rows>,
    /// Number of operations before, and the sequence number.
    acknowledged: Vec<(usize, u64)>,
    rows: Rows,
    number: u64,
}

impl Journal {
    /// A batch of changes: puts that overwrite, deletes, and lines of histories.
    fn commit(&mut self, store: &mut Sqlite) {
        let mut changes = Vec::new();
        for _ in 0..1 + self.number % 3 {
            self.number += 1;
            changes.push(self.change());
        }
        for change in &changes {
            for row in &change.puts {
                self.rows.insert((row.kind(), row.key()), row.to_json());
            }
            for (kind, key) in &change.deletes {
                self.rows.remove(&(*kind, key.clone()));
            }
        }
        let seq = store.commit(&changes).expect("the disk is fine");
        self.states.insert(seq, self.rows.clone());
        self.acknowledged.push((recording::position(), seq));
        store.tidy().expect("the disk is fine");
    }

    fn change(&self) -> Change {
        let number = self.number;
        let zone = |name: u64, filler: usize| Zone {
            name: format!("zone-{name}"),
            id: "x".repeat(filler),
            number,
            packing: Default::default(),
        };
        let mut change = Change::default();
        // Every few changes one of several pages.
        let filler = if number.is_multiple_of(5) { 9_000 } else { 40 };
        change.puts.push(Row::from(zone(number % 7, filler)));
        change.puts.push(Row::from(zone(100 + number, 10)));
        if number > 3 {
            change
                .deletes
                .push((Kind::Zone, format!("zone-{}", 100 + number - 3)));
        }
        change.events.push(Event {
            instance: InstanceId::from_entropy(number),
            at: Wall(number as i64),
            cause: "test".into(),
            what: "something".into(),
            took_ms: None,
        });
        change
    }
}

fn open(path: impl AsRef<Path>) -> Sqlite {
    let store = Sqlite::open(path.as_ref(), &CloudId::from("cloud-1")).expect("the store opens");
    store.folding_after(5)
}

/// In memory where that is possible: what a sync makes durable is decided here, not by a disk.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    }
    .expect("a directory can be made")
}

/// Commits, checkpoints in between, and a second start.
fn live(uri: &str) -> Journal {
    let mut journal = Journal::default();
    let mut store = open(uri);
    let checkpointer = Connection::open(uri).expect("a second connection");
    for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        for _ in 0..6 {
            journal.commit(&mut store);
        }
        let checkpoint = format!("PRAGMA wal_checkpoint({mode})");
        checkpointer
            .query_row(&checkpoint, [], |_| Ok(()))
            .expect("nobody reads");
    }
    journal.commit(&mut store);
    drop(checkpointer);
    drop(store);
    let mut store = open(uri);
    for _ in 0..6 {
        journal.commit(&mut store);
    }
    journal
}

#[test]
fn after_a_power_cut_every_acknowledged_commit_is_there_and_none_by_half() {
    let home = directory();
    let journal = live(&recording::uri(&home.path().join("boira.db")));
    let ops = recording::recorded();
    let syncs = ops
        .iter()
        .filter(|op| matches!(op, Op::Sync { .. }))
        .count();
    assert!(syncs > journal.acknowledged.len(), "a commit is synced");

    let mut disk = Disk::default();
    let mut opened = 0;
    for position in 0..=ops.len() {
        if position > 0 {
            disk.apply(&ops[position - 1]);
        }
        let variants = [
            Unsynced::Kept,
            Unsynced::Dropped,
            Unsynced::LastTorn,
            Unsynced::Scattered(position as u64),
            Unsynced::Scattered(!(position as u64)),
        ];
        for unsynced in variants {
            let files = directory();
            disk.cut(unsynced, files.path());
            let context = format!("after {position} of {} operations, {unsynced:?}", ops.len());
            check(&files.path().join("boira.db"), &journal, position, &context);
            opened += 1;
        }
    }
    println!("{opened} power cuts over {} operations", ops.len());
}

fn check(path: &Path, journal: &Journal, position: usize, context: &str) {
    let mut store = Sqlite::open(path, &CloudId::from("cloud-1"))
        .unwrap_or_else(|error| panic!("{context}: {error:?}"))
        .folding_after(1);
    let loaded = store
        .load()
        .unwrap_or_else(|error| panic!("{context}: {error:?}"));
    let acknowledged = journal
        .acknowledged
        .iter()
        .take_while(|(at, _)| *at <= position)
        .last()
        .map_or(0, |(_, seq)| *seq);
    assert!(
        loaded.seq >= acknowledged,
        "{context}: {acknowledged} was acknowledged and {} is the last",
        loaded.seq
    );
    let none = Rows::new();
    let expected = match loaded.seq {
        0 => &none,
        seq => journal
            .states
            .get(&seq)
            .unwrap_or_else(|| panic!("{context}: half a batch up to {seq}")),
    };
    let rows: Rows = loaded
        .rows
        .iter()
        .map(|row| ((row.kind(), row.key()), row.to_json()))
        .collect();
    assert!(
        rows == *expected,
        "{context}: rows differ from those of {}",
        loaded.seq
    );
    store
        .tidy()
        .unwrap_or_else(|error| panic!("{context}: {error:?}"));
    drop(store);
    let connection = Connection::open(path).expect("it was open just now");
    let count = |sql: &str| -> u64 {
        connection
            .query_row(sql, [], |row| row.get(0))
            .unwrap_or_else(|error| panic!("{context}: {sql}: {error}"))
    };
    // One line of the log and one of a history per change.
    assert_eq!(count("SELECT COUNT(*) FROM log"), loaded.seq, "{context}");
    assert_eq!(
        count("SELECT COUNT(*) FROM history"),
        loaded.seq,
        "{context}"
    );
    let sound: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(sound, "ok", "{context}");
}
