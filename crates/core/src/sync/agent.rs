//! The agent's side: what it has accepted and done, and what of it is due to be told.

use super::Have;
use crate::around::with_neighbours;
use crate::plan::Memory;
use crate::planted::{Bug, planted};
use crate::wanted::Wanted;
use boira_model::shared::Shared;
use boira_model::wire::*;
use boira_model::{CloudId, HostId, InstanceId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What an agent has done for one generation of an instance and can't see on its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub generation: u64,
    /// Hard resets that were carried out; a new process must not repeat them.
    pub resets: u64,
    /// Why it stopped trying to start the guest. The controller has given away the capacity since,
    /// so a new process must not try again.
    pub gave_up: Option<String>,
    /// Boots of the guest that are accounted for, and how many it made by itself: only where something
    /// follows from that.
    #[serde(default)]
    pub boots: Option<u64>,
    #[serde(default)]
    pub reboots: u64,
}

/// The wanted state that an agent has accepted. It writes this down before it acts on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    pub cloud: Option<CloudId>,
    #[serde(default)]
    pub done: BTreeMap<InstanceId, Done>,
    instances: Versioned<Vec<WantedInstance>>,
    network: Versioned<Vec<WantedVpc>>,
    #[serde(default)]
    neighbours: Versioned<Vec<Shared<WantedNeighbours>>>,
    images: Versioned<Vec<WantedBlob>>,
    volumes: Versioned<Vec<WantedVolume>>,
}

impl Accepted {
    /// Takes the parts of an answer; true where something changed. An answer of another cloud, or
    /// one derived from an older state than any accepted part, changes nothing: not even parts of it
    /// that would be newer, as parts of different ages need not fit together.
    pub fn accept(&mut self, answer: SyncAnswer) -> bool {
        if !self.trusts(&answer) {
            return false;
        }
        let changed = [
            replace(&mut self.instances, answer.instances),
            replace(&mut self.network, answer.network),
            replace(&mut self.neighbours, answer.neighbours),
            replace(&mut self.images, answer.images),
            replace(&mut self.volumes, answer.volumes),
        ];
        self.cloud = answer.cloud;
        let instances = &self.instances.body;
        self.done
            .retain(|id, _| instances.iter().any(|row| row.id == *id));
        changed.contains(&true)
    }

    /// Why an answer is refused whose controller knows less than it did: its store was put back.
    pub fn is_ahead_of(&self, answer: &SyncAnswer) -> Option<String> {
        let ours = answer.cloud.is_some() && self.cloud == answer.cloud;
        let wants = answer.oldest()?;
        (ours && wants < self.generation()).then(|| {
            format!(
                "the controller's store was put back to an older state ({wants}) than this host was told \
                 of ({}), so nothing that it wants is done; to follow it all the same, and lose what was \
                 made since, end the agent, remove accepted.json in its folder and start it",
                self.generation()
            )
        })
    }

    /// Whether an answer leaves the instances as they are accepted, whatever else it tells: none of them is
    /// anybody else's, also where the rest of it can't be written down.
    pub fn keeps_instances(&self, answer: &SyncAnswer) -> bool {
        let ours = answer.cloud.is_some() && self.cloud == answer.cloud;
        ours && answer.instances.is_none() && self.is_ahead_of(answer).is_none()
    }

    /// Notes what steps have done; true where that must be written down before it is reported.
    pub fn remember(&mut self, memories: &BTreeMap<InstanceId, Memory>) -> bool {
        let mut changed = false;
        for row in &self.instances.body {
            let Some(memory) = memories.get(&row.id) else {
                continue;
            };
            let done = Done {
                generation: memory.generation,
                resets: memory.resets,
                gave_up: memory.gave_up().then(|| memory.last_error.clone()),
                boots: memory.boots.filter(|_| row.counts_reboots),
                reboots: memory.reboots,
            };
            let worth = done.resets > 0 || done.gave_up.is_some() || done.boots.is_some();
            if worth && self.done.get(&row.id) != Some(&done) {
                self.done.insert(row.id.clone(), done);
                changed = true;
            }
        }
        changed
    }

    fn trusts(&self, answer: &SyncAnswer) -> bool {
        let same_cloud =
            answer.cloud.is_some() && (self.cloud.is_none() || self.cloud == answer.cloud);
        let oldest = answer.oldest();
        let newer = oldest.is_some_and(|oldest| oldest >= self.generation())
            || planted(Bug::StaleGenerationAccepted);
        same_cloud && newer
    }

    /// The newest state of the store that any part was derived from.
    pub fn generation(&self) -> u64 {
        (self.instances.generation)
            .max(self.network.generation)
            .max(self.neighbours.generation)
            .max(self.images.generation)
            .max(self.volumes.generation)
    }

    /// For [`Report::told`].
    pub fn told(&self) -> u64 {
        self.instances.generation.max(self.volumes.generation)
    }

