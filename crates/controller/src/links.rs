//! One link per host: when it was last heard of, who waits for it, and the streams that people want
//! opened to it. Nothing here is stored; a new controller learns it again from the agents' next polls.

use boira_core::State;
use boira_core::fence::Watch;
use boira_core::sync::{Admit, Have, Inbox, Told};
use boira_model::wire::{Arriving, Leaving, StreamKind, StreamRequest, SyncRequest};
use boira_model::{HostId, InstanceId};
use boira_store::Listener;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot, watch};

/// A connection that an agent opened for somebody and that is now just bytes.
pub type Stream = UntilRevoked<TokioIo<Upgraded>>;

/// How long a stream may take until its agent has opened it.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// How long another host may come for a stream that it was sent for.
const TICKET: Duration = Duration::from_secs(20);

pub struct Link {
    /// Wakes the host's long poll.
    pub wake: Notify,
    facts: Mutex<Facts>,
}

struct Facts {
    watch: Watch,
    /// What the host said last that is wrong with it.
    troubles: Vec<String>,
    /// How far the disks have got that it said last to be on their way to it.
    arriving: Vec<Arriving>,
    /// How far the guests are that leave it.
    leaving: Vec<Leaving>,
    told: Option<Told>,
    inbox: Inbox,
    /// Streams that another host comes for, of which the agent was not told yet.
    tickets: Vec<(Instant, StreamRequest)>,
    /// Streams that the agent has not opened yet.
    asked: HashMap<String, (StreamRequest, oneshot::Sender<Result<Stream, String>>)>,
}

/// Keys that were revoked while this controller ran: who has shown one before is still connected.
#[derive(Clone, Default)]
pub struct Revoked(Arc<watch::Sender<BTreeSet<String>>>);

impl Revoked {
    fn add(&self, key: &str) {
        self.0.send_modify(|keys| {
            keys.insert(key.to_owned());
        });
    }

    fn remove(&self, key: &str) {
        self.0.send_modify(|keys| {
            keys.remove(key);
        });
    }

    /// Returns when this key is one of them.
    async fn includes(&self, key: &str) {
        // The sender is `self`, so waiting can't fail.
        let _ = self.0.subscribe().wait_for(|keys| keys.contains(key)).await;
    }

    /// Returns when this key becomes one of them. Who comes with one that is revoked already isn't cut:
    /// it is told so.
    pub async fn adds(&self, key: &str) {
        let mut keys = self.0.subscribe();
        if keys.borrow_and_update().contains(key) {
            return std::future::pending().await;
        }
        // The sender is `self`, so waiting can't fail.
        let _ = keys.wait_for(|keys| keys.contains(key)).await;
    }
}

/// A stream that fails as soon as the key of its host is revoked.
pub struct UntilRevoked<S> {
    stream: S,
    /// `None` once it was.
    revoked: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> UntilRevoked<S> {
    fn check(&mut self, context: &mut Context<'_>) -> std::io::Result<()> {
        if let Some(revoked) = &mut self.revoked {
            if revoked.as_mut().poll(context).is_pending() {
                return Ok(());
            }
            self.revoked = None;
        }
        Err(std::io::Error::new(
            std::io::ErrorKind::ConnectionAborted,
            "the host was cut off",
        ))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for UntilRevoked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for UntilRevoked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[derive(Clone, Default)]
pub struct Links {
    hosts: Arc<Mutex<HashMap<HostId, Arc<Link>>>>,
    revoked: Revoked,
    changed: Arc<Notify>,
}

impl Links {
    /// Links of all hosts of a cloud whose controller begins. Each counts as heard of now: after a start
    /// every host has one grace period, and leases that an earlier controller gave are waited out.
    pub fn begin(&self, state: &State) {
        let mut hosts = self.hosts.lock().expect("no holder of this lock panics");
        for row in state.hosts.values() {
            let link = Arc::new(Link::new(row.fence_ms));
            hosts.insert(row.id.clone(), link);
        }
    }

    /// The link of a host. A new one counts as heard of now.
    pub fn of(&self, host: &HostId) -> Arc<Link> {
        let mut hosts = self.hosts.lock().expect("no holder of this lock panics");
        hosts
            .entry(host.clone())
            .or_insert_with(|| Arc::new(Link::new(0)))
            .clone()
    }

    /// Ends every connection of a host and what is asked of it; it has lost its key.
    pub fn cut(&self, host: &HostId, key: &str) {
        self.revoked.add(key);
        let link = self.of(host);
        link.facts().asked.clear();
        link.facts().tickets.clear();
        link.wake.notify_one();
    }

    /// A host has this key now, perhaps again.
    pub fn admit_key(&self, key: &str) {
        self.revoked.remove(key);
    }

    pub fn revoked(&self) -> Revoked {
        self.revoked.clone()
    }

    /// Something changes that a host is told.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// A stream of the host with this key.
    pub fn until_revoked(&self, key: &str, stream: Upgraded) -> Stream {
        let (revoked, key) = (self.revoked.clone(), key.to_owned());
        UntilRevoked {
            stream: TokioIo::new(stream),
            revoked: Some(Box::pin(async move { revoked.includes(&key).await })),
        }
    }

    /// Tells a host's agent that another host comes for a stream, and answers what that one has to show.
    pub fn expect(&self, host: &HostId, kind: StreamKind) -> String {
        let link = self.of(host);
        let id = fresh_id();
        let request = StreamRequest {
            id: id.clone(),
            kind,
            direct: true,
        };
        let mut facts = link.facts();
        // Of an agent that doesn't poll: who comes for those has given up.
        facts.tickets.retain(|(since, _)| since.elapsed() < TICKET);
        facts.tickets.push((Instant::now(), request));
        drop(facts);
        link.wake.notify_one();
        id
    }

    /// Asks the host's agent for a stream and waits until it is there.
    pub async fn open(&self, host: &HostId, kind: StreamKind) -> Result<Stream, String> {
        self.open_as(&fresh_id(), host, kind).await
    }

    /// Likewise, under an id that [`fresh_id`] has given.
    pub async fn open_as(
        &self,
        id: &str,
        host: &HostId,
        kind: StreamKind,
    ) -> Result<Stream, String> {
        let link = self.of(host);
        let (sender, receiver) = oneshot::channel();
        let request = StreamRequest {
            id: id.to_owned(),
            kind,
            direct: false,
        };
        let waiting = (request, sender);
        link.facts().asked.insert(id.to_owned(), waiting);
        // Also where whoever asked goes away meanwhile.
        let _asked = Asked { link: &link, id };
        link.wake.notify_one();
        match tokio::time::timeout(OPEN_DEADLINE, receiver).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => Err("the host's agent went away".into()),
            Err(_) => Err(format!(
                "the host's agent did not open the stream within {} s",
                OPEN_DEADLINE.as_secs()
            )),
        }
    }
}

/// A stream that a host is asked to open, until this goes.
struct Asked<'a> {
    link: &'a Link,
    id: &'a str,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.link.facts().asked.remove(self.id);
    }
}

