//! What the clients were told, and what that still promises.
//!
//! Every decision gets a number, its turn. An answer promises something from its turn on, until a
//! decision with a later turn takes it back. Decisions count although their commit may have failed:
//! that only weakens the promise.

use boira_core::launch::Launch;
use boira_core::moving::How;
use boira_core::power::Moved;
use boira_core::{Draft, Refusal, State};
use boira_model::wire::Report;
use boira_model::*;
use boira_store::Unavailable;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub enum Call {
    Run(Box<Launch>),
    Start(AccountId, Vec<String>),
    Stop(AccountId, Vec<String>, StopHow),
    Reboot(AccountId, Vec<String>),
    Terminate(AccountId, Vec<String>),
    /// Another instance type, for a stopped instance.
    Resize(AccountId, String, &'static str),
    DeleteVolume(AccountId, VolumeId),
    /// To another host.
    Move(String, How),
    /// The move is taken back.
    TakeBack(String),
}

#[derive(Clone, Debug)]
pub enum Done {
    Launched(Vec<InstanceId>),
    Moved(Vec<Moved>),
    Changed,
}

pub type Outcome = Result<Result<Done, Refusal>, Unavailable>;

/// The turns of the latest decisions about an instance.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    start: u64,
    stop: u64,
    terminate: u64,
    /// The guest ended by itself, or could not be started.
    exit: u64,
}

#[derive(Debug, Default)]
pub struct Ledger {
    turn: u64,
    /// When an instance was launched; a repeated call answers later with the same one.
    born: BTreeMap<InstanceId, u64>,
    marks: BTreeMap<InstanceId, Marks>,
    /// Promised to run, since which turn.
    running: BTreeMap<InstanceId, u64>,
    stopped: BTreeMap<InstanceId, u64>,
    terminated: BTreeSet<InstanceId>,
    deleted: BTreeSet<VolumeId>,
    tokens: BTreeMap<(AccountId, String), Vec<InstanceId>>,
    /// Promises that were given since the last look.
    pub news: bool,
    /// What went wrong inside a decision.
    pub violations: Vec<String>,
}

impl Ledger {
    /// A call is being decided; answers its turn.
    pub fn decided(&mut self, call: &Call) -> u64 {
        self.turn += 1;
        let turn = self.turn;
        let (ids, mark): (_, fn(&mut Marks) -> &mut u64) = match call {
            Call::Run(_)
            | Call::Reboot(..)
            | Call::Resize(..)
            | Call::DeleteVolume(..)
            | Call::Move(..)
            | Call::TakeBack(_) => return turn,
            Call::Start(_, ids) => (ids, |marks| &mut marks.start),
            Call::Stop(_, ids, _) => (ids, |marks| &mut marks.stop),
            Call::Terminate(_, ids) => (ids, |marks| &mut marks.terminate),
        };
        for id in ids {
            *mark(self.marks.entry(InstanceId::from(id.as_str())).or_default()) = turn;
        }
        turn
    }

    /// A launch was decided, or an earlier one was found.
    pub fn launched(&mut self, ids: &[InstanceId], turn: u64) {
        for id in ids {
            self.born.entry(id.clone()).or_insert(turn);
        }
    }

    /// A report of `host` was decided: it may change what is placed there and nothing else.
    pub fn reported(&mut self, before: &State, draft: &Draft, host: &HostId, report: &Report) {
        self.turn += 1;
        for row in &draft.change.puts {
            if let boira_core::Row::Instance(row) = row {
                self.changed_by_report(before, row, host);
            }
        }
        for (kind, key) in &draft.change.deletes {
            let own = match kind {
                boira_core::Kind::Volume => before
                    .volumes
                    .get(key.as_str())
                    .is_none_or(|row| row.host.as_ref() == Some(host)),
                boira_core::Kind::Interface => before
                    .interfaces
                    .get(key.as_str())
                    .and_then(|row| row.attachment.as_ref())
                    .and_then(|attached| before.instances.get(&attached.instance))
                    .is_none_or(|row| placed_on(row, host)),
                _ => false,
            };
            if !own {
                self.violations.push(format!(
                    "a report of {host} deleted {kind:?} {key}: {report:?}"
                ));
            }
        }
    }

