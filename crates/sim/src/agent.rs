//! The agent's process on a simulated PC: it does what `boira-agent` does around the shipped planner
//! and the shipped rules of the protocol, with the event loop's clock.

use crate::controller::{Envelope, Refused};
use crate::host::{Host, Running};
use crate::random::Random;
use boira_core::memory::{self, Memories};
use boira_core::plan::{self, Facts, Fence, Step};
use boira_core::sync::{Accepted, Have, Outbox, is_empty};
use boira_core::wanted::Wanted;
use boira_model::wire::*;
use boira_model::*;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const REPORT_TIMEOUT_MS: u64 = 10_000;
/// Above the controller's patience, which is half of the silence that it bears.
const POLL_TIMEOUT_MS: u64 = 12_000;
const RETRY_MS: u64 = 1_000;

pub struct Agent {
    /// Counts this PC's processes.
    pub process: u64,
    accepted: Accepted,
    /// As the watchdog has it.
    fence: Fence,
    patience_ms: u64,
    /// What the accepted state asks for.
    wanted: Option<Rc<Wanted>>,
    /// The version that it knows.
    protocol: u32,
    outbox: Outbox,
    memories: Memories,
    busy: BTreeMap<InstanceId, Step>,
    leaving: BTreeSet<VolumeId>,
    coming: BTreeSet<VolumeId>,
    pub applied: BTreeMap<VpcId, WantedVpc>,
    applying: BTreeSet<VpcId>,
    asking: BTreeSet<InstanceId>,
    steps: Vec<StepReport>,
    /// Number of the report under way, how many steps it had, and when to give it up.
    report: Option<(u64, usize, u64)>,
    /// Number of the poll under way, when to give it up, and when it was sent.
    poll: Option<(u64, u64, BootTime)>,
    /// What the host had then.
    polled: Have,
    not_before_ms: u64,
}

/// What an agent sets in motion; the world decides when it is done.
pub enum Motion {
    Step(Step),
    Network(WantedVpc),
    RemoveVolume(VolumeId),
    FetchVolume(WantedVolume),
    Ask(InstanceId, u64),
    Send(Box<SyncRequest>),
    WakeAt(u64),
}

impl Agent {
    pub fn start(host: &mut Host, random: &mut Random, now_ms: u64) -> Self {
        let accepted: Accepted = host
            .accepted_file
            .as_ref()
            .map(|bytes| serde_json::from_slice(bytes).expect("the file is replaced atomically"))
            .unwrap_or_default();
        host.agents += 1;
        let protocol = next_version(host, random);
        let wanted = accepted.wanted().map(|wanted| understood(wanted, protocol));
        let wanted = wanted.unwrap_or_default();
        let told = Fence {
            guests: Fence::of(&wanted),
            ..Fence::default()
        };
        Self {
            process: host.agents,
            fence: host.tell(&told, now_ms),
            patience_ms: POLL_TIMEOUT_MS,
            memories: memory::recall(&accepted),
            wanted: accepted.wanted().map(|_| Rc::new(wanted)),
            accepted,
            protocol,
            outbox: Outbox::of_version(host.id.clone(), random.next() as u32, protocol),
            busy: BTreeMap::new(),
            leaving: BTreeSet::new(),
            coming: BTreeSet::new(),
            applied: BTreeMap::new(),
            applying: BTreeSet::new(),
            asking: BTreeSet::new(),
            steps: Vec::new(),
            report: None,
            poll: None,
            polled: Have::default(),
            not_before_ms: 0,
        }
    }

    /// Plans, and says what there is to say.
    pub fn turn(&mut self, host: &mut Host, forged: Vec<GuestReport>, now_ms: u64) -> Vec<Motion> {
        let mut motions = Vec::new();
        let mut wake_ms = now_ms + 60_000;
        let wanted = self.wanted.clone();
        if let Some(wanted) = &wanted {
            wake_ms = wake_ms.min(self.act(host, wanted, now_ms, &mut motions));
        }
        self.say(
            host,
            &wanted.unwrap_or_default(),
            forged,
            now_ms,
            &mut motions,
        );
        self.listen(host.boot_clock(now_ms), now_ms, &mut motions);
        let deadlines = [
            self.report.map(|(_, _, until_ms)| until_ms),
            self.poll.map(|(_, until_ms, _)| until_ms),
            (self.not_before_ms > now_ms).then_some(self.not_before_ms),
        ];
        wake_ms = deadlines.into_iter().flatten().fold(wake_ms, u64::min);
        motions.push(Motion::WakeAt(wake_ms.max(now_ms + 1)));
        motions
    }

