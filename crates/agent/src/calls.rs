//! Connections from this host into its guests (`boira ssh`, `boira forward`): they go along with a
//! guest that goes to another host while it runs.
//!
//! ```text
//!  source                                    controller                    target
//!  hold: to the caller the stream ends ────► ends its half too
//!        what was still said is kept,
//!        the socket is put into repair ──── by the guest's channel ──────► take_in
//!        [the guest goes, or stays]
//!  settle: gone, so its copy is dropped      asks for the call again ────► resume
//!          or it stayed, and is resumed here
//! ```
//! A socket in repair is silent, so it doesn't matter which of the two copies is dropped.

use crate::host::Stream;
use anyhow::{Context as _, Result, bail};
use boira_model::wire::GONE;
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
/// The most that a caller may still have said.
const SAID_BYTES: usize = 8 << 20;
/// How long a call is kept for whoever comes for it.
const KEPT: Duration = Duration::from_secs(60);

/// A guest's address in its VPC.
pub type Guest = (String, Ipv4Addr);

/// A call as it travels to the host that its guest goes to.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedCall {
    pub id: String,
    pub tcp: SavedTcp,
    /// What the guest has said and the caller was not told.
    heard: String,
    /// What the caller has said and the guest was not told.
    said: String,
}

#[derive(Clone, Default)]
pub struct Calls(Arc<Registry>);

#[derive(Default)]
struct Registry {
    calls: Mutex<HashMap<String, Known>>,
    /// One of them was held, settled or dropped.
    changed: Notify,
}

enum Known {
    Carried(Arc<Mutex<Carried>>),
    Held(Held),
    /// The guest has gone, and the call with it.
    Gone {
        until: Instant,
    },
}

struct Held {
    guest: Guest,
    stream: TcpStream,
    buffers: Buffers,
    /// Whether it is known that the guest is here.
    settled: bool,
    until: Instant,
}

#[derive(Default)]
struct Buffers {
    /// From the guest to the caller.
    heard: Vec<u8>,
    /// From the caller to the guest.
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// To the caller it has ended; what the caller still says is kept.
    Ending,
    /// The caller's half has ended too.
    Ended,
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
    /// know of them. [`Calls::settle`] says afterwards what became of the guest.
    pub async fn hold(&self, guest: &Guest) -> Vec<SavedCall> {
        let ending = self.0.end_all(guest);
        let deadline = Instant::now() + LAST_BYTES;
        let mut saved = Vec::new();
        for (id, carried) in ending {
            let ended = locked(&carried).ended.clone();
            // One whose caller doesn't end in time stays here, and ends.
            let _ = tokio::time::timeout_at(deadline, ended.notified()).await;
            let Some((stream, buffers)) = take(&carried) else {
                continue;
            };
            match repair::save(&stream) {
                Ok(tcp) => {
                    saved.push(SavedCall::new(&id, tcp, &buffers));
                    self.keep(id, (guest.clone(), stream), buffers, false);
                }
                Err(error) => tracing::debug!("a connection stays behind: {error}"),
            }
        }
        saved
    }

    /// A call to a guest that comes here; its socket is in repair.
    pub fn take_in(&self, guest: Guest, call: SavedCall, stream: TcpStream) -> Result<()> {
        let SavedCall { id, tcp, .. } = &call;
        let buffers = Buffers {
            heard: [decode(&call.heard)?, tcp.received.clone()].concat(),
            said: [tcp.unsent.clone(), decode(&call.said)?].concat(),
        };
        self.keep(id.clone(), (guest, stream), buffers, true);
        Ok(())
    }

    /// What became of a guest whose calls are held.
    pub fn settle(&self, guest: &Guest, is_here: bool) {
        self.0.calls().retain(|_, known| match known {
            Known::Held(held) if held.guest == *guest => {
                held.settled = is_here;
                if !is_here {
                    *known = Known::Gone { until: held.until };
                }
                true
            }
            Known::Carried(carried) => {
                let carried = locked(carried);
                carried.guest != *guest || carried.phase == Phase::Open
            }
            Known::Held(_) | Known::Gone { .. } => true,
        });
        self.0.changed.notify_waiters();
    }

    /// Lets a call go on that is held here, once its guest is known to be here.
    ///
    /// # Errors
    /// Where there is none, or its guest has gone.
    pub async fn resume(&self, id: &str) -> Result<impl Stream + use<>> {
        let held = loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(held) = self.0.claim(id)? {
                break held;
            }
            changed.await;
        };
        repair::resume(&held.stream).context("let the connection go on")?;
        crate::real::keep_alive(&held.stream).context("watch the connection")?;
        held.stream.set_nodelay(true).context("send at once")?;
        Ok(self.begin(id, held.guest, held.stream, held.buffers))
    }

    fn keep(
        &self,
        id: String,
        (guest, stream): (Guest, TcpStream),
        buffers: Buffers,
        settled: bool,
    ) {
        let until = Instant::now() + KEPT;
        let held = Held {
            guest,
            stream,
            buffers,
            settled,
            until,
        };
        self.0.calls().insert(id, Known::Held(held));
        let registry = self.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            registry.drop_old();
        });
    }
}

