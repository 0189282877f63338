//! The controller's process around the shipped writer: it queues what arrives, commits in batches,
//! parks polls, notices silent hosts, and loses all of that when it crashes.

use crate::ledger::{Call, Done, Ledger, Outcome};
use crate::random::Random;
use crate::store::{Disk, Fate};
use boira_core::attribute::{self, Setting};
use boira_core::fence::{self, Watch};
use boira_core::sync::{self, Admit, Inbox, Told};
use boira_core::{
    Ctx, Settings, State, heal, launch, moving, observe, power, reconcile, settings, volume,
};
use boira_core::{around, wanted};
use boira_model::wire::{SyncAnswer, SyncRequest};
use boira_model::*;
use boira_store::{Event, Listener, Snapshot, Writer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

/// What the controller says to somebody.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "lives in a queue of few")]
pub enum Reply {
    Call {
        client: usize,
        call: u64,
        outcome: Outcome,
    },
    Sync {
        request: Envelope,
        outcome: Result<SyncAnswer, Refused>,
    },
}

/// Which message of which agent process a reply belongs to.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub host: HostId,
    /// The agent's process.
    pub agent: u64,
    pub session: u32,
    pub seq: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// HTTP 409: begin a new session and report.
    Conflict,
    /// HTTP 503: try again.
    Unavailable,
}

struct Parked {
    request: Envelope,
    have: sync::Have,
    until_ms: u64,
}

#[derive(Clone, Default)]
struct Woken(Arc<Mutex<Vec<HostId>>>);

impl Listener for Woken {
    fn hosts_changed(&self, hosts: &[HostId]) {
        let mut woken = self.0.lock().expect("one thread per run");
        woken.extend_from_slice(hosts);
    }
}

pub struct Controller {
    pub disk: Disk,
    pub settings: Settings,
    /// Counts processes; messages to an earlier one are lost with its connections.
    pub process: u64,
    writer: Option<Writer>,
    last: Option<Arc<Snapshot>>,
    queue: Vec<Event>,
    said: Arc<Mutex<Vec<Reply>>>,
    woken: Woken,
    inboxes: BTreeMap<HostId, Inbox>,
    watches: BTreeMap<HostId, Watch>,
    /// Hosts about whose guests something was decided and committed.
    given_away: Arc<Mutex<Vec<HostId>>>,
    parked: Vec<Parked>,
    /// What each host was told last.
    told: BTreeMap<HostId, Option<Told>>,
    around: around::Cache,
    pub ledger: Arc<Mutex<Ledger>>,
}

impl Controller {
    pub fn new(disk: Disk, settings: Settings) -> Self {
        Self {
            disk,
            settings,
            process: 0,
            writer: None,
            last: None,
            queue: Vec::new(),
            said: Arc::default(),
            woken: Woken::default(),
            inboxes: BTreeMap::new(),
            watches: BTreeMap::new(),
            given_away: Arc::default(),
            parked: Vec::new(),
            told: BTreeMap::new(),
            around: around::Cache::default(),
            ledger: Arc::default(),
        }
    }

    /// Starts a process: the working state is rebuilt from the store and from nothing else.
    pub fn start(&mut self, now_ms: u64) -> Result<(), String> {
        self.process += 1;
        *self.disk.crashed.lock().expect("one thread per run") = false;
        let store = self.disk.open().map_err(|error| error.to_string())?;
        let config = Arc::new(self.settings.clone());
        let fill = |state: &mut State| {
            state.settings = config;
            state.types = Arc::new(settings::default_types());
        };
        self.woken = Woken::default();
        let writer = Writer::open(store, fill, Box::new(self.woken.clone()))
            .map_err(|error| error.to_string())?;
        let snapshot = writer.snapshot();
        // After a start every host has one grace period.
        let hosts = snapshot.state.hosts.values();
        self.watches = hosts
            .map(|row| (row.id.clone(), Watch::new(now_ms, row.fence_ms)))
            .collect();
        self.last = Some(snapshot);
        self.writer = Some(writer);
        Ok(())
    }

