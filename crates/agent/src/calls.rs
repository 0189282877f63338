//! Connections from this host into its guests (`boira ssh`, `boira forward`): they go along with a
//! guest that goes to another host while it runs.
//!
//! ```text
//!  source                                    controller                    target
//!  hold: to the caller the stream ends ────► asks for it: it moves
//!        what is still said is kept   ◄───── ends its half too
//!        the socket is put into repair ──── by the guest's channel ──────► take_in
//!        [the guest goes, or stays]
//!  settle, when the guest goes on here, or   asks again where the guest is now
//!        when it has gone; then its copy ──────────────────────────────► settle, resume
//!        is dropped
//! ```
//! A socket in repair says no goodbye when it is closed, so the copy that isn't resumed may just be
//! dropped.

use crate::host::Stream;
use anyhow::{Context as _, Result, bail, ensure};
use boira_model::InstanceId;
use boira_model::wire::MOVES;
use boira_network::repair::{self, SavedTcp};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long the controller may take to end its half of a stream. The guest is halted meanwhile.
const LAST_BYTES: Duration = Duration::from_millis(700);
/// The most that a caller may still have said, and that a guest has.
const BUFFER_BYTES: usize = repair::QUEUE_BYTES;
/// How long a call is kept for whoever comes for it.
const KEPT: Duration = Duration::from_secs(60);
/// Calls that go along with a guest; what is beyond it ends.
pub const CALLS_MAX: usize = 256;

/// A guest's address in its VPC.
pub type Guest = (String, Ipv4Addr);

/// A guest on its way, by the generation that it has on the host that it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    pub instance: InstanceId,
    pub generation: u64,
}

/// A call as it travels to the host that its guest goes to.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedCall {
    pub id: String,
    pub tcp: SavedTcp,
    #[serde(flatten)]
    buffers: Buffers,
}

#[derive(Clone, Default)]
pub struct Calls(Arc<Registry>);

#[derive(Default)]
struct Registry(Mutex<HashMap<String, Known>>);

enum Known {
    Carried(Arc<Mutex<Carried>>),
    Held(Held),
}

/// A call whose guest is on its way, or has just come.
struct Held {
    guest: Guest,
    migration: Migration,
    stream: TcpStream,
    buffers: Buffers,
    /// Whether it is known that the guest goes on here.
    settled: bool,
    until: Instant,
}

/// What has come from one end and was not passed on to the other.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Buffers {
    /// From the guest to the caller.
    #[serde(with = "repair::base64_bytes")]
    heard: Vec<u8>,
    /// From the caller to the guest.
    #[serde(with = "repair::base64_bytes")]
    said: Vec<u8>,
}

struct Carried {
    guest: Guest,
    /// `None` once it was taken away to be held, or given up.
    stream: Option<TcpStream>,
    phase: Phase,
    buffers: Buffers,
    waker: Option<Waker>,
    ended: Arc<Notify>,
}

#[derive(Clone, PartialEq, Eq)]
enum Phase {
    Open,
    /// To the caller it has ended; what the caller still says is kept.
    Ending(Migration),
    /// The caller's half has ended too.
    Ended(Migration),
}

impl Calls {
    /// The stream of a call under this name.
    pub fn carry(&self, id: &str, guest: Guest, stream: TcpStream) -> impl Stream + use<> {
        self.begin(id, guest, stream, Buffers::default())
    }

    fn begin(&self, id: &str, guest: Guest, stream: TcpStream, buffers: Buffers) -> Call {
        let carried = Arc::new(Mutex::new(Carried {
            guest,
            stream: Some(stream),
            phase: Phase::Open,
            buffers,
            waker: None,
            ended: Arc::default(),
        }));
        let known = Known::Carried(carried.clone());
        self.0.calls().insert(id.to_owned(), known);
        Call {
            id: id.to_owned(),
            carried,
            registry: self.0.clone(),
        }
    }

    /// Holds all calls to a guest that is halted and about to go, and answers what the other host has to
    /// know of them. [`Calls::settle`] says afterwards what became of the guest, also where this is
    /// dropped half-way.
    pub async fn hold(&self, guest: &Guest, migration: &Migration) -> Vec<SavedCall> {
        let ending = self.0.end_all(guest, migration);
        let deadline = Instant::now() + LAST_BYTES;
        let mut saved = Vec::new();
        for (id, carried) in ending.into_iter().take(CALLS_MAX) {
            let ended = locked(&carried).ended.clone();
            // One whose caller doesn't end in time ends here.
            let _ = tokio::time::timeout_at(deadline, ended.notified()).await;
            let Some((stream, buffers)) = locked(&carried).take() else {
                continue;
            };
            match repair::save(&stream) {
                Ok(tcp) => {
                    saved.push(SavedCall {
                        id: id.clone(),
                        tcp,
                        buffers: buffers.clone(),
                    });
                    let place = (guest.clone(), migration.clone());
                    self.keep(id, place, stream, buffers);
                }
                Err(error) => {
                    tracing::debug!("a connection stays behind: {error}");
                    give_up(stream);
                }
            }
        }
        saved
    }

