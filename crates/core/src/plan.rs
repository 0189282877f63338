//! The agent's planner: from what is wanted and what is there to the next step of each guest.
//!
//! ```text
//!            wanted On                 wanted Off                wanted Gone / not wanted
//!  nothing   blobs, volumes, Start     -                         -
//!  running   Reset if asked            PowerButton, then Kill    Kill
//!  paused    Reset if asked, Resume    Kill                      Kill
//!  held      Resume unless fenced      Resume or Kill            Kill
//!  exited    killed: Forget, again     -                         Forget
//!  incoming  Kill, unless arriving     Kill                      Kill
//!  arrived   Resume, unless arriving   Kill                      Kill
//!  departed  Resume, unless leaving    Resume, or Kill           Kill
//!  unclear   -                         -                         -
//! ```
//! One that runs and is to leave is sent. A guest of an older generation is killed and forgotten before anything else happens. Steps are
//! idempotent: after a crash the same plan is made from what is found.

use crate::planted::{Bug, planted};
use crate::wanted::Wanted;
use boira_model::wire::*;
use boira_model::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a host can see of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    pub generation: u64,
    pub state: GuestState,
    /// Why it is paused, in the driver's words.
    pub detail: Option<String>,
    /// 1, and one more for each reset, whoever made it.
    pub boots: u64,
    /// It is paused because the host's deadline is over, by a process of the host's that also lets it
    /// go on.
    pub held: bool,
}

/// Until when, and which guests of which generation, the host's watchdog lets run. It is known to the
/// watchdog already, so it holds whatever becomes of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub until: BootTime,
    pub guests: BTreeMap<InstanceId, u64>,
}

impl Fence {
    fn knows(&self, row: &WantedInstance) -> bool {
        self.guests.get(&row.id) == Some(&row.generation)
    }

    /// The guests that the watchdog is to know, of what is wanted.
    pub fn of(wanted: &Wanted) -> BTreeMap<InstanceId, u64> {
        let rows = wanted.instances.iter().filter(|row| row.fenced);
        rows.map(|row| (row.id.clone(), row.generation)).collect()
    }
}

/// What the agent remembers about an instance beside what it can see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resets done in this generation.
    pub generation: u64,
    pub resets: u64,
    /// When the power button was pressed first, and last.
    pub pressed: Option<BootTime>,
    pub pressed_last: BootTime,
    /// Steps that failed in a row; the pause before the next attempt grows with them.
    pub failures: u32,
    /// Disks and starts that failed, and guests whose hypervisor did, since the guest last ran for a
    /// while.
    pub failed_starts: u32,
    pub started: Option<BootTime>,
    /// Boots of the guest that are accounted for; `None` before it was seen.
    pub boots: Option<u64>,
    /// Those of this generation that it made by itself.
    pub reboots: u64,
    /// How often in a row the guest had to be woken from a pause, and when it was last.
    pub resumes: u32,
    pub resumed: BootTime,
    /// The generation with which it is being sent elsewhere, or was last; 0 for none.
    pub sent_as: u64,
    /// The step that must wait, and until when.
    pub held: Option<(&'static str, BootTime)>,
    pub last_error: String,
    /// Whether the guest answers; `None` until it has once since it was booted.
    pub reachable: Option<bool>,
    /// Whether that was found out here. A new agent, and one to which a running guest came, has yet to ask.
    pub knows_reach: bool,
}

impl Memory {
    /// The guest boots, and nobody can say yet whether it can be reached.
    pub fn boots_anew(&mut self) {
        self.knows_reach = true;
        self.reachable = None;
    }

    /// The guest was asked whether it can be reached.
    pub fn asked(&mut self, answers: bool) {
        self.knows_reach = true;
        if answers || self.reachable.is_some() {
            self.reachable = Some(answers);
        }
    }
}

