//! What time alone changes: instances that wait get a host, what ended long ago is forgotten.

use crate::planted::{Bug, planted};
use crate::schedule::{self, Need};
use crate::{Draft, Kind, State, heal, moving};
use boira_model::*;

/// How long a client token is remembered, as EC2 documents for RunInstances: a day at least.
const TOKEN_MS: i64 = 24 * 3600 * 1000;

/// One round. Writes nothing when nothing is due.
pub fn tick(draft: &mut Draft) {
    forget_ended(draft);
    forget_tokens(draft);
    if planted(Bug::SecondPlacementAfterUnknown) {
        place_silent(draft);
    }
    moving::tick(draft);
    heal::tick(draft);
    place_waiting(draft);
}

/// Whether a round could find anything to do at this time; an idle cloud does nothing at all. What is to
/// be fenced from now on is [`heal::has_unasked`]'s, which looks at every instance.
pub fn is_due(state: &State, now: Wall) -> bool {
    let visible_ms = state.settings.terminated_visible_s as i64 * 1000;
    let first = state.ended.get_min();
    !state.waiting.is_empty()
        || moving::is_due(state)
        || first.is_some_and(|(at, _)| now.since_ms(*at) >= visible_ms)
        || planted(Bug::SecondPlacementAfterUnknown)
}

/// The planted mistake: takes a silent host for a dead one.
fn place_silent(draft: &mut Draft) {
    let silent: Vec<_> = draft
        .state
        .silent
        .iter()
        .flat_map(|host| draft.state.placed_on(host))
        .filter(|row| row.desired == Desired::Running)
        .cloned()
        .collect();
    for row in silent {
        let need = Need {
            vcpus: row.vcpus,
            memory_bytes: row.memory_bytes,
            disk_bytes: 0,
            zone: None,
            host: None,
            leaving: None,
            guest: None,
            cpu_level: 0,
        };
        let Ok(host) = schedule::place(&draft.state, &need) else {
            continue;
        };
        for id in &row.disks {
            if let Some(volume) = draft.state.volumes.get(id).cloned() {
                draft.put(Volume {
                    host: Some(host.clone()),
                    ..Volume::clone(&volume)
                });
            }
        }
        draft.edit_instance(&row.id, |row| {
            row.placement = Some(Placement::new(host, row.next_generation()));
            row.observed = Observed::Unknown;
        });
    }
}

fn forget_ended(draft: &mut Draft) {
    let visible_ms = draft.state.settings.terminated_visible_s as i64 * 1000;
    let now = draft.now();
    let due: Vec<_> = draft
        .state
        .ended
        .iter()
        .take_while(|(at, _)| now.since_ms(*at) >= visible_ms)
        .map(|(_, id)| id.clone())
        .collect();
    for id in due {
        draft.delete(Kind::Instance, id.as_str());
    }
}

fn forget_tokens(draft: &mut Draft) {
    let now = draft.now();
    let due: Vec<_> = draft
        .state
        .tokens
        .iter()
        .filter(|(_, row)| now.since_ms(row.at) >= TOKEN_MS)
        // A token is kept as long as its instances are, so that a late retry never launches twice.
        .filter(|(_, row)| {
            !row.instances
                .iter()
                .any(|id| draft.state.instances.contains_key(id))
        })
        .map(|(key, _)| key.clone())
        .collect();
    for key in due {
        draft.delete(Kind::ClientToken, &key);
    }
}

fn place_waiting(draft: &mut Draft) {
    let waiting: Vec<_> = draft.state.waiting.iter().cloned().collect();
    for id in waiting {
        let need = Need::of(&draft.state, &draft.state.instances[&id]);
        match schedule::place(&draft.state, &need) {
            Ok(host) => {
                let name = draft.state.hosts[&host].name.clone();
                draft.edit_instance(&id, |row| {
                    row.placement = Some(Placement::new(host, row.next_generation()));
                    row.held = None;
                });
                heal::fence(draft, &id);
                draft.log(&id, "cloud", format!("placed on {name}"));
            }
            Err(reasons) => {
                let held = Some(Held::NoCapacity(reasons));
                if draft.state.instances[&id].held != held {
                    draft.edit_instance(&id, |row| row.held = held);
                }
            }
        }
    }
}
