//! The event loop: one queue, one clock, one source of randomness. Whatever happens next is the
//! event with the least time; equal times keep the order in which they were scheduled.

use crate::agent::Agent;
use crate::check;
use crate::client::{Client, Pending};
use crate::controller::{Controller, Envelope, Reply};
use crate::host::Host;
use crate::ledger::Call;
use crate::mix::{FENCES_S, LONGEST_FENCE_MS, Mix};
use crate::random::Random;
use crate::settle;
use crate::store::Fate;
use boira_core::{Row, State};
use boira_model::wire::{SyncRequest, WantedVolume, WantedVpc};
use boira_model::*;
use boira_store::Snapshot;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

/// Lines of the trace that a failure shows.
const TRACE: usize = 120;
/// How long the cloud may take to settle after the last fault.
const SETTLE_MS: u64 = 20 * 60 * 1000;
/// How long a settled cloud is watched, which must then write nothing.
const IDLE_MS: u64 = 60_000;

/// What happens.
pub enum Event {
    Client(usize),
    CallArrives {
        process: u64,
        client: usize,
        number: u64,
        call: Call,
    },
    SyncArrives {
        process: u64,
        agent: u64,
        request: Box<SyncRequest>,
    },
    ReplyArrives(Box<Reply>),
    Commit(u64),
    Tick(u64),
    Agent {
        host: usize,
        process: u64,
    },
    StepEnds {
        host: usize,
        boot: u64,
        step: u64,
    },
    NetworkEnds {
        host: usize,
        process: u64,
        vpc: WantedVpc,
    },
    VolumeGoes {
        host: usize,
        process: u64,
        volume: VolumeId,
    },
    VolumeComes {
        host: usize,
        process: u64,
        volume: WantedVolume,
    },
    Reached {
        host: usize,
        process: u64,
        instance: InstanceId,
        generation: u64,
    },
    Guest {
        host: usize,
        boot: u64,
        instance: InstanceId,
        process: u64,
        exit: Exit,
        /// Not as it was told.
        own_accord: bool,
    },
    /// The watchdog's timer.
    Watchdog {
        host: usize,
        boot: u64,
    },
    Fault,
    Undo(Undo),
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub enum Undo {
    StartController,
    StartAgent(usize),
    PowerOn(usize),
    WakeUp(usize),
    Reconnect(usize),
    HostDisk(usize),
    StoreDisk,
}

struct Due {
    at_ms: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.order).cmp(&(other.at_ms, other.order))
    }
}

pub struct World {
    pub now_ms: u64,
    /// The wall clock is this far from where it should be.
    pub wall_skew_ms: i64,
    pub random: Random,
    pub mix: Mix,
    pub controller: Controller,
    pub hosts: Vec<Host>,
    pub clients: Vec<Client>,
    pub store_full: bool,
    pub healing: bool,
    queue: BinaryHeap<Reverse<Due>>,
    order: u64,
    commit_due: bool,
    timers: BTreeMap<usize, u64>,
    checked: Option<Arc<Snapshot>>,
    pub hosts_changed: bool,
    /// What a guest has written to each volume last, and how often any has.
    pub written: BTreeMap<VolumeId, u64>,
    pub writes: u64,
    pub violation: Option<String>,
    pub steps: u64,
    trace: Option<VecDeque<String>>,
}

/// Appends to the trace, where one is kept.
macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        if $world.is_traced() {
            $world.note(format!($($text)*));
        }
    };
}
pub(crate) use note;

/// How a run ended.
pub enum End {
    Settled,
    Unsafe(String),
    Unsettled(Vec<String>),
}

impl World {
    pub fn new(
        random: Random,
        mix: Mix,
        controller: Controller,
        hosts: Vec<Host>,
        clients: Vec<Client>,
        traced: bool,
    ) -> Self {
        Self {
            now_ms: 0,
            wall_skew_ms: 0,
            random,
            mix,
            controller,
            hosts,
            clients,
            store_full: false,
            healing: false,
            queue: BinaryHeap::new(),
            order: 0,
            commit_due: false,
            timers: BTreeMap::new(),
            checked: None,
            hosts_changed: true,
            written: BTreeMap::new(),
            writes: 0,
            violation: None,
            steps: 0,
            trace: traced.then(VecDeque::new),
        }
    }

