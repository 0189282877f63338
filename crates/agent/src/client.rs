//! The agent's side of the wire: HTTP/2 over mutual TLS, opened by the agent, so that no worker
//! listens to the controller and hosts behind NAT work.

use crate::host::{PIECE, Stream};
use crate::identity::Identity;
use crate::peers::{self, Unreached};
use anyhow::{Context, Result, bail};
use boira_model::wire::{DIRECT, STREAM_ERROR, SyncAnswer, SyncRequest, Ticket};
use boira_model::{HostId, InstanceId, VolumeId, Wall};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name in the controller's certificate, whatever its address.
const CONTROLLER_NAME: &str = "controller.boira.internal";
const CONNECT: Duration = Duration::from_secs(5);
/// Above the controller's patience with a poll that has nothing to say.
pub const ANSWER: Duration = Duration::from_secs(40);
/// How long a blob may stop in the middle: a line that was cut says nothing about it.
const SILENCE: Duration = Duration::from_secs(30);
/// How long another host may take to send a blob, and at how many bytes a second, before the rest comes from
/// the controller.
const TIME: Duration = Duration::from_secs(60);
const RATE: u64 = 1 << 20;
/// A controller's answer describes one host.
const ANSWER_BYTES: usize = 64 << 20;

/// A certificate as the controller renews it.
#[derive(Deserialize)]
pub struct Certificate {
    pub certificate: String,
    pub renew_after: Wall,
}

/// The controller doesn't speak this version of the protocol.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Outdated(String);

/// The controller as an agent sees it.
pub struct Controller {
    pub host: HostId,
    address: SocketAddr,
    tls: std::sync::RwLock<Tls>,
    connection: Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
    unreached: Unreached,
}

/// How connections are made, with the certificate of now.
#[derive(Clone)]
struct Tls {
    h2: TlsConnector,
    h1: TlsConnector,
    /// To other hosts, and from them.
    peer: TlsConnector,
    peers: Arc<rustls::ServerConfig>,
}

impl Tls {
    fn of(identity: &Identity) -> Result<Self> {
        Ok(Self {
            h2: TlsConnector::from(Arc::new(tls(identity, b"h2")?)),
            h1: TlsConnector::from(Arc::new(tls(identity, b"http/1.1")?)),
            peer: TlsConnector::from(Arc::new(tls(identity, peers::PROTOCOL)?)),
            peers: Arc::new(serving(identity)?),
        })
    }
}

impl Controller {
    pub fn new(identity: &Identity, address: SocketAddr) -> Result<Self> {
        Ok(Self {
            host: identity.host.clone(),
            address,
            tls: std::sync::RwLock::new(Tls::of(identity)?),
            connection: Mutex::new(None),
            unreached: Unreached::default(),
        })
    }

    /// Where the controller serves agents.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of this host that leads to the controller; `None` where no route does. Asks the
    /// kernel and sends nothing.
    pub fn own_address(&self) -> Option<IpAddr> {
        let any: IpAddr = match self.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
        socket.connect(self.address).ok()?;
        Some(socket.local_addr().ok()?.ip())
    }

    fn tls(&self) -> Tls {
        self.tls
            .read()
            .expect("no holder of this lock panics")
            .clone()
    }

    /// For connections to other hosts.
    pub fn peer_connector(&self) -> TlsConnector {
        self.tls().peer
    }

