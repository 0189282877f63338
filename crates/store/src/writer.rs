//! The single writer: every event (a request, a report, a tick) is decided here, one after the other,
//! on one working state.
//!
//! ```text
//!  events ──► decide, decide, … ──► commit the batch ──► publish snapshot ──► release replies
//!                                        │ failed
//!                                        └──► reload the working state, refuse the whole batch
//! ```
//! While a batch is being made durable the next one queues up, so the number of clients, not the
//! disk, sets how many decisions share one sync. Readers take the published snapshot and never wait.

use crate::{Store, StoreError};
use boira_core::planted::{Bug, planted};
use boira_core::{Change, Ctx, Draft, Row, State};
use boira_model::{CloudId, HostId, Wall};
use std::sync::{Arc, RwLock, mpsc};
use thiserror::Error;
use tokio::sync::oneshot;

/// Decisions that may share one commit.
const BATCH: usize = 256;

/// The state as it was last made durable.
pub struct Snapshot {
    pub state: State,
    pub seq: u64,
}

/// The event's commit failed, or the writer is gone. What it asked for may have become durable all the same:
/// only a look at the state tells.
#[derive(Clone, Debug, Error)]
#[error("the store can't take changes now: {0}")]
pub struct Unavailable(pub String);

type Release = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

/// A request, a report or a tick, to be decided on the working state.
pub struct Event(Box<dyn FnOnce(State, Ctx) -> Decided + Send>);

/// What a decision came to: a new working state, or the old one where it refused.
struct Decided {
    state: State,
    change: Change,
    release: Release,
}

impl Event {
    /// `reply` is called once, after the decision's change is durable or was refused.
    pub fn new<T: Send + 'static, E: Send + 'static>(
        decide: impl FnOnce(&mut Draft) -> Result<T, E> + Send + 'static,
        reply: impl FnOnce(Result<Result<T, E>, Unavailable>) + Send + 'static,
    ) -> Self {
        Self(Box::new(move |state, ctx| {
            let mut draft = Draft::new(state.clone(), ctx);
            let outcome = decide(&mut draft);
            let (state, change) = match &outcome {
                Ok(_) => (draft.state, draft.change),
                Err(_) => (state, Change::default()),
            };
            let release: Release = Box::new(move |durable| reply(durable.map(|()| outcome)));
            Decided {
                state,
                change,
                release,
            }
        }))
    }
}

/// Told which hosts' wanted state may have changed.
pub trait Listener: Send {
    fn hosts_changed(&self, hosts: &[HostId]);
}

/// A handle to the writer. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    events: mpsc::Sender<Event>,
    published: Arc<RwLock<Arc<Snapshot>>>,
    pub cloud: CloudId,
}

