//! Which guest is to be asked now whether it is reachable.

use boira_model::InstanceId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often a guest is asked, before and after its first answer.
const ASK_SOON: Duration = Duration::from_secs(1);
const ASK_RARELY: Duration = Duration::from_secs(30);

/// When each guest was last asked, and whether it is being asked now.
#[derive(Default)]
pub struct Reach(BTreeMap<InstanceId, (Instant, bool)>);

impl Reach {
    /// Whether to ask now: if so it counts as asked. Else when, unless an answer is awaited.
    pub fn is_due(
        &mut self,
        guest: &InstanceId,
        answered: bool,
        now: Instant,
    ) -> Result<(), Option<Instant>> {
        let interval = if answered { ASK_RARELY } else { ASK_SOON };
        let (last, asking) = self.0.entry(guest.clone()).or_insert((now, false));
        if *asking {
            return Err(None);
        }
        if now < *last + interval {
            return Err(Some(*last + interval));
        }
        (*last, *asking) = (now, true);
        Ok(())
    }

    pub fn answered(&mut self, guest: InstanceId) {
        self.0.insert(guest, (Instant::now(), false));
    }

    pub fn keep(&mut self, known: &BTreeSet<&InstanceId>) {
        self.0.retain(|id, _| known.contains(id));
    }
}