    /// For connections of other hosts.
    pub fn peer_acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.tls().peers)
    }

    /// Connections from now on show this identity's certificate; those that are open go on.
    pub fn show(&self, identity: &Identity) -> Result<()> {
        *self.tls.write().expect("no holder of this lock panics") = Tls::of(identity)?;
        Ok(())
    }

    /// Has this host's key signed again.
    pub async fn renew(&self, identity: &Identity) -> Result<Certificate> {
        let body = serde_json::to_vec(&serde_json::json!({ "request": identity.request }))
            .context("write a renewal")?;
        let request = Request::post("https://controller/v1/certificate")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .context("build a renewal")?;
        match self.exchange(request, ANSWER).await? {
            (StatusCode::OK, body) => {
                serde_json::from_slice(&body).context("parse the controller's answer")
            }
            (other, body) => bail!(
                "the controller answered {other}: {}",
                String::from_utf8_lossy(&body)
            ),
        }
    }

    /// One exchange. `Ok(None)` when the controller wants a new session that begins with a report.
    pub async fn sync(
        &self,
        request: &SyncRequest,
        patience: Duration,
    ) -> Result<Option<SyncAnswer>> {
        let body = serde_json::to_vec(request).context("write a sync request")?;
        let request = Request::post("https://controller/v1/sync")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .context("build a sync request")?;
        let (status, body) = self.exchange(request, patience).await?;
        match status {
            StatusCode::OK => Ok(Some(
                serde_json::from_slice(&body).context("parse the controller's answer")?,
            )),
            StatusCode::CONFLICT => Ok(None),
            StatusCode::UPGRADE_REQUIRED => {
                Err(Outdated(String::from_utf8_lossy(&body).into_owned()).into())
            }
            other => bail!(
                "the controller answered {other}: {}",
                String::from_utf8_lossy(&body)
            ),
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes)> {
        let mut sender = self.sender().await?;
        let answer = tokio::time::timeout(patience, async {
            let answer = sender
                .send_request(request)
                .await
                .context("ask the controller")?;
            let status = answer.status();
            let body = http_body_util::Limited::new(answer.into_body(), ANSWER_BYTES)
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!("read the controller's answer: {error}"))?;
            Ok::<_, anyhow::Error>((status, body.to_bytes()))
        })
        .await
        .map_err(|_| anyhow::anyhow!("the controller did not answer in {patience:?}"))
        .and_then(|outcome| outcome);
        if answer.is_err() {
            *self.connection.lock().await = None;
        }
        answer
    }

    /// Fetches a blob from so many bytes on, or the whole where the controller can only send that. The
    /// reader ends where the blob does.
    pub async fn blob(
        &self,
        sha256: &str,
        from: u64,
    ) -> Result<(impl tokio::io::AsyncRead + Send + Unpin + use<>, u64)> {
        self.get(&format!("/v1/blobs/{sha256}"), from).await
    }

    /// Fetches a blob from so many bytes on from another host that has it, where the controller names one
    /// that answers. Only its digest tells whether it is right, but it is no more than it should be.
    pub async fn blob_of_peer(
        &self,
        sha256: &str,
        from: u64,
    ) -> Option<impl tokio::io::AsyncRead + Send + Unpin + use<>> {
        let path = format!("/v1/blobs/{sha256}/holder?from={from}");
        let (stream, ticket) = self.direct(&path).await?;
        let bytes = ticket.bytes?;
        let pieces = tokio_util::io::ReaderStream::with_capacity(stream, PIECE);
        let time = TIME + Duration::from_secs(bytes / RATE);
        Some(lively(pieces, Some(time)).take(bytes))
    }

    /// Fetches a volume's file from the host that has it.
    pub async fn volume(
        &self,
        file: &VolumeId,
    ) -> Result<Box<dyn tokio::io::AsyncRead + Send + Unpin>> {
        let path = format!("/v1/volumes/{file}");
        match self.direct(&path).await {
            Some((stream, _)) => {
                let pieces = tokio_util::io::ReaderStream::with_capacity(stream, PIECE);
                Ok(Box::new(lively(pieces, None)))
            }
            None => Ok(Box::new(self.get(&path, 0).await?.0)),
        }
    }

    /// The body, and after how many bytes of the whole it begins.
    async fn get(
        &self,
        path: &str,
        from: u64,
    ) -> Result<(impl tokio::io::AsyncRead + Send + Unpin + use<>, u64)> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(self.connect(&self.tls().h1).await?))
                .await
                .context("speak HTTP to the controller")?;
        tokio::spawn(connection);
        let mut request = Request::get(path).header("host", CONTROLLER_NAME);
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let request = request
            .body(Full::<Bytes>::default())
            .context("build a request")?;
        let answer = tokio::time::timeout(ANSWER, sender.send_request(request))
            .await
            .context("wait for the controller")?
            .context("ask the controller")?;
        let begins = match answer.status() {
            StatusCode::PARTIAL_CONTENT => Some(from),
            StatusCode::OK => Some(0),
            _ => None,
        };
        let Some(begins) = begins else {
            return Err(refusal(answer).await);
        };
        let body = http_body_util::BodyDataStream::new(answer.into_body());
        Ok((lively(body, None), begins))
    }

    /// Opens the stream that somebody waits for at the controller.
    pub async fn open_stream(&self, id: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>> {
        self.upgrade(&format!("/v1/streams/{id}")).await
    }

    /// Tells whoever waits why there will be no stream.
    pub async fn refuse_stream(&self, id: &str, why: &str) -> Result<()> {
        let why: String = why
            .chars()
            .filter(|c| c.is_ascii() && !c.is_ascii_control())
            .collect();
        self.ask(&format!("/v1/streams/{id}"), |request| {
            request.header(STREAM_ERROR, why)
        })
        .await
        .map(drop)
    }

    /// Opens a channel to a guest that comes to another host with this generation.
    pub async fn channel(
        &self,
        instance: &InstanceId,
        generation: u64,
        channel: &str,
    ) -> Result<Box<dyn Stream>> {
        let path = format!("/v1/guests/{instance}/{generation}/{channel}");
        match self.direct(&path).await {
            Some((stream, _)) => Ok(stream),
            None => Ok(Box::new(self.upgrade(&path).await?)),
        }
    }

    /// A stream straight from the host that has what this path names, if that host can be reached.
    async fn direct(&self, path: &str) -> Option<(Box<dyn Stream>, Ticket)> {
        let dialled = self.try_direct(path).await;
        dialled
            .inspect_err(|error| tracing::debug!("{path} goes by way of the controller: {error:#}"))
            .ok()
    }

    async fn try_direct(&self, path: &str) -> Result<(Box<dyn Stream>, Ticket)> {
        let asking = self.ask(path, |request| request.header(DIRECT, "1"));
        let answer = tokio::time::timeout(ANSWER, asking)
            .await
            .context("wait for the controller")??;
        if answer.status() != StatusCode::OK {
            return Err(refusal(answer).await);
        }
        let ticket: Ticket = serde_json::from_str(&said(answer).await).context("parse a ticket")?;
        let stream = self.unreached.dial(self, &ticket).await?;
        Ok((stream, ticket))
    }

    async fn upgrade(&self, path: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>> {
        let answer = self
            .ask(path, |request| {
                request
                    .header("connection", "upgrade")
                    .header("upgrade", "boira-stream")
            })
            .await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(answer).await);
        }
        Ok(TokioIo::new(
            hyper::upgrade::on(answer)
                .await
                .context("switch to the stream")?,
        ))
    }

    async fn ask(
        &self,
        path: &str,
        headers: impl FnOnce(hyper::http::request::Builder) -> hyper::http::request::Builder,
    ) -> Result<hyper::Response<hyper::body::Incoming>> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(self.connect(&self.tls().h1).await?))
                .await
                .context("speak HTTP to the controller")?;
        tokio::spawn(connection.with_upgrades());
        let request = Request::get(path).header("host", CONTROLLER_NAME);
        let request = headers(request)
            .body(Full::<Bytes>::default())
            .context("build a stream request")?;
        tokio::time::timeout(ANSWER, sender.send_request(request))
            .await
            .context("the controller doesn't answer")?
            .context("open a stream")
    }

    async fn sender(&self) -> Result<http2::SendRequest<Full<Bytes>>> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = self.connect(&self.tls().h2).await?;
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // A poll is answered after 15 s at the latest, where nothing has fallen silent.
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(stream))
            .await
            .context("speak HTTP/2 to the controller")?;
        tokio::spawn(driver);
        *connection = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self, tls: &TlsConnector) -> Result<TlsStream<TcpStream>> {
        connect(self.address, tls).await
    }
}