/// Everything that the planner looks at.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub guests: BTreeMap<InstanceId, Guest>,
    pub volumes: BTreeSet<VolumeId>,
    pub blobs: BTreeSet<String>,
    /// Ports whose network is in force.
    pub ports: BTreeSet<InterfaceId>,
    pub memory: BTreeMap<InstanceId, Memory>,
    /// Instances for which a step is under way.
    pub busy: BTreeSet<InstanceId>,
    /// Blobs that are on their way.
    pub fetching: BTreeSet<String>,
    /// Guests that are there and can't be looked at for now, and why. Nothing is done with them and
    /// nothing is said about them.
    pub unclear: BTreeMap<InstanceId, String>,
    pub fence: Fence,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Fetch {
        instance: InstanceId,
        sha256: String,
    },
    MakeVolume {
        instance: InstanceId,
        volume: WantedVolume,
    },
    Start {
        instance: WantedInstance,
        /// Where it is fenced: it must not begin after that.
        not_after: Option<BootTime>,
    },
    PowerButton {
        instance: InstanceId,
    },
    Reset {
        instance: InstanceId,
        generation: u64,
        resets: u64,
    },
    /// Lets a guest go on that was paused because its host's disk was full.
    Resume {
        instance: InstanceId,
    },
    /// Sends it to the host where it has this generation, while it runs.
    Send {
        instance: InstanceId,
        generation: u64,
    },
    Kill {
        instance: InstanceId,
    },
    Forget {
        instance: InstanceId,
        /// How the wanted generation's guest ended, if this was one.
        after: Option<Exit>,
    },
}

impl Step {
    pub fn instance(&self) -> &InstanceId {
        match self {
            Step::Fetch { instance, .. }
            | Step::MakeVolume { instance, .. }
            | Step::PowerButton { instance }
            | Step::Reset { instance, .. }
            | Step::Resume { instance }
            | Step::Send { instance, .. }
            | Step::Kill { instance }
            | Step::Forget { instance, .. } => instance,
            Step::Start { instance, .. } => &instance.id,
        }
    }

    /// What the instance's history says of it.
    pub fn describe(&self) -> String {
        match self {
            Step::Forget {
                after: Some(exit), ..
            } => format!("{}: {}", self.name(), how(exit)),
            _ => self.name().into(),
        }
    }

    /// What tells it from other kinds of steps.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Fetch { .. } => "image fetched",
            Step::MakeVolume { .. } => "disk made",
            Step::Start { .. } => START,
            Step::PowerButton { .. } => "power button pressed",
            Step::Reset { .. } => "guest reset",
            Step::Resume { .. } => "guest resumed",
            Step::Send { .. } => SEND,
            Step::Kill { .. } => "guest switched off",
            Step::Forget { .. } => "guest removed",
        }
    }
}

fn how(exit: &Exit) -> String {
    match exit {
        Exit::Poweroff => "it switched itself off".into(),
        Exit::Panic => "its kernel panicked".into(),
        Exit::Killed => "its process was killed".into(),
        Exit::Ordered => "as told".into(),
        Exit::Failed(why) => format!("its hypervisor failed: {why}"),
        Exit::StartFailed(why) => format!("it did not start: {why}"),
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// At most one step per instance; they may run side by side.
    pub steps: Vec<Step>,
    pub remove_volumes: Vec<VolumeId>,
    /// Volumes to fetch from the hosts that have them.
    pub fetch_volumes: Vec<WantedVolume>,
    /// When to plan again although nothing happened.
    pub wake_at: Option<BootTime>,
}

/// How long a reboot waits for the guest before it is reset. EC2 gives it four minutes.
const REBOOT_DEADLINE_MS: u64 = 30_000;
/// How long a guest may take to hear of the power button.
const PRESS_AGAIN_MS: u64 = 1_000;

/// The error of a start that took until after the host's deadline.
pub const TOO_LATE: &str = "its host's deadline was over before it could begin";

/// The name of [`Step::Start`].
pub(crate) const START: &str = "guest started";

/// The name of [`Step::Send`].
const SEND: &str = "guest sent to another host";

/// Starts that fail this often in a row are reported as failed.
pub const ATTEMPTS: u32 = 3;

/// A guest that ran this long has started; what ends it then is another trouble.
pub const STEADY_MS: u64 = 60_000;

impl Memory {
    /// Whether nothing more is tried in this generation. A missing image is no reason: it comes when
    /// the controller does.
    pub fn gave_up(&self) -> bool {
        self.failed_starts >= ATTEMPTS
    }

    /// Whether sending the guest has failed so often that it isn't tried any more.
    fn is_stuck(&self) -> bool {
        self.failures >= ATTEMPTS && self.held.is_some_and(|(name, _)| name == SEND)
    }
}

impl Plan {
    /// Takes a step, or notes when it may be taken.
    fn add(&mut self, step: Step, memory: Option<&Memory>, now: BootTime) {
        match memory.and_then(|memory| memory.held) {
            Some((name, until)) if name == step.name() && until > now => self.wake_by(until),
            _ => self.steps.push(step),
        }
    }

    fn wake_by(&mut self, at: BootTime) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }
}