    /// A call to a guest that comes here; its socket is in repair.
    ///
    /// # Errors
    /// Where another guest has a call of this name here, or it holds too much.
    pub fn take_in(
        &self,
        guest: Guest,
        migration: &Migration,
        call: SavedCall,
        stream: TcpStream,
    ) -> Result<()> {
        let SavedCall { id, tcp, buffers } = call;
        let buffers = Buffers {
            heard: [buffers.heard, tcp.received].concat(),
            said: [tcp.unsent, buffers.said].concat(),
        };
        let most = 2 * BUFFER_BYTES;
        ensure!(
            buffers.heard.len() <= most && buffers.said.len() <= most,
            "it holds too much"
        );
        ensure!(
            !self.0.calls().contains_key(&id),
            "there is another connection of this name"
        );
        self.keep(id, (guest, migration.clone()), stream, buffers);
        Ok(())
    }

    /// Another attempt to send a guest here has begun: nothing that is left of earlier ones counts.
    pub fn begin_anew(&self, migration: &Migration) {
        self.0.calls().retain(|_, known| match known {
            Known::Held(held) => {
                held.migration.instance != migration.instance
                    || held.migration.generation >= migration.generation
            }
            Known::Carried(_) => true,
        });
    }

    /// What has become of a guest that was on its way: it goes on here, or is gone.
    pub fn settle(&self, instance: &InstanceId, is_here: bool) {
        let mut calls = self.0.calls();
        let ending: Vec<_> = calls
            .iter()
            .filter_map(|(id, known)| match known {
                Known::Carried(carried) => locked(carried)
                    .migration()
                    .filter(|migration| migration.instance == *instance)
                    .map(|migration| (id.clone(), carried.clone(), migration)),
                Known::Held(_) => None,
            })
            .collect();
        if !ending.is_empty() {
            self.drop_old_later(Instant::now() + KEPT);
        }
        for (id, carried, migration) in ending {
            calls.remove(&id);
            let mut carried = locked(&carried);
            // Put into repair or not: resuming one that isn't changes nothing.
            if let Some((stream, buffers)) = carried.take() {
                let place = (carried.guest.clone(), migration);
                calls.insert(id, Known::Held(Held::new(place, stream, buffers)));
            }
        }
        calls.retain(|_, known| match known {
            Known::Held(held) if held.migration.instance == *instance => {
                held.settled = is_here;
                is_here
            }
            Known::Held(_) | Known::Carried(_) => true,
        });
    }

    /// Lets a call go on that is held here.
    ///
    /// # Errors
    /// [`MOVES`] as long as it isn't known whether its guest goes on here; otherwise there is none.
    pub fn resume(&self, id: &str) -> Result<impl Stream + use<>> {
        let held = self.0.claim(id)?;
        repair::resume(&held.stream).context("let the connection go on")?;
        crate::real::keep_alive(&held.stream).context("watch the connection")?;
        held.stream.set_nodelay(true).context("send at once")?;
        Ok(self.begin(id, held.guest, held.stream, held.buffers))
    }

    fn keep(&self, id: String, place: (Guest, Migration), stream: TcpStream, buffers: Buffers) {
        let held = Held::new(place, stream, buffers);
        self.drop_old_later(held.until);
        self.0.calls().insert(id, Known::Held(held));
    }

    fn drop_old_later(&self, until: Instant) {
        let registry = self.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(until + Duration::from_secs(1)).await;
            registry.drop_old();
        });
    }
}

impl Registry {
    fn calls(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Ends the streams of a guest's calls, as their callers see them.
    fn end_all(&self, guest: &Guest, migration: &Migration) -> Vec<(String, Arc<Mutex<Carried>>)> {
        let calls = self.calls();
        let carried = calls.iter().filter_map(|(id, known)| match known {
            Known::Carried(carried) => Some((id.clone(), carried.clone())),
            Known::Held(_) => None,
        });
        let of_guest = carried.filter(|(_, carried)| locked(carried).end(guest, migration));
        of_guest.collect()
    }

    fn claim(&self, id: &str) -> Result<Held> {
        let mut calls = self.calls();
        match calls.remove(id) {
            Some(Known::Held(held)) if held.settled => Ok(held),
            Some(known) => {
                let moves = match &known {
                    Known::Carried(carried) => locked(carried).migration().is_some(),
                    Known::Held(_) => true,
                };
                calls.insert(id.to_owned(), known);
                match moves {
                    true => bail!(MOVES),
                    false => bail!("this connection goes on already"),
                }
            }
            None => bail!("there is no such connection"),
        }
    }

    /// The guest of one that nobody has come for is told, where it is here.
    fn drop_old(&self) {
        let now = Instant::now();
        self.calls().retain(|_, known| match known {
            Known::Held(held) if held.until <= now => {
                if held.settled {
                    // Closed a moment later, with a word.
                    let _ = repair::resume(&held.stream);
                }
                false
            }
            Known::Held(_) | Known::Carried(_) => true,
        });
    }
}

impl Held {
    fn new((guest, migration): (Guest, Migration), stream: TcpStream, buffers: Buffers) -> Self {
        Self {
            guest,
            migration,
            stream,
            buffers,
            settled: false,
            until: Instant::now() + KEPT,
        }
    }
}

fn locked(carried: &Mutex<Carried>) -> MutexGuard<'_, Carried> {
    carried.lock().expect("no holder of this lock panics")
}