async fn connect(address: SocketAddr, tls: &TlsConnector) -> Result<TlsStream<TcpStream>> {
    let open = async {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connect to the controller at {address}"))?;
        stream
            .set_nodelay(true)
            .context("send small messages at once")?;
        crate::real::keep_alive(&stream).context("notice when the controller is gone")?;
        let name = ServerName::try_from(CONTROLLER_NAME).context("name the controller")?;
        tls.connect(name, stream)
            .await
            .context("shake hands with the controller")
    };
    tokio::time::timeout(CONNECT, open)
        .await
        .map_err(|_| anyhow::anyhow!("no connection to {address} in time"))?
}

/// Takes up an invitation: sends `ask` to `/join`, before this host has a certificate, and answers the
/// controller's words.
pub async fn join(address: SocketAddr, authority: &str, ask: &serde_json::Value) -> Result<Bytes> {
    let mut config = trusting(authority)?.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let exchange = async {
        let stream = connect(address, &TlsConnector::from(Arc::new(config))).await?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .context("speak HTTP to the controller")?;
        tokio::spawn(driver);
        let request = Request::post("/join")
            .header("host", CONTROLLER_NAME)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(ask.to_string())))
            .context("build a request")?;
        let answer = sender
            .send_request(request)
            .await
            .context("ask the controller")?;
        let status = answer.status();
        let body = answer.into_body().collect().await.context("read")?;
        Ok::<_, anyhow::Error>((status, body.to_bytes()))
    };
    let (status, body) = tokio::time::timeout(ANSWER, exchange).await.map_err(|_| {
        anyhow::anyhow!("the controller did not answer in {} s", ANSWER.as_secs())
    })??;
    if status == StatusCode::OK {
        return Ok(body);
    }
    let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    match value["error"].as_str() {
        Some(why) => bail!("{why}"),
        None => bail!("the controller answered {status}"),
    }
}

/// What a short answer says.
async fn said(answer: hyper::Response<hyper::body::Incoming>) -> String {
    let body = http_body_util::Limited::new(answer.into_body(), 4096);
    let body = body.collect().await.map(|body| body.to_bytes());
    String::from_utf8_lossy(&body.unwrap_or_default()).into_owned()
}

async fn refusal(answer: hyper::Response<hyper::body::Incoming>) -> anyhow::Error {
    let status = answer.status();
    anyhow::anyhow!("the controller answered {status}: {}", said(answer).await)
}