    /// `generation:hash` of each part, for the next poll.
    pub fn have(&self) -> Have {
        fn name<T>(part: &Versioned<T>) -> String {
            format!("{}:{}", part.generation, part.hash)
        }
        Have {
            parts: [
                name(&self.instances),
                name(&self.network),
                name(&self.images),
                name(&self.volumes),
            ],
            neighbours: Some(name(&self.neighbours)),
        }
    }

    /// What is wanted; `None` before every part has arrived once. Acting on nothing would end every
    /// guest of a host whose file was lost.
    pub fn wanted(&self) -> Option<Wanted> {
        let told = !self.instances.hash.is_empty()
            && !self.network.hash.is_empty()
            && !self.images.hash.is_empty()
            && !self.volumes.hash.is_empty();
        told.then(|| Wanted {
            instances: self.instances.body.clone(),
            network: with_neighbours(&self.network.body, &self.neighbours.body),
            images: self.images.body.clone(),
            volumes: self.volumes.body.clone(),
        })
    }
}

fn replace<T>(part: &mut Versioned<T>, new: Option<Versioned<T>>) -> bool {
    match new {
        Some(new) if new.generation != part.generation || new.hash != part.hash => {
            *part = new;
            true
        }
        Some(_) | None => false,
    }
}

/// The agent's side of a session: numbers its messages and knows whether a report is due.
#[derive(Clone, Debug)]
pub struct Outbox {
    host: HostId,
    /// The version that is spoken in this session.
    pub(super) v: u32,
    session: u32,
    seq: u64,
    /// The last report that was sent, without its steps, and its number. A report that is under way
    /// may still be taken, so only the answer to the last one settles what the controller knows.
    sent: Option<(u64, Report)>,
    settled: bool,
    /// A report of this session was taken.
    introduced: bool,
    /// What the last poll that was answered with nothing said of what the host has.
    known: Option<Have>,
}

impl Outbox {
    /// `session` is random: no two processes of an agent share one.
    pub fn new(host: HostId, session: u32) -> Self {
        Self {
            host,
            v: PROTOCOL,
            session,
            seq: 0,
            sent: None,
            settled: false,
            introduced: false,
            known: None,
        }
    }

    /// That of an agent of an older version.
    pub fn of_version(host: HostId, session: u32, v: u32) -> Self {
        Self {
            v,
            ..Self::new(host, session)
        }
    }

    /// The request that carries `report`, or `None` where the controller knows all of it.
    pub fn report(&mut self, report: &Report) -> Option<SyncRequest> {
        let facts = Report {
            steps: Vec::new(),
            ..report.clone()
        };
        let known = self.settled && self.sent.as_ref().is_some_and(|(_, sent)| *sent == facts);
        if known && report.steps.is_empty() {
            return None;
        }
        let request = self.request(None, Some(report.clone()));
        self.sent = Some((request.seq, facts));
        self.settled = false;
        Some(request)
    }

    /// The request that waits for something new; `None` until the controller has taken a report of this
    /// session. A poll that got there first would end the session, and the next one in the same way.
    pub fn poll(&mut self, have: &Have) -> Option<SyncRequest> {
        let news = self.known.as_ref() != Some(have);
        let said = (news || self.v < BRIEF).then(|| have.clone());
        self.introduced.then(|| self.request(said, None))
    }

    /// How the last poll ended, which was of that session and sent by a host that had this: whether it was
    /// answered, and with nothing new.
    pub fn polled(&mut self, session: u32, have: Have, nothing_new: bool) {
        self.known = (nothing_new && session == self.session).then_some(have);
    }

    /// Whether the controller has taken a report of this session.
    pub fn is_introduced(&self) -> bool {
        self.introduced
    }

    /// The controller took the report with this number. True where that was the last one, so its
    /// steps need not be reported again.
    pub fn answered(&mut self, session: u32, seq: u64) -> bool {
        self.introduced |= session == self.session;
        let last = session == self.session && self.sent.as_ref().is_some_and(|(n, _)| *n == seq);
        self.settled |= last;
        last
    }

    /// Begins a new session after a refusal; the next report is due again.
    pub fn renew(&mut self, session: u32) {
        *self = Self::new(self.host.clone(), session);
    }

    /// The controller doesn't understand this version: the next session is one of the version before.
    /// Whether a newer one is understood is tried again when that session ends.
    pub fn fall_back(&mut self, session: u32) {
        let older = OLDEST_PROTOCOL.max(self.v - 1);
        self.renew(session);
        self.v = older;
    }

    pub fn session(&self) -> u32 {
        self.session
    }

    pub(super) fn request(&mut self, have: Option<Have>, report: Option<Report>) -> SyncRequest {
        self.seq += 1;
        // A controller of before wants it also where it means nothing, and has to understand the first
        // message of a session to say so.
        let empty = report.is_some() || self.v < BRIEF;
        let have = have.or_else(|| empty.then(Have::default));
        let (parts, neighbours) = match have {
            Some(have) => (Some(have.parts), have.neighbours),
            None => (None, None),
        };
        SyncRequest {
            v: self.v,
            host: self.host.clone(),
            session: self.session,
            seq: self.seq,
            have: parts,
            neighbours: neighbours.filter(|_| self.v >= NEIGHBOURS),
            report,
        }
    }
}
