//! The rules of `POST /v1/sync`: which message counts, which part travels, which answer is obeyed.
//!
//! ```text
//!  agent                                          controller
//!  Outbox    report (session, seq) ─────────────► Inbox: fresh, or late and refused
//!            poll   (have: generation:hash) ────► tell(): the parts whose hash differs
//!  Accepted  ◄──────────────── parts, one generation
//!            refuses other clouds and older generations; what it took is written down
//! ```
//! Nothing here waits or sends; agent, controller and simulator share it.

use crate::around::{self, Piece, with_neighbours};
use crate::plan::Memory;
use crate::planted::{Bug, planted};
use crate::wanted::{self, Notary, Wanted};
use crate::{Settings, State};
use boira_model::shared::Shared;
use boira_model::wire::*;
use boira_model::{CloudId, HostId, InstanceId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
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

/// Of each part that a host has accepted, `generation:hash`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Have {
    pub parts: [String; 4],
    /// Absent of an agent that is told its neighbours within the networks.
    pub neighbours: Option<String>,
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

/// Whether an answer tells the host nothing, so that it can wait for something to tell.
pub fn is_empty(answer: &SyncAnswer) -> bool {
    answer.instances.is_none()
        && answer.network.is_none()
        && answer.neighbours.is_none()
        && answer.images.is_none()
        && answer.volumes.is_none()
        && answer.streams.is_empty()
}

fn hash<T: Serialize>(body: &T) -> String {
    digest(&serde_json::to_vec(body).expect("wire types have string keys only"))
}

/// The first 8 bytes of the SHA-256, in hex.
pub fn digest(json: &[u8]) -> String {
    let mut text = String::with_capacity(16);
    for byte in &Sha256::digest(json)[..8] {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

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
    v: u32,
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

    fn request(&mut self, have: Option<Have>, report: Option<Report>) -> SyncRequest {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str) -> Report {
        Report {
            name: name.into(),
            ..Report::default()
        }
    }

    fn outbox(session: u32) -> Outbox {
        Outbox::new(HostId::from_entropy(1), session)
    }

    fn blobs(names: &[&str]) -> Wanted {
        Wanted {
            images: names
                .iter()
                .map(|name| WantedBlob {
                    sha256: (*name).into(),
                })
                .collect(),
            ..Wanted::default()
        }
    }

    fn answer(accepted: &Accepted, wanted: Wanted, generation: u64) -> SyncAnswer {
        SyncAnswer {
            cloud: Some(CloudId::from("cloud-1")),
            ..parts(wanted, generation, &accepted.have())
        }
    }

    #[test]
    fn a_late_or_repeated_report_is_stale() {
        let (mut inbox, mut agent) = (Inbox::default(), outbox(7));
        let first = agent.report(&report("a")).expect("a first report is due");
        let second = agent.report(&report("b")).expect("a changed report is due");
        assert_eq!(inbox.admit(&second), Admit::Fresh);
        assert_eq!(inbox.admit(&first), Admit::Stale);
        assert_eq!(inbox.admit(&second), Admit::Stale);
    }

    #[test]
    fn a_report_of_a_session_that_was_replaced_is_stale() {
        let (mut inbox, mut old, mut new) = (Inbox::default(), outbox(7), outbox(8));
        let before = old.report(&report("a")).expect("due");
        let late = old.report(&report("b")).expect("due");
        assert_eq!(inbox.admit(&before), Admit::Fresh);
        assert_eq!(
            inbox.admit(&new.report(&report("c")).expect("due")),
            Admit::Fresh
        );
        assert_eq!(inbox.admit(&late), Admit::Stale);
    }

    #[test]
    fn retired_sessions_are_remembered_up_to_a_bound() {
        let mut inbox = Inbox::default();
        for session in 0..1000 {
            let request = outbox(session).report(&report("a")).expect("due");
            assert_eq!(inbox.admit(&request), Admit::Fresh);
        }
        assert_eq!(inbox.retired.len(), RETIRED);
        assert_eq!(inbox.retired[0], 998);
    }

    #[test]
    fn a_poll_before_any_report_is_unknown() {
        let (mut inbox, mut agent) = (Inbox::default(), outbox(7));
        let late = agent.report(&report("late")).expect("due");
        assert_eq!(inbox.admit(&agent.request(None, None)), Admit::Unknown);
        agent.renew(9);
        assert_eq!(
            inbox.admit(&late),
            Admit::Stale,
            "it was told to begin anew"
        );
        inbox.admit(&agent.report(&report("a")).expect("due"));
        assert_eq!(inbox.admit(&agent.request(None, None)), Admit::Fresh);
        // Another process of the agent was taken since.
        inbox.admit(&outbox(8).report(&report("a")).expect("due"));
        assert_eq!(inbox.admit(&agent.request(None, None)), Admit::Unknown);
    }

    #[test]
    fn nothing_is_polled_before_a_report_of_the_session_was_taken() {
        let mut agent = outbox(7);
        assert_eq!(agent.poll(&Default::default()), None);
        let first = agent.report(&report("a")).expect("due");
        assert_eq!(
            agent.poll(&Default::default()),
            None,
            "it may be on its way for long"
        );
        agent.answered(7, first.seq);
        assert!(agent.poll(&Default::default()).is_some());
        agent.renew(8);
        assert_eq!(agent.poll(&Default::default()), None);
    }

    #[test]
    fn only_parts_that_differ_travel() {
        let mut accepted = Accepted::default();
        let first = answer(&accepted, blobs(&["x"]), 3);
        assert!(first.instances.is_some() && first.images.is_some());
        assert!(accepted.accept(first));
        assert!(is_empty(&answer(&accepted, blobs(&["x"]), 9)));
        let next = answer(&accepted, blobs(&["y"]), 10);
        assert!(next.instances.is_none() && next.volumes.is_none());
        assert_eq!(next.images.as_ref().map(|part| part.generation), Some(10));
        assert!(accepted.accept(next));
        assert_eq!(accepted.wanted(), Some(blobs(&["y"])));
    }

    #[test]
    fn an_older_generation_is_refused_whole() {
        let mut accepted = Accepted::default();
        let late = answer(&accepted, blobs(&["old"]), 3);
        assert_eq!(accepted.is_ahead_of(&late), None);
        assert!(accepted.accept(answer(&accepted, blobs(&["new"]), 4)));
        let why = accepted.is_ahead_of(&late).expect("it is older");
        assert!(why.contains("(3)") && why.contains("(4)"), "{why}");
        assert_eq!(accepted.is_ahead_of(&SyncAnswer::default()), None);
        assert!(!accepted.accept(late));
        assert_eq!(accepted.wanted(), Some(blobs(&["new"])));
    }

    #[test]
    fn another_cloud_is_refused() {
        let mut accepted = Accepted::default();
        accepted.accept(answer(&accepted, blobs(&["ours"]), 3));
        let mut other = answer(&accepted, blobs(&["theirs"]), 4);
        other.cloud = Some(CloudId::from("cloud-2"));
        assert!(!accepted.accept(other.clone()));
        other.cloud = None;
        assert!(!accepted.accept(other));
        assert_eq!(accepted.wanted(), Some(blobs(&["ours"])));
    }

    #[test]
    fn nothing_is_wanted_before_every_part_has_arrived() {
        let mut accepted = Accepted::default();
        assert_eq!(accepted.wanted(), None);
        let mut partial = answer(&accepted, Wanted::default(), 1);
        partial.volumes = None;
        accepted.accept(partial);
        assert_eq!(accepted.wanted(), None);
        accepted.accept(answer(&accepted, Wanted::default(), 1));
        assert_eq!(accepted.wanted(), Some(Wanted::default()));
    }

    #[test]
    fn what_was_accepted_survives_being_written_down() {
        let mut accepted = Accepted::default();
        accepted.accept(answer(&accepted, blobs(&["x"]), 3));
        let text = serde_json::to_string(&accepted).expect("serialises");
        let read: Accepted = serde_json::from_str(&text).expect("reads back");
        assert_eq!(read, accepted);
    }

    #[test]
    fn a_report_is_due_until_the_last_one_sent_was_answered() {
        let mut agent = outbox(7);
        let first = agent.report(&report("a")).expect("due");
        assert!(agent.answered(7, first.seq));
        assert_eq!(agent.report(&report("a")), None);
        let second = agent.report(&report("b")).expect("a change is due");
        // Back to what was answered, but the other report may still be taken.
        let third = agent.report(&report("a")).expect("still due");
        assert!(!agent.answered(7, second.seq));
        assert!(agent.answered(7, third.seq));
        assert_eq!(agent.report(&report("a")), None);
        agent.renew(9);
        assert!(agent.report(&report("a")).is_some());
    }

    #[test]
    fn a_report_is_due_when_the_host_was_told_of_other_instances_or_volumes() {
        let mut agent = outbox(7);
        let before = report("a");
        let sent = agent.report(&before).expect("due");
        assert!(agent.answered(7, sent.seq));
        let after = Report { told: 9, ..before };
        assert!(agent.report(&after).is_some());
    }

    #[test]
    fn an_agent_speaks_the_newest_version_that_the_controller_knows() {
        let mut agent = outbox(7);
        assert_eq!(agent.request(None, None).v, PROTOCOL);
        for version in (OLDEST_PROTOCOL..PROTOCOL).rev() {
            agent.fall_back(8);
            let report = agent.report(&report("a")).expect("it is due again");
            assert_eq!((report.v, report.session), (version, 8));
        }
        agent.fall_back(8);
        assert_eq!(agent.request(None, None).v, OLDEST_PROTOCOL);
        agent.renew(9);
        assert_eq!(agent.request(None, None).v, PROTOCOL);
    }

    #[test]
    fn an_idle_heartbeat_is_below_200_bytes() {
        let mut accepted = Accepted::default();
        accepted.accept(answer(&accepted, blobs(&["x"]), 1_000_000));
        let poll = outbox(u32::MAX).request(Some(accepted.have()), None);
        let bytes = serde_json::to_vec(&poll).expect("serialises").len();
        assert!(bytes < 200, "{bytes} bytes");
        let poll = outbox(u32::MAX).request(None, None);
        let bytes = serde_json::to_vec(&poll).expect("serialises").len();
        assert!(bytes < 80, "{bytes} bytes");
    }

    #[test]
    fn a_report_is_understood_by_controllers_of_before() {
        /// What was read of a message before `v` was looked at, up to version 5.
        #[derive(serde::Deserialize)]
        struct Before {
            v: u32,
            have: [String; 4],
        }
        let report = outbox(7).report(&report("a")).expect("due");
        let text = serde_json::to_vec(&report).expect("serialises");
        let before: Before = serde_json::from_slice(&text).expect("it is read");
        assert_eq!((before.v, before.have), (PROTOCOL, Default::default()));
    }

    #[test]
    fn a_host_says_what_it_has_where_that_may_be_news() {
        let (mut inbox, mut agent) = (Inbox::default(), outbox(7));
        let have = |name: &str| Have {
            parts: [name, "", "", ""].map(str::to_owned),
            neighbours: Some("n".into()),
        };
        let introduce = |inbox: &mut Inbox, agent: &mut Outbox| {
            let report = agent.report(&report("a")).expect("due");
            assert_eq!(inbox.admit(&report), Admit::Fresh);
            agent.answered(report.session, report.seq);
            report
        };
        introduce(&mut inbox, &mut agent);
        let first = agent.poll(&have("1:a")).expect("introduced");
        assert_eq!(inbox.have(&first), have("1:a"));
        // Its answer was lost, or told something.
        agent.polled(7, have("1:a"), false);
        assert!(agent.poll(&have("1:a")).expect("introduced").have.is_some());
        agent.polled(7, have("1:a"), true);
        let brief = agent.poll(&have("1:a")).expect("introduced");
        assert_eq!(
            (brief.have.as_ref(), inbox.have(&brief)),
            (None, have("1:a"))
        );
        let news = agent.poll(&have("2:b")).expect("introduced");
        assert_eq!(inbox.have(&news), have("2:b"));
        agent.polled(7, have("2:b"), true);
        // One that comes late is answered as what it is, and says nothing of now.
        assert_eq!(inbox.have(&first), have("1:a"));
        let brief = agent.poll(&have("2:b")).expect("introduced");
        assert_eq!(inbox.have(&brief), have("2:b"));
        // In another session the controller knows nothing yet, and an answer of the last one is none.
        agent.renew(8);
        agent.polled(7, have("2:b"), true);
        introduce(&mut inbox, &mut agent);
        let late = brief;
        let brief = agent.poll(&have("2:b")).expect("introduced");
        let nothing = Have {
            neighbours: Some(String::new()),
            ..Have::default()
        };
        let brief = SyncRequest {
            have: None,
            neighbours: None,
            ..brief
        };
        assert_eq!(inbox.have(&brief), nothing);
        // Nor does one that was admitted before the session began.
        assert_eq!(inbox.have(&SyncRequest { seq: 99, ..first }), have("1:a"));
        assert_eq!(inbox.have(&late), nothing);
        assert_eq!(inbox.have(&brief), nothing);
        assert!(agent.poll(&have("2:b")).expect("introduced").have.is_some());
        // To a controller of before everything is said.
        while agent.v >= BRIEF {
            agent.fall_back(9);
        }
        let report = introduce(&mut inbox, &mut agent);
        assert_eq!(report.have, Some(<[String; 4]>::default()));
        agent.polled(9, have("2:b"), true);
        assert!(agent.poll(&have("2:b")).expect("introduced").have.is_some());
    }
}