/// A client that trusts the cloud's CA and nobody else.
fn trusting(
    authority: &str,
) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>> {
    let roots = roots(authority)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?;
    Ok(builder.with_root_certificates(roots))
}

fn roots(authority: &str) -> Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut authority.as_bytes()) {
        roots
            .add(certificate.context("read the cloud's CA")?)
            .context("trust the cloud's CA")?;
    }
    Ok(roots)
}

/// This host's certificate and key.
fn own(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = rustls_pemfile::certs(&mut identity.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("read this host's certificate")?;
    let key = rustls_pemfile::private_key(&mut identity.key.as_bytes())
        .context("read this host's key")?
        .context("this host's identity has no key")?;
    Ok((chain, key))
}

fn tls(identity: &Identity, protocol: &[u8]) -> Result<rustls::ClientConfig> {
    let (chain, key) = own(identity)?;
    let mut config = trusting(&identity.authority)?
        .with_client_auth_cert(chain, key)
        .context("use this host's certificate")?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

/// Serves hosts of the cloud and nobody else.
fn serving(identity: &Identity) -> Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(&identity.authority)?);
    let hosts =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    let (chain, key) = own(identity)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_client_cert_verifier(hosts.build().context("trust the cloud's CA")?)
        .with_single_cert(chain, key)
        .context("use this host's certificate")?;
    config.alpn_protocols = vec![peers::PROTOCOL.to_vec()];
    Ok(config)
}

/// Reads what comes, as long as some keeps coming, and all of it has come in `time` where that is bounded.
fn lively<S>(stream: S, time: Option<Duration>) -> tokio_util::io::StreamReader<Lively<S>, Bytes>
where
    Lively<S>: futures_core::Stream<Item = std::io::Result<Bytes>>,
{
    tokio_util::io::StreamReader::new(Lively {
        stream,
        patience: Box::pin(tokio::time::sleep(SILENCE)),
        time: time.map(|time| Box::pin(tokio::time::sleep(time))),
    })
}

struct Lively<S> {
    stream: S,
    patience: Pin<Box<tokio::time::Sleep>>,
    time: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<S, E> futures_core::Stream for Lively<S>
where
    S: futures_core::Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let time = self.time.as_mut().map(|time| time.as_mut().poll(cx));
        if time.is_some_and(|time| time.is_ready()) {
            return Poll::Ready(Some(Err(timed_out("it came too slowly".into()))));
        }
        if let Poll::Ready(item) = Pin::new(&mut self.stream).poll_next(cx) {
            let until = tokio::time::Instant::now() + SILENCE;
            self.patience.as_mut().reset(until);
            return Poll::Ready(item.map(|data| data.map_err(std::io::Error::other)));
        }
        let silent = || timed_out(format!("nothing came for {} s", SILENCE.as_secs()));
        let silence = self.patience.as_mut().poll(cx);
        silence.map(|()| Some(Err(silent())))
    }
}

fn timed_out(why: String) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Sleep, sleep};

    /// One piece, then silence.
    struct Stuck(Option<Bytes>);

    impl futures_core::Stream for Stuck {
        type Item = std::io::Result<Bytes>;

        fn poll_next(
            mut self: Pin<&mut Self>,
            _: &mut TaskContext<'_>,
        ) -> Poll<Option<Self::Item>> {
            match self.0.take() {
                Some(piece) => Poll::Ready(Some(Ok(piece))),
                None => Poll::Pending,
            }
        }
    }

    /// A byte now and then.
    struct Drops(Pin<Box<Sleep>>);

    const BETWEEN: Duration = Duration::from_secs(15);

    impl futures_core::Stream for Drops {
        type Item = std::io::Result<Bytes>;

        fn poll_next(
            mut self: Pin<&mut Self>,
            cx: &mut TaskContext<'_>,
        ) -> Poll<Option<Self::Item>> {
            self.0.as_mut().poll(cx).map(|()| {
                self.0.as_mut().reset(tokio::time::Instant::now() + BETWEEN);
                Some(Ok(Bytes::from_static(b".")))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_blob_that_stops_in_the_middle_is_given_up() {
        let mut reader = lively(Stuck(Some(Bytes::from_static(b"half"))), None);
        let mut heard = Vec::new();
        let error = reader.read_to_end(&mut heard).await.unwrap_err();
        assert_eq!(
            (&*heard, error.kind()),
            (&b"half"[..], std::io::ErrorKind::TimedOut)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_blob_that_comes_too_slowly_is_given_up() {
        let mut reader = lively(Drops(Box::pin(sleep(BETWEEN))), Some(10 * SILENCE));
        let mut heard = Vec::new();
        let error = reader.read_to_end(&mut heard).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        assert!((19..=20).contains(&heard.len()), "{}", heard.len());
    }
}