    /// Runs to the end: faults and calls first, then calm until everything has converged.
    pub fn run(&mut self, faults_ms: u64) -> End {
        for host in 0..self.hosts.len() {
            self.schedule(0, Event::Undo(Undo::StartAgent(host)));
        }
        for client in 0..self.clients.len() {
            let first_ms = self.random.below(5_000);
            self.schedule(first_ms, Event::Client(client));
        }
        let process = self.controller.process;
        self.schedule(1_000, Event::Tick(process));
        self.schedule_fault();
        if !self.run_until(faults_ms) {
            return self.unsafe_end();
        }
        self.heal();
        let deadline_ms = self.now_ms + SETTLE_MS;
        // What is under way may still bring work, and what was lost may yet be missed by a watchdog.
        let calm_ms = self.mix.late_ms.max(2 * LONGEST_FENCE_MS);
        if !self.run_until(self.now_ms + calm_ms) {
            return self.unsafe_end();
        }
        loop {
            if !self.run_until(self.now_ms + 1_000) {
                return self.unsafe_end();
            }
            let pending = self.pending();
            if pending.is_empty() {
                break;
            }
            if self.now_ms > deadline_ms {
                return End::Unsettled(pending);
            }
        }
        self.stay_idle()
    }

    /// A settled cloud stays settled and writes nothing, but that it forgets what ended long ago.
    fn stay_idle(&mut self) -> End {
        let before = self.controller.snapshot();
        if !self.run_until(self.now_ms + IDLE_MS) {
            return self.unsafe_end();
        }
        let pending = self.pending();
        if !pending.is_empty() {
            return End::Unsettled(pending);
        }
        let after = self.controller.snapshot();
        let forgets = lasting(&before.state).len() < before.state.rows().len();
        let wrote = after.seq != before.seq && !forgets;
        if wrote || lasting(&after.state) != lasting(&before.state) {
            return End::Unsafe(format!(
                "the cloud is idle and made {} commits",
                after.seq - before.seq
            ));
        }
        match check::indices(&self.controller.snapshot().state) {
            Ok(()) => End::Settled,
            Err(what) => End::Unsafe(what),
        }
    }

    fn pending(&self) -> Vec<String> {
        let mut lines = settle::pending(&self.controller, &self.hosts);
        for (index, client) in self.clients.iter().enumerate() {
            if let Some(pending) = &client.pending {
                lines.push(format!("client {index} waits for {:?}", pending.call));
            }
        }
        lines
    }

    fn unsafe_end(&mut self) -> End {
        End::Unsafe(self.violation.take().unwrap_or_default())
    }

    /// False where an invariant was broken.
    fn run_until(&mut self, until_ms: u64) -> bool {
        while let Some(Reverse(due)) = self.queue.peek() {
            if due.at_ms > until_ms {
                break;
            }
            let Some(Reverse(due)) = self.queue.pop() else {
                break;
            };
            self.now_ms = due.at_ms;
            self.steps += 1;
            if let Some(until_ms) = self.asleep(&due.event) {
                self.schedule(until_ms - self.now_ms, due.event);
                continue;
            }
            self.happen(due.event);
            self.check();
            if self.violation.is_some() {
                return false;
            }
        }
        self.now_ms = until_ms;
        true
    }

