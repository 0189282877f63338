//! The planner's hands.
//!
//! Three tasks: the poller learns what is wanted, the engine acts, the reporter tells what is
//! observed. The engine never waits for a step: it starts those that the plan names and plans again
//! whenever something happened (new wanted state, a step's end, a change on the host, a deadline).

use crate::accepted::Kept;
use crate::client::Controller;
use crate::host::{Departure, Host, Observed, join};
use crate::line::{self, Line, Outgoing};
use crate::networks::Networks;
use crate::peers::Peers;
use crate::reach::Reach;
use crate::volumes::Volumes;
use crate::watchdog::boot_now;
use anyhow::{Context, Result};
use boira_core::memory::{self, Memories};
use boira_core::plan::{self, Facts, Fence, Step};
use boira_core::sync::{Accepted, Have};
use boira_core::wanted::Wanted;
use boira_model::wire::*;
use boira_model::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// How long a clean stop may take. EC2 gives a guest some minutes; people at a console expect less.
const STOP_DEADLINE_MS: u64 = 60_000;
/// When to look again at a host, or a guest, that could not be looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often it is told how far a volume has got.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Nothing is due.
/// When to write again what could not be written.
const TRY_AGAIN: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_secs(3600);

/// Something that happened.
pub enum Event {
    /// With the time when the poll was sent that it answers.
    Answer(Box<SyncAnswer>, BootTime),
    StepDone {
        step: Box<Step>,
        outcome: Result<()>,
        took: Duration,
        at: Wall,
    },
    NetworkOpened {
        vpc: Arc<WantedVpc>,
        at: Wall,
        took: Duration,
    },
    NetworkDone {
        vpc: Arc<WantedVpc>,
        outcome: Result<Vec<String>>,
        at: Wall,
        took: Duration,
    },
    UnderlayDone {
        peers: Option<Arc<WantedOverlay>>,
        outcome: Result<()>,
    },
    NetworksSwept {
        all_gone: bool,
    },
    VolumeRemoved {
        volume: VolumeId,
        outcome: Result<()>,
    },
    /// A guest that was being sent stays, as it was told.
    GuestStays(InstanceId),
    /// A guest that is being sent has got further.
    Passing(Leaving),
    VolumeFetched {
        file: VolumeId,
        outcome: Result<()>,
    },
    /// A volume that is being fetched has got further.
    Fetching(Arriving),
    Reachable {
        instance: InstanceId,
        generation: u64,
        answer: bool,
    },
    HostChanged,
}

/// Runs until the process ends.
pub async fn run(host: Arc<dyn Host>, controller: Arc<Controller>, home: &Path) -> Result<()> {
    let accepted = Kept::read(home)?;
    let (events, inbox) = mpsc::channel(256);
    let (have, have_seen) = watch::channel(accepted.have());
    let (reports, latest) = watch::channel(None);
    let (taken, taken_seen) = watch::channel(0);
    let line = Arc::new(Line::new(controller.clone()));
    tokio::spawn(line::poll(line.clone(), have_seen, events.clone()));
    tokio::spawn(line::send_reports(line, latest, taken));
    tokio::spawn(watch_host(host.clone(), events.clone()));
    let peers = Peers::new(controller.clone(), host.clone());
    let mut engine = Engine {
        host,
        controller,
        wanted: accepted.wanted().map(Arc::new),
        memory: memory::recall(&accepted),
        accepted,
        fence: Fence::default(),
        observed: None,
        look_at: None,
        busy: BTreeMap::new(),
        networks: Networks::default(),
        address: None,
        volumes: Volumes::default(),
        passing: BTreeMap::new(),
        reach: Reach::default(),
        streams: HashSet::new(),
        peers,
        steps: Steps {
            taken: taken_seen,
            unsent: Vec::new(),
            number: 0,
        },
        events,
        have,
        reports,
    };
    for step in crate::absence::take(home)? {
        engine.steps.add(step);
    }
    engine.run(inbox).await
}

