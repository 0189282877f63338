//! Listening sockets: accept, TLS where it is due, and HTTP over it with limits that a slow or greedy
//! client can't exceed.

use crate::agents::{PeerAddress, PeerKey};
use crate::links::Revoked;
use crate::patience::{PATIENCE, Patient, Unhurried};
use crate::pki;
use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::middleware::Next;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// Connections that a listener serves at a time at most; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);
/// How long a connection may be without a request.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Version {
    Http1,
    Http2,
    /// The same of a host, to which no date is told: a heartbeat is to be small.
    Hosts,
}

/// What a listener speaks.
#[derive(Clone)]
pub enum Security {
    /// Plain HTTP, for loopback; TLS on the same port for who begins with it.
    PlainOrTls(Arc<rustls::ServerConfig>),
    Tls(Arc<rustls::ServerConfig>),
    /// TLS for hosts, which show a certificate. Who shows none can join and nothing else, and gets few
    /// places.
    Hosts(Arc<rustls::ServerConfig>),
}

/// Connections of the hosts' listener, at a time, whose peer has shown no certificate.
const STRANGERS: usize = 32;
/// Connections of one address that have not shown yet who they are, at a time: nobody keeps others out by
/// connecting and saying nothing.
const UNKNOWN: usize = 64;
/// How long such a connection may last: the program is fetched over it, 30 MB.
const STRANGER: Duration = Duration::from_secs(600);

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, security: Security, router: Router, revoked: Revoked) {
    let places = Arc::new(Semaphore::new(places()));
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    let unknown = Unknown::default();
    loop {
        let place = places
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: wait for one to be closed instead of spinning.
                tracing::warn!("accept failed: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true).and(keep_alive(&stream));
        let (security, router, revoked) = (security.clone(), router.clone(), revoked.clone());
        let (strangers, unknown) = (strangers.clone(), unknown.clone());
        tokio::spawn(async move {
            connection(stream, security, router, revoked, (&strangers, &unknown)).await;
            drop(place);
        });
    }
}

/// The peer of a connection that is silent for long may be gone without a word.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &60)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &15)?;
    setsockopt(stream, sockopt::TcpKeepCount, &4)?;
    Ok(())
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub address: IpAddr,
    /// TLS's version, `1.2` or `1.3`, where it is spoken.
    pub tls: Option<&'static str>,
}

async fn connection(
    stream: TcpStream,
    security: Security,
    router: Router,
    revoked: Revoked,
    (strangers, unknown): (&Semaphore, &Unknown),
) {
    let Ok(address) = stream.peer_addr() else {
        return;
    };
    let address = address.ip().to_canonical();
    let client = |tls| axum::Extension(Client { address, tls });
    let for_hosts = matches!(security, Security::Hosts(_));
    let config = match security {
        Security::Tls(config) | Security::Hosts(config) => config,
        Security::PlainOrTls(config) => match begins_with_tls(&stream).await {
            Some(true) => config,
            Some(false) => return http(stream, Version::Http1, router.layer(client(None))).await,
            None => return,
        },
    };
    let guard = unknown.comes_from(address);
    if for_hosts && guard.count > UNKNOWN {
        tracing::debug!("too many connections of {address} that say nothing");
        return;
    }
    let accepted = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
    drop(guard);
    let Ok(Ok(stream)) = accepted else {
        tracing::debug!("a TLS handshake failed");
        return;
    };
    let router = router.layer(client(Some(match stream.get_ref().1.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
        Some(_) | None => "1.3",
    })));
    let peer = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| pki::key_of(chain.first()?));
    let version = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Version::Http2,
        Some(_) | None => Version::Http1,
    };
    let key = match peer {
        Some(key) => key,
        None if for_hosts => {
            let Ok(_place) = strangers.try_acquire() else {
                tracing::debug!("too many strangers at a time");
                return;
            };
            let _ = tokio::time::timeout(STRANGER, http(stream, version, router)).await;
            return;
        }
        None => return http(stream, version, router).await,
    };
    let version = match version {
        Version::Http2 => Version::Hosts,
        other => other,
    };
    let router = router
        .layer(axum::Extension(PeerKey(key.clone())))
        .layer(axum::Extension(PeerAddress(address)));
    tokio::select! {
        () = http(stream, version, router) => {}
        () = revoked.adds(&key) => tracing::info!("a connection of a revoked host was cut"),
    }
}