impl Listener for Links {
    fn hosts_changed(&self, changed: &[HostId]) {
        let hosts = self.hosts.lock().expect("no holder of this lock panics");
        for link in changed.iter().filter_map(|host| hosts.get(host)) {
            link.wake.notify_one();
        }
        self.changed.notify_waiters();
    }
}

/// The name of a stream: random, so that nobody guesses it.
pub fn fresh_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Milliseconds since this process first asked.
fn now_ms() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed().as_millis() as u64
}

impl Link {
    fn new(longest_ms: u64) -> Self {
        Self {
            wake: Notify::new(),
            facts: Mutex::new(Facts {
                watch: Watch::new(now_ms(), longest_ms),
                troubles: Vec::new(),
                arriving: Vec::new(),
                leaving: Vec::new(),
                told: None,
                inbox: Inbox::default(),
                tickets: Vec::new(),
                asked: HashMap::new(),
            }),
        }
    }

    /// Notes a message of the host and judges whether it counts. One that comes while it is decided what
    /// becomes of the host's guests has to come again.
    pub fn admit(&self, request: &SyncRequest, fence_ms: u64) -> Admit {
        let mut facts = self.facts();
        if !facts.watch.hear(now_ms(), fence_ms) {
            facts.inbox.refuse(request.session);
            return Admit::Stale;
        }
        let verdict = facts.inbox.admit(request);
        if let (Admit::Fresh, Some(report)) = (verdict, &request.report) {
            facts.troubles.clone_from(&report.troubles);
            facts.arriving.clone_from(&report.arriving);
            facts.leaving.clone_from(&report.leaving);
        }
        verdict
    }

    /// What the host has that sent this poll.
    pub fn have(&self, poll: &SyncRequest) -> Have {
        self.facts().inbox.have(poll)
    }

    /// What the host said last that is wrong with it, in words.
    pub fn troubles(&self) -> Vec<String> {
        self.facts().troubles.clone()
    }

    /// How far the disks have got that are on their way to the host.
    pub fn arriving(&self) -> Vec<Arriving> {
        self.facts().arriving.clone()
    }

    /// How far a guest is that leaves the host.
    pub fn leaving(&self, instance: &InstanceId) -> Option<Leaving> {
        let facts = self.facts();
        let mut leaving = facts.leaving.iter();
        leaving.find(|guest| guest.instance == *instance).cloned()
    }

    /// What the host was told last.
    pub fn told(&self) -> Option<Told> {
        self.facts().told.clone()
    }

    pub fn note_told(&self, told: Option<Told>) {
        self.facts().told = told;
    }

    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.facts().watch.silence_ms(now_ms()))
    }

    /// Looks at what is known of the host's deadline, or changes it, at the time of now.
    pub fn watch<T>(&self, look: impl FnOnce(&mut Watch, u64) -> T) -> T {
        look(&mut self.facts().watch, now_ms())
    }

    /// Streams to open; they are repeated until the agent opens them or nobody waits any more. Those that
    /// another host comes for are said once: where that gets lost, there is another way.
    pub fn streams(&self) -> Vec<StreamRequest> {
        let mut facts = self.facts();
        let tickets = std::mem::take(&mut facts.tickets);
        let asked = facts.asked.values().map(|(request, _)| request.clone());
        let fresh = tickets
            .into_iter()
            .filter(|(since, _)| since.elapsed() < TICKET)
            .map(|(_, request)| request);
        fresh.chain(asked).collect()
    }

    /// Whoever waits for this stream.
    pub fn claim(&self, id: &str) -> Option<oneshot::Sender<Result<Stream, String>>> {
        self.facts().asked.remove(id).map(|(_, sender)| sender)
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().expect("no holder of this lock panics")
    }
}