pub fn plan(wanted: &Wanted, facts: &Facts, stop_deadline_ms: u64, now: BootTime) -> Plan {
    let mut plan = Plan::default();
    let mut fetching = facts.fetching.clone();
    let rests = |id| facts.busy.contains(id) || facts.unclear.contains_key(id);
    for instance in wanted.instances.iter().filter(|row| !rests(&row.id)) {
        let memory = memory_of(facts, instance);
        match next_step(wanted, instance, facts, &memory, stop_deadline_ms, now) {
            // Whoever needs the same blob plans again when it is there.
            Next::Step(Step::Fetch { sha256, .. }) if fetching.contains(&sha256) => {}
            Next::Step(step) => {
                let before = plan.steps.len();
                plan.add(step, Some(&memory), now);
                if let Some(Step::Fetch { sha256, .. }) = plan.steps.get(before) {
                    fetching.insert(sha256.clone());
                }
            }
            Next::At(at) => plan.wake_by(at),
            Next::Nothing => {}
        }
    }
    for (id, guest) in facts.guests.iter().filter(|(id, _)| !rests(id)) {
        if !is_wanted(wanted, id)
            && let Some(step) = remove(id, guest)
        {
            plan.add(step, facts.memory.get(id), now);
        }
    }
    plan.remove_volumes = unwanted_volumes(wanted, facts);
    plan.fetch_volumes = arriving_volumes(wanted, facts);
    plan
}

fn is_wanted(wanted: &Wanted, id: &InstanceId) -> bool {
    wanted.instances.iter().any(|row| row.id == *id)
}

/// Whether there is a guest that nobody wants, which may use anything here.
pub fn has_leftovers(wanted: &Wanted, facts: &Facts) -> bool {
    let mut here = facts.guests.keys().chain(facts.unclear.keys());
    here.any(|id| !is_wanted(wanted, id))
}

fn arriving_volumes(wanted: &Wanted, facts: &Facts) -> Vec<WantedVolume> {
    let arriving = wanted.volumes.iter().filter(|volume| volume.arriving);
    arriving
        .filter(|volume| !facts.volumes.contains(&volume.file()))
        .cloned()
        .collect()
}

/// Files of volumes that nobody wants and no guest may still write to.
fn unwanted_volumes(wanted: &Wanted, facts: &Facts) -> Vec<VolumeId> {
    let listed: BTreeSet<_> = wanted.volumes.iter().map(WantedVolume::file).collect();
    // A disk that no list names any more, although its instance is still here: the parts of what is
    // wanted come of one state, but better safe.
    let attached: BTreeSet<_> = wanted
        .instances
        .iter()
        .flat_map(|row| row.disks.iter())
        .filter(|id| !wanted.volumes.iter().any(|volume| volume.id == **id))
        .collect();
    if has_leftovers(wanted, facts) {
        return Vec::new();
    }
    facts
        .volumes
        .iter()
        .filter(|file| {
            let is_of = |id: &&VolumeId| file.as_str().split('.').next() == Some(id.as_str());
            !listed.contains(*file) && !attached.iter().any(is_of)
        })
        .cloned()
        .collect()
}

#[allow(clippy::large_enum_variant, reason = "lives on the stack for one call")]
enum Next {
    Step(Step),
    At(BootTime),
    Nothing,
}

