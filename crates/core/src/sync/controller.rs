//! The controller's side: which message of a host counts, and what there is to tell it.

use super::{Have, digest};
use crate::around::{self, Piece};
use crate::wanted::{self, Notary, Wanted};
use crate::{Settings, State};
use boira_model::HostId;
use boira_model::wire::*;
use serde::Serialize;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

/// Sessions that ended, kept per host so that their late reports are recognised.
const RETIRED: usize = 32;

/// What a message is, judged by its session and sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    Fresh,
    /// A late or repeated report: a later one was taken already. Nothing in it may be believed.
    Stale,
    /// A poll of an agent whose report isn't the last one that was taken, as after a start of the
    /// controller. The agent must begin a new session ([`Outbox::renew`]) and report.
    Unknown,
}

/// The controller's memory of one host's messages. Empty after a start.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    session: Option<u32>,
    seq: u64,
    retired: VecDeque<u32>,
    /// What the host said last in this session that it has, and in which message.
    have: (u64, Have),
}

impl Inbox {
    /// Judges a message and remembers a fresh report. A report that could not be committed
    /// afterwards is sent again under a higher number, so judging it early loses nothing.
    pub fn admit(&mut self, request: &SyncRequest) -> Admit {
        if request.report.is_none() {
            return match self.session == Some(request.session) {
                true => Admit::Fresh,
                false => {
                    self.refuse(request.session);
                    Admit::Unknown
                }
            };
        }
        if self.session == Some(request.session) {
            if request.seq <= self.seq {
                return Admit::Stale;
            }
        } else {
            if self.retired.contains(&request.session) {
                return Admit::Stale;
            }
            if let Some(old) = self.session.replace(request.session) {
                self.retire(old);
            }
            self.have = Default::default();
        }
        self.seq = request.seq;
        Admit::Fresh
    }

    /// What the host has that sent this poll of the session. Without a word about it, it is what it said
    /// last; nothing, and so everything is told, where it never said.
    pub fn have(&mut self, poll: &SyncRequest) -> Have {
        let current = self.session == Some(poll.session);
        let Some(parts) = poll.have.clone() else {
            let known = current && self.have.0 > 0;
            let nothing = Have {
                neighbours: Some(String::new()),
                ..Have::default()
            };
            return if known { self.have.1.clone() } else { nothing };
        };
        let have = Have {
            parts,
            neighbours: poll.neighbours.clone(),
        };
        // Another session may have begun since it was admitted.
        if current && poll.seq > self.have.0 {
            self.have = (poll.seq, have.clone());
        }
        have
    }

    /// The agent is told to begin another session. A report of this one that is still on its way must
    /// not be taken for the first of a new one.
    pub fn refuse(&mut self, session: u32) {
        if self.session == Some(session) {
            self.session = None;
        }
        if !self.retired.contains(&session) {
            self.retire(session);
        }
    }

    fn retire(&mut self, session: u32) {
        self.retired.truncate(RETIRED - 1);
        self.retired.push_front(session);
    }
}

/// What a host's wanted state was derived from, and what came of it. As long as it would be derived from
/// the same and the host has it all there is nothing to tell, and an idle cloud derives nothing.
#[derive(Clone, Debug)]
pub struct Told {
    revision: u64,
    /// Settings are in no row, so no revision counts their changes.
    settings: Arc<Settings>,
    /// Identity documents whose signatures were missing.
    unsigned: Vec<String>,
    hashes: Hashes,
}

impl Told {
    fn is_all(&self, state: &State, host: &HostId, notary: &dyn Notary, have: &Have) -> bool {
        let mut unsigned = self.unsigned.iter();
        self.revision == state.revision(host)
            && self.settings == state.settings
            && (self.unsigned.is_empty() || unsigned.any(|document| notary.is_signing(document)))
            && self.hashes.are(have)
    }
}

/// What there is to tell a host that has these parts. `told` is what it was told
/// last, and `generation` the store's sequence number of this state.
pub fn tell(
    told: &mut Option<Told>,
    (state, generation): (&State, u64),
    host: &HostId,
    (notary, cache): (&dyn Notary, &around::Cache),
    have: &Have,
) -> SyncAnswer {
    if told
        .as_ref()
        .is_some_and(|told| told.is_all(state, host, notary, have))
    {
        return SyncAnswer::default();
    }
    let notary = Noting::new(notary);
    let bare = wanted::bare(state, host, &notary);
    let (wanted, neighbours) = match have.neighbours {
        Some(_) => {
            let pieces = bare.network.iter().map(|vpc| cache.piece(state, vpc));
            let pieces = pieces.collect();
            (bare, Some(pieces))
        }
        None => {
            let network = around::whole(state, &bare.network);
            (Wanted { network, ..bare }, None)
        }
    };
    let hashes = Hashes::of(&wanted, neighbours.as_ref());
    *told = Some(Told {
        revision: state.revision(host),
        settings: state.settings.clone(),
        unsigned: notary.missed.into_inner(),
        hashes: hashes.clone(),
    });
    differing(wanted, neighbours, hashes, generation, have)
}