impl Registry {
    fn calls(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.calls.lock().expect("no holder of this lock panics")
    }

    /// Ends the streams of a guest's calls, as their callers see them.
    fn end_all(&self, guest: &Guest) -> Vec<(String, Arc<Mutex<Carried>>)> {
        let calls = self.calls();
        let carried = calls.iter().filter_map(|(id, known)| match known {
            Known::Carried(carried) => Some((id.clone(), carried.clone())),
            Known::Held(_) | Known::Gone { .. } => None,
        });
        let of_guest = carried.filter(|(_, carried)| locked(carried).end(guest));
        of_guest.collect()
    }

    /// The held call of this name; `None` where it isn't settled yet.
    fn claim(&self, id: &str) -> Result<Option<Held>> {
        let mut calls = self.calls();
        match calls.get(id) {
            Some(Known::Carried(carried)) if locked(carried).phase != Phase::Open => Ok(None),
            Some(Known::Held(held)) if !held.settled => Ok(None),
            Some(Known::Held(_)) => match calls.remove(id) {
                Some(Known::Held(held)) => Ok(Some(held)),
                _ => unreachable!("it was there under the same lock"),
            },
            Some(Known::Carried(_)) => bail!("this connection goes on already"),
            Some(Known::Gone { .. }) => bail!(GONE),
            None => bail!("there is no such connection"),
        }
    }

    fn drop_old(&self) {
        let now = Instant::now();
        let is_good = |known: &Known| match known {
            Known::Held(Held { until, .. }) | Known::Gone { until } => *until > now,
            Known::Carried(_) => true,
        };
        self.calls().retain(|_, known| is_good(known));
        self.changed.notify_waiters();
    }
}

impl SavedCall {
    fn new(id: &str, tcp: SavedTcp, buffers: &Buffers) -> Self {
        use base64::Engine as _;
        let encode = |bytes| base64::engine::general_purpose::STANDARD.encode(bytes);
        Self {
            id: id.to_owned(),
            tcp,
            heard: encode(&buffers.heard),
            said: encode(&buffers.said),
        }
    }
}

fn decode(text: &str) -> Result<Vec<u8>> {
    use base64::Engine as _;
    let decoded = base64::engine::general_purpose::STANDARD.decode(text);
    decoded.context("read what was said")
}

fn locked(carried: &Mutex<Carried>) -> MutexGuard<'_, Carried> {
    carried.lock().expect("no holder of this lock panics")
}

/// The connection of a call whose both halves have ended; otherwise it is given up.
fn take(carried: &Mutex<Carried>) -> Option<(TcpStream, Buffers)> {
    let mut carried = locked(carried);
    let stream = carried.stream.take()?;
    let buffers = std::mem::take(&mut carried.buffers);
    (carried.phase == Phase::Ended).then_some((stream, buffers))
}

impl Carried {
    /// Whether it is a call to this guest, which ends now.
    fn end(&mut self, guest: &Guest) -> bool {
        let ends = self.guest == *guest && self.phase == Phase::Open && self.stream.is_some();
        if ends {
            self.phase = Phase::Ending;
            self.wake();
        }
        ends
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Says to the guest what was kept for it.
    fn poll_said(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let said = &mut self.buffers.said;
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        while !said.is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(context, said))?;
            said.drain(..count);
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
        let stream = carried.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Pin::new(stream).poll_read(context, buffer)
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
            if carried.buffers.said.len() + bytes.len() > SAID_BYTES {
                return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
            }
            carried.buffers.said.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        carried.waker = Some(context.waker().clone());
        ready!(carried.poll_said(context))?;
        let stream = carried.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Pin::new(stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut carried = locked(&self.carried);
        match carried.phase {
            Phase::Open => carried.poll_said(context),
            Phase::Ending | Phase::Ended => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut carried = locked(&self.carried);
        if carried.phase != Phase::Open {
            carried.phase = Phase::Ended;
            carried.ended.notify_one();
            return Poll::Ready(Ok(()));
        }
        ready!(carried.poll_said(context))?;
        let stream = carried.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Pin::new(stream).poll_shutdown(context)
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
                    Known::Held(_) | Known::Gone { .. } => false,
                };
                if calls.get(&self.id).is_some_and(is_this) {
                    calls.remove(&self.id);
                }
            }
            // The caller was cut off in the middle of it.
            Phase::Ending => {
                carried.stream = None;
                carried.ended.notify_one();
            }
            Phase::Ended => {}
        }
    }
}