fn next_step(
    wanted: &Wanted,
    instance: &WantedInstance,
    facts: &Facts,
    memory: &Memory,
    stop_deadline_ms: u64,
    now: BootTime,
) -> Next {
    let id = &instance.id;
    let step = |step| Next::Step(step);
    let Some(guest) = facts.guests.get(id) else {
        return match instance.power {
            // Nothing begins that would have to be held.
            Power::On if instance.fenced && !may_run(instance, facts, now) => Next::Nothing,
            // It may run on another host by now; the controller says whether it does.
            Power::On if matches!(instance.passage, Some(Passage::Leaving { .. })) => Next::Nothing,
            Power::On => bring_up(wanted, instance, facts, memory),
            Power::Off(_) | Power::Gone => Next::Nothing,
        };
    };
    if guest.generation != instance.generation && instance.power != Power::Gone {
        return match (&guest.state, instance.power) {
            // A stopped instance keeps the remains of its last run; they say how it ended.
            (GuestState::Exited(_), Power::Off(_)) => Next::Nothing,
            (GuestState::Exited(_) | GuestState::Absent, _) => step(forget(id, None)),
            _ => step(Step::Kill {
                instance: id.clone(),
            }),
        };
    }
    if guest.held && instance.passage.is_some() {
        // Whoever has stopped its process has other reasons; what it is behind that can't be seen.
        return Next::Nothing;
    }
    if guest.held && matches!(instance.power, Power::On | Power::Off(StopHow::Clean)) {
        return match instance.fenced {
            // Its watchdog lets it go on once the controller has been heard of.
            true => Next::Nothing,
            // No watchdog knows of it any more.
            false => step(Step::Resume {
                instance: id.clone(),
            }),
        };
    }
    if let Some(next) = on_its_way(instance, guest, facts, memory, now) {
        return next;
    }
    match (instance.power, &guest.state) {
        (Power::On, GuestState::Running | GuestState::Paused)
            if memory.resets < instance.resets =>
        {
            let hard = Step::Reset {
                instance: id.clone(),
                generation: instance.generation,
                resets: instance.resets,
            };
            match guest.state {
                // A guest that is paused hears no button.
                GuestState::Paused => step(hard),
                _ => ask_to_end(id, memory, REBOOT_DEADLINE_MS, hard, now),
            }
        }
        // The guest has followed the power button of a reboot; its next start ends the reboot.
        (Power::On, GuestState::Exited(exit @ Exit::Poweroff))
            if memory.resets < instance.resets =>
        {
            step(forget(id, Some(exit)))
        }
        (Power::On, GuestState::Running) => Next::Nothing,
        (Power::On, GuestState::Paused) => step(Step::Resume {
            instance: id.clone(),
        }),
        (
            Power::On,
            GuestState::Exited(exit @ (Exit::Killed | Exit::Ordered | Exit::Failed(_))),
        ) => step(forget(id, Some(exit))),
        (Power::On, GuestState::Exited(_)) => Next::Nothing,
        (Power::On, _) => Next::Nothing,
        (Power::Off(StopHow::Clean), GuestState::Running) => {
            let hard = Step::Kill {
                instance: id.clone(),
            };
            ask_to_end(id, memory, stop_deadline_ms, hard, now)
        }
        (Power::Off(_), GuestState::Exited(_) | GuestState::Absent) => Next::Nothing,
        (Power::Off(_), _) => step(Step::Kill {
            instance: id.clone(),
        }),
        (Power::Gone, _) => match remove(id, guest) {
            Some(next) => step(next),
            None => Next::Nothing,
        },
    }
}

/// What a guest that comes from another host, or leaves for one, asks for beside what all do.
fn on_its_way(
    instance: &WantedInstance,
    guest: &Guest,
    facts: &Facts,
    memory: &Memory,
    now: BootTime,
) -> Option<Next> {
    let instance_id = || instance.id.clone();
    let kill = || {
        Next::Step(Step::Kill {
            instance: instance_id(),
        })
    };
    let resume = || {
        Next::Step(Step::Resume {
            instance: instance_id(),
        })
    };
    Some(match (instance.power, instance.passage, &guest.state) {
        (Power::On, Some(Passage::Arriving), GuestState::Running | GuestState::Paused) => kill(),
        (Power::On, Some(Passage::Arriving), GuestState::Exited(_)) => return None,
        (Power::On, Some(Passage::Arriving), _) => Next::Nothing,
        (
            Power::On,
            Some(Passage::Leaving { generation }),
            GuestState::Departed { generation: to },
        ) if *to == generation && !planted(Bug::DepartedGoesOn) => Next::Nothing,
        // A reboot that was asked for comes first.
        (Power::On, Some(Passage::Leaving { .. }), GuestState::Running)
            if memory.resets < instance.resets =>
        {
            return None;
        }
        (Power::On, Some(Passage::Leaving { generation }), GuestState::Running) => {
            match memory.is_stuck() {
                true => Next::Nothing,
                false => Next::Step(Step::Send {
                    instance: instance_id(),
                    generation,
                }),
            }
        }
        (Power::On, None, GuestState::Incoming) => kill(),
        (Power::On, None, GuestState::Arrived) => {
            match instance.fenced && !may_run(instance, facts, now) {
                true => Next::Nothing,
                false => resume(),
            }
        }
        // It didn't go on there. One that is to stop is let write what it has.
        (Power::On | Power::Off(StopHow::Clean), _, GuestState::Departed { .. }) => resume(),
        _ => return None,
    })
}