/// Notes which signatures were missing.
struct Noting<'a> {
    notary: &'a dyn Notary,
    missed: RefCell<Vec<String>>,
}

impl<'a> Noting<'a> {
    fn new(notary: &'a dyn Notary) -> Self {
        let missed = RefCell::default();
        Self { notary, missed }
    }
}

impl Notary for Noting<'_> {
    fn sign(&self, document: &str) -> Option<(String, String)> {
        let signed = self.notary.sign(document);
        if signed.is_none() {
            self.missed.borrow_mut().push(document.to_owned());
        }
        signed
    }

    fn is_signing(&self, document: &str) -> bool {
        self.notary.is_signing(document)
    }
}

/// The parts that differ from what the host has, the neighbours within the networks.
pub fn parts(wanted: Wanted, generation: u64, have: &Have) -> SyncAnswer {
    let hashes = Hashes::of(&wanted, None);
    differing(wanted, None, hashes, generation, have)
}

fn differing(
    wanted: Wanted,
    neighbours: Option<Vec<Piece>>,
    hashes: Hashes,
    generation: u64,
    have: &Have,
) -> SyncAnswer {
    fn part<T>(body: T, generation: u64, hash: String, have: &str) -> Option<Versioned<T>> {
        (!is(&hash, have)).then_some(Versioned {
            generation,
            hash,
            body,
        })
    }
    let [instances, network, images, volumes] = hashes.parts;
    let around = have.neighbours.as_deref().unwrap_or_default();
    let bodies = |pieces: Vec<Piece>| pieces.into_iter().map(|piece| piece.body).collect();
    let neighbours = neighbours.map(bodies).zip(hashes.neighbours);
    SyncAnswer {
        instances: part(wanted.instances, generation, instances, &have.parts[0]),
        network: part(wanted.network, generation, network, &have.parts[1]),
        neighbours: neighbours.and_then(|(body, hash)| part(body, generation, hash, around)),
        images: part(wanted.images, generation, images, &have.parts[2]),
        volumes: part(wanted.volumes, generation, volumes, &have.parts[3]),
        ..SyncAnswer::default()
    }
}

fn is(hash: &str, have: &str) -> bool {
    have.split_once(':').is_some_and(|(_, has)| has == hash)
}

/// Of the parts as a host is told them.
#[derive(Clone, Debug)]
struct Hashes {
    parts: [String; 4],
    neighbours: Option<String>,
}

impl Hashes {
    fn of(wanted: &Wanted, neighbours: Option<&Vec<Piece>>) -> Self {
        let of_all = |pieces: &Vec<Piece>| {
            let all: Vec<&str> = pieces.iter().map(|piece| piece.hash.as_str()).collect();
            digest(all.concat().as_bytes())
        };
        Self {
            parts: [
                hash(&wanted.instances),
                hash(&wanted.network),
                hash(&wanted.images),
                hash(&wanted.volumes),
            ],
            neighbours: neighbours.map(of_all),
        }
    }

    fn are(&self, have: &Have) -> bool {
        let mut parts = self.parts.iter().zip(&have.parts);
        let around = match (&self.neighbours, &have.neighbours) {
            (Some(hash), Some(have)) => is(hash, have),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        around && parts.all(|(hash, have)| is(hash, have))
    }
}

fn hash<T: Serialize>(body: &T) -> String {
    digest(&serde_json::to_vec(body).expect("wire types have string keys only"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Outbox;

    #[test]
    fn retired_sessions_are_remembered_up_to_a_bound() {
        let mut inbox = Inbox::default();
        for session in 0..1000 {
            let mut agent = Outbox::new(HostId::from_entropy(1), session);
            let request = agent.report(&Report::default()).expect("due");
            assert_eq!(inbox.admit(&request), Admit::Fresh);
        }
        assert_eq!(inbox.retired.len(), RETIRED);
        assert_eq!(inbox.retired[0], 998);
    }
}
