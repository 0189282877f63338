//! One link per host: when it was last heard of, who waits for it, and the streams that people want
//! opened to it. Nothing here is stored; a new controller learns it again from the agents' next polls.

use boira_core::Settings;
use boira_core::sync::{Admit, Inbox};
use boira_model::HostId;
use boira_model::wire::{StreamKind, StreamRequest, SyncRequest};
use boira_store::Listener;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// A connection that an agent opened for somebody and that is now just bytes.
pub type Stream = TokioIo<hyper::upgrade::Upgraded>;

/// How long a stream may take until its agent has opened it.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

pub struct Link {
    /// Wakes the host's long poll.
    pub wake: Notify,
    facts: Mutex<Facts>,
}

struct Facts {
    seen: Instant,
    /// What the host said last that is wrong with it.
    troubles: Vec<String>,
    told: Option<Told>,
    inbox: Inbox,
    /// Streams that the agent has not opened yet.
    asked: HashMap<String, (StreamRequest, oneshot::Sender<Result<Stream, String>>)>,
}

/// What a host's wanted state was derived from, and what the host then had: as long as both are the
/// same there is nothing to tell, and an idle cloud derives nothing.
#[derive(PartialEq)]
pub struct Told {
    pub revision: u64,
    /// Settings are in no row, so no revision counts their changes.
    pub settings: Arc<Settings>,
    /// Signatures of identity documents that were made so far.
    pub signatures: u64,
    pub have: [String; 4],
}

#[derive(Clone, Default)]
pub struct Links {
    hosts: Arc<Mutex<HashMap<HostId, Arc<Link>>>>,
}

impl Links {
    /// The link of a host. One that was never heard of counts as heard of now: after a start every
    /// host has one grace period.
    pub fn of(&self, host: &HostId) -> Arc<Link> {
        let mut hosts = self.hosts.lock().expect("no holder of this lock panics");
        hosts
            .entry(host.clone())
            .or_insert_with(|| Arc::new(Link::new()))
            .clone()
    }

    /// Asks the host's agent for a stream and waits until it is there.
    pub async fn open(&self, host: &HostId, kind: StreamKind) -> Result<Stream, String> {
        let link = self.of(host);
        let id = format!("{:032x}", rand::random::<u128>());
        let (sender, receiver) = oneshot::channel();
        let request = StreamRequest {
            id: id.clone(),
            kind,
        };
        link.facts().asked.insert(id.clone(), (request, sender));
        link.wake.notify_one();
        let outcome = tokio::time::timeout(OPEN_DEADLINE, receiver).await;
        link.facts().asked.remove(&id);
        match outcome {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => Err("the host's agent went away".into()),
            Err(_) => Err(format!(
                "the host's agent did not open the stream within {} s",
                OPEN_DEADLINE.as_secs()
            )),
        }
    }
}

impl Listener for Links {
    fn hosts_changed(&self, changed: &[HostId]) {
        let hosts = self.hosts.lock().expect("no holder of this lock panics");
        for link in changed.iter().filter_map(|host| hosts.get(host)) {
            link.wake.notify_one();
        }
    }
}

impl Link {
    fn new() -> Self {
        Self {
            wake: Notify::new(),
            facts: Mutex::new(Facts {
                seen: Instant::now(),
                troubles: Vec::new(),
                told: None,
                inbox: Inbox::default(),
                asked: HashMap::new(),
            }),
        }
    }

    /// Notes a message of the host and judges whether it counts.
    pub fn admit(&self, request: &SyncRequest) -> Admit {
        let mut facts = self.facts();
        facts.seen = Instant::now();
        let verdict = facts.inbox.admit(request);
        if let (Admit::Fresh, Some(report)) = (verdict, &request.report) {
            facts.troubles.clone_from(&report.troubles);
        }
        verdict
    }

    /// What the host said last that is wrong with it, in words.
    pub fn troubles(&self) -> Vec<String> {
        self.facts().troubles.clone()
    }

    /// Whether the host has all that could be derived.
    pub fn knows(&self, told: &Told) -> bool {
        self.facts().told.as_ref() == Some(told)
    }

    pub fn note_told(&self, told: Told) {
        self.facts().told = Some(told);
    }

    pub fn silence(&self) -> Duration {
        self.facts().seen.elapsed()
    }

    /// Streams to open; they are repeated until the agent opens them or nobody waits any more.
    pub fn streams(&self) -> Vec<StreamRequest> {
        self.facts()
            .asked
            .values()
            .map(|(request, _)| request.clone())
            .collect()
    }

    /// Whoever waits for this stream.
    pub fn claim(&self, id: &str) -> Option<oneshot::Sender<Result<Stream, String>>> {
        self.facts().asked.remove(id).map(|(_, sender)| sender)
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().expect("no holder of this lock panics")
    }
}
