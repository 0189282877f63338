//! The sync loop and the planner's hands.
//!
//! Three tasks: the poller learns what is wanted, the engine acts, the reporter tells what is
//! observed. The engine never waits for a step: it starts those that the plan names and plans again
//! whenever something happened (new wanted state, a step's end, a change on the host, a deadline).

use crate::client::Controller;
use crate::host::{Host, Observed};
use anyhow::{Context, Result};
use boira_core::memory::{self, Memories};
use boira_core::plan::{self, Facts, Step};
use boira_core::sync::{Accepted, Outbox};
use boira_core::wanted::Wanted;
use boira_model::wire::*;
use boira_model::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};

/// How long a clean stop may take. EC2 gives a guest some minutes; people at a console expect less.
const STOP_DEADLINE_MS: u64 = 60_000;
/// How often a guest is asked whether it is reachable, before and after its first answer.
const ASK_SOON: Duration = Duration::from_secs(1);
const ASK_RARELY: Duration = Duration::from_secs(30);

/// Something that happened.
enum Event {
    Answer(Box<SyncAnswer>),
    StepDone {
        step: Step,
        outcome: Result<()>,
        took: Duration,
        at: Wall,
    },
    NetworkDone {
        vpc: WantedVpc,
        outcome: Result<Vec<String>>,
    },
    NetworkGone,
    VolumeGone(VolumeId),
    Reachable {
        instance: InstanceId,
        generation: u64,
        answer: bool,
    },
    HostChanged,
}

/// Runs until the process ends.
pub async fn run(host: Arc<dyn Host>, controller: Arc<Controller>, home: &Path) -> Result<()> {
    let accepted_path = home.join("accepted.json");
    let accepted = read_accepted(&accepted_path)?;
    let (events, inbox) = mpsc::channel(256);
    let (have, have_seen) = watch::channel(accepted.have());
    let (reports, latest) = watch::channel(None);
    let (taken, taken_seen) = watch::channel(0);
    let line = Arc::new(Line {
        outbox: Mutex::new(Outbox::new(controller.host.clone(), rand::random())),
        controller: controller.clone(),
        renewed: Notify::new(),
        reported: Notify::new(),
    });
    tokio::spawn(poll(line.clone(), have_seen, events.clone()));
    tokio::spawn(send_reports(line, latest, taken));
    tokio::spawn(watch_host(host.clone(), events.clone()));
    let engine = Engine {
        host,
        controller,
        wanted: accepted.wanted().map(Arc::new),
        memory: memory::recall(&accepted),
        accepted,
        accepted_path,
        observed: Observed::default(),
        busy: BTreeSet::new(),
        networks: Networks::default(),
        leaving: BTreeSet::new(),
        asked: BTreeMap::new(),
        streams: HashSet::new(),
        steps: Steps {
            taken: taken_seen,
            unsent: Vec::new(),
            number: 0,
        },
        events,
        have,
        reports,
    };
    engine.run(inbox).await
}

struct Engine {
    host: Arc<dyn Host>,
    controller: Arc<Controller>,
    accepted: Accepted,
    accepted_path: PathBuf,
    /// `None` until the controller has said what it wants; then nothing is done at all.
    wanted: Option<Arc<Wanted>>,
    observed: Observed,
    memory: Memories,
    busy: BTreeSet<InstanceId>,
    networks: Networks,
    /// Volumes that are being removed.
    leaving: BTreeSet<VolumeId>,
    /// When a guest was last asked whether it is there, and whether it is being asked now.
    asked: BTreeMap<InstanceId, (Instant, bool)>,
    streams: HashSet<String>,
    steps: Steps,
    events: mpsc::Sender<Event>,
    have: watch::Sender<[String; 4]>,
    reports: watch::Sender<Option<Outgoing>>,
}

#[derive(Default)]
struct Networks {
    applied: BTreeMap<VpcId, WantedVpc>,
    lacks: BTreeMap<VpcId, Vec<String>>,
    busy: BTreeSet<VpcId>,
    retry_at: Option<Instant>,
    swept: bool,
    sweeping: bool,
}

