//! The agent's planner: from what is wanted and what is there to the next step of each guest.
//!
//! ```text
//!            wanted On                 wanted Off                wanted Gone / not wanted
//!  nothing   blobs, volumes, Start     -                         -
//!  running   Reset if asked            PowerButton, then Kill    Kill
//!  exited    killed: Forget, again     -                         Forget
//! ```
//! A guest of an older generation is killed and forgotten before anything else happens. Steps are
//! idempotent: after a crash the same plan is made from what is found.

use crate::wanted::Wanted;
use boira_model::wire::*;
use boira_model::*;
use std::collections::{BTreeMap, BTreeSet};

/// What a host can see of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    pub generation: u64,
    pub state: GuestState,
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
    /// Starts that failed in this generation, and when to try again.
    pub failures: u32,
    pub retry_at: BootTime,
    pub last_error: String,
    pub reachable: Option<bool>,
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
    },
    PowerButton {
        instance: InstanceId,
    },
    Reset {
        instance: InstanceId,
        generation: u64,
        resets: u64,
    },
    Kill {
        instance: InstanceId,
    },
    Forget {
        instance: InstanceId,
    },
}

impl Step {
    pub fn instance(&self) -> &InstanceId {
        match self {
            Step::Fetch { instance, .. }
            | Step::MakeVolume { instance, .. }
            | Step::PowerButton { instance }
            | Step::Reset { instance, .. }
            | Step::Kill { instance }
            | Step::Forget { instance } => instance,
            Step::Start { instance } => &instance.id,
        }
    }

    /// What the instance's history calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Fetch { .. } => "image fetched",
            Step::MakeVolume { .. } => "disk made",
            Step::Start { .. } => "guest started",
            Step::PowerButton { .. } => "power button pressed",
            Step::Reset { .. } => "guest reset",
            Step::Kill { .. } => "guest switched off",
            Step::Forget { .. } => "guest removed",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// At most one step per instance; they may run side by side.
    pub steps: Vec<Step>,
    pub remove_volumes: Vec<VolumeId>,
    /// When to plan again although nothing happened.
    pub wake_at: Option<BootTime>,
}

/// How long a reboot waits for the guest before it is reset. EC2 gives it four minutes.
const REBOOT_DEADLINE_MS: u64 = 30_000;
/// How long a guest may take to hear of the power button.
const PRESS_AGAIN_MS: u64 = 1_000;

/// Starts that fail this often in a row are reported as failed.
pub const ATTEMPTS: u32 = 3;

pub fn plan(wanted: &Wanted, facts: &Facts, stop_deadline_ms: u64, now: BootTime) -> Plan {
    let mut plan = Plan::default();
    let mut known = BTreeSet::new();
    for instance in &wanted.instances {
        known.insert(&instance.id);
        if facts.busy.contains(&instance.id) {
            continue;
        }
        let next = next_step(wanted, instance, facts, stop_deadline_ms, now);
        match next {
            Next::Step(step) => plan.steps.push(step),
            Next::At(at) => plan.wake_at = Some(plan.wake_at.map_or(at, |w| w.min(at))),
            Next::Nothing => {}
        }
    }
    for (id, guest) in &facts.guests {
        if !known.contains(id) && !facts.busy.contains(id) {
            plan.steps.extend(remove(id, guest));
        }
    }
    plan.remove_volumes = unwanted_volumes(wanted, facts);
    plan
}

