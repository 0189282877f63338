//! Streams straight from host to host, over mutual TLS with certificates of the cloud.
//!
//! ```text
//!  who asks               controller                who has it
//!  asks for a stream ───► makes a ticket ─────────► expects it, and listens from then on
//!  ◄── ticket, host, address
//!  TLS to that host's name, the ticket ───────────► opens what it is for
//! ```
//! A ticket is random, good once and for seconds, and known to the two of them only. Where hosts don't
//! reach each other the controller joins the two ends instead.

use crate::client::Controller;
use crate::host::{Host, Stream, join};
use anyhow::{Context, Result, bail, ensure};
use boira_model::wire::{Endpoint, StreamKind, StreamRequest, Ticket};
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

/// What is spoken here, for TLS's ALPN.
pub const PROTOCOL: &[u8] = b"boira-peer/1";
/// Digits of a ticket.
const TICKET: usize = 32;
/// How long a ticket is good.
const GOOD: Duration = Duration::from_secs(20);
/// How long whoever has connected may take until it has shown a ticket that is expected.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// How long another host may take to answer before its stream goes by way of the controller.
const PATIENCE: Duration = Duration::from_secs(4);
const LISTENS_SOON: Duration = Duration::from_millis(20);
/// For how long a host that was not reached isn't tried again.
const UNREACHED: Duration = Duration::from_secs(60);
/// Connections that may be without a ticket at the same time.
const STRANGERS: usize = 32;
/// The answer to a ticket; anything else is a reason against it.
const WELCOME: u8 = b'+';

/// What other hosts come for.
pub struct Peers {
    controller: Arc<Controller>,
    host: Arc<dyn Host>,
    state: Mutex<State>,
    /// A ticket was added.
    added: Notify,
    strangers: Semaphore,
}

#[derive(Default)]
struct State {
    listens: bool,
    expected: HashMap<String, (StreamKind, Instant)>,
}

