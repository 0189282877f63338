//! What an agent remembers about its instances, and how each step changes it.

use crate::plan::{self, ATTEMPTS, Guest, Memory, STEADY_MS, Step, back_off_ms};
use crate::sync::Accepted;
use crate::wanted::Wanted;
use boira_model::wire::{Passage, WantedInstance};
use boira_model::{BootTime, Exit, InstanceId};
use std::collections::BTreeMap;

pub type Memories = BTreeMap<InstanceId, Memory>;

/// The memory with which a new agent process starts: what was written down with the accepted state.
pub fn recall(accepted: &Accepted) -> Memories {
    accepted
        .done
        .iter()
        .map(|(id, done)| {
            let mut memory = Memory {
                generation: done.generation,
                resets: done.resets,
                boots: done.boots,
                reboots: done.reboots,
                ..Memory::default()
            };
            if let Some(why) = &done.gave_up {
                memory.failed_starts = ATTEMPTS;
                memory.last_error = why.clone();
            }
            (id.clone(), memory)
        })
        .collect()
}

/// The memory of an instance's generation; what belongs to another generation is void.
pub fn of<'a>(memories: &'a mut Memories, id: &InstanceId, generation: u64) -> &'a mut Memory {
    let memory = memories.entry(id.clone()).or_default();
    if memory.generation != generation {
        *memory = Memory {
            generation,
            ..Memory::default()
        };
    }
    memory
}

/// Forgets instances that are no longer wanted here, also what was kept of removing them: that begins
/// anew.
pub fn prune(memories: &mut Memories, wanted: &Wanted) {
    memories.retain(|id, _| wanted.instances.iter().any(|row| row.id == *id));
}

/// What is wanted has changed: one that is started again waits, the longer the oftener it was in a row,
/// and what failed when a guest was sent doesn't count when it is sent again.
pub fn told(memories: &mut Memories, wanted: &Wanted, now: BootTime) {
    for row in &wanted.instances {
        let sent_as = match row.passage {
            Some(Passage::Leaving { generation }) => generation,
            Some(Passage::Arriving) | None => 0,
        };
        let known = memories.get(&row.id).map_or(0, |memory| memory.sent_as);
        if known != sent_as {
            let memory = of(memories, &row.id, row.generation);
            memory.sent_as = sent_as;
            memory.failures = 0;
            memory.held = None;
        }
    }
    for row in wanted.instances.iter().filter(|row| row.restarts > 0) {
        let known = memories.get(&row.id);
        if known.is_none_or(|memory| memory.generation != row.generation) {
            let memory = of(memories, &row.id, row.generation);
            // The first time at once.
            if row.restarts > 1 {
                hold(memory, plan::START, row.restarts - 1, now);
            }
        }
    }
}

/// What is seen of a guest for which no step is under way. Answers whether it has rebooted by itself.
pub fn seen(memories: &mut Memories, row: &WantedInstance, guest: &Guest) -> bool {
    let memory = of(memories, &row.id, guest.generation);
    // A process before this one may have done what is still asked for.
    let ordered = memory.resets < row.resets;
    let known = memory
        .boots
        .replace(guest.boots.max(memory.boots.unwrap_or(0)));
    let boots = known.map_or(0, |known| guest.boots.saturating_sub(known));
    if boots > 0 {
        memory.boots_anew();
    }
    if ordered || boots == 0 {
        return false;
    }
    memory.reboots += boots;
    true
}

/// A step begins.
pub fn begun(memories: &mut Memories, step: &Step, wanted: &Wanted, now: BootTime) {
    if let (Step::PowerButton { instance }, Some(generation)) = (step, generation(step, wanted)) {
        let memory = of(memories, instance, generation);
        memory.pressed.get_or_insert(now);
        memory.pressed_last = now;
    }
}

/// A step ended, with an error where it failed. Answers whether the history should say so: what only
/// repeats its last line would bury the others.
pub fn done(
    memories: &mut Memories,
    step: &Step,
    error: Option<&str>,
    wanted: &Wanted,
    now: BootTime,
) -> bool {
    let Some(generation) = generation(step, wanted) else {
        return true;
    };
    let memory = of(memories, step.instance(), generation);
    match error {
        Some(error) => failed(memory, step, error, now),
        None => succeeded(memory, step, now),
    }
}

fn failed(memory: &mut Memory, step: &Step, error: &str, now: BootTime) -> bool {
    let again = memory.failures > 0 && memory.last_error == error;
    let counts = matches!(step, Step::Start { .. } | Step::MakeVolume { .. });
    // The guest is none the worse for it.
    if counts && error != plan::TOO_LATE {
        count_failed_start(memory, now);
    }
    memory.failures += 1;
    memory.last_error = error.to_owned();
    hold(memory, step.name(), memory.failures, now);
    !again || memory.gave_up()
}

fn succeeded(memory: &mut Memory, step: &Step, now: BootTime) -> bool {
    memory.failures = 0;
    match step {
        Step::Reset { resets, .. } => {
            memory.resets = *resets;
            memory.pressed = None;
            memory.boots_anew();
            memory.boots = memory.boots.map(|boots| boots + 1);
        }
        // A guest that starts has seen every reset that was asked for before.
        Step::Start { instance, .. } => {
            memory.resets = instance.resets;
            memory.pressed = None;
            if instance.passage != Some(Passage::Arriving) {
                memory.boots_anew();
            }
            memory.started = Some(now);
            memory.boots = None;
        }
        Step::Resume { .. } => {
            if now.since_ms(memory.resumed) >= STEADY_MS {
                memory.resumes = 0;
            }
            memory.resumes += 1;
            memory.resumed = now;
            hold(memory, step.name(), memory.resumes, now);
            return memory.resumes == 1;
        }
        Step::Forget { after, .. } => {
            if let Some(Exit::Failed(why)) = after {
                count_failed_start(memory, now);
                memory.last_error = why.clone();
            }
            memory.boots_anew();
            // It is started again, but not in a tight loop.
            if let Some(Exit::Killed | Exit::Ordered | Exit::Failed(_)) = after {
                hold(memory, plan::START, memory.failed_starts, now);
            }
        }
        Step::PowerButton { .. } => return memory.pressed == Some(memory.pressed_last),
        Step::MakeVolume { .. } => memory.failed_starts = 0,
        Step::Fetch { .. } | Step::Send { .. } | Step::Kill { .. } => {}
    }
    true
}

/// Counts one more start that came to nothing, from the beginning where the last one had succeeded.
fn count_failed_start(memory: &mut Memory, now: BootTime) {
    let started = memory.started.take();
    if started.is_some_and(|at| now.since_ms(at) >= STEADY_MS) {
        memory.failed_starts = 0;
    }
    memory.failed_starts += 1;
}

fn hold(memory: &mut Memory, step: &'static str, failures: u32, now: BootTime) {
    memory.held = Some((step, BootTime(now.0 + back_off_ms(failures))));
}

/// The generation that a step was for, where the instance is still wanted here in it; 0 where it is
/// not wanted at all.
fn generation(step: &Step, wanted: &Wanted) -> Option<u64> {
    let row = wanted
        .instances
        .iter()
        .find(|row| row.id == *step.instance());
    let Some(row) = row else { return Some(0) };
    match step {
        Step::Start { instance, .. } if instance.generation != row.generation => None,
        Step::Reset { generation, .. } if *generation != row.generation => None,
        _ => Some(row.generation),
    }
}
