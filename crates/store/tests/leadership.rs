//! Two controllers over one store, and a controller that is killed.

use boira_core::{Change, Kind, Row};
use boira_model::{CloudId, Event, HostId, InstanceId, Wall, Zone};
use boira_store::{Cluster, History, Listener, Sqlite, Store, StoreError};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn open(path: &Path) -> Sqlite {
    Sqlite::open(path, &CloudId::from("cloud-1")).expect("the store opens")
}

fn zone(name: &str) -> Zone {
    Zone {
        name: name.into(),
        id: "id".into(),
        number: 1,
        packing: Default::default(),
    }
}

fn put(name: &str) -> [Change; 1] {
    [Change {
        puts: vec![Row::from(zone(name))],
        ..Change::default()
    }]
}

fn keys(store: &mut impl Store) -> BTreeSet<String> {
    let loaded = store.load().expect("the store loads");
    loaded.rows.iter().map(Row::key).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn a_leader_that_was_replaced_can_commit_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    let mut old = open(&path);
    old.commit(&put("a")).expect("it leads");
    let mut new = open(&path);
    assert_eq!(
        keys(&mut new),
        set(["a"]),
        "the new leader has what the old one did"
    );
    assert!(matches!(old.commit(&put("b")), Err(StoreError::Fenced)));
    assert_eq!(
        keys(&mut new),
        set(["a"]),
        "nothing of a refused commit is kept"
    );
}

#[test]
fn a_replaced_leader_is_told_so_also_after_the_new_one_has_committed() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    let mut old = open(&path);
    old.commit(&put("a")).expect("it leads");
    let mut new = open(&path);
    new.commit(&put("b")).expect("it leads now");
    drop(new);
    assert!(matches!(old.commit(&put("c")), Err(StoreError::Fenced)));
    assert_eq!(keys(&mut open(&path)), set(["a", "b"]));
}

#[test]
fn nobody_else_may_read_any_file_of_the_store() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    let modes = || -> Vec<(String, u32)> {
        let files = std::fs::read_dir(home.path()).expect("it is there");
        let mut modes: Vec<_> = files
            .map(|file| {
                let file = file.expect("it is there");
                let mode = file.metadata().expect("it is there").permissions().mode();
                (file.file_name().into_string().expect("text"), mode & 0o777)
            })
            .collect();
        modes.sort();
        modes
    };
    let private = ["boira.db", "boira.db-shm", "boira.db-wal"].map(|name| (name.to_owned(), 0o600));
    let mut store = open(&path);
    store.commit(&put("a")).expect("it leads");
    assert_eq!(modes(), private);
    // As an earlier version left them, with the log not yet taken in.
    for (name, _) in &private {
        let readable = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(home.path().join(name), readable).expect("it is ours");
    }
    let _again = open(&path);
    assert_eq!(modes(), private);
}

#[test]
fn sequence_numbers_go_on_where_they_were() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    assert_eq!(open(&path).commit(&put("a")).expect("it leads"), 1);
    let mut store = open(&path);
    assert_eq!(store.load().expect("it loads").seq, 1);
    let two = [put("b"), put("c")].concat();
    assert_eq!(store.commit(&two).expect("it leads"), 3);
}

#[test]
fn a_full_disk_keeps_nothing_of_the_batch_and_harms_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    let uri = format!("file:{}?cache=shared", path.display());
    let mut store = open(uri.as_ref());
    store.commit(&put("a")).expect("there is room");
    // In a shared cache the limit of one connection holds for all.
    let limiter = rusqlite::Connection::open(&uri).expect("a second connection");
    let limit = |pages: u32| {
        limiter
            .pragma_update(None, "max_page_count", pages)
            .expect("a limit can be set");
    };
    limit(1);
    let big = Row::from(Zone {
        id: "x".repeat(1 << 20),
        ..zone("big")
    });
    let batch = [
        put("b"),
        [Change {
            puts: vec![big],
            ..Change::default()
        }],
    ]
    .concat();
    assert!(matches!(store.commit(&batch), Err(StoreError::Full)));
    assert_eq!(keys(&mut store), set(["a"]));
    limit(1 << 20);
    store.commit(&put("c")).expect("there is room again");
    assert_eq!(keys(&mut store), set(["a", "c"]));
}