    fn act(&mut self, host: &Host, wanted: &Wanted, now_ms: u64, out: &mut Vec<Motion>) -> u64 {
        let clock = host.boot_clock(now_ms);
        let plan = plan::plan(wanted, &self.facts(host), crate::STOP_DEADLINE_MS, clock);
        for step in plan.steps {
            memory::begun(&mut self.memories, &step, wanted, clock);
            self.busy.insert(step.instance().clone(), step.clone());
            out.push(Motion::Step(step));
        }
        for volume in plan.remove_volumes {
            if self.leaving.insert(volume.clone()) {
                out.push(Motion::RemoveVolume(volume));
            }
        }
        for volume in plan.fetch_volumes {
            if self.coming.insert(volume.file()) {
                out.push(Motion::FetchVolume(volume));
            }
        }
        for vpc in &wanted.network {
            let applied = self.applied.get(&vpc.vpc) == Some(vpc);
            if !applied && self.applying.insert(vpc.vpc.clone()) {
                out.push(Motion::Network(vpc.clone()));
            }
        }
        self.applied
            .retain(|id, _| wanted.network.iter().any(|vpc| vpc.vpc == *id));
        self.ask_guests(host, wanted, out);
        plan.wake_at.map_or(u64::MAX, |at| host.when(at))
    }

    fn ask_guests(&mut self, host: &Host, wanted: &Wanted, out: &mut Vec<Motion>) {
        for row in wanted.instances.iter().filter(|row| row.power == Power::On) {
            let runs = host
                .guests
                .get(&row.id)
                .is_some_and(|g| g.generation == row.generation && g.state == GuestState::Running);
            let memory = memory::of(&mut self.memories, &row.id, row.generation);
            if runs && memory.reachable.is_none() && self.asking.insert(row.id.clone()) {
                out.push(Motion::Ask(row.id.clone(), row.generation));
            }
        }
    }

    fn facts(&self, host: &Host) -> Facts {
        Facts {
            guests: host.seen_guests(),
            volumes: host.volumes.keys().cloned().collect(),
            blobs: host.blobs.clone(),
            ports: self
                .applied
                .values()
                .flat_map(|vpc| {
                    let ports = vpc.ports.iter().map(|port| &port.interface);
                    let standby = vpc.standby.iter().map(|port| &port.interface);
                    ports.chain(standby).cloned()
                })
                .collect(),
            memory: self.memories.clone(),
            busy: self.busy.keys().cloned().collect(),
            fetching: self.fetching(),
            unclear: BTreeMap::new(),
            fence: self.fence.clone(),
        }
    }

    fn fetching(&self) -> BTreeSet<String> {
        let blobs = self.busy.values().filter_map(|step| match step {
            Step::Fetch { sha256, .. } => Some(sha256.clone()),
            _ => None,
        });
        blobs.collect()
    }

    fn say(
        &mut self,
        host: &mut Host,
        wanted: &Wanted,
        forged: Vec<GuestReport>,
        now_ms: u64,
        out: &mut Vec<Motion>,
    ) {
        if self.report.is_some_and(|(_, _, until)| until > now_ms) || self.not_before_ms > now_ms {
            return;
        }
        self.report = None;
        if !self.save(host) {
            self.not_before_ms = now_ms + RETRY_MS;
            return;
        }
        let mut guests = plan::guest_reports(wanted, &self.facts(host));
        guests.extend(forged);
        let report = Report {
            protocol: 0,
            told: self.accepted.told(),
            boot_id: format!("boot-{}", host.boot),
            name: host.name.clone(),
            capacity: host.capacity,
            unable: None,
            acceleration: Acceleration {
                hardware: false,
                verdict: "simulated".into(),
            },
            machine: "pc-i440fx-9.2".into(),
            cpu: "qemu64-v1".into(),
            overhead: host.overhead.clone(),
            intake: Default::default(),
            underlay: None,
            guests,
            volumes: host.volumes.keys().cloned().collect(),
            arriving: Vec::new(),
            leaving: Vec::new(),
            troubles: plan::troubles(wanted, &self.facts(host)),
            steps: self.steps.clone(),
        };
        if let Some(request) = self.outbox.report(&report) {
            self.report = Some((request.seq, self.steps.len(), now_ms + REPORT_TIMEOUT_MS));
            out.push(Motion::Send(Box::new(request)));
        }
    }

