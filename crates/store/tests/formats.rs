//! A store of every released format opens, with all that was in it.

use boira_core::{Row, State};
use boira_model::*;
use boira_store::{History, Sqlite, Store, StoreError};
use rusqlite::Connection;
use std::path::Path;

const FORMAT_1: &str = include_str!("fixtures/format-1.sql");
const FORMAT_2: &str = include_str!("fixtures/format-2.sql");
const FORMAT_3: &str = include_str!("fixtures/format-3.sql");

fn open(path: &Path) -> Result<Sqlite, StoreError> {
    Sqlite::open(path, &CloudId::from("cloud-of-nobody"))
}

fn format_of(path: &Path) -> i64 {
    let connection = Connection::open(path).expect("it opens");
    connection
        .query_row("SELECT format FROM meta", [], |row| row.get(0))
        .expect("it has a format")
}

fn made_of(text: &str, path: &Path) {
    let connection = Connection::open(path).expect("it opens");
    connection.execute_batch(text).expect("the fixture is SQL");
}

#[test]
fn a_store_of_an_older_format_opens_with_all_that_was_in_it_after_a_copy_was_made() {
    opens_with_all_that_was_in_it(FORMAT_1, 1, 36);
    opens_with_all_that_was_in_it(FORMAT_2, 2, 44);
    opens_with_all_that_was_in_it(FORMAT_3, 3, 42);
}

fn opens_with_all_that_was_in_it(fixture: &str, format: i64, seq: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("boira.db");
    made_of(fixture, &path);
    let mut store = open(&path).expect("it is migrated");
    let loaded = store.load().expect("it loads");
    assert_ne!(loaded.cloud.as_str(), "cloud-of-nobody");
    assert_eq!(loaded.seq, seq);
    let mut state = State::default();
    for row in loaded.rows {
        state.put(row);
    }
    let names: Vec<_> = state
        .instances
        .values()
        .map(|row| (row.tags["Name"].as_str(), row.state().as_str()))
        .collect();
    for expected in [
        ("web", "running"),
        ("db", "stopped"),
        ("gone", "terminated"),
    ] {
        assert!(names.contains(&expected), "{names:?}");
    }
    assert!(
        state
            .instances
            .values()
            .all(|row| !row.is_fenced() && row.restarts == 0)
    );
    let host = state.hosts.values().next().expect("a host");
    assert_eq!(
        (host.note.as_str(), host.tags["rack"].as_str()),
        ("in the corner", "3")
    );
    assert_eq!(
        (state.zones.len(), state.accounts.len(), state.volumes.len()),
        (2, 2, 2)
    );

    // Equal ids share their text, which is a good part of what rows weigh.
    for row in state.instances.values() {
        let (vpc, _) = state.vpcs.get_key_value(&row.vpc).expect("it is there");
        assert!(std::ptr::eq(vpc.as_str(), row.vpc.as_str()));
    }
    for id in state.instances.keys() {
        let history = History::new(&path).of(id).expect("it reads");
        assert_eq!(history[0].what, "launched, placed on vm");
    }

    // What was is there as it was, for whoever goes back.
    let copy = folder
        .path()
        .join(format!("boira.db.format-{format}-{seq}"));
    assert_eq!(format_of(&copy), format);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&copy).expect("it is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "it holds secrets");
    drop(store);
    assert!(format_of(&path) > format);

    // Opened again it is no older store.
    std::fs::remove_file(&copy).expect("it is there");
    drop(open(&path).expect("it opens"));
    assert!(!copy.exists());
}

#[test]
fn a_store_that_is_newer_than_this_program_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("boira.db");
    drop(open(&path).expect("a new store"));
    let connection = Connection::open(&path).expect("it opens");
    connection
        .execute("UPDATE meta SET format = 99", [])
        .expect("it is there");
    drop(connection);
    let Err(StoreError::TooNew { found: 99, .. }) = open(&path) else {
        panic!("it was opened");
    };
    assert_eq!(format_of(&path), 99);
}

/// Who went back to the older program has had changes since, and comes again.
#[test]
fn each_time_that_a_store_leaves_a_format_it_is_copied() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("boira.db");
    made_of(FORMAT_1, &path);
    drop(open(&path).expect("it is migrated"));
    let first = folder.path().join("boira.db.format-1-36");
    std::fs::copy(&first, &path).expect("it is put back");
    let connection = Connection::open(&path).expect("it opens");
    let changed = connection.execute("UPDATE meta SET seq = 40", []);
    changed.expect("it is used on");
    drop(connection);
    drop(open(&path).expect("it is migrated again"));
    for copy in [first, folder.path().join("boira.db.format-1-40")] {
        assert_eq!(format_of(&copy), 1, "{}", copy.display());
    }
}

/// Power that went in the middle of the copy leaves half of one, which is no copy.
#[test]
fn half_a_copy_is_made_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("boira.db");
    made_of(FORMAT_1, &path);
    let half = folder.path().join("boira.db.format-1-36.new");
    std::fs::write(&half, b"half").expect("it is written");
    let mut store = open(&path).expect("it is migrated");
    assert!(
        store
            .load()
            .expect("it loads")
            .rows
            .iter()
            .any(|row| matches!(row, Row::Instance(_)))
    );
    assert!(!half.exists());
    assert_eq!(format_of(&folder.path().join("boira.db.format-1-36")), 1);
}