    pub fn schedule(&mut self, after_ms: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Due {
            at_ms: self.now_ms + after_ms,
            order: self.order,
            event,
        }));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Client(index) => self.client_turn(index),
            Event::CallArrives {
                process,
                client,
                number,
                call,
            } => {
                if self.reaches(process) {
                    note!(self, "client {client} call {number} arrives");
                    self.controller.call(client, number, call);
                    self.schedule_commit();
                }
            }
            Event::SyncArrives {
                process,
                agent,
                request,
            } => self.sync_arrives(process, agent, *request),
            Event::ReplyArrives(reply) => self.reply_arrives(*reply),
            Event::Commit(process) => self.commit(process),
            Event::Tick(process) => self.tick(process),
            Event::Agent { host, process } => {
                if self.timers.get(&host).is_some_and(|at| *at <= self.now_ms) {
                    self.timers.remove(&host);
                }
                if self.agent_is(host, process) {
                    self.agent_turn(host);
                }
            }
            Event::StepEnds { host, boot, step } => self.step_ends(host, boot, step),
            Event::NetworkEnds { host, process, vpc } => self.network_ends(host, process, vpc),
            Event::VolumeGoes {
                host,
                process,
                volume,
            } => self.volume_goes(host, process, &volume),
            Event::VolumeComes {
                host,
                process,
                volume,
            } => self.volume_comes(host, process, &volume),
            Event::Reached {
                host,
                process,
                instance,
                generation,
            } => self.reached(host, process, &instance, generation),
            Event::Guest {
                host,
                boot,
                instance,
                process,
                exit,
                own_accord,
            } => {
                if !(own_accord && self.healing) {
                    self.guest_exits(host, boot, &instance, process, exit);
                }
            }
            Event::Watchdog { host, boot } => self.watchdog(host, boot),
            Event::Fault => self.fault(),
            Event::Undo(undo) => self.undo(undo),
        }
    }

    /// Until when an event has to wait because the PC that it happens to sleeps.
    fn asleep(&self, event: &Event) -> Option<u64> {
        let host = match event {
            Event::Agent { host, .. }
            | Event::StepEnds { host, .. }
            | Event::NetworkEnds { host, .. }
            | Event::VolumeGoes { host, .. }
            | Event::VolumeComes { host, .. }
            | Event::Reached { host, .. }
            | Event::Guest { host, .. }
            | Event::Watchdog { host, .. }
            | Event::Undo(Undo::StartAgent(host)) => *host,
            Event::ReplyArrives(reply) => match &**reply {
                Reply::Sync { request, .. } => self.host_index(&request.host),
                Reply::Call { .. } => return None,
            },
            Event::Client(_)
            | Event::CallArrives { .. }
            | Event::SyncArrives { .. }
            | Event::Commit(_)
            | Event::Tick(_)
            | Event::Fault
            | Event::Undo(_) => return None,
        };
        self.hosts[host]
            .sleeps_until_ms
            .filter(|at| *at > self.now_ms)
    }

    fn reaches(&self, process: u64) -> bool {
        self.controller.is_up() && self.controller.process == process
    }

    pub fn agent_is(&self, host: usize, process: u64) -> bool {
        let agent = self.hosts[host].agent.as_ref();
        agent.is_some_and(|agent: &Agent| agent.process == process)
    }

    pub fn host_index(&self, id: &HostId) -> usize {
        let index = self.hosts.iter().position(|host| host.id == *id);
        index.expect("only hosts of this cloud are named")
    }

    // The API.

    fn client_turn(&mut self, index: usize) {
        let now_ms = self.now_ms;
        if let Some(pending) = &self.clients[index].pending {
            if pending.retry_ms > now_ms {
                return;
            }
            if pending.may_repeat() {
                self.send_call(index);
            } else {
                self.clients[index].pending = None;
                self.schedule(1, Event::Client(index));
            }
            return;
        }
        if self.healing
            || self.clients[index].calls_left == 0
            || self.clients[index].next_ms > now_ms
        {
            return;
        }
        let snapshot = self.controller.snapshot();
        let client = &mut self.clients[index];
        client.calls_left -= 1;
        let call = client.next_call(index, &snapshot.state, &mut self.random);
        note!(self, "client {index} wants {}", brief(&call));
        let client = &mut self.clients[index];
        client.pending = Some(Pending {
            number: client.calls_made,
            call,
            retry_ms: 0,
        });
        self.send_call(index);
    }

    fn send_call(&mut self, index: usize) {
        let timeout_ms = self.random.between(1_000, 10_000);
        let retry_ms = self.now_ms + timeout_ms;
        let Some(pending) = &mut self.clients[index].pending else {
            return;
        };
        pending.retry_ms = retry_ms;
        let (number, call) = (pending.number, pending.call.clone());
        self.schedule(timeout_ms, Event::Client(index));
        let process = self.controller.process;
        for delay_ms in self.deliveries(false) {
            let call = call.clone();
            let arrives = Event::CallArrives {
                process,
                client: index,
                number,
                call,
            };
            self.schedule(delay_ms, arrives);
        }
    }

    fn call_answered(&mut self, index: usize, number: u64, again: bool) {
        let client = &mut self.clients[index];
        let Some(pending) = client.pending.as_mut().filter(|p| p.number == number) else {
            return;
        };
        let after_ms = self.random.between(200, 4_000);
        if again {
            pending.retry_ms = self.now_ms + after_ms;
        } else {
            client.pending = None;
            client.next_ms = self.now_ms + after_ms;
        }
        self.schedule(after_ms, Event::Client(index));
    }

    // The controller.

    pub fn wall(&self) -> Wall {
        Wall(1_790_000_000_000 + self.now_ms as i64 + self.wall_skew_ms)
    }

    fn schedule_commit(&mut self) {
        if !self.commit_due {
            self.commit_due = true;
            let after_ms = self.random.between(1, 20);
            let process = self.controller.process;
            self.schedule(after_ms, Event::Commit(process));
        }
    }

    fn commit(&mut self, process: u64) {
        if !self.reaches(process) {
            return;
        }
        self.commit_due = false;
        let fate = if self.store_full {
            Fate::Full
        } else if self.random.chance(self.mix.commit_fails) {
            *self.random.pick(&[Fate::Full, Fate::Unanswered])
        } else if self.random.chance(self.mix.commit_crash) {
            *self.random.pick(&[Fate::CrashBefore, Fate::CrashAfter])
        } else {
            Fate::Durable
        };
        let wall = self.wall();
        let replies = self.controller.commit(&mut self.random, wall, fate);
        for reply in replies {
            self.send_reply(reply);
        }
        if self.controller.has_crashed() {
            note!(self, "the controller dies in a commit: {fate:?}");
            self.crash_controller();
        }
    }

    fn tick(&mut self, process: u64) {
        if !self.reaches(process) {
            return;
        }
        let wall = self.wall();
        for reply in self.controller.tick(self.now_ms, wall) {
            self.send_reply(reply);
        }
        self.schedule_commit();
        self.schedule(1_000, Event::Tick(process));
    }

    pub fn crash_controller(&mut self) {
        self.controller.crash();
        self.commit_due = false;
        let after_ms = self.random.between(100, 20_000);
        self.schedule(after_ms, Event::Undo(Undo::StartController));
    }

    pub fn start_controller(&mut self) {
        if self.controller.is_up() {
            return;
        }
        // The administrator has other wishes by now.
        if !self.healing && self.random.chance(600) {
            self.controller.settings.fence_s = *self.random.pick(&FENCES_S);
        }
        if let Err(error) = self.controller.start(self.now_ms) {
            self.violation = Some(format!("the controller can't start: {error}"));
            return;
        }
        note!(
            self,
            "the controller starts at {}",
            self.controller.snapshot().seq
        );
        let wall = self.wall();
        self.controller.put_in_force(&mut self.random, wall);
        let process = self.controller.process;
        self.schedule(1_000, Event::Tick(process));
    }

    // The network.

    /// The delays after which copies of a message arrive; none where it is lost.
    fn deliveries(&mut self, cut_off: bool) -> Vec<u64> {
        if cut_off || self.random.chance(self.mix.lost) {
            return Vec::new();
        }
        let copies = if self.random.chance(self.mix.repeated) {
            2
        } else {
            1
        };
        (0..copies)
            .map(|_| match self.random.chance(self.mix.late) {
                true => self.random.between(1, self.mix.late_ms),
                false => self.random.between(1, 15),
            })
            .collect()
    }

    pub fn send_sync(&mut self, host: usize, request: Box<SyncRequest>) {
        let agent = self.hosts[host].agents;
        let process = self.controller.process;
        for delay_ms in self.deliveries(self.hosts[host].cut_off) {
            let request = request.clone();
            let arrives = Event::SyncArrives {
                process,
                agent,
                request,
            };
            self.schedule(delay_ms, arrives);
        }
    }

    fn sync_arrives(&mut self, process: u64, agent: u64, request: SyncRequest) {
        let host = self.host_index(&request.host);
        if !self.reaches(process) || self.hosts[host].cut_off {
            return;
        }
        if let Some(reply) = self.controller.sync(agent, request, self.now_ms) {
            self.send_reply(reply);
        }
        if self.controller.has_work() {
            self.schedule_commit();
        }
    }

    fn send_reply(&mut self, reply: Reply) {
        let cut_off = match &reply {
            Reply::Call { .. } => false,
            Reply::Sync { request, .. } => self.hosts[self.host_index(&request.host)].cut_off,
        };
        for delay_ms in self.deliveries(cut_off) {
            self.schedule(delay_ms, Event::ReplyArrives(Box::new(reply.clone())));
        }
    }

    fn reply_arrives(&mut self, reply: Reply) {
        match reply {
            Reply::Call {
                client,
                call,
                outcome,
            } => {
                note!(
                    self,
                    "client {client} call {call} is answered {}",
                    brief_outcome(&outcome)
                );
                self.call_answered(client, call, outcome.is_err());
            }
            Reply::Sync { request, outcome } => {
                let host = self.host_index(&request.host);
                if self.hosts[host].cut_off || !self.agent_is(host, request.agent) {
                    return;
                }
                self.agent_hears(host, &request, outcome);
            }
        }
    }

    fn agent_hears(
        &mut self,
        index: usize,
        request: &Envelope,
        outcome: Result<wire::SyncAnswer, crate::controller::Refused>,
    ) {
        if let (true, Ok(answer)) = (self.is_traced(), &outcome)
            && let Some(part) = &answer.instances
        {
            let told: Vec<_> = part
                .body
                .iter()
                .map(|row| format!("{} {} {:?}", row.id, row.generation, row.power))
                .collect();
            note!(
                self,
                "host {index} is told at {}: {told:?}",
                part.generation
            );
        }
        let (now_ms, host) = (self.now_ms, &mut self.hosts[index]);
        let Some(mut agent) = host.agent.take() else {
            return;
        };
        let before = host.fence.until;
        agent.hear(host, request, outcome, &mut self.random, now_ms);
        host.agent = Some(agent);
        if host.fence.until != before {
            self.wind_watchdog(index);
        }
        self.agent_turn(index);
    }

    /// Schedules an agent's next turn, unless one is due before.
    pub fn wake_agent(&mut self, host: usize, at_ms: u64) {
        let Some(process) = self.hosts[host].agent.as_ref().map(|agent| agent.process) else {
            return;
        };
        if self
            .timers
            .get(&host)
            .is_some_and(|due| *due <= at_ms && *due > self.now_ms)
        {
            return;
        }
        self.timers.insert(host, at_ms);
        self.schedule(at_ms - self.now_ms, Event::Agent { host, process });
    }

    fn wind_watchdog(&mut self, host: usize) {
        self.hosts_changed = true;
        let pc = &self.hosts[host];
        let after_ms = pc.when(pc.fence.until).saturating_sub(self.now_ms);
        // It is told in time, and then has other things to wait for.
        let late_ms = self.random.below(200);
        let boot = pc.boot;
        self.schedule(after_ms + late_ms, Event::Watchdog { host, boot });
    }

    fn watchdog(&mut self, index: usize, boot: u64) {
        let now_ms = self.now_ms;
        let host = &mut self.hosts[index];
        if host.boot == boot && host.watch(now_ms) {
            note!(self, "the watchdog of host {index} acts");
            self.hosts_changed = true;
            self.agent_turn(index);
        }
    }

    pub fn forget_timer(&mut self, host: usize) {
        self.timers.remove(&host);
    }

    // Checks.

    fn check(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let snapshot = self.controller.snapshot();
        let published = !self
            .checked
            .as_ref()
            .is_some_and(|old| Arc::ptr_eq(old, &snapshot));
        let verdict = self.judge(&snapshot, published);
        self.violation = verdict.err();
        self.hosts_changed = false;
        self.checked = Some(snapshot);
    }

    fn judge(&mut self, snapshot: &Snapshot, published: bool) -> Result<(), String> {
        let state = &snapshot.state;
        let ledger = self.controller.ledger.clone();
        let mut ledger = ledger.lock().expect("one thread per run");
        if let Some(what) = ledger.violations.first() {
            return Err(what.clone());
        }
        // Also where nothing was published: an answer may have been given before its commit.
        if self.controller.is_up() && (published || std::mem::take(&mut ledger.news)) {
            ledger.check(state)?;
        }
        if published {
            check::state(state)?;
            if self.random.chance(30) {
                check::indices(state)?;
            }
        }
        match published || self.hosts_changed {
            true => check::hosts(state, &self.hosts),
            false => Ok(()),
        }
    }

    // The trace.

    pub fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    pub fn note(&mut self, text: String) {
        let now_ms = self.now_ms;
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE {
                trace.pop_front();
            }
            trace.push_back(format!("{:>10.3} {text}", now_ms as f64 / 1000.0));
        }
    }

    pub fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().into_iter().flatten().collect()
    }
}