    fn listen(&mut self, clock: BootTime, now_ms: u64, out: &mut Vec<Motion>) {
        let waits = self.poll.is_some_and(|(_, until, _)| until > now_ms);
        if waits || self.not_before_ms > now_ms {
            return;
        }
        let have = self.accepted.have();
        // The one before was not answered: the controller may wait longer by now.
        if self.poll.is_some() {
            self.outbox
                .polled(self.outbox.session(), have.clone(), false);
        }
        let Some(request) = self.outbox.poll(&have) else {
            return;
        };
        if self.poll.is_some() {
            self.patience_ms = POLL_TIMEOUT_MS.min(self.patience_ms * 2);
        }
        self.poll = Some((request.seq, now_ms + self.patience_ms, clock));
        self.polled = have;
        out.push(Motion::Send(Box::new(request)));
    }

    /// Takes an answer of the controller.
    pub fn hear(
        &mut self,
        host: &mut Host,
        to: &Envelope,
        outcome: Result<SyncAnswer, Refused>,
        random: &mut Random,
        now_ms: u64,
    ) {
        let current = to.session == self.outbox.session();
        if current && self.report.is_some_and(|(seq, ..)| seq == to.seq) {
            let (_, steps, _) = self.report.take().unwrap_or_default();
            if outcome.is_ok() && self.outbox.answered(to.session, to.seq) {
                self.steps.drain(..steps);
            }
        }
        let poll = self.poll.filter(|(seq, ..)| current && *seq == to.seq);
        if poll.is_some() {
            self.poll = None;
            let nothing_new = outcome.as_ref().is_ok_and(is_empty);
            let have = std::mem::take(&mut self.polled);
            self.outbox.polled(to.session, have, nothing_new);
        }
        match outcome {
            Ok(answer) => {
                let lease_ms = answer.lease_ms;
                if poll.is_some() {
                    self.patience_ms = lease_ms.map_or(POLL_TIMEOUT_MS, |ms| ms / 2);
                }
                let stands = self.accepted.keeps_instances(&answer);
                if self.accept(host, answer, now_ms) || stands {
                    self.renew_lease(host, poll.zip(lease_ms), now_ms);
                }
            }
            Err(Refused::Conflict) if current => {
                let session = random.next() as u32;
                self.outbox = Outbox::of_version(host.id.clone(), session, self.protocol);
                self.report = None;
                self.poll = None;
                self.not_before_ms = now_ms + RETRY_MS;
            }
            Err(Refused::Conflict) => {}
            Err(Refused::Unavailable) => self.not_before_ms = now_ms + RETRY_MS,
        }
    }

    fn renew_lease(
        &mut self,
        host: &mut Host,
        lease: Option<((u64, u64, BootTime), u64)>,
        now_ms: u64,
    ) {
        let until = lease.map(|((_, _, sent), ms)| BootTime(sent.0 + ms));
        let told = Fence {
            until: until.unwrap_or_default().max(self.fence.until),
            guests: self.wanted.as_deref().map(Fence::of).unwrap_or_default(),
        };
        self.fence = host.tell(&told, now_ms);
    }

    fn accept(&mut self, host: &mut Host, answer: SyncAnswer, now_ms: u64) -> bool {
        let mut accepted = self.accepted.clone();
        if !accepted.accept(answer) {
            return false;
        }
        if !write_down(host, &accepted) {
            self.not_before_ms = now_ms + RETRY_MS;
            return false;
        }
        self.accepted = accepted;
        let wanted = self.accepted.wanted();
        self.wanted = wanted.map(|wanted| Rc::new(understood(wanted, self.protocol)));
        if let Some(wanted) = &self.wanted {
            memory::prune(&mut self.memories, wanted);
            memory::told(&mut self.memories, wanted, host.boot_clock(now_ms));
        }
        true
    }