/// Whoever is at the other end must not take this for an end of what was said.
fn give_up(stream: TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // One that can't be reset is closed.
    let _ = setsockopt(&stream, sockopt::Linger, &at_once);
}

impl Carried {
    /// Whether it is a call to this guest, which ends now.
    fn end(&mut self, guest: &Guest, migration: &Migration) -> bool {
        let ends = self.guest == *guest && self.phase == Phase::Open && self.stream.is_some();
        if ends {
            self.phase = Phase::Ending(migration.clone());
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
        ends
    }

    /// Its guest's, where that is on its way.
    fn migration(&self) -> Option<Migration> {
        match &self.phase {
            Phase::Open => None,
            Phase::Ending(migration) | Phase::Ended(migration) => Some(migration.clone()),
        }
    }

    /// The connection, if both halves have ended; otherwise it is given up.
    fn take(&mut self) -> Option<(TcpStream, Buffers)> {
        let stream = self.stream.take()?;
        match self.phase {
            Phase::Ended(_) => Some((stream, std::mem::take(&mut self.buffers))),
            Phase::Open | Phase::Ending(_) => {
                give_up(stream);
                None
            }
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let stream = self.stream.as_mut();
        stream
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Says to the guest what was kept for it.
    fn poll_said(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffers.said.is_empty() {
            let said = std::mem::take(&mut self.buffers.said);
            let polled = self
                .stream()
                .map(|stream| stream.poll_write(context, &said));
            self.buffers.said = said;
            let count = ready!(polled?)?;
            self.buffers.said.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

/// A call's stream, in the hands of whoever joins it with the caller's.
struct Call {
    id: String,
    carried: Arc<Mutex<Carried>>,
    registry: Arc<Registry>,
}

impl AsyncRead for Call {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut carried = locked(&self.carried);
        if carried.phase != Phase::Open {
            return Poll::Ready(Ok(()));
        }
        carried.waker = Some(context.waker().clone());
        // What was kept goes on also where the caller says nothing more.
        if let Poll::Ready(Err(error)) = carried.poll_said(context) {
            return Poll::Ready(Err(error));
        }
        let heard = &mut carried.buffers.heard;
        if !heard.is_empty() {
            let count = heard.len().min(buffer.remaining());
            buffer.put_slice(&heard[..count]);
            heard.drain(..count);
            return Poll::Ready(Ok(()));
        }
        carried.stream()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Call {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut carried = locked(&self.carried);
        if carried.phase != Phase::Open {
            // One that was given up takes nothing more.
            carried.stream()?;
            if carried.buffers.said.len() + bytes.len() > BUFFER_BYTES {
                return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
            }
            carried.buffers.said.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        carried.waker = Some(context.waker().clone());
        ready!(carried.poll_said(context))?;
        carried.stream()?.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut carried = locked(&self.carried);
        match carried.phase {
            Phase::Open => carried.poll_said(context),
            Phase::Ending(_) | Phase::Ended(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut carried = locked(&self.carried);
        if let Some(migration) = carried.migration() {
            carried.phase = Phase::Ended(migration);
            carried.ended.notify_one();
            return Poll::Ready(Ok(()));
        }
        ready!(carried.poll_said(context))?;
        carried.stream()?.poll_shutdown(context)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut carried = locked(&self.carried);
        match carried.phase {
            // It ended by itself.
            Phase::Open => {
                carried.stream = None;
                drop(carried);
                let mut calls = self.registry.calls();
                let is_this = |known: &Known| match known {
                    Known::Carried(other) => Arc::ptr_eq(other, &self.carried),
                    Known::Held(_) => false,
                };
                if calls.get(&self.id).is_some_and(is_this) {
                    calls.remove(&self.id);
                }
            }
            // The caller was cut off in the middle of it.
            Phase::Ending(_) => {
                drop(carried.take());
                carried.ended.notify_one();
            }
            Phase::Ended(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