    pub fn crash(&mut self) {
        self.writer = None;
        self.queue.clear();
        self.parked.clear();
        self.told.clear();
        self.around = around::Cache::default();
        self.inboxes.clear();
        self.said = Arc::default();
        self.given_away = Arc::default();
    }

    pub fn is_up(&self) -> bool {
        self.writer.is_some()
    }

    /// The state as it was last published, also while no controller runs.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.last.clone().expect("a run begins with a start")
    }

    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// What the settings ask of the state, before anybody is served.
    pub fn put_in_force(&mut self, random: &mut Random, wall: Wall) {
        self.set_up(decision(heal::lengthen), random, wall);
    }

    /// Decides one event at once; for the run's set-up.
    pub fn set_up(&mut self, event: Event, random: &mut Random, wall: Wall) {
        self.queue.push(event);
        self.commit(random, wall, Fate::Durable);
        self.said.lock().expect("one thread per run").clear();
    }

    pub fn call(&mut self, client: usize, number: u64, call: Call) {
        let (ledger, acknowledge, said) = (self.ledger.clone(), self.ledger.clone(), self.said());
        let (decided, answered) = (call.clone(), call);
        let event = Event::new(
            move |draft| {
                let turn = ledger.lock().expect("one thread per run").decided(&decided);
                let done = match &decided {
                    Call::Run(ask) => launch::launch(draft, ask).map(Done::Launched),
                    Call::Start(owner, ids) => power::start(draft, owner, ids).map(Done::Moved),
                    Call::Stop(owner, ids, how) => {
                        power::stop(draft, owner, ids, *how).map(Done::Moved)
                    }
                    Call::Reboot(owner, ids) => power::reboot(draft, owner, ids).map(Done::Moved),
                    Call::Terminate(owner, ids) => {
                        power::terminate(draft, owner, ids).map(Done::Moved)
                    }
                    Call::Resize(owner, id, kind) => {
                        let setting = Setting::InstanceType((*kind).into());
                        attribute::set(draft, owner, id, setting).map(|()| Done::Changed)
                    }
                    Call::Move(id, how) => {
                        moving::migrate(draft, id, None, *how).map(|_| Done::Changed)
                    }
                    Call::TakeBack(id) => moving::cancel(draft, id).map(|()| Done::Changed),
                    Call::DeleteVolume(owner, id) => {
                        volume::delete(draft, owner, id.as_str()).map(|()| Done::Changed)
                    }
                };
                if let Ok(Done::Launched(ids)) = &done {
                    let mut ledger = ledger.lock().expect("one thread per run");
                    ledger.launched(ids, turn);
                }
                done.map(|done| (turn, done))
            },
            move |outcome| {
                let heard = said.say(|| {
                    let outcome = match &outcome {
                        Ok(Ok((_, done))) => Ok(Ok(done.clone())),
                        Ok(Err(refusal)) => Ok(Err(refusal.clone())),
                        Err(away) => Err(away.clone()),
                    };
                    Reply::Call {
                        client,
                        call: number,
                        outcome,
                    }
                });
                if let (true, Ok(Ok((turn, done)))) = (heard, &outcome) {
                    let mut ledger = acknowledge.lock().expect("one thread per run");
                    ledger.acknowledged(&answered, *turn, done);
                }
            },
        );
        self.queue.push(event);
    }

    /// Takes a message of an agent. Answers what can be said at once.
    pub fn sync(&mut self, agent: u64, request: SyncRequest, now_ms: u64) -> Option<Reply> {
        let envelope = Envelope {
            host: request.host.clone(),
            agent,
            session: request.session,
            seq: request.seq,
        };
        let fence_ms = self.fence_ms();
        let watch = self.watches.entry(request.host.clone());
        let watch = watch.or_insert_with(|| Watch::new(now_ms, 0));
        let hears = watch.hear(now_ms, fence_ms);
        let inbox = self.inboxes.entry(request.host.clone()).or_default();
        if !hears {
            inbox.refuse(request.session);
        }
        let fresh = hears && inbox.admit(&request) == Admit::Fresh;
        let have = inbox.have(&request);
        if hears {
            self.heard_of(&request.host);
        }
        if !fresh {
            return Some(Reply::Sync {
                request: envelope,
                outcome: Err(Refused::Conflict),
            });
        }
        let Some(mut report) = request.report else {
            return self.poll(envelope, have, now_ms);
        };
        report.protocol = request.v;
        let (ledger, said) = (self.ledger.clone(), self.said());
        let host = request.host;
        self.queue.push(Event::new(
            move |draft| {
                let before = draft.state.clone();
                observe::report(draft, &host, &report);
                let mut ledger = ledger.lock().expect("one thread per run");
                ledger.reported(&before, draft, &host, &report);
                Ok::<_, Infallible>(())
            },
            move |outcome| {
                let seq = envelope.seq;
                said.say(|| Reply::Sync {
                    request: envelope,
                    outcome: match outcome {
                        Ok(_) => Ok(SyncAnswer {
                            seq,
                            ..SyncAnswer::default()
                        }),
                        Err(_) => Err(Refused::Unavailable),
                    },
                });
            },
        ));
        None
    }

    fn heard_of(&mut self, host: &HostId) {
        if self.snapshot().state.silent.contains(host) {
            let host = host.clone();
            self.decide(move |draft| {
                draft.state.silent.remove(&host);
            });
        }
    }

    fn poll(&mut self, request: Envelope, have: sync::Have, now_ms: u64) -> Option<Reply> {
        match self.answer(&request, &have) {
            Some(reply) => Some(reply),
            None => {
                let until_ms = now_ms + self.patience_ms(&request.host);
                self.parked.push(Parked {
                    request,
                    have,
                    until_ms,
                });
                None
            }
        }
    }

    fn patience_ms(&self, host: &HostId) -> u64 {
        let patience_ms = (self.settings.host_silence_s * 1000 / 2).clamp(500, 20_000);
        match self.is_fenced(host) {
            true => patience_ms.min(fence::patience_ms(self.fence_ms())),
            false => patience_ms,
        }
    }

    fn fence_ms(&self) -> u64 {
        self.settings.fence_ms()
    }

    fn is_fenced(&self, host: &HostId) -> bool {
        let state = &self.snapshot().state;
        state.fenced_on(host).next().is_some()
    }

    /// What there is to tell a host that has these parts.
    fn answer(&mut self, request: &Envelope, have: &sync::Have) -> Option<Reply> {
        let (snapshot, host) = (self.snapshot(), &request.host);
        let told = self.told.entry(host.clone()).or_default();
        let state = (&snapshot.state, snapshot.seq);
        let answer = sync::tell(told, state, host, (&(), &self.around), have);
        (!sync::is_empty(&answer)).then(|| self.reply(request.clone(), answer))
    }

    fn reply(&self, request: Envelope, parts: SyncAnswer) -> Reply {
        let lease_ms = self
            .is_fenced(&request.host)
            .then(|| fence::lease_ms(self.fence_ms()));
        Reply::Sync {
            outcome: Ok(SyncAnswer {
                cloud: Some(self.disk.cloud.clone()),
                seq: request.seq,
                lease_ms,
                ..parts
            }),
            request,
        }
    }

    /// The clockwork: silent hosts, and what time alone changes.
    pub fn tick(&mut self, now_ms: u64, wall: Wall) -> Vec<Reply> {
        let limit_ms = self.settings.host_silence_s * 1000;
        let snapshot = self.snapshot();
        for host in snapshot.state.hosts.keys() {
            let watch = self.watches.get(host);
            let silence_ms = watch.map_or(0, |watch| watch.silence_ms(now_ms));
            if silence_ms > limit_ms && !snapshot.state.silent.contains(host) {
                let host = host.clone();
                self.decide(move |draft| {
                    draft.state.silent.insert(host);
                });
            }
        }
        self.give_away(now_ms);
        let snapshot = self.snapshot();
        let state = &snapshot.state;
        if reconcile::is_due(state, wall) || heal::has_unasked(state) {
            self.decide(reconcile::tick);
        }
        let (due, parked) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition(|poll| poll.until_ms <= now_ms);
        self.parked = parked;
        let nothing = |poll: Parked| self.reply(poll.request, SyncAnswer::default());
        due.into_iter().map(nothing).collect()
    }

    fn give_away(&mut self, now_ms: u64) {
        let snapshot = self.snapshot();
        let watches = self.watches.clone();
        let others = || watches.clone().into_iter().collect();
        let mut out = Vec::new();
        for (host, watch) in &mut self.watches {
            let row = &snapshot.state.hosts[host];
            let judged = heal::judge(&snapshot.state, row, watch, &others, now_ms);
            if judged.lost {
                out.push(host.clone());
            }
            if judged.shorten {
                let host = host.clone();
                self.queue
                    .push(decision(move |draft| heal::shorten(draft, &host)));
            }
        }
        for host in out {
            let (lost, given_away) = (host.clone(), self.given_away.clone());
            self.queue.push(Event::new(
                move |draft| {
                    heal::lost(draft, &lost);
                    Ok::<_, Infallible>(())
                },
                move |outcome| {
                    if outcome.is_ok() {
                        given_away.lock().expect("one thread per run").push(host);
                    }
                },
            ));
        }
    }

    fn decide(&mut self, act: impl FnOnce(&mut boira_core::Draft) + Send + 'static) {
        self.queue.push(decision(act));
    }

    /// The writer's turn: decides and commits what has queued up. `None` where the controller died
    /// of it; what it had said before that was said.
    pub fn commit(&mut self, random: &mut Random, wall: Wall, fate: Fate) -> Vec<Reply> {
        let Some(writer) = &mut self.writer else {
            return Vec::new();
        };
        *self.disk.fate.lock().expect("one thread per run") = fate;
        let batch = std::mem::take(&mut self.queue);
        writer.decide(batch.into_iter(), || Ctx::new(wall, random.next()));
        let published = writer.snapshot();
        // A batch that changed nothing committed nothing.
        *self.disk.fate.lock().expect("one thread per run") = Fate::Durable;
        let mut replies = std::mem::take(&mut *self.said.lock().expect("one thread per run"));
        if self.has_crashed() {
            return replies;
        }
        self.last = Some(published);
        for host in std::mem::take(&mut *self.given_away.lock().expect("one thread per run")) {
            if let Some(watch) = self.watches.get_mut(&host) {
                watch.let_in();
            }
        }
        let woken = std::mem::take(&mut *self.woken.0.lock().expect("one thread per run"));
        let (ask, parked): (Vec<_>, Vec<_>) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition(|poll| woken.contains(&poll.request.host));
        self.parked = parked;
        for poll in ask {
            match self.answer(&poll.request, &poll.have) {
                Some(reply) => replies.push(reply),
                None => self.parked.push(poll),
            }
        }
        replies
    }

    /// Whether the last commit was the end of this process.
    pub fn has_crashed(&self) -> bool {
        *self.disk.crashed.lock().expect("one thread per run")
    }

    /// What the host should have accepted when nothing is under way.
    pub fn wanted(&self, host: &HostId) -> wanted::Wanted {
        wanted::wanted(&self.snapshot().state, host, &())
    }

    fn said(&self) -> Mouth {
        Mouth {
            said: self.said.clone(),
            crashed: self.disk.crashed.clone(),
        }
    }
}

fn decision(act: impl FnOnce(&mut boira_core::Draft) + Send + 'static) -> Event {
    Event::new(
        move |draft| {
            act(draft);
            Ok::<_, Infallible>(())
        },
        |_| {},
    )
}

/// Says something to the network, while the process lives.
struct Mouth {
    said: Arc<Mutex<Vec<Reply>>>,
    crashed: Arc<Mutex<bool>>,
}

impl Mouth {
    fn say(&self, reply: impl FnOnce() -> Reply) -> bool {
        if *self.crashed.lock().expect("one thread per run") {
            return false;
        }
        let mut said = self.said.lock().expect("one thread per run");
        said.push(reply());
        true
    }
}
