//! What an agent remembers about its instances, and how each step changes it.

use crate::plan::{ATTEMPTS, Memory, Step, back_off_ms};
use crate::sync::Accepted;
use crate::wanted::Wanted;
use boira_model::{BootTime, InstanceId};
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
                ..Memory::default()
            };
            if let Some(why) = &done.gave_up {
                memory.failures = ATTEMPTS;
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

/// Forgets instances that are no longer wanted here.
pub fn prune(memories: &mut Memories, wanted: &Wanted) {
    memories.retain(|id, _| wanted.instances.iter().any(|row| row.id == *id));
}

/// A step begins.
pub fn begun(memories: &mut Memories, step: &Step, wanted: &Wanted, now: BootTime) {
    if let (Step::PowerButton { instance }, Some(generation)) = (step, generation(step, wanted)) {
        let memory = of(memories, instance, generation);
        memory.pressed.get_or_insert(now);
        memory.pressed_last = now;
    }
}

/// A step ended, with an error where it failed.
pub fn done(
    memories: &mut Memories,
    step: &Step,
    error: Option<&str>,
    wanted: &Wanted,
    now: BootTime,
) {
    let Some(generation) = generation(step, wanted) else {
        return;
    };
    let after = |ms| BootTime(now.0 + ms);
    let memory = of(memories, step.instance(), generation);
    match (step, error) {
        (Step::Reset { resets, .. }, None) => {
            memory.resets = *resets;
            memory.pressed = None;
            memory.reachable = None;
        }
        // A guest that starts has seen every reset that was asked for before.
        (Step::Start { instance }, None) => {
            memory.resets = instance.resets;
            memory.pressed = None;
        }
        (Step::Start { .. } | Step::MakeVolume { .. } | Step::Fetch { .. }, Some(error)) => {
            memory.failures += 1;
            memory.last_error = error.to_owned();
            memory.retry_at = after(back_off_ms(memory.failures));
        }
        // A guest that was killed from outside is started again, but not in a tight loop.
        (Step::Forget { .. }, None) => {
            memory.retry_at = after(back_off_ms(0));
            memory.reachable = None;
        }
        (_, Some(_)) => memory.retry_at = after(back_off_ms(1)),
        (_, None) => {}
    }
}

/// The generation that a step was for, where the instance is still wanted here in it.
fn generation(step: &Step, wanted: &Wanted) -> Option<u64> {
    let row = wanted
        .instances
        .iter()
        .find(|row| row.id == *step.instance())?;
    match step {
        Step::Start { instance } if instance.generation != row.generation => None,
        Step::Reset { generation, .. } if *generation != row.generation => None,
        _ => Some(row.generation),
    }
}