struct Engine {
    host: Arc<dyn Host>,
    controller: Arc<Controller>,
    accepted: Kept,
    /// `None` until the controller has said what it wants; then nothing is done at all.
    wanted: Option<Arc<Wanted>>,
    /// `None` while this host can't be looked at: what isn't seen may be there all the same, so
    /// nothing is done and nothing is said.
    observed: Option<Observed>,
    /// As the watchdog has it.
    fence: Fence,
    /// When to look again although nothing happened.
    look_at: Option<Instant>,
    memory: Memories,
    busy: BTreeMap<InstanceId, Step>,
    networks: Networks,
    /// The address that leads to the controller.
    address: Option<IpAddr>,
    volumes: Volumes,
    /// Guests that are being sent to another host.
    passing: BTreeMap<InstanceId, Passing>,
    reach: Reach,
    streams: HashSet<String>,
    peers: Arc<Peers>,
    steps: Steps,
    events: mpsc::Sender<Event>,
    have: watch::Sender<Have>,
    reports: watch::Sender<Option<Outgoing>>,
}

/// A guest that is being sent, with the generation that it gets, and how far that is.
struct Passing {
    generation: u64,
    /// Says that it is to stay after all.
    call_back: watch::Sender<bool>,
    told: Leaving,
}

/// Steps that were taken and not yet reported, each with its number.
struct Steps {
    taken: watch::Receiver<u64>,
    unsent: Vec<(u64, StepReport)>,
    number: u64,
}