impl Peers {
    pub fn new(controller: Arc<Controller>, host: Arc<dyn Host>) -> Arc<Self> {
        Arc::new(Self {
            controller,
            host,
            state: Mutex::default(),
            added: Notify::new(),
            strangers: Semaphore::new(STRANGERS),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Another host will come with this request's id as its ticket.
    pub fn expect(self: &Arc<Self>, request: StreamRequest) {
        let mut state = self.state();
        let now = Instant::now();
        state.expected.retain(|_, (_, until)| *until > now);
        state
            .expected
            .insert(request.id, (request.kind, now + GOOD));
        let listens = std::mem::replace(&mut state.listens, true);
        drop(state);
        self.added.notify_waiters();
        if !listens {
            let peers = self.clone();
            tokio::spawn(async move {
                if let Err(error) = peers.listen().await {
                    tracing::warn!("other hosts can't connect to this one: {error:#}");
                    peers.state().listens = false;
                }
            });
        }
    }

    /// Under the number that the network between hosts has for UDP.
    async fn listen(self: &Arc<Self>) -> Result<()> {
        let underlay = self.host.about().underlay;
        let (_, port) = underlay.context("there is no network between hosts")?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await;
        let listener = listener.with_context(|| format!("listen at TCP port {port}"))?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors; it gets better.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let peers = self.clone();
            tokio::spawn(async move {
                if let Err(error) = peers.serve(stream).await {
                    tracing::debug!("another host was not served: {error:#}");
                }
            });
        }
    }

    async fn serve(&self, stream: TcpStream) -> Result<()> {
        let place = self.strangers.try_acquire().context("too many strangers")?;
        let introducing = async {
            prepare(&stream)?;
            let accepted = self.controller.peer_acceptor().accept(stream).await;
            let mut stream = accepted.context("shake hands")?;
            let mut ticket = [0; TICKET];
            stream
                .read_exact(&mut ticket)
                .await
                .context("read a ticket")?;
            let ticket = String::from_utf8_lossy(&ticket).into_owned();
            let kind = self.redeem(&ticket).await;
            Ok::<_, anyhow::Error>((stream, ticket, kind))
        };
        let introduced = tokio::time::timeout(INTRODUCTION, introducing).await;
        let (mut stream, ticket, kind) = introduced.context("wait for a ticket")??;
        drop(place);
        let mut near = match self.host.open(&ticket, &kind).await {
            Ok(near) => near,
            Err(error) => {
                let why = format!("-{error:#}");
                stream
                    .write_all(why.as_bytes())
                    .await
                    .context("say why not")?;
                return stream.shutdown().await.context("close");
            }
        };
        stream.write_all(&[WELCOME]).await.context("answer")?;
        join(&mut near, &mut stream).await;
        Ok(())
    }

    /// What a ticket is for, once it is expected: whoever was told of it first may be early.
    async fn redeem(&self, ticket: &str) -> StreamKind {
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            added.as_mut().enable();
            let found = self.state().expected.remove(ticket);
            if let Some((kind, _)) = found.filter(|(_, until)| *until > Instant::now()) {
                return kind;
            }
            added.await;
        }
    }
}

/// Hosts that were not reached, and until when they are not tried.
#[derive(Default)]
pub struct Unreached(Mutex<HashMap<SocketAddr, Instant>>);

impl Unreached {
    /// Connects to who expects a ticket.
    pub async fn dial(&self, controller: &Controller, ticket: &Ticket) -> Result<Box<dyn Stream>> {
        let address = match ticket.endpoint {
            Endpoint::At(address) => address,
            Endpoint::BesideController(port) => SocketAddr::new(controller.address().ip(), port),
        };
        let until = self.hosts().get(&address).copied();
        ensure!(
            until.is_none_or(|until| until < Instant::now()),
            "{address} was not reached a moment ago"
        );
        let dialled = tokio::time::timeout(PATIENCE, introduce(controller, ticket, address));
        match dialled.await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(Answered::No(why))) => bail!(why),
            Ok(Err(Answered::Not(error))) => {
                self.hosts().insert(address, Instant::now() + UNREACHED);
                Err(error)
            }
            Err(_) => {
                self.hosts().insert(address, Instant::now() + UNREACHED);
                bail!("{address} does not answer")
            }
        }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

enum Answered {
    /// By a reason against the ticket.
    No(String),
    Not(anyhow::Error),
}

impl From<anyhow::Error> for Answered {
    fn from(error: anyhow::Error) -> Self {
        Answered::Not(error)
    }
}

async fn introduce(
    controller: &Controller,
    ticket: &Ticket,
    address: SocketAddr,
) -> Result<Box<dyn Stream>, Answered> {
    let stream = connect(address).await;
    let stream = stream.with_context(|| format!("connect to {address}"))?;
    prepare(&stream)?;
    let name = ServerName::try_from(ticket.host.to_string()).context("name the host")?;
    let connected = controller.peer_connector().connect(name, stream).await;
    let mut stream = connected.with_context(|| format!("shake hands with {address}"))?;
    let sent = stream.write_all(ticket.ticket.as_bytes()).await;
    sent.context("show the ticket")?;
    let mut answer = [0];
    stream
        .read_exact(&mut answer)
        .await
        .context("wait for an answer")?;
    if answer[0] != WELCOME {
        let mut why = String::new();
        let said = (&mut stream).take(4096).read_to_string(&mut why).await;
        said.context("read why not")?;
        return Err(Answered::No(why));
    }
    Ok(Box::new(stream))
}

/// Also to one that doesn't listen yet: it hears of its first ticket at the same time.
async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    loop {
        match TcpStream::connect(address).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                tokio::time::sleep(LISTENS_SOON).await;
            }
            other => return other,
        }
    }
}

/// A peer that is gone without a word is noticed, and small messages aren't held back.
fn prepare(stream: &TcpStream) -> Result<()> {
    crate::real::keep_alive(stream).context("watch the connection")?;
    stream.set_nodelay(true).context("send at once")
}