/// Steps that were taken and not yet reported, each with its number.
struct Steps {
    taken: watch::Receiver<u64>,
    unsent: Vec<(u64, StepReport)>,
    number: u64,
}

/// A report with the number of the last step in it.
#[derive(Clone)]
struct Outgoing {
    report: Report,
    last_step: u64,
}

impl Engine {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) -> Result<()> {
        self.observe().await;
        loop {
            let wake_at = self.act();
            self.report();
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
            Event::Answer(answer) => self.accept(*answer),
            Event::HostChanged => self.observe().await,
            Event::StepDone {
                step,
                outcome,
                took,
                at,
            } => {
                self.finish(step, outcome, took, at);
                self.observe().await;
            }
            Event::NetworkDone { vpc, outcome } => self.network_done(vpc, outcome),
            Event::NetworkGone => self.networks.sweeping = false,
            Event::VolumeGone(volume) => {
                self.leaving.remove(&volume);
                self.observe().await;
            }
            Event::Reachable {
                instance,
                generation,
                answer,
            } => {
                self.asked.insert(instance.clone(), (Instant::now(), false));
                memory::of(&mut self.memory, &instance, generation).reachable = Some(answer);
            }
        }
    }

    async fn observe(&mut self) {
        match self.host.observe().await {
            Ok(observed) => self.observed = observed,
            Err(error) => tracing::error!("looking at this host failed: {error:#}"),
        }
    }

    /// Takes what is wanted, and persists it before anything is done about it.
    fn accept(&mut self, answer: SyncAnswer) {
        for request in answer.streams.clone() {
            self.open_stream(request);
        }
        let mut accepted = self.accepted.clone();
        if !accepted.accept(answer) {
            return;
        }
        if let Err(error) = write_accepted(&self.accepted_path, &accepted) {
            tracing::error!("what the controller wants can't be kept: {error:#}");
            return;
        }
        self.accepted = accepted;
        self.have.send_replace(self.accepted.have());
        self.wanted = self.accepted.wanted().map(Arc::new);
        let Some(wanted) = self.wanted.clone() else {
            return;
        };
        memory::prune(&mut self.memory, &wanted);
        let known: BTreeSet<_> = wanted.instances.iter().map(|row| &row.id).collect();
        self.asked.retain(|id, _| known.contains(id));
    }

    /// Starts whatever is due and answers when to look again at the latest.
    fn act(&mut self) -> Instant {
        let Some(wanted) = self.wanted.clone() else {
            return Instant::now() + Duration::from_secs(3600);
        };
        let facts = self.facts();
        let plan = plan::plan(&wanted, &facts, STOP_DEADLINE_MS, boot_now());
        self.apply_networks(&wanted);
        for step in plan.steps {
            self.start(step, &wanted);
        }
        for volume in plan.remove_volumes {
            self.remove_volume(volume);
        }
        let mut wake_at = self.ask_guests(&wanted);
        if let Some(at) = plan.wake_at {
            let wait = Duration::from_millis(at.since_ms(boot_now()).max(1));
            wake_at = wake_at.min(Instant::now() + wait);
        }
        self.networks.retry_at.map_or(wake_at, |at| wake_at.min(at))
    }

    fn facts(&self) -> Facts {
        Facts {
            guests: self.observed.guests.clone(),
            volumes: self.observed.volumes.clone(),
            blobs: self.observed.blobs.clone(),
            ports: self
                .networks
                .applied
                .values()
                .flat_map(|vpc| vpc.ports.iter().map(|port| port.interface.clone()))
                .collect(),
            memory: self.memory.clone(),
            busy: self.busy.clone(),
        }
    }

    fn start(&mut self, step: Step, wanted: &Arc<Wanted>) {
        let instance = step.instance().clone();
        memory::begun(&mut self.memory, &step, wanted, boot_now());
        self.busy.insert(instance);
        let (host, events, wanted) = (self.host.clone(), self.events.clone(), wanted.clone());
        tokio::spawn(async move {
            let (at, begun) = (wall_now(), Instant::now());
            let outcome = host.carry_out(&step, &wanted).await;
            let took = begun.elapsed();
            // The engine lives as long as the process.
            let _ = events
                .send(Event::StepDone {
                    step,
                    outcome,
                    took,
                    at,
                })
                .await;
        });
    }

    fn finish(&mut self, step: Step, outcome: Result<()>, took: Duration, at: Wall) {
        let instance = step.instance().clone();
        self.busy.remove(&instance);
        let error = outcome.err().map(|error| format!("{error:#}"));
        if let Some(error) = &error {
            tracing::warn!("{instance}: {}: {error}", step.name());
        }
        // A button that is pressed again and again is one line of the history.
        let again = matches!(step, Step::PowerButton { .. })
            && error.is_none()
            && self
                .memory
                .get(&instance)
                .is_some_and(|m| m.pressed != Some(m.pressed_last));
        if !again {
            self.steps.add(StepReport {
                instance,
                at,
                what: step.name().into(),
                took_ms: took.as_millis() as u64,
                error: error.clone(),
            });
        }
        let Some(wanted) = self.wanted.clone() else {
            return;
        };
        memory::done(
            &mut self.memory,
            &step,
            error.as_deref(),
            &wanted,
            boot_now(),
        );
        self.write_down();
    }

    /// Writes down what was done; what isn't written down is not reported.
    fn write_down(&mut self) -> bool {
        let mut accepted = self.accepted.clone();
        if !accepted.remember(&self.memory) {
            return true;
        }
        match write_accepted(&self.accepted_path, &accepted) {
            Ok(()) => {
                self.accepted = accepted;
                true
            }
            Err(error) => {
                tracing::error!("what was done can't be written down: {error:#}");
                false
            }
        }
    }

    fn remove_volume(&mut self, volume: VolumeId) {
        if !self.leaving.insert(volume.clone()) {
            return;
        }
        let (host, events) = (self.host.clone(), self.events.clone());
        tokio::spawn(async move {
            if let Err(error) = host.remove_volume(&volume).await {
                tracing::error!("{volume} can't be removed: {error:#}");
            }
            let _ = events.send(Event::VolumeGone(volume)).await;
        });
    }

    /// Brings every wanted VPC in force; removes the others when no guest is left in them.
    fn apply_networks(&mut self, wanted: &Wanted) {
        let due = self.networks.retry_at.is_none_or(|at| at <= Instant::now());
        for vpc in &wanted.network {
            let applied = self.networks.applied.get(&vpc.vpc) == Some(vpc);
            let held = self.networks.lacks.contains_key(&vpc.vpc) && !due;
            if applied
                || held
                || self.networks.sweeping
                || !self.networks.busy.insert(vpc.vpc.clone())
            {
                continue;
            }
            let (host, events, vpc) = (self.host.clone(), self.events.clone(), vpc.clone());
            tokio::spawn(async move {
                let outcome = host.ensure_network(&vpc).await;
                let _ = events.send(Event::NetworkDone { vpc, outcome }).await;
            });
        }
        if due {
            self.networks.retry_at = None;
        }
        self.sweep_networks(wanted);
    }

    fn sweep_networks(&mut self, wanted: &Wanted) {
        let kept: BTreeSet<String> = wanted
            .network
            .iter()
            .map(|vpc| vpc.vpc.to_string())
            .collect();
        let stale = !self.networks.swept
            || self
                .networks
                .applied
                .keys()
                .any(|vpc| !kept.contains(vpc.as_str()));
        let guests_may_use_one = self
            .observed
            .guests
            .keys()
            .any(|id| !wanted.instances.iter().any(|w| w.id == *id));
        let idle = self.networks.busy.is_empty() && !self.networks.sweeping;
        if !stale || guests_may_use_one || !idle {
            return;
        }
        self.networks.swept = true;
        self.networks.sweeping = true;
        self.networks
            .applied
            .retain(|vpc, _| kept.contains(vpc.as_str()));
        self.networks
            .lacks
            .retain(|vpc, _| kept.contains(vpc.as_str()));
        let (host, events) = (self.host.clone(), self.events.clone());
        tokio::spawn(async move {
            for vpc in host
                .networks()
                .await
                .into_iter()
                .filter(|vpc| !kept.contains(vpc))
            {
                if let Err(error) = host.remove_network(&vpc).await {
                    tracing::error!("the network {vpc} can't be removed: {error:#}");
                }
            }
            let _ = events.send(Event::NetworkGone).await;
        });
    }

    fn network_done(&mut self, vpc: WantedVpc, outcome: Result<Vec<String>>) {
        self.networks.busy.remove(&vpc.vpc);
        match outcome {
            Ok(lacks) => {
                match lacks.is_empty() {
                    true => self.networks.lacks.remove(&vpc.vpc),
                    false => self.networks.lacks.insert(vpc.vpc.clone(), lacks),
                };
                self.networks.applied.insert(vpc.vpc.clone(), vpc);
            }
            Err(error) => {
                tracing::error!("the network {} can't be brought up: {error:#}", vpc.vpc);
                self.networks
                    .lacks
                    .insert(vpc.vpc, vec![format!("{error:#}")]);
                self.networks.retry_at = Some(Instant::now() + Duration::from_secs(2));
            }
        }
    }

    /// Asks running guests whether they are reachable; answers when the next one is due.
    fn ask_guests(&mut self, wanted: &Wanted) -> Instant {
        let now = Instant::now();
        let mut next = now + Duration::from_secs(3600);
        for row in wanted.instances.iter().filter(|row| row.power == Power::On) {
            let running = self.observed.guests.get(&row.id).is_some_and(|guest| {
                guest.generation == row.generation && guest.state == GuestState::Running
            });
            let Some(port) = row.interfaces.first().filter(|_| running) else {
                continue;
            };
            let known =
                memory::of(&mut self.memory, &row.id, row.generation).reachable == Some(true);
            let interval = if known { ASK_RARELY } else { ASK_SOON };
            let (last, asking) = self.asked.get(&row.id).copied().unwrap_or((now, false));
            self.asked.entry(row.id.clone()).or_insert((now, false));
            if asking {
                continue;
            }
            if now < last + interval {
                next = next.min(last + interval);
                continue;
            }
            self.asked.insert(row.id.clone(), (now, true));
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
        let (host, controller) = (self.host.clone(), self.controller.clone());
        tokio::spawn(async move {
            if let Err(error) = relay(&*host, &controller, &request).await {
                tracing::debug!("a stream was not opened: {error:#}");
            }
        });
    }

    fn report(&mut self) {
        if !self.write_down() {
            return;
        }
        self.steps.forget_taken();
        let about = self.host.about();
        let report = Report {
            told: self.accepted.told(),
            boot_id: about.boot_id,
            name: about.name,
            capacity: about.capacity,
            acceleration: about.acceleration,
            machine: about.machine,
            cpu: about.cpu,
            overhead_bytes: about.overhead_bytes,
            guests: self.wanted.as_ref().map_or_else(Vec::new, |wanted| {
                plan::guest_reports(wanted, &self.facts())
            }),
            volumes: self.observed.volumes.iter().cloned().collect(),
            troubles: self.networks.lacks.values().flatten().cloned().collect(),
            steps: self
                .steps
                .unsent
                .iter()
                .map(|(_, step)| step.clone())
                .collect(),
        };
        let last_step = self.steps.number;
        self.reports.send_if_modified(|latest| {
            let same = latest.as_ref().is_some_and(|sent| {
                sent.last_step == last_step
                    && sent.report
                        == Report {
                            steps: sent.report.steps.clone(),
                            ..report.clone()
                        }
            });
            if !same {
                *latest = Some(Outgoing { report, last_step });
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

/// The line to the controller that poller and reporter share.
struct Line {
    outbox: Mutex<Outbox>,
    controller: Arc<Controller>,
    /// A new session began, so the controller must be told everything again.
    renewed: Notify,
    /// A report was taken, so polls are answered again.
    reported: Notify,
}

impl Line {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().expect("no holder of this lock panics")
    }

    /// The controller doesn't know this session (any more).
    fn renew(&self) {
        self.outbox().renew(rand::random());
        self.renewed.notify_one();
    }
}

/// Long-polls for what is wanted.
async fn poll(
    line: Arc<Line>,
    mut have: watch::Receiver<[String; 4]>,
    events: mpsc::Sender<Event>,
) {
    let mut failures = 0;
    loop {
        let request = line.outbox().poll(have.borrow_and_update().clone());
        match line.controller.sync(&request).await {
            Ok(Some(answer)) => {
                failures = 0;
                let carries = !boira_core::sync::is_empty(&SyncAnswer {
                    streams: Vec::new(),
                    ..answer.clone()
                });
                let has_streams = !answer.streams.is_empty();
                if events.send(Event::Answer(Box::new(answer))).await.is_err() {
                    return;
                }
                if carries {
                    // Asking again with the old hashes would only bring the same parts again.
                    let _ = tokio::time::timeout(Duration::from_secs(5), have.changed()).await;
                } else if has_streams {
                    // The controller repeats itself until the stream that it asked for is open.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Ok(None) => {
                // A poll may only follow a report of its own session.
                if line.outbox().session() == request.session {
                    line.renew();
                }
                let reported = line.reported.notified();
                let _ = tokio::time::timeout(Duration::from_secs(2), reported).await;
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!("the controller is away: {error:#}");
                }
                back_off(failures).await;
            }
        }
    }
}

/// Sends the latest report whenever the controller doesn't know all of it.
async fn send_reports(
    line: Arc<Line>,
    mut latest: watch::Receiver<Option<Outgoing>>,
    taken: watch::Sender<u64>,
) {
    let mut failures = 0;
    loop {
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return },
            () = line.renewed.notified() => {}
        }
        loop {
            let Some(outgoing) = latest.borrow_and_update().clone() else {
                break;
            };
            let Some(request) = line.outbox().report(&outgoing.report) else {
                break;
            };
            match line.controller.sync(&request).await {
                Ok(Some(answer)) => {
                    failures = 0;
                    if line.outbox().answered(request.session, answer.seq) {
                        taken.send_replace(outgoing.last_step);
                    }
                    line.reported.notify_one();
                    break;
                }
                Ok(None) => line.outbox().renew(rand::random()),
                Err(_) => {
                    failures += 1;
                    back_off(failures).await;
                }
            }
        }
    }
}

async fn back_off(failures: u32) {
    let wait_ms = (50u64 << failures.min(6)).min(2_000);
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
}

async fn watch_host(host: Arc<dyn Host>, events: mpsc::Sender<Event>) {
    loop {
        host.changed().await;
        if events.send(Event::HostChanged).await.is_err() {
            return;
        }
    }
}

/// Joins the guest's end with the stream that somebody waits for. How a joined stream ends concerns
/// only its two ends.
async fn relay(host: &dyn Host, controller: &Controller, request: &StreamRequest) -> Result<()> {
    let mut near = match host.open(&request.kind).await {
        Ok(near) => near,
        Err(error) => {
            return controller
                .refuse_stream(&request.id, &format!("{error:#}"))
                .await;
        }
    };
    let mut far = controller.open_stream(&request.id).await?;
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    Ok(())
}

fn read_accepted(path: &Path) -> Result<Accepted> {
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Accepted::default()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn write_accepted(path: &Path, accepted: &Accepted) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let bytes = serde_json::to_vec(accepted).context("write as JSON")?;
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| format!("write {}", temporary.display()))?;
    file.write_all(&bytes).context("write")?;
    file.sync_data().context("sync")?;
    std::fs::rename(&temporary, path).context("rename")
}

fn boot_now() -> BootTime {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("Linux has a boot clock");
    BootTime(now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000)
}

fn wall_now() -> Wall {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Wall(since.map_or(0, |d| d.as_millis() as i64))
}