    fn changed_by_report(&mut self, before: &State, row: &Instance, host: &HostId) {
        let Some(old) = before.instances.get(&row.id) else {
            self.violations
                .push(format!("a report of {host} made {}", row.id));
            return;
        };
        // Where it moves to, the host says that its disks are there.
        if !placed_on(old, host) && old.moving_to() != Some(host) {
            self.violations.push(format!(
                "a report of {host} changed {}, which is placed on {:?}",
                row.id, old.placement
            ));
        }
        if old.desired != row.desired {
            self.marks.entry(row.id.clone()).or_default().exit = self.turn;
        }
    }

    /// The controller said so to a client.
    pub fn acknowledged(&mut self, call: &Call, turn: u64, done: &Done) {
        self.news = true;
        match (call, done) {
            (Call::Run(ask), Done::Launched(ids)) => {
                for id in ids {
                    let born = self.born.get(id).copied().unwrap_or(turn);
                    self.running.entry(id.clone()).or_insert(born);
                }
                if let Some((token, _)) = &ask.client_token {
                    let key = (ask.owner.clone(), token.clone());
                    let first = self.tokens.entry(key).or_insert_with(|| ids.clone());
                    if first != ids {
                        self.violations
                            .push(format!("token {token} launched {first:?} and then {ids:?}"));
                    }
                }
            }
            (Call::Start(..), Done::Moved(moved)) => {
                for (id, ..) in moved {
                    raise(&mut self.running, id, turn);
                }
            }
            (Call::Stop(..), Done::Moved(moved)) => {
                for (id, ..) in moved {
                    raise(&mut self.stopped, id, turn);
                }
            }
            (Call::Terminate(..), Done::Moved(moved)) => {
                self.terminated
                    .extend(moved.iter().map(|(id, ..)| id.clone()));
            }
            (Call::Reboot(..), Done::Moved(_))
            | (Call::Resize(..) | Call::Move(..) | Call::TakeBack(_), Done::Changed) => {}
            (Call::DeleteVolume(_, id), Done::Changed) => {
                self.deleted.insert(id.clone());
            }
            (call, done) => self
                .violations
                .push(format!("{call:?} was answered with {done:?}")),
        }
    }

    /// Whether the state still holds everything that was promised.
    pub fn check(&self, state: &State) -> Result<(), String> {
        for id in &self.terminated {
            if let Some(row) = state
                .instances
                .get(id)
                .filter(|r| r.desired != Desired::Terminated)
            {
                return Err(format!(
                    "{id} was terminated and is to be {:?}",
                    row.desired
                ));
            }
        }
        for id in &self.deleted {
            if state.volumes.get(id).is_some_and(|row| !row.deleting) {
                return Err(format!("{id} was deleted and is back"));
            }
        }
        for (id, turn) in &self.running {
            let marks = self.marks.get(id).copied().unwrap_or_default();
            let desired = state.instances.get(id).map(|row| row.desired);
            let may_stop = marks.stop.max(marks.terminate).max(marks.exit) > *turn;
            let may_be_gone = marks.terminate.max(marks.exit) > *turn;
            match desired {
                None if !may_be_gone => return Err(format!("{id} was acknowledged and is lost")),
                Some(Desired::Stopped(_) | Desired::Terminated) if !may_stop => {
                    return Err(format!("{id} was to run and is to be {desired:?}"));
                }
                _ => {}
            }
        }
        for (id, turn) in &self.stopped {
            let marks = self.marks.get(id).copied().unwrap_or_default();
            let runs = state
                .instances
                .get(id)
                .is_some_and(|row| row.desired == Desired::Running);
            if runs && marks.start <= *turn {
                return Err(format!(
                    "{id} was stopped and is to run, though nobody started it"
                ));
            }
        }
        one_reservation_per_token(state)
    }

    /// How many answers promise something; for the run's summary.
    pub fn promises(&self) -> usize {
        self.running.len() + self.stopped.len() + self.terminated.len() + self.deleted.len()
    }
}

fn placed_on(row: &Instance, host: &HostId) -> bool {
    row.placement.as_ref().is_some_and(|p| p.host == *host)
}

fn raise(turns: &mut BTreeMap<InstanceId, u64>, id: &InstanceId, turn: u64) {
    let latest = turns.entry(id.clone()).or_default();
    *latest = turn.max(*latest);
}

fn one_reservation_per_token(state: &State) -> Result<(), String> {
    let mut reservations = BTreeMap::new();
    for row in state.instances.values() {
        let Some(token) = &row.client_token else {
            continue;
        };
        let first = reservations
            .entry((&row.owner, token))
            .or_insert(&row.reservation);
        if **first != row.reservation {
            return Err(format!(
                "token {token} launched twice: {first} and {}",
                row.reservation
            ));
        }
    }
    Ok(())
}