#[test]
fn loading_only_reads_and_finds_what_is_not_folded_yet() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    let mut store = open(&path).folding_after(3);
    store
        .commit(&[put("a"), put("c"), put("d")].concat())
        .expect("there is room");
    store.tidy().expect("it is folded");
    let gone = Change {
        deletes: vec![(Kind::Zone, "c".into())],
        ..Change::default()
    };
    store.commit(&[gone]).expect("there is room");
    store.commit(&put("b")).expect("there is room");
    // Somebody else writes: a disk that is full would be as much in the way.
    let other = rusqlite::Connection::open(&path).expect("a second connection");
    other
        .execute_batch("BEGIN IMMEDIATE")
        .expect("nobody writes");
    let begun = std::time::Instant::now();
    assert_eq!(keys(&mut store), set(["a", "b", "d"]));
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(4),
        "it waits for nobody"
    );
}

#[test]
fn the_log_keeps_the_latest_changes_and_a_long_one_gets_shorter_bit_by_bit() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    let reader = rusqlite::Connection::open(&path).expect("a second connection");
    let log = || -> Vec<u64> {
        let mut statement = reader
            .prepare("SELECT seq FROM log ORDER BY seq")
            .expect("there is a log");
        let found = statement.query_map([], |row| row.get(0)).expect("it reads");
        found.collect::<Result<_, _>>().expect("numbers")
    };
    let mut store = open(&path).folding_after(1);
    let commit = |store: &mut Sqlite, changes: &[Change]| {
        store.commit(changes).expect("it leads");
        store.tidy().expect("it leads");
    };
    for _ in 0..20 {
        commit(&mut store, &put("a"));
    }
    assert_eq!(log(), (1..=20).collect::<Vec<_>>());
    let mut store = open(&path).keeping(5).folding_after(1);
    commit(&mut store, &put("b"));
    let cut = log();
    assert_eq!(cut.last(), Some(&21));
    assert!((6..21).contains(&cut.len()), "a few at a time: {cut:?}");
    for _ in 0..20 {
        commit(&mut store, &put("b"));
    }
    assert_eq!(log(), (37..=41).collect::<Vec<_>>());
    let mut store = open(&path).keeping(5).folding_after(1);
    commit(&mut store, &[put("a"), put("c"), put("d")].concat());
    assert_eq!(log(), (40..=44).collect::<Vec<_>>());
    assert_eq!(keys(&mut store), set(["a", "b", "c", "d"]));
}

#[test]
fn a_log_of_large_changes_gets_shorter_and_then_stays() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    let reader = rusqlite::Connection::open(&path).expect("a second connection");
    let kept = || -> u64 {
        let count = "SELECT COUNT(*) FROM log";
        let count = reader.query_row(count, [], |row| row.get(0));
        count.expect("it reads")
    };
    let mut store = open(&path).folding_after(1).large_from(2 << 20);
    let large = Zone {
        id: "x".repeat(1 << 10),
        ..zone("large")
    };
    let change = Change {
        puts: vec![Row::from(large)],
        ..Change::default()
    };
    let ten = vec![change; 10];
    let mut most = 0;
    for _ in 0..300 {
        store.commit(&ten).expect("it leads");
        store.tidy().expect("it leads");
        most = most.max(kept());
    }
    assert!((1_000..2_500).contains(&most), "{most} changes of a KiB");
    assert!((1_000..2_500).contains(&kept()), "{} are left", kept());
    // As long as it is small, none goes before its time.
    let mut store = open(&path).folding_after(1);
    let before = kept();
    store.commit(&put("a")).expect("it leads");
    store.tidy().expect("it leads");
    assert_eq!(kept(), before + 1);
}

#[test]
fn what_is_not_yet_folded_is_kept_in_the_log_however_short_that_is_to_be() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    let mut store = open(&path).keeping(2).folding_after(100);
    for name in ["a", "b", "c", "d", "e"] {
        store.commit(&put(name)).expect("it leads");
        store.tidy().expect("it leads");
    }
    let mut next = open(&path).keeping(2);
    assert_eq!(keys(&mut next), set(["a", "b", "c", "d", "e"]));
    next.commit(&put("f")).expect("it leads now");
    let refused = store.load();
    assert!(
        matches!(refused, Err(StoreError::Fenced)),
        "it leads no more"
    );
}

#[test]
fn a_change_that_is_large_does_not_wait_for_others() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    let reader = rusqlite::Connection::open(&path).expect("a second connection");
    let applied = || -> u64 {
        reader
            .query_row("SELECT applied FROM meta", [], |row| row.get(0))
            .expect("it reads")
    };
    let mut store = open(&path);
    for (megabytes, folded) in [(1, 0), (2, 0), (3, 3), (1, 3)] {
        let large = Zone {
            id: "x".repeat(megabytes << 20),
            ..zone("large")
        };
        let puts = vec![Row::from(large)];
        let change = Change {
            puts,
            ..Change::default()
        };
        store.commit(&[change]).expect("it leads");
        store.tidy().expect("it leads");
        assert_eq!(applied(), folded);
    }
}