    /// A step ended.
    pub fn finish(&mut self, host: &mut Host, ended: &Running, error: Option<&str>, now_ms: u64) {
        self.busy.remove(ended.step.instance());
        let Some(wanted) = self.wanted.clone() else {
            return;
        };
        let clock = host.boot_clock(now_ms);
        if memory::done(&mut self.memories, &ended.step, error, &wanted, clock) {
            self.steps.push(StepReport {
                instance: ended.step.instance().clone(),
                at: Wall(now_ms as i64),
                what: ended.step.describe(),
                took_ms: now_ms - ended.began_ms,
                error: error.map(str::to_owned),
            });
        }
        // Where this fails, the next report waits for it.
        self.save(host);
    }

    /// Writes down what was done; what isn't written down must not be reported.
    fn save(&mut self, host: &mut Host) -> bool {
        let mut accepted = self.accepted.clone();
        if !accepted.remember(&self.memories) {
            return true;
        }
        let written = write_down(host, &accepted);
        if written {
            self.accepted = accepted;
        }
        written
    }

    pub fn network_done(&mut self, vpc: WantedVpc) {
        self.applying.remove(&vpc.vpc);
        self.applied.insert(vpc.vpc.clone(), vpc);
    }

    pub fn volume_gone(&mut self, volume: &VolumeId) {
        self.leaving.remove(volume);
    }

    /// A volume's file is there, or could not be fetched.
    pub fn volume_came(&mut self, file: &VolumeId) {
        self.coming.remove(file);
    }

    /// What the files of this host's own disks are called.
    pub fn files(&self) -> BTreeMap<VolumeId, VolumeId> {
        let wanted = self.wanted.iter().flat_map(|wanted| &wanted.volumes);
        let own = wanted.filter(|volume| !volume.arriving);
        own.map(|volume| (volume.id.clone(), volume.file()))
            .collect()
    }

    pub fn reached(&mut self, instance: &InstanceId, generation: u64) {
        self.asking.remove(instance);
        let memory = memory::of(&mut self.memories, instance, generation);
        memory.asked(true);
    }

    /// What it has accepted, for those who look whether the cloud has settled.
    pub fn accepted(&self) -> Option<&Wanted> {
        self.wanted.as_deref()
    }

    /// Instances whose reboot was asked for and not done.
    pub fn owes_reboots(&self) -> Vec<InstanceId> {
        let wanted = self.wanted.clone().unwrap_or_default();
        let owes = |row: &&WantedInstance| {
            let memory = self.memories.get(&row.id);
            let done = memory
                .filter(|memory| memory.generation == row.generation)
                .map_or(0, |memory| memory.resets);
            row.power == Power::On && done < row.resets
        };
        let rows = wanted.instances.iter().filter(owes);
        rows.map(|row| row.id.clone()).collect()
    }

    /// Whether it does something, or has something to say.
    pub fn is_busy(&self) -> bool {
        !self.busy.is_empty()
            || !self.leaving.is_empty()
            || !self.coming.is_empty()
            || !self.applying.is_empty()
            || !self.steps.is_empty()
            || self.report.is_some()
            || !self.outbox.is_introduced()
    }
}

/// A PC's agent is replaced by one of another version now and then. One that knows nothing of guests that
/// move while they run only by a newer one: the other way it would find some that it doesn't understand.
fn next_version(host: &mut Host, random: &mut Random) -> u32 {
    let version = host.protocol;
    if random.chance(300) {
        let least = if version < LIVE { version } else { LIVE };
        host.protocol = random.between(u64::from(least), u64::from(PROTOCOL)) as u32;
    }
    version
}

/// What an agent of that version makes of what is wanted.
fn understood(mut wanted: Wanted, version: u32) -> Wanted {
    for row in &mut wanted.instances {
        row.fenced &= version >= FENCES;
        row.passage = row.passage.filter(|_| version >= LIVE);
    }
    wanted
}

/// Writes the accepted state in place of the old one, all or nothing.
fn write_down(host: &mut Host, accepted: &Accepted) -> bool {
    if host.disk_full {
        return false;
    }
    host.accepted_file = Some(serde_json::to_vec(accepted).expect("it has string keys only"));
    true
}