impl Cluster {
    /// Loads the store and starts the writer's thread. `volatile` fills in what isn't stored:
    /// settings, types, silent hosts.
    pub fn start(
        store: Box<dyn Store>,
        volatile: impl FnOnce(&mut State),
        listener: Box<dyn Listener>,
    ) -> Result<Self, StoreError> {
        let mut writer = Writer::open(store, volatile, listener)?;
        let (published, cloud) = (writer.published.clone(), writer.cloud.clone());
        let (events, inbox) = mpsc::channel();
        std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || {
                let _vital = Vital;
                writer.run(&inbox);
            })
            .expect("a thread can be started at start-up");
        Ok(Self {
            events,
            published,
            cloud,
        })
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published
            .read()
            .expect("no holder of this lock panics")
            .clone()
    }

    /// Decides one event and answers when its change is durable.
    pub async fn decide<T: Send + 'static, E: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Draft) -> Result<T, E> + Send + 'static,
    ) -> Result<Result<T, E>, Unavailable> {
        let (reply, answer) = oneshot::channel();
        // The caller may have hung up; its change is durable all the same.
        let event = Event::new(decide, |outcome| drop(reply.send(outcome)));
        let gone = || Unavailable("the controller is stopping".into());
        self.events.send(event).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Held by a thread without which its process is of no use: if the thread panics, the process ends
/// and its supervisor starts it again. Without it everything would go on and answer errors for ever.
pub struct Vital;

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn load(state: &mut State, rows: Vec<Row>) {
    for row in rows {
        state.put(row);
    }
}

/// Decides events on the working state and keeps it equal to the store.
pub struct Writer {
    store: Box<dyn Store>,
    state: State,
    seq: u64,
    published: Arc<RwLock<Arc<Snapshot>>>,
    listener: Box<dyn Listener>,
    cloud: CloudId,
}

impl Writer {
    /// Loads the store. Start-up after a crash is this and nothing else.
    pub fn open(
        mut store: Box<dyn Store>,
        volatile: impl FnOnce(&mut State),
        listener: Box<dyn Listener>,
    ) -> Result<Self, StoreError> {
        let loaded = store.load()?;
        let mut state = State::default();
        volatile(&mut state);
        load(&mut state, loaded.rows);
        let snapshot = Arc::new(Snapshot {
            state: state.clone(),
            seq: loaded.seq,
        });
        Ok(Self {
            store,
            state,
            seq: loaded.seq,
            published: Arc::new(RwLock::new(snapshot)),
            listener,
            cloud: loaded.cloud,
        })
    }

    /// The state as it was last made durable.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published
            .read()
            .expect("no holder of this lock panics")
            .clone()
    }

    fn run(&mut self, inbox: &mpsc::Receiver<Event>) {
        while let Ok(first) = inbox.recv() {
            let batch = std::iter::once(first).chain(inbox.try_iter()).take(BATCH);
            self.decide(batch, || Ctx::new(now(), rand::random()));
        }
    }

    /// Decides a batch in order, commits it as one, publishes, then releases the replies.
    pub fn decide(&mut self, batch: impl Iterator<Item = Event>, mut ctx: impl FnMut() -> Ctx) {
        let mut working = self.state.clone();
        let mut changes = Vec::new();
        let mut releases = Vec::new();
        for event in batch {
            let decided = (event.0)(working, ctx());
            working = decided.state;
            if !decided.change.is_empty() {
                changes.push(decided.change);
            }
            releases.push(decided.release);
        }
        if planted(Bug::ReplyBeforeCommit) {
            for release in releases.drain(..) {
                release(Ok(()));
            }
        }
        let outcome = self.commit(working, &changes);
        for release in releases {
            release(outcome.clone());
        }
        self.tidy();
    }

    /// What fails is tried again after the next batch, and doesn't harm what was committed.
    fn tidy(&mut self) {
        match self.store.tidy() {
            Ok(()) => {}
            Err(StoreError::Fenced) => taken_over(),
            Err(error) => {
                let why = anyhow::Error::new(error);
                tracing::error!("the store can't be tidied up: {why:#}");
            }
        }
    }

    fn commit(&mut self, working: State, changes: &[Change]) -> Result<(), Unavailable> {
        if !changes.is_empty() {
            match self.store.commit(changes) {
                Ok(seq) => self.seq = seq,
                Err(StoreError::Fenced) => taken_over(),
                Err(error) => {
                    let why = anyhow::Error::new(error);
                    tracing::error!("commit failed, nothing of it is kept: {why:#}");
                    self.reload();
                    return Err(Unavailable(format!("{why:#}")));
                }
            }
        }
        self.publish(working);
        Ok(())
    }

    /// Shows the state to readers and tells the hosts that it may concern.
    fn publish(&mut self, mut state: State) {
        state.spread();
        let before = std::mem::replace(&mut self.state, state);
        let hosts = changed_hosts(&before, &self.state);
        let snapshot = Arc::new(Snapshot {
            state: self.state.clone(),
            seq: self.seq,
        });
        *self
            .published
            .write()
            .expect("no holder of this lock panics") = snapshot;
        if !hosts.is_empty() {
            self.listener.hosts_changed(&hosts);
        }
    }

    /// The transaction may have reached the disk although it failed, so only the store knows.
    fn reload(&mut self) {
        match self.store.load() {
            Ok(loaded) => {
                let mut state = State {
                    settings: self.state.settings.clone(),
                    types: self.state.types.clone(),
                    silent: self.state.silent.clone(),
                    unable: self.state.unable.clone(),
                    ..State::default()
                };
                load(&mut state, loaded.rows);
                // Revisions only ever rise, or a waiting host would miss a change.
                for host in self.state.revisions.keys() {
                    state
                        .revisions
                        .insert(host.clone(), self.state.revision(host) + 1);
                }
                // What was derived for a number that is given out again would count as current.
                for (vpc, revision) in &self.state.vpc_revisions {
                    state.vpc_revisions.insert(vpc.clone(), revision + 1);
                }
                self.seq = loaded.seq;
                self.publish(state);
            }
            Err(error) => {
                tracing::error!(
                    "the store can't be read back: {:#}",
                    anyhow::Error::new(error)
                );
                std::process::exit(4);
            }
        }
    }
}

fn changed_hosts(before: &State, after: &State) -> Vec<HostId> {
    if before.revisions.ptr_eq(&after.revisions) {
        return Vec::new();
    }
    before
        .revisions
        .diff(&after.revisions)
        .filter_map(|item| match item {
            imbl::ordmap::DiffItem::Add(host, _) => Some(host.clone()),
            imbl::ordmap::DiffItem::Update { new: (host, _), .. } => Some(host.clone()),
            imbl::ordmap::DiffItem::Remove(..) => None,
        })
        .collect()
}

fn taken_over() -> ! {
    tracing::error!("another controller took the store over; stopping");
    std::process::exit(3);
}

/// The wall clock, read at the edge.
pub fn now() -> Wall {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Wall(since.map_or(0, |d| d.as_millis() as i64))
}