/// Volumes that nobody wants and no guest may still write to.
fn unwanted_volumes(wanted: &Wanted, facts: &Facts) -> Vec<VolumeId> {
    let listed: BTreeSet<_> = wanted.volumes.iter().map(|volume| &volume.id).collect();
    let attached: BTreeSet<_> = wanted
        .instances
        .iter()
        .flat_map(|row| row.disks.iter())
        .collect();
    let leftovers = facts
        .guests
        .keys()
        .any(|id| !wanted.instances.iter().any(|w| w.id == *id));
    if leftovers {
        return Vec::new();
    }
    facts
        .volumes
        .iter()
        .filter(|id| !listed.contains(id) && !attached.contains(id))
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
    stop_deadline_ms: u64,
    now: BootTime,
) -> Next {
    let id = &instance.id;
    let memory = memory_of(facts, instance);
    let step = |step| Next::Step(step);
    let Some(guest) = facts.guests.get(id) else {
        return match instance.power {
            Power::On => bring_up(wanted, instance, facts, &memory, now),
            Power::Off(_) | Power::Gone => Next::Nothing,
        };
    };
    if guest.generation != instance.generation && instance.power != Power::Gone {
        return match (&guest.state, instance.power) {
            // A stopped instance keeps the remains of its last run; they say how it ended.
            (GuestState::Exited(_), Power::Off(_)) => Next::Nothing,
            (GuestState::Exited(_) | GuestState::Absent, _) => step(Step::Forget {
                instance: id.clone(),
            }),
            _ => step(Step::Kill {
                instance: id.clone(),
            }),
        };
    }
    match (instance.power, &guest.state) {
        (Power::On, GuestState::Running) if memory.resets < instance.resets => {
            let hard = Step::Reset {
                instance: id.clone(),
                generation: instance.generation,
                resets: instance.resets,
            };
            ask_to_end(id, &memory, REBOOT_DEADLINE_MS, hard, now)
        }
        // The guest has followed the power button of a reboot; its next start ends the reboot.
        (Power::On, GuestState::Exited(Exit::Poweroff)) if memory.resets < instance.resets => {
            step(Step::Forget {
                instance: id.clone(),
            })
        }
        (Power::On, GuestState::Running | GuestState::Paused) => Next::Nothing,
        (Power::On, GuestState::Exited(Exit::Killed | Exit::Ordered)) => {
            match memory.retry_at > now {
                true => Next::At(memory.retry_at),
                false => step(Step::Forget {
                    instance: id.clone(),
                }),
            }
        }
        (Power::On, GuestState::Exited(_)) => Next::Nothing,
        (Power::On, GuestState::Absent | GuestState::Preparing | GuestState::Stopping) => {
            Next::Nothing
        }
        (Power::Off(StopHow::Clean), GuestState::Running) => {
            let hard = Step::Kill {
                instance: id.clone(),
            };
            ask_to_end(id, &memory, stop_deadline_ms, hard, now)
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
        GuestState::Exited(_) => Some(Step::Forget {
            instance: id.clone(),
        }),
        GuestState::Absent => None,
        GuestState::Preparing | GuestState::Running | GuestState::Paused | GuestState::Stopping => {
            Some(Step::Kill {
                instance: id.clone(),
            })
        }
    }
}

fn bring_up(
    wanted: &Wanted,
    instance: &WantedInstance,
    facts: &Facts,
    memory: &Memory,
    now: BootTime,
) -> Next {
    if memory.failures >= ATTEMPTS {
        return Next::Nothing;
    }
    if memory.retry_at > now {
        return Next::At(memory.retry_at);
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
        .filter(|volume| instance.disks.contains(&volume.id))
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
        .find(|volume| !facts.volumes.contains(&volume.id))
    {
        Some(volume) => Next::Step(Step::MakeVolume {
            instance: id.clone(),
            volume: volume.clone(),
        }),
        // The network is brought up beside the disks; its end wakes the planner.
        None if !ports_are_up(instance, facts) => Next::Nothing,
        None => Next::Step(Step::Start {
            instance: instance.clone(),
        }),
    }
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

/// How long to wait before the next start after `failures` failed ones.
pub fn back_off_ms(failures: u32) -> u64 {
    500 << failures.min(6)
}

/// What is reported of every wanted instance.
pub fn guest_reports(wanted: &Wanted, facts: &Facts) -> Vec<GuestReport> {
    wanted
        .instances
        .iter()
        .map(|instance| guest_report(instance, facts))
        .collect()
}

fn guest_report(instance: &WantedInstance, facts: &Facts) -> GuestReport {
    let memory = memory_of(facts, instance);
    let current = facts.guests.get(&instance.id);
    let state = match (instance.power, current) {
        (Power::On, None) if memory.failures >= ATTEMPTS => {
            GuestState::Exited(Exit::StartFailed(memory.last_error.clone()))
        }
        // In the middle of a reboot an instance runs, as in EC2.
        (Power::On, None) if memory.pressed.is_some() => GuestState::Running,
        (Power::On, None) => GuestState::Preparing,
        (Power::Off(_) | Power::Gone, None) if facts.busy.contains(&instance.id) => {
            GuestState::Stopping
        }
        (Power::Off(_) | Power::Gone, None) => GuestState::Absent,
        // An older generation is on its way out; of the wanted one nothing is there yet.
        (Power::On, Some(guest)) if guest.generation != instance.generation => {
            GuestState::Preparing
        }
        (Power::On, Some(guest)) => match guest.state {
            GuestState::Exited(Exit::Killed | Exit::Ordered) => GuestState::Preparing,
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
    GuestReport {
        instance: instance.id.clone(),
        generation: instance.generation,
        reachable: match state {
            GuestState::Running => memory.reachable,
            _ => None,
        },
        resets: memory.resets,
        state,
    }
}