/// How many connections of each address have not shown yet who they are.
#[derive(Clone, Default)]
struct Unknown(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// Counts as long as it is kept.
struct Counted {
    all: Unknown,
    address: IpAddr,
    /// With this one.
    count: usize,
}

impl Unknown {
    fn comes_from(&self, address: IpAddr) -> Counted {
        let mut counts = self.counts();
        let count = counts.entry(address).or_default();
        *count += 1;
        Counted {
            all: self.clone(),
            address,
            count: *count,
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        if let Entry::Occupied(mut count) = counts.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Looks at the first byte without taking it: 0x16 opens a TLS handshake (RFC 8446, 5.1).
async fn begins_with_tls(stream: &TcpStream) -> Option<bool> {
    let mut first = [0];
    let peeked = tokio::time::timeout(HEADERS, stream.peek(&mut first)).await;
    match peeked {
        Ok(Ok(1)) => Some(first[0] == 0x16),
        _ => None,
    }
}

/// HTTP of a version that is known: looking for HTTP/2's preface would wait for it without end.
async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    version: Version,
    router: Router,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        // Who has said all may say so (RFC 9112, 9.6), and waits for the answer.
        .half_close(true)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADERS)
        .keep_alive_timeout(HANDSHAKE)
        .auto_date_header(!matches!(version, Version::Hosts))
        .max_concurrent_streams(256);
    let builder = match version {
        Version::Http1 => builder.http1_only(),
        Version::Http2 | Version::Hosts => builder.http2_only(),
    };
    let activity = Arc::new(Activity::new());
    let noting = activity.clone();
    let unhurried = Unhurried::default();
    let stream = Patient::new(stream, PATIENCE, unhurried.clone());
    let router = router.layer(axum::middleware::from_fn(move |request, next: Next| {
        let request_in_work = noting.clone().begin();
        let unhurried = unhurried.clone();
        async move {
            let response = next.run(request).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                unhurried.set();
            }
            response.map(|body| {
                Body::new(Sent {
                    body,
                    _until: request_in_work,
                })
            })
        }
    }));
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = activity.idle() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(HANDSHAKE, connection).await {
                Ok(outcome) => outcome,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!("a connection ended: {error}");
    }
}

/// What a connection's requests do, to end one that has none.
struct Activity {
    /// Requests in work.
    count: watch::Sender<usize>,
}

struct InWork(Arc<Activity>);

/// A body whose request is in work until all of it is sent.
struct Sent {
    body: Body,
    _until: InWork,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Activity {
    fn new() -> Self {
        Self {
            count: watch::Sender::new(0),
        }
    }

    fn begin(self: Arc<Self>) -> InWork {
        self.count.send_modify(|count| *count += 1);
        InWork(self)
    }

    /// Returns when there has been no request for a while.
    async fn idle(&self) {
        let mut count = self.count.subscribe();
        loop {
            // The sender is `self`, so waiting can't fail.
            let _ = count.wait_for(|count| *count == 0).await;
            if tokio::time::timeout(IDLE, count.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.count.send_modify(|count| *count -= 1);
    }
}

/// Lets this process have as many files as it may: each connection is one, each stream two.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

/// Connections that a listener may have: all listeners together leave half of the open files to
/// streams, blobs and the store, so that one that is full doesn't stop another.
fn places() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(files / 4)
        .unwrap_or(CONNECTIONS)
        .clamp(16, CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    fn router() -> Router {
        Router::new()
            .route("/", get(async || "here"))
            .route("/slow", get(async || tokio::time::sleep(10 * IDLE).await))
    }

    /// How long a client that says only this is listened to, and what it hears.
    async fn patience(version: Version, said: &[u8]) -> (Duration, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let served = tokio::spawn(http(server, version, router()));
        let begun = Instant::now();
        client.write_all(said).await.expect("it listens");
        served.await.expect("it doesn't panic");
        let took = begun.elapsed();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.expect("it is closed");
        (took, heard)
    }

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// A frame SETTINGS without any.
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    /// The acknowledgement of such a frame.
    const SETTINGS_SEEN: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_half_a_request_is_thrown_out() {
        let first: [&[u8]; 5] = [b"", b"P", b"PRI", b"GET / HT", b"GET / HTTP/1.1\r\nhost"];
        let hello = [PREFACE, SETTINGS].concat();
        let second: [&[u8]; 4] = [b"", b"PRI", PREFACE, &hello];
        let first = first.map(|said| (Version::Http1, said));
        let second = second.map(|said| (Version::Http2, said));
        for (version, said) in first.into_iter().chain(second) {
            let (took, _) = patience(version, said).await;
            assert!(took <= IDLE + HANDSHAKE, "{said:?} was heard for {took:?}");
        }
        let (took, _) = patience(Version::Http1, b"GET / HT").await;
        assert_eq!(took, HEADERS);
    }

    #[tokio::test]
    async fn who_has_said_all_and_says_so_is_answered() {
        for _ in 0..200 {
            let (near, mut far) = tokio::io::duplex(4096);
            tokio::spawn(http(near, Version::Http1, router()));
            let asked = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
            far.write_all(asked).await.expect("it reads");
            far.shutdown().await.expect("it may be half closed");
            let mut answer = Vec::new();
            far.read_to_end(&mut answer).await.expect("it ends");
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_pings_and_asks_nothing_is_thrown_out_too() {
        let (client, server) = tokio::io::duplex(64 << 10);
        let served = tokio::spawn(http(server, Version::Http2, router()));
        let (mut reading, mut writing) = tokio::io::split(client);
        let begun = Instant::now();
        let hello = [PREFACE, SETTINGS, SETTINGS_SEEN].concat();
        writing.write_all(&hello).await.expect("it listens");
        let mut head = [0; 9];
        while reading.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut body = vec![0; length as usize];
            reading.read_exact(&mut body).await.expect("a whole frame");
            if head[3] == 6 && head[4] == 0 {
                let pong = [&[0, 0, 8, 6, 1, 0, 0, 0, 0], &body[..]].concat();
                // It may have closed meanwhile.
                let _ = writing.write_all(&pong).await;
            }
        }
        served.await.expect("it doesn't panic");
        assert!(begun.elapsed() <= IDLE + HANDSHAKE, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer_is_not() {
        let ask = b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let (took, heard) = patience(Version::Http1, ask).await;
        assert!(took >= 10 * IDLE, "thrown out after {took:?}");
        assert!(heard.starts_with(b"HTTP/1.1 200"));
    }

    /// A listener as the hosts have it, and TLS as who has no certificate begins it.
    async fn hosts_listener() -> (std::net::SocketAddr, tokio_rustls::TlsConnector) {
        let certified = rcgen::generate_simple_self_signed(["boira".into()]).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key =
            rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .expect("a certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certified.cert.der().clone()).expect("a root");
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let security = Security::Hosts(Arc::new(server));
        tokio::spawn(serve(listener, security, router(), Revoked::default()));
        (address, tokio_rustls::TlsConnector::from(Arc::new(client)))
    }

    #[tokio::test]
    async fn an_address_has_few_connections_that_say_nothing() {
        let (address, _) = hosts_listener().await;
        let silent = || async { TcpStream::connect(address).await.expect("it listens") };
        let mut held = Vec::new();
        for _ in 0..UNKNOWN {
            held.push(silent().await);
        }
        let closed = silent().await.read(&mut [0]).await;
        assert_eq!(closed.expect("it is closed, and not reset"), 0);
        let kept = tokio::time::timeout(Duration::from_millis(100), held[0].read(&mut [0])).await;
        kept.expect_err("who came before has its place");
        held.pop();
        let begun = std::time::Instant::now();
        let mut first = [0];
        let mut next = silent().await;
        while let Ok(read) =
            tokio::time::timeout(Duration::from_millis(50), next.read(&mut first)).await
        {
            assert_eq!(read.ok(), Some(0));
            assert!(begun.elapsed() < HANDSHAKE, "its place isn't free");
            next = silent().await;
        }
    }

    #[tokio::test]
    async fn strangers_share_few_places_and_get_the_next_that_is_free() {
        let (address, tls) = hosts_listener().await;
        let ask = async || {
            let stream = TcpStream::connect(address).await.expect("it listens");
            let name = rustls::pki_types::ServerName::try_from("boira").expect("a name");
            let mut stream = tls.connect(name, stream).await.expect("TLS");
            let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
            let mut first = [0; 12];
            let heard = stream.read_exact(&mut first).await;
            (asked.is_ok() && heard.is_ok()).then_some(stream)
        };
        let mut held = Vec::new();
        for _ in 0..STRANGERS {
            held.push(ask().await.expect("there is a place"));
        }
        assert!(ask().await.is_none(), "no place is left");
        held.pop();
        let begun = std::time::Instant::now();
        while ask().await.is_none() {
            assert!(begun.elapsed() < HANDSHAKE, "its place isn't free");
        }
    }
}