/// Presses the power button, again every second because a guest that is still booting doesn't listen
/// yet, and does it the hard way at the deadline.
fn ask_to_end(
    id: &InstanceId,
    memory: &Memory,
    deadline_ms: u64,
    hard: Step,
    now: BootTime,
) -> Next {
    let press = Step::PowerButton {
        instance: id.clone(),
    };
    let Some(first) = memory.pressed else {
        return Next::Step(press);
    };
    let (hard_at, again_at) = (
        first.0 + deadline_ms,
        memory.pressed_last.0 + PRESS_AGAIN_MS,
    );
    if now.0 >= hard_at {
        Next::Step(hard)
    } else if now.0 >= again_at {
        Next::Step(press)
    } else {
        Next::At(BootTime(hard_at.min(again_at)))
    }
}

fn remove(id: &InstanceId, guest: &Guest) -> Option<Step> {
    match guest.state {
        GuestState::Exited(_) => Some(forget(id, None)),
        _ => guest.state.is_live().then(|| Step::Kill {
            instance: id.clone(),
        }),
    }
}

fn forget(id: &InstanceId, after: Option<&Exit>) -> Step {
    Step::Forget {
        instance: id.clone(),
        after: after.cloned(),
    }
}

fn bring_up(wanted: &Wanted, instance: &WantedInstance, facts: &Facts, memory: &Memory) -> Next {
    if cannot_start(wanted, instance, facts, memory).is_some() {
        return Next::Nothing;
    }
    let id = &instance.id;
    let mut blobs = Vec::new();
    if let Boot::Kernel {
        kernel, ramdisk, ..
    } = &instance.boot
    {
        blobs.push(kernel);
        blobs.extend(ramdisk);
    }
    let volumes: Vec<_> = wanted
        .volumes
        .iter()
        .filter(|volume| instance.disks.contains(&volume.id) && !volume.arriving)
        .collect();
    if volumes.len() < instance.disks.len() {
        // The parts arrive together, but a later one may already have dropped the volume.
        return Next::Nothing;
    }
    for volume in &volumes {
        if let VolumeSource::Image { blob, .. } = &volume.source {
            blobs.push(blob);
        }
    }
    if let Some(missing) = blobs.into_iter().find(|blob| !facts.blobs.contains(*blob)) {
        return Next::Step(Step::Fetch {
            instance: id.clone(),
            sha256: missing.clone(),
        });
    }
    match volumes
        .into_iter()
        .find(|volume| !facts.volumes.contains(&volume.file()))
    {
        Some(volume) => Next::Step(Step::MakeVolume {
            instance: id.clone(),
            volume: volume.clone(),
        }),
        // The network is brought up beside the disks; its end wakes the planner.
        None if !ports_are_up(instance, facts) => Next::Nothing,
        None => Next::Step(Step::Start {
            instance: instance.clone(),
            not_after: instance.fenced.then_some(facts.fence.until),
        }),
    }
}

/// Why a guest that isn't there won't be started. A disk that had been written and is gone, as when
/// its file system isn't mounted, is never replaced by a new one.
fn cannot_start(
    wanted: &Wanted,
    instance: &WantedInstance,
    facts: &Facts,
    memory: &Memory,
) -> Option<String> {
    if memory.gave_up() {
        return Some(memory.last_error.clone());
    }
    let lost = wanted.volumes.iter().find(|volume| {
        volume.written
            && instance.disks.contains(&volume.id)
            && !facts.volumes.contains(&volume.file())
    });
    lost.map(|volume| format!("the file of its disk {} is not on this host", volume.id))
}

/// Whether the watchdog lets a fenced guest run.
fn may_run(instance: &WantedInstance, facts: &Facts, now: BootTime) -> bool {
    facts.fence.knows(instance) && now < facts.fence.until
}

fn ports_are_up(instance: &WantedInstance, facts: &Facts) -> bool {
    instance
        .interfaces
        .iter()
        .all(|port| facts.ports.contains(&port.id))
}

