//! The single writer: batches, refusals, failed commits and what readers see meanwhile.

use boira_core::{Change, Ctx, Row};
use boira_model::{CloudId, Host, HostId, Wall, Zone};
use boira_store::{Event, Listener, Loaded, Store, StoreError, Unavailable, Writer};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Rows in memory; the disk may be full.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    rows: BTreeMap<(u8, String), Row>,
    seq: u64,
    full: bool,
    /// The next commit is made durable and fails all the same, as when the disk's answer is lost.
    ambiguous: bool,
    commits: Vec<usize>,
}

impl Store for Shared {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let inner = self.0.lock().expect("no holder panics");
        Ok(Loaded {
            cloud: CloudId::from("cloud-1"),
            rows: inner.rows.values().cloned().collect(),
            seq: inner.seq,
        })
    }

    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        let mut inner = self.0.lock().expect("no holder panics");
        if inner.full {
            return Err(StoreError::Full);
        }
        inner.commits.push(changes.len());
        for change in changes {
            for row in &change.puts {
                inner
                    .rows
                    .insert((row.kind() as u8, row.key()), row.clone());
            }
            inner.seq += 1;
        }
        if std::mem::take(&mut inner.ambiguous) {
            return Err(StoreError::Full);
        }
        Ok(inner.seq)
    }
}

/// Hosts that the writer called changed.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<HostId>>>);

impl Listener for Told {
    fn hosts_changed(&self, hosts: &[HostId]) {
        self.0
            .lock()
            .expect("no holder panics")
            .extend_from_slice(hosts);
    }
}