#[test]
fn a_history_goes_with_its_instance() {
    for fold_after in [1, 1000] {
        a_history_goes(fold_after);
    }
}

fn a_history_goes(fold_after: u64) {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    let mut store = open(&path).folding_after(fold_after);
    let [ours, other] = [1, 2].map(InstanceId::from_entropy);
    let event = |instance: &InstanceId| Event {
        instance: instance.clone(),
        at: Wall(1),
        cause: "test".into(),
        what: "something".into(),
        took_ms: None,
    };
    let lived = Change {
        events: vec![event(&ours), event(&ours), event(&other)],
        ..Change::default()
    };
    store.commit(&[lived]).expect("it leads");
    store.tidy().expect("it leads");
    let history = History::new(&path);
    assert_eq!(history.of(&ours).expect("it reads").len(), 2);
    let gone = Change {
        deletes: vec![(Kind::Instance, ours.to_string())],
        events: vec![event(&ours)],
        ..Change::default()
    };
    store.commit(&[gone]).expect("it leads");
    store.tidy().expect("it leads");
    assert_eq!(history.of(&ours).expect("it reads"), []);
    assert_eq!(history.of(&other).expect("it reads").len(), 1);
}

/// In the process that the next test starts; does nothing elsewhere.
#[test]
fn child_whose_decision_panics() {
    let Ok(path) = std::env::var(PANICS) else {
        return;
    };
    let store = Box::new(open(path.as_ref()));
    let cluster = Cluster::start(store, |_| {}, Box::new(Nobody)).expect("the store loads");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let decide = cluster.decide(|_| -> Result<(), Infallible> { panic!("a mistake") });
    let _ = runtime.block_on(decide);
    // The answer may be lost before the process is; one that lives on fails the next test.
    std::thread::sleep(std::time::Duration::from_secs(20));
}

const PANICS: &str = "BOIRA_STORE_PANICS";

#[test]
fn a_panic_in_a_decision_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let home = tempfile::tempdir().expect("a directory");
    let child = Command::new(std::env::current_exe().expect("this test's file"))
        .args(["--exact", "child_whose_decision_panics"])
        .env(PANICS, home.path().join("boira.db"))
        .output()
        .expect("this test runs again");
    assert_eq!(child.status.signal(), Some(6), "{child:?}");
}

struct Nobody;

impl Listener for Nobody {
    fn hosts_changed(&self, _: &[HostId]) {}
}

const CHILD: &str = "BOIRA_STORE_CHILD";

/// Commits from many tasks at once and prints what is acknowledged, until it is killed. Runs in the
/// process that the next test starts, and does nothing elsewhere.
#[test]
fn child_that_is_to_be_killed() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let store = Box::new(open(path.as_ref()));
    let cluster = Cluster::start(store, |_| {}, Box::new(Nobody)).expect("the store loads");
    let run = std::process::id();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let client = async |number: u64| {
        for count in 0.. {
            let name = format!("zone-{run}-{number}-{count}");
            let row = zone(&name);
            let outcome = cluster
                .decide(move |draft| {
                    draft.put(row);
                    Ok::<_, Infallible>(())
                })
                .await;
            outcome
                .expect("the store takes it")
                .unwrap_or_else(|never| match never {});
            // Past the buffer of `println!`, which a kill would lose.
            use std::io::Write;
            let line = format!("acknowledged {name}\n");
            std::io::stderr()
                .write_all(line.as_bytes())
                .expect("the parent reads");
        }
    };
    runtime.block_on(async {
        tokio::join!(
            client(1),
            client(2),
            client(3),
            client(4),
            client(5),
            client(6)
        );
    });
}

#[test]
fn what_was_acknowledged_survives_a_kill_under_group_commit() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("boira.db");
    let mut acknowledged = BTreeSet::new();
    for round in 1..=8 {
        let mut child = Command::new(std::env::current_exe().expect("this test's file"))
            .args(["--exact", "child_that_is_to_be_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this test runs again");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        // Killed after a number of answers and not of milliseconds, so that it is never too early.
        let enough = acknowledged.len() + 5 * round * round;
        while let Some(Ok(line)) = lines.next() {
            if let Some(name) = line.strip_prefix("acknowledged ") {
                acknowledged.insert(name.to_owned());
            }
            if acknowledged.len() == enough {
                child.kill().expect("it runs");
            }
        }
        child.wait().expect("it ends");
        assert!(
            acknowledged.len() >= enough,
            "the child committed until it was killed"
        );
        let held = keys(&mut open(&path));
        let lost: Vec<_> = acknowledged.difference(&held).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }
}