/// The memory of this generation; what belongs to an older one is void.
fn memory_of(facts: &Facts, instance: &WantedInstance) -> Memory {
    match facts.memory.get(&instance.id) {
        Some(memory) if memory.generation == instance.generation => memory.clone(),
        _ => Memory {
            generation: instance.generation,
            ..Memory::default()
        },
    }
}

/// How long to wait before the next attempt after `failures` failed ones.
pub fn back_off_ms(failures: u32) -> u64 {
    500 << failures.min(6)
}

/// What is wrong with instances here, in words.
pub fn troubles(wanted: &Wanted, facts: &Facts) -> Vec<String> {
    let mut troubles: Vec<_> = facts
        .unclear
        .iter()
        .map(|(id, why)| format!("{id} can't be looked at: {why}"))
        .collect();
    for row in &wanted.instances {
        let guest = facts.guests.get(&row.id);
        let memory = memory_of(facts, row);
        if memory.failures > 0 && (row.power == Power::On || guest.is_some()) {
            troubles.push(format!("{}: {}", row.id, memory.last_error));
        }
        if let Some(guest) = guest.filter(|guest| guest.state == GuestState::Paused) {
            let why = guest.detail.as_deref().unwrap_or("for no known reason");
            troubles.push(format!("{} is paused: {why}", row.id));
        }
    }
    troubles
}

/// What is reported of every wanted instance that can be looked at.
pub fn guest_reports(wanted: &Wanted, facts: &Facts) -> Vec<GuestReport> {
    wanted
        .instances
        .iter()
        .filter(|instance| !facts.unclear.contains_key(&instance.id))
        .map(|instance| guest_report(wanted, instance, facts))
        .collect()
}

fn guest_report(wanted: &Wanted, instance: &WantedInstance, facts: &Facts) -> GuestReport {
    let memory = memory_of(facts, instance);
    let current = facts.guests.get(&instance.id);
    let cannot_start = cannot_start(wanted, instance, facts, &memory);
    let leaves = matches!(instance.passage, Some(Passage::Leaving { .. }));
    let state = match (instance.power, current) {
        // It isn't started before the controller has heard of that and gives the move up.
        (Power::On, None) if leaves => GuestState::Absent,
        (Power::On, None) if cannot_start.is_some() => {
            GuestState::Exited(Exit::StartFailed(cannot_start.unwrap_or_default()))
        }
        // In the middle of a reboot an instance runs, as in EC2.
        (Power::On, None) if memory.pressed.is_some() => GuestState::Running,
        (Power::On, None) => GuestState::Preparing,
        // A step that began before is under way. No guest has been seen yet, so none has written to
        // its disks, which may not even be there.
        (Power::Off(_) | Power::Gone, None) if facts.busy.contains(&instance.id) => {
            GuestState::Preparing
        }
        (Power::Off(_) | Power::Gone, None) => GuestState::Absent,
        // An older generation is on its way out; of the wanted one nothing is there yet.
        (Power::On, Some(guest)) if guest.generation != instance.generation => {
            GuestState::Preparing
        }
        (Power::On, Some(guest)) => match guest.state {
            GuestState::Exited(Exit::Killed | Exit::Ordered | Exit::Failed(_)) => {
                GuestState::Preparing
            }
            GuestState::Exited(Exit::Poweroff) if memory.resets < instance.resets => {
                GuestState::Running
            }
            // The end of a reboot isn't a launch.
            GuestState::Preparing if instance.resets > 0 => GuestState::Running,
            ref state => state.clone(),
        },
        (Power::Off(_) | Power::Gone, Some(guest)) => match (&guest.state, memory.pressed) {
            (GuestState::Running, Some(_)) => GuestState::Stopping,
            (state, _) => state.clone(),
        },
    };
    let paused = current.filter(|_| state == GuestState::Paused);
    GuestReport {
        unasked: !memory.knows_reach,
        paused: paused.and_then(|guest| guest.detail.clone()),
        fenced: instance.fenced && facts.fence.knows(instance),
        instance: instance.id.clone(),
        generation: instance.generation,
        reachable: match state {
            GuestState::Running | GuestState::Departed { .. } => memory.reachable,
            _ => None,
        },
        stuck: memory.is_stuck().then(|| Stuck {
            generation: memory.sent_as,
            why: memory.last_error.clone(),
        }),
        resets: memory.resets,
        reboots: memory.reboots,
        state,
    }
}