/// What time alone doesn't remove.
fn lasting(state: &State) -> Vec<Row> {
    let ends = |row: &Row| match row {
        Row::Instance(row) => row.state() == StateName::Terminated,
        Row::ClientToken(_) => true,
        _ => false,
    };
    let mut rows = state.rows();
    rows.retain(|row| !ends(row));
    rows
}

fn brief(call: &Call) -> String {
    match call {
        Call::Run(ask) => format!(
            "{} to {} {} with {:?}",
            ask.min,
            ask.max,
            ask.instance_type,
            ask.client_token.as_ref().map(|(token, _)| token)
        ),
        Call::Start(_, ids) => format!("start {ids:?}"),
        Call::Stop(_, ids, how) => format!("stop {how:?} {ids:?}"),
        Call::Reboot(_, ids) => format!("reboot {ids:?}"),
        Call::Terminate(_, ids) => format!("terminate {ids:?}"),
        Call::Resize(_, id, kind) => format!("make {id} {kind}"),
        Call::DeleteVolume(_, id) => format!("delete {id}"),
        Call::Move(id, how) => format!("move {id} {how:?}"),
        Call::TakeBack(id) => format!("call {id} back"),
    }
}

fn brief_outcome(outcome: &crate::ledger::Outcome) -> String {
    match outcome {
        Ok(Ok(done)) => format!("{done:?}"),
        Ok(Err(refusal)) => format!("no: {refusal}"),
        Err(away) => format!("{away}"),
    }
}