impl Engine {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) -> Result<()> {
        // A watchdog that is there knows better; where there is none, fenced guests are held until the
        // controller has been heard of.
        self.tell_watchdog(BootTime::default()).await;
        self.observe().await;
        loop {
            if self.look_at.is_some_and(|at| at <= Instant::now()) {
                self.keep_watchdog().await;
                self.observe().await;
            }
            self.accepted.try_again().await;
            let mut wake_at = self.act();
            self.report().await;
            if self.accepted.is_stuck() {
                wake_at = wake_at.min(Instant::now() + TRY_AGAIN);
            }
            wake_at = self.look_at.map_or(wake_at, |at| wake_at.min(at));
            let sleep = tokio::time::sleep_until(wake_at.into());
            let event = tokio::select! {
                event = inbox.recv() => event.context("the engine's own channel closed")?,
                () = sleep => continue,
            };
            self.note(event).await;
            // What piled up meanwhile is one round.
            while let Ok(event) = inbox.try_recv() {
                self.note(event).await;
            }
        }
    }

    async fn note(&mut self, event: Event) {
        match event {
            Event::Answer(answer, sent) => self.accept(*answer, sent).await,
            Event::HostChanged => self.observe().await,
            Event::StepDone {
                step,
                outcome,
                took,
                at,
            } => {
                self.finish(*step, outcome, took, at).await;
                self.observe().await;
            }
            Event::NetworkDone {
                vpc,
                outcome,
                at,
                took,
            } => {
                let waits = have_no_guest(&self.observed);
                let steps = self.networks.done(vpc, outcome, (at, took), waits);
                steps.into_iter().for_each(|step| self.steps.add(step));
            }
            Event::NetworkOpened { vpc, at, took } => {
                let waits = have_no_guest(&self.observed);
                let steps = self.networks.opened(vpc, (at, took), waits);
                steps.into_iter().for_each(|step| self.steps.add(step));
            }
            Event::UnderlayDone { peers, outcome } => self.networks.underlay_done(peers, outcome),
            Event::NetworksSwept { all_gone } => self.networks.swept(all_gone),
            Event::VolumeFetched { file, outcome } => {
                self.volumes.fetched(file, outcome);
                self.observe().await;
            }
            Event::GuestStays(instance) => {
                self.busy.remove(&instance);
                self.passing.remove(&instance);
                self.observe().await;
            }
            Event::Passing(leaving) => {
                if let Some(passing) = self.passing.get_mut(&leaving.instance) {
                    passing.told = leaving;
                }
            }
            Event::Fetching(arriving) => self.volumes.got_further(arriving),
            Event::VolumeRemoved { volume, outcome } => {
                self.volumes.removed(volume, outcome);
                self.observe().await;
            }
            Event::Reachable {
                instance,
                generation,
                answer,
            } => {
                self.reach.answered(instance.clone());
                // A late answer is about a generation that is gone.
                if let Some(memory) = self.memory.get_mut(&instance)
                    && memory.generation == generation
                {
                    memory.asked(answer);
                }
            }
        }
    }

    async fn observe(&mut self) {
        match self.host.observe().await {
            Ok(observed) => {
                self.note_held(&observed);
                self.look_at = self.look_again_at(&observed);
                self.note_reboots(&observed);
                self.observed = Some(observed);
            }
            Err(error) => {
                if self.observed.is_some() || self.look_at.is_none() {
                    tracing::error!("looking at this host failed: {error:#}");
                }
                self.look_at = Some(Instant::now() + LOOK_AGAIN);
                self.observed = None;
            }
        }
    }

    /// When to look again although nothing happened: nobody says when a guest is held, or goes on.
    fn look_again_at(&self, observed: &Observed) -> Option<Instant> {
        let held = observed.guests.values().any(|guest| guest.held);
        if held || !observed.unclear.is_empty() {
            return Some(Instant::now() + LOOK_AGAIN);
        }
        let left_ms = self.fence.until.since_ms(boot_now());
        let until = Duration::from_millis(left_ms).max(LOOK_AGAIN);
        (!self.fence.guests.is_empty()).then(|| Instant::now() + until)
    }

    /// A watchdog that died is missed at the deadline at the latest: another is started, or the guests
    /// are held from here.
    async fn keep_watchdog(&mut self) {
        let over = boot_now() >= self.fence.until;
        if over && !self.fence.guests.is_empty() {
            let fence = self.fence.clone();
            self.tell(fence).await;
        }
    }

    /// The history says when a guest was held and when it went on.
    fn note_held(&mut self, now: &Observed) {
        let Some(before) = &self.observed else { return };
        let mut steps = Vec::new();
        for (id, guest) in &now.guests {
            let was = before.guests.get(id).is_some_and(|guest| guest.held);
            let what = match (was, guest.held) {
                (false, true) => {
                    "held: until its deadline the controller had not said that it may go on"
                }
                (true, false) if guest.state == GuestState::Running => "goes on after it was held",
                _ => continue,
            };
            steps.push(StepReport {
                instance: id.clone(),
                at: wall_now(),
                what: what.into(),
                took_ms: 0,
                error: None,
            });
        }
        steps.into_iter().for_each(|step| self.steps.add(step));
    }

    fn note_reboots(&mut self, observed: &Observed) {
        let Some(wanted) = &self.wanted else { return };
        for row in &wanted.instances {
            let guest = observed.guests.get(&row.id);
            let guest = guest.filter(|guest| guest.generation == row.generation);
            let Some(guest) = guest.filter(|_| !self.busy.contains_key(&row.id)) else {
                continue;
            };
            if memory::seen(&mut self.memory, row, guest) {
                self.steps.add(StepReport {
                    instance: row.id.clone(),
                    at: wall_now(),
                    what: "guest rebooted itself".into(),
                    took_ms: 0,
                    error: None,
                });
            }
        }
    }

    /// Takes what is wanted, and persists it before anything is done about it.
    async fn accept(&mut self, answer: SyncAnswer, sent: BootTime) {
        for request in answer.streams.clone() {
            self.open_stream(request);
        }
        let lease = answer.lease_ms.map(|ms| BootTime(sent.0 + ms));
        let keeps = self.accepted.keeps_instances(&answer);
        if self.take(answer).await || keeps {
            self.renew_lease(lease).await;
        }
    }

    /// Says how long fenced guests may run, now that what is wanted is known to be what is accepted.
    async fn renew_lease(&mut self, lease: Option<BootTime>) {
        let lease = lease.unwrap_or_default().max(self.fence.until);
        self.tell_watchdog(lease).await;
    }

    async fn tell_watchdog(&mut self, until: BootTime) {
        let guests = self.wanted.as_deref().map(Fence::of).unwrap_or_default();
        let fence = Fence { until, guests };
        if fence == self.fence || (fence.guests.is_empty() && self.fence.guests.is_empty()) {
            return;
        }
        self.tell(fence).await;
    }

    async fn tell(&mut self, fence: Fence) {
        match self.host.fence(&fence).await {
            Ok(fence) => self.fence = fence,
            Err(error) => {
                tracing::error!("guests can't be held at a deadline: {error:#}");
                // They are held now. What is told next goes to another watchdog.
                self.fence.until = BootTime::default();
            }
        }
    }

    /// Whether what was wanted is accepted.
    async fn take(&mut self, answer: SyncAnswer) -> bool {
        self.accepted.judge(&answer);
        let mut accepted = Accepted::clone(&self.accepted);
        if !accepted.accept(answer) {
            return false;
        }
        if !self.accepted.replace(accepted).await {
            return false;
        }
        self.have.send_replace(self.accepted.have());
        self.wanted = self.accepted.wanted().map(Arc::new);
        if let Some(wanted) = self.wanted.clone() {
            memory::prune(&mut self.memory, &wanted);
            memory::told(&mut self.memory, &wanted, boot_now());
            self.reach
                .keep(&wanted.instances.iter().map(|row| &row.id).collect());
        }
        true
    }

    /// Starts whatever is due and answers when to look again at the latest.
    fn act(&mut self) -> Instant {
        let (Some(wanted), Some(facts)) = (self.wanted.clone(), self.facts()) else {
            return Instant::now() + LATER;
        };
        self.keep_guests(&wanted);
        let plan = plan::plan(&wanted, &facts, STOP_DEADLINE_MS, boot_now());
        let may_sweep = !plan::has_leftovers(&wanted, &facts);
        let networks_at = self
            .networks
            .act(&wanted, may_sweep, &self.host, &self.events);
        for step in plan.steps {
            self.start(step, &wanted);
        }
        let (host, events) = (&self.host, &self.events);
        let fetched_at = self.volumes.fetch(plan.fetch_volumes, host, events);
        let volumes_at = self.volumes.remove(plan.remove_volumes, host, events);
        let plan_at = plan.wake_at.map(|at| {
            let wait = Duration::from_millis(at.since_ms(boot_now()).max(1));
            Instant::now() + wait
        });
        let deadlines = [networks_at, volumes_at, fetched_at, plan_at]
            .into_iter()
            .flatten();
        deadlines.fold(self.ask_guests(&wanted), Instant::min)
    }

    /// What the planner looks at; `None` while this host can't be looked at.
    fn facts(&self) -> Option<Facts> {
        let observed = self.observed.as_ref()?;
        let fetching = self.busy.values().filter_map(|step| match step {
            Step::Fetch { sha256, .. } => Some(sha256.clone()),
            _ => None,
        });
        Some(Facts {
            guests: observed.guests.clone(),
            volumes: observed.volumes.clone(),
            blobs: observed.blobs.clone(),
            ports: self.networks.ports(),
            memory: self.memory.clone(),
            busy: self.busy.keys().cloned().collect(),
            fetching: fetching.collect(),
            unclear: observed.unclear.clone(),
            fence: self.fence.clone(),
        })
    }

    fn start(&mut self, step: Step, wanted: &Arc<Wanted>) {
        let instance = step.instance().clone();
        memory::begun(&mut self.memory, &step, wanted, boot_now());
        self.busy.insert(instance.clone(), step.clone());
        let (host, events, wanted) = (self.host.clone(), self.events.clone(), wanted.clone());
        if let Step::Send { generation, .. } = step {
            let (call_back, called_back) = watch::channel(false);
            let told = Leaving {
                instance: instance.clone(),
                done_bytes: 0,
                of_bytes: 0,
            };
            let passing = Passing {
                generation,
                call_back,
                told,
            };
            self.passing.insert(instance, passing);
            tokio::spawn(send_guest(step, host, events, wanted, called_back));
            return;
        }
        tokio::spawn(async move {
            let (at, begun) = (wall_now(), Instant::now());
            let outcome = host.carry_out(&step, &wanted).await;
            let took = begun.elapsed();
            // The engine lives as long as the process.
            let _ = events
                .send(Event::StepDone {
                    step: Box::new(step),
                    outcome,
                    took,
                    at,
                })
                .await;
        });
    }

    /// Stops sending guests that are to stay.
    fn keep_guests(&self, wanted: &Wanted) {
        for (id, passing) in &self.passing {
            let row = wanted.instances.iter().find(|row| row.id == *id);
            let generation = passing.generation;
            let leaves = Some(Passage::Leaving { generation });
            if row.is_none_or(|row| row.passage != leaves || row.power != Power::On) {
                passing.call_back.send_replace(true);
            }
        }
    }

    async fn finish(&mut self, step: Step, outcome: Result<()>, took: Duration, at: Wall) {
        let instance = step.instance().clone();
        self.busy.remove(&instance);
        self.passing.remove(&instance);
        let error = outcome.err().map(|error| format!("{error:#}"));
        let is_news = match &self.wanted {
            Some(wanted) => {
                let now = boot_now();
                memory::done(&mut self.memory, &step, error.as_deref(), wanted, now)
            }
            None => true,
        };
        if is_news {
            if let Some(error) = &error {
                tracing::warn!("{instance}: {}: {error}", step.name());
            }
            self.steps.add(StepReport {
                instance,
                at,
                what: step.describe(),
                took_ms: took.as_millis() as u64,
                error,
            });
        }
        self.write_down().await;
    }

    /// Writes down what was done; what isn't written down is not reported.
    async fn write_down(&mut self) -> bool {
        let mut accepted = Accepted::clone(&self.accepted);
        if !accepted.remember(&self.memory) {
            return true;
        }
        self.accepted.replace(accepted).await
    }

    /// The last report again, with what keeps a new one from being made.
    fn report_unwritten(&self) {
        self.reports.send_if_modified(|latest| {
            let Some(latest) = latest else { return false };
            let Report {
                troubles, unable, ..
            } = &mut latest.facts;
            let new = self.accepted.trouble();
            let new: Vec<_> = new.filter(|why| !troubles.contains(why)).collect();
            troubles.extend(new.iter().cloned());
            if unable.is_none() {
                *unable = self.accepted.trouble().next();
            }
            !new.is_empty()
        });
    }

    /// Asks running guests whether they are reachable; answers when the next one is due.
    fn ask_guests(&mut self, wanted: &Wanted) -> Instant {
        let now = Instant::now();
        let mut next = now + LATER;
        let guests = self.observed.iter().flat_map(|seen| &seen.guests);
        let running: BTreeSet<(InstanceId, u64)> = guests
            .filter(|(_, guest)| guest.state == GuestState::Running)
            .map(|(id, guest)| (id.clone(), guest.generation))
            .collect();
        for row in wanted.instances.iter().filter(|row| row.power == Power::On) {
            let runs = running.contains(&(row.id.clone(), row.generation));
            let Some(port) = row.interfaces.first().filter(|_| runs) else {
                continue;
            };
            let memory = memory::of(&mut self.memory, &row.id, row.generation);
            if let Err(later) = self
                .reach
                .is_due(&row.id, memory.reachable == Some(true), now)
            {
                next = later.map_or(next, |at| next.min(at));
                continue;
            }
            let (host, events) = (self.host.clone(), self.events.clone());
            let (instance, generation) = (row.id.clone(), row.generation);
            let (vpc, port) = (port.vpc.to_string(), port.id.clone());
            tokio::spawn(async move {
                let answer = host.reachable(&vpc, &port).await.unwrap_or(false);
                let _ = events
                    .send(Event::Reachable {
                        instance,
                        generation,
                        answer,
                    })
                    .await;
            });
        }
        next
    }

    fn open_stream(&mut self, request: StreamRequest) {
        // The controller repeats a request until the stream is open.
        if self.streams.len() > 10_000 {
            self.streams.clear();
        }
        if !self.streams.insert(request.id.clone()) {
            return;
        }
        if request.direct {
            return self.peers.expect(request);
        }
        let (host, controller) = (self.host.clone(), self.controller.clone());
        tokio::spawn(async move {
            if let Err(error) = relay(&*host, &controller, &request).await {
                tracing::debug!("a stream was not opened: {error:#}");
            }
        });
    }

    /// How other hosts may reach this one. Without a route to the controller the last one counts.
    fn underlay(&mut self, own: Option<(String, u16)>) -> Option<UnderlayReport> {
        self.address = self.controller.own_address().or(self.address);
        let (key, port) = own?;
        Some(UnderlayReport {
            key,
            port,
            address: Some(self.address?).filter(|ip| !ip.is_loopback()),
            heard_from: None,
        })
    }

    async fn report(&mut self) {
        let Some(facts) = self.facts() else { return };
        if !self.write_down().await {
            return self.report_unwritten();
        }
        let wanted = self.wanted.clone().unwrap_or_default();
        let mut troubles = plan::troubles(&wanted, &facts);
        troubles.extend(self.networks.troubles().cloned());
        troubles.extend(self.accepted.trouble());
        let about = self.host.about();
        troubles.extend(about.unable.clone());
        self.steps.forget_taken();
        let report = Report {
            protocol: 0,
            told: self.accepted.told(),
            boot_id: about.boot_id,
            name: about.name,
            capacity: about.capacity,
            unable: about.unable.or_else(|| self.accepted.trouble().next()),
            acceleration: about.acceleration,
            machine: about.machine,
            cpu: about.cpu,
            overhead: about.overhead,
            intake: Box::new(about.intake),
            underlay: self.underlay(about.underlay),
            guests: plan::guest_reports(&wanted, &facts),
            volumes: facts.volumes.iter().cloned().collect(),
            arriving: self.volumes.arriving(),
            leaving: self
                .passing
                .values()
                .map(|passing| passing.told.clone())
                .collect(),
            troubles,
            steps: Vec::new(),
        };
        let last_step = self.steps.number;
        let steps = self.steps.unsent.clone();
        self.reports.send_if_modified(|latest| {
            let same = latest
                .as_ref()
                .is_some_and(|sent| sent.last_step == last_step && sent.facts == report);
            if !same {
                *latest = Some(Outgoing {
                    facts: report,
                    steps,
                    last_step,
                });
            }
            !same
        });
    }
}

