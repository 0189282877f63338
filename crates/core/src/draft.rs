//! A decision in the making.

use crate::row::Counters;
use crate::{Change, Kind, Row, State};
use boira_model::*;
use std::sync::Arc;

/// What a decision may know of the world beside the state: the time, and randomness from a seed.
#[derive(Clone, Debug)]
pub struct Ctx {
    pub now: Wall,
    seed: u64,
}

impl Ctx {
    pub fn new(now: Wall, seed: u64) -> Self {
        Self { now, seed }
    }

    /// The next 64 bits of SplitMix64 (Steele, Lea and Flood 2014). Good for ids, not for secrets.
    pub fn entropy(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A copy of the state with the changes made so far. Dropped when the decision fails.
pub struct Draft {
    pub state: State,
    pub change: Change,
    pub ctx: Ctx,
}

impl Draft {
    pub fn new(state: State, ctx: Ctx) -> Self {
        Self {
            state,
            change: Change::default(),
            ctx,
        }
    }

    pub fn now(&self) -> Wall {
        self.ctx.now
    }

    pub fn put(&mut self, row: impl Into<Row>) {
        let row = row.into();
        self.state.put(row.clone());
        if !self.change.deletes.is_empty() {
            self.change
                .deletes
                .retain(|(kind, key)| *kind != row.kind() || *key != row.key());
        }
        self.change.puts.push(row);
    }

    pub fn delete(&mut self, kind: Kind, key: &str) {
        self.state.delete(kind, key);
        self.change.deletes.push((kind, key.to_owned()));
        // A store applies puts before deletes; no key may be among both.
        self.change
            .puts
            .retain(|row| row.kind() != kind || row.key() != key);
    }

    /// Changes a row in place of a read, a copy and a put.
    pub fn edit_instance(&mut self, id: &InstanceId, edit: impl FnOnce(&mut Instance)) {
        if let Some(row) = self.state.instances.get(id) {
            let mut row = Instance::clone(row);
            edit(&mut row);
            self.put(row);
        }
    }

    /// Gives out the next small number of a kind.
    pub fn number(&mut self, of: fn(&mut Counters) -> &mut u64) -> u64 {
        let mut counters = Counters::clone(&self.state.counters);
        let number = of(&mut counters);
        *number += 1;
        let number = *number;
        self.state.counters = Arc::new(counters);
        let row = Row::Counters(self.state.counters.clone());
        match self
            .change
            .puts
            .iter_mut()
            .find(|row| row.kind() == Kind::Counters)
        {
            Some(earlier) => *earlier = row,
            None => self.change.puts.push(row),
        }
        number
    }

    pub fn log(&mut self, instance: &InstanceId, cause: &str, what: impl Into<String>) {
        self.change.events.push(Event {
            instance: instance.clone(),
            at: self.ctx.now,
            cause: cause.into(),
            what: what.into(),
            took_ms: None,
        });
    }
}