type Answer = (&'static str, Result<Result<(), String>, Unavailable>);

struct Bench {
    store: Shared,
    told: Told,
    writer: Writer,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl Bench {
    fn new() -> Self {
        let (store, told) = (Shared::default(), Told::default());
        let writer = Writer::open(Box::new(store.clone()), |_| {}, Box::new(told.clone()))
            .expect("an empty store loads");
        Self {
            store,
            told,
            writer,
            answers: Arc::default(),
        }
    }

    /// An event that puts a zone, unless one of the name is there.
    fn add(&self, name: &'static str) -> Event {
        let answers = self.answers.clone();
        Event::new(
            move |draft| {
                if draft.state.zones.contains_key(name) {
                    return Err(format!("{name} is there"));
                }
                draft.put(Zone {
                    name: name.into(),
                    id: String::new(),
                    number: 1,
                    packing: Default::default(),
                });
                Ok(())
            },
            move |outcome| {
                answers
                    .lock()
                    .expect("no holder panics")
                    .push((name, outcome))
            },
        )
    }

    fn decide(&mut self, events: Vec<Event>) -> Vec<Answer> {
        self.writer
            .decide(events.into_iter(), || Ctx::new(Wall(0), 1));
        std::mem::take(&mut *self.answers.lock().expect("no holder panics"))
    }

    fn zones(&self) -> Vec<String> {
        self.writer.snapshot().state.zones.keys().cloned().collect()
    }

    fn commits(&self) -> Vec<usize> {
        self.store
            .0
            .lock()
            .expect("no holder panics")
            .commits
            .clone()
    }
}

fn names(answers: &[Answer]) -> Vec<&'static str> {
    answers.iter().map(|(name, _)| *name).collect()
}

#[test]
fn a_batch_is_one_commit_and_its_answers_keep_their_order() {
    let mut bench = Bench::new();
    let batch = vec![bench.add("c"), bench.add("a"), bench.add("b")];
    let answers = bench.decide(batch);
    assert_eq!(names(&answers), ["c", "a", "b"]);
    assert!(
        answers
            .iter()
            .all(|(_, outcome)| matches!(outcome, Ok(Ok(()))))
    );
    assert_eq!(bench.commits(), [3]);
    assert_eq!(bench.zones(), ["a", "b", "c"]);
    assert_eq!(bench.writer.snapshot().seq, 3);
}

#[test]
fn each_decision_sees_those_before_it_in_its_batch() {
    let mut bench = Bench::new();
    let batch = vec![bench.add("a"), bench.add("a"), bench.add("b")];
    let answers = bench.decide(batch);
    assert!(matches!(answers[1].1, Ok(Err(_))), "{answers:?}");
    assert!(matches!(answers[2].1, Ok(Ok(()))));
    assert_eq!(bench.commits(), [2], "a refusal writes nothing");
}

#[test]
fn a_batch_that_changes_nothing_commits_nothing() {
    let mut bench = Bench::new();
    let batch = vec![bench.add("a")];
    bench.decide(batch);
    let batch = vec![bench.add("a")];
    let answers = bench.decide(batch);
    assert!(matches!(answers[..], [("a", Ok(Err(_)))]));
    assert_eq!(bench.commits(), [1]);
}

#[test]
fn a_failed_commit_refuses_the_whole_batch_and_keeps_nothing_of_it() {
    let mut bench = Bench::new();
    let batch = vec![bench.add("a")];
    bench.decide(batch);
    bench.store.0.lock().expect("no holder panics").full = true;
    let batch = vec![bench.add("b"), bench.add("a"), bench.add("c")];
    let answers = bench.decide(batch);
    // Also the refusal: it was decided on a state that never was.
    assert!(
        answers.iter().all(|(_, outcome)| outcome.is_err()),
        "{answers:?}"
    );
    assert_eq!(bench.zones(), ["a"]);
    bench.store.0.lock().expect("no holder panics").full = false;
    let batch = vec![bench.add("b")];
    let answers = bench.decide(batch);
    assert!(
        matches!(answers[..], [("b", Ok(Ok(())))]),
        "nothing of it was left behind"
    );
    assert_eq!(bench.zones(), ["a", "b"]);
}

#[test]
fn a_commit_that_failed_and_is_durable_all_the_same_is_seen_and_told() {
    let mut bench = Bench::new();
    let host = HostId::from_entropy(2);
    bench.store.0.lock().expect("no holder panics").ambiguous = true;
    let volume = volume_on(host.clone());
    let event = Event::new(
        move |draft| {
            draft.put(volume);
            Ok::<_, String>(())
        },
        |outcome| assert!(outcome.is_err()),
    );
    bench.decide(vec![event]);
    let snapshot = bench.writer.snapshot();
    assert_eq!((snapshot.state.volumes.len(), snapshot.seq), (1, 1));
    assert_eq!(*bench.told.0.lock().expect("no holder panics"), [host]);
}

#[test]
fn answers_come_after_the_snapshot_that_holds_their_change() {
    let mut bench = Bench::new();
    let seen = Arc::new(Mutex::new(None));
    let before = bench.writer.snapshot();
    let store = bench.store.clone();
    let note = seen.clone();
    let event = Event::new(
        |draft| {
            draft.put(Zone {
                name: "a".into(),
                id: String::new(),
                number: 1,
                packing: Default::default(),
            });
            Ok::<_, String>(())
        },
        move |_| {
            let rows = store.0.lock().expect("no holder panics").rows.len();
            *note.lock().expect("no holder panics") = Some(rows);
        },
    );
    bench.decide(vec![event]);
    assert_eq!(
        *seen.lock().expect("no holder panics"),
        Some(1),
        "it was in the store by then"
    );
    assert!(
        before.state.zones.is_empty(),
        "a reader's snapshot never changes"
    );
}

fn host(number: u64) -> Host {
    let id = HostId::from_entropy(number);
    Host::new(id, number, &format!("pc{number}"), "z", Wall(0))
}

#[test]
fn only_hosts_whose_wanted_state_may_have_changed_are_told() {
    let mut bench = Bench::new();
    let act = |act: fn(&mut boira_core::Draft)| {
        Event::new(
            move |draft| {
                act(draft);
                Ok::<_, String>(())
            },
            |_| {},
        )
    };
    bench.decide(vec![act(|draft| {
        draft.put(host(1));
        draft.put(host(2));
    })]);
    assert!(
        bench.told.0.lock().expect("no holder panics").is_empty(),
        "rows of hosts tell nobody"
    );
    bench.decide(vec![act(|draft| {
        draft.put(volume_on(HostId::from_entropy(2)));
    })]);
    let told = bench.told.0.lock().expect("no holder panics").clone();
    assert_eq!(told, [HostId::from_entropy(2)]);
}

fn volume_on(host: HostId) -> boira_model::Volume {
    serde_json::from_value(serde_json::json!({
        "id": "vol-1", "number": 1, "owner": "000000000000", "zone": "z", "size_bytes": 1,
        "source": "Empty", "host": host, "attachment": null, "deleting": false, "created": 0,
        "tags": {}
    }))
    .expect("a volume's row")
}