impl Steps {
    fn add(&mut self, step: StepReport) {
        self.number += 1;
        self.unsent.push((self.number, step));
        // A controller that is away for long loses the oldest lines of the history.
        if self.unsent.len() > 1000 {
            self.unsent.remove(0);
        }
    }

    fn forget_taken(&mut self) {
        let taken = *self.taken.borrow();
        self.unsent.retain(|(number, _)| *number > taken);
    }
}

/// Whether an instance surely has no guest here.
fn have_no_guest(observed: &Option<Observed>) -> impl Fn(&InstanceId) -> bool {
    let guests = observed.as_ref().map(|observed| &observed.guests);
    move |id| guests.is_some_and(|all| !all.contains_key(id))
}

/// Says every second how far something has got.
pub fn every_second(
    events: mpsc::Sender<Event>,
    event: impl Fn(u64, u64) -> Event,
) -> impl Fn(u64, u64) {
    let said: Mutex<Option<Instant>> = Mutex::new(None);
    move |done_bytes, of_bytes| {
        let mut said = said.lock().expect("no holder of this lock panics");
        if said.is_none_or(|at| at.elapsed() >= NOTE_EVERY) {
            *said = Some(Instant::now());
            // A busy engine hears of the next one.
            let _ = events.try_send(event(done_bytes, of_bytes));
        }
    }
}

/// Sends a guest to another host, unless it is to stay after all, and says every second how far it is.
async fn send_guest(
    step: Step,
    host: Arc<dyn Host>,
    events: mpsc::Sender<Event>,
    wanted: Arc<Wanted>,
    called_back: watch::Receiver<bool>,
) {
    let Step::Send {
        instance,
        generation,
    } = step.clone()
    else {
        return;
    };
    let (at, begun) = (wall_now(), Instant::now());
    let noted = instance.clone();
    let note = every_second(events.clone(), move |done_bytes, of_bytes| {
        Event::Passing(Leaving {
            instance: noted.clone(),
            done_bytes,
            of_bytes,
        })
    });
    let departure = Departure {
        instance: instance.clone(),
        generation,
        note: Box::new(note),
        called_back: called_back.clone(),
    };
    let outcome = host.send_guest(&departure, &wanted).await;
    let stays = *called_back.borrow() && outcome.is_err();
    let event = match stays {
        true => Event::GuestStays(instance),
        false => Event::StepDone {
            step: Box::new(step),
            outcome,
            took: begun.elapsed(),
            at,
        },
    };
    // The engine lives as long as the process.
    let _ = events.send(event).await;
}

async fn watch_host(host: Arc<dyn Host>, events: mpsc::Sender<Event>) {
    loop {
        host.changed().await;
        if events.send(Event::HostChanged).await.is_err() {
            return;
        }
    }
}

/// Joins the guest's end with the stream that somebody waits for.
async fn relay(host: &dyn Host, controller: &Controller, request: &StreamRequest) -> Result<()> {
    let mut near = match host.open(&request.id, &request.kind).await {
        Ok(near) => near,
        Err(error) => {
            return controller
                .refuse_stream(&request.id, &format!("{error:#}"))
                .await;
        }
    };
    let mut far = controller.open_stream(&request.id).await?;
    join(&mut near, &mut far).await;
    Ok(())
}

pub fn wall_now() -> Wall {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Wall(since.map_or(0, |d| d.as_millis() as i64))
}
