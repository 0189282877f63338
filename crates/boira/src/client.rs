//! The CLI's client: EC2's query API where EC2 has the call, Boira's JSON API elsewhere. Both signed
//! with signature version 4; neither ever opens the store.

use crate::home::Access;
use anyhow::{Context, Result, bail};
use boira_api::auth::RequestHead;
use boira_api::sigv4;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, body};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const VERSION: &str = "2016-11-15";
const CONNECT: Duration = Duration::from_secs(5);

type Body = Either<Full<Bytes>, FileBody>;
type FileBody = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

pub struct Client {
    pub access: Access,
    host: String,
    tls: bool,
}

/// Something that bytes flow through both ways.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// EC2's own error, so that callers can tell one from another.
#[derive(Debug)]
pub struct ServiceError {
    pub code: String,
    pub message: String,
}

impl std::fmt::Display for ServiceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        match self.look() {
            Some(look) => write!(f, "; {look}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServiceError {}

impl ServiceError {
    /// Which command tells more, for people: EC2 knows none.
    fn look(&self) -> Option<&'static str> {
        Some(match self.code.as_str() {
            "AuthFailure" => "`eval \"$(boira env)\"` takes the administrator's key of this home",
            "InvalidAMIID.NotFound" => "`boira image ls` lists the images",
            "InvalidInstanceID.NotFound" => "`boira instance ls` lists the instances",
            "InvalidKeyPair.NotFound" => {
                "`aws ec2 describe-key-pairs` lists them, and without --key it is this home's own"
            }
            "InvalidGroup.NotFound" => "`aws ec2 describe-security-groups` lists them",
            _ if self.message.starts_with("Invalid availability zone") => {
                "`boira zone ls` lists the zones"
            }
            _ if self.message.contains("instance type") => "`boira type ls` lists the types",
            _ => return None,
        })
    }
}

impl Client {
    pub fn new(access: Access) -> Result<Self> {
        let (tls, rest) = match access.endpoint.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => bail!(
                "{} is no endpoint: it begins with http:// or https://",
                access.endpoint
            ),
        };
        let host = rest.trim_end_matches('/').to_owned();
        Ok(Self { access, host, tls })
    }

    /// One EC2 action with its parameters; answers the document.
    pub async fn ec2(&self, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let mut form = String::new();
        for (name, value) in [("Action", action), ("Version", VERSION)]
            .iter()
            .chain(parameters)
        {
            if !form.is_empty() {
                form.push('&');
            }
            boira_api::form::percent_encode(&mut form, name.as_bytes(), b"");
            form.push('=');
            boira_api::form::percent_encode(&mut form, value.as_bytes(), b"");
        }
        let headers = [(
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        )];
        let body = Bytes::from(form);
        let hash = Sha256::digest(&body).into();
        let body = Either::Left(Full::new(body));
        let answer = self
            .send("ec2", Method::POST, "/", &headers, hash, body)
            .await?;
        let (status, text) = read(answer).await?;
        match status {
            StatusCode::OK => Ok(text),
            _ => Err(ec2_error(status, &text)),
        }
    }

    /// Boira's JSON API, below `/boira/v1`.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<serde_json::Value> {
        let bytes = Bytes::from(body.map(ToString::to_string).unwrap_or_default());
        let hash = Sha256::digest(&bytes).into();
        let headers = [("content-type", "application/json")];
        let path = format!("/boira/v1{path}");
        let body = Either::Left(Full::new(bytes));
        let answer = self
            .send("boira", method, &path, &headers, hash, body)
            .await?;
        let (status, text) = read(answer).await?;
        answered(status, &text)
    }

    /// Asked before long work that only the administrator's account may finish.
    pub async fn is_administrators(&self, what: &str) -> Result<()> {
        let asked = self.json(Method::GET, "/hosts", None).await;
        asked
            .map(drop)
            .with_context(|| format!("{what} by the administrator"))
    }

    /// Uploads a file as a blob named by its digest.
    pub async fn put_blob(
        &self,
        path: &Path,
        sha256: &str,
        progress: impl Fn(u64) + Send + Sync + Unpin + 'static,
    ) -> Result<()> {
        let target = format!("/boira/v1/blobs/{sha256}");
        let mut hash = [0; 32];
        hex::decode_to_slice(sha256, &mut hash).context("read the blob's digest")?;
        let file = tokio::fs::File::open(path)
            .await
            .with_context(|| format!("open {}", path.display()))?;
        let length = file
            .metadata()
            .await
            .context("look at the file")?
            .len()
            .to_string();
        let sent = std::sync::atomic::AtomicU64::new(0);
        let stream = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10);
        let frames = Pieces {
            stream,
            note: move |count: u64| {
                progress(sent.fetch_add(count, std::sync::atomic::Ordering::Relaxed) + count);
            },
        };
        let body = Either::Right(BodyExt::boxed(StreamBody::new(frames)));
        let headers = [("content-length", length.as_str())];
        let answer = self
            .send("boira", Method::PUT, &target, &headers, hash, body)
            .await?;
        let (status, text) = read(answer).await?;
        match status {
            StatusCode::OK => Ok(()),
            _ => answered(status, &text)
                .map(drop)
                .context("the cloud did not take the file"),
        }
    }

    /// Turns a request into a plain byte stream, as for consoles and forwards.
    pub async fn stream(&self, path: &str) -> Result<Box<dyn Connection>> {
        let path = format!("/boira/v1{path}");
        let headers = [("connection", "upgrade"), ("upgrade", "boira-stream")];
        let hash = Sha256::digest([]).into();
        let body = Either::Left(Full::default());
        let answer = self
            .send("boira", Method::GET, &path, &headers, hash, body)
            .await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (status, text) = read(answer).await?;
            let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            match value.get("error").and_then(|error| error.as_str()) {
                Some(error) => bail!("{error}"),
                None => bail!("the cloud answered {status}: {text}"),
            }
        }
        let upgraded = hyper::upgrade::on(answer)
            .await
            .context("switch to the stream")?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }

    async fn send(
        &self,
        service: &str,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body_sha256: [u8; 32],
        body: Body,
    ) -> Result<Response<body::Incoming>> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut signed: Vec<(&str, &[u8])> = vec![("host", self.host.as_bytes())];
        signed.extend(
            headers
                .iter()
                .filter(|(name, _)| *name == "content-type")
                .map(|(name, value)| (*name, value.as_bytes())),
        );
        let head = RequestHead {
            method: method.as_str(),
            path,
            query,
            headers: &signed,
            parameters: &[],
        };
        let credentials = sigv4::Credentials {
            access_key: &self.access.access_key_id,
            secret: &self.access.secret_access_key,
        };
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .context("the clock is before 1970")?
            .as_millis() as i64;
        let signature = sigv4::sign(
            credentials,
            &self.access.region,
            service,
            &head,
            &body_sha256,
            now,
        );
        let mut request = Request::builder()
            .method(&method)
            .uri(target)
            .header("host", &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        for (name, value) in &signature {
            request = request.header(*name, value);
        }
        let request = request.body(body).context("build a request")?;
        let connection = self.connect().await?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(connection))
            .await
            .context("speak HTTP to the cloud")?;
        tokio::spawn(driver.with_upgrades());
        sender
            .send_request(request)
            .await
            .context("send a request to the cloud")
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        let open = async {
            let stream = TcpStream::connect(&self.host).await.with_context(|| {
                format!(
                    "no cloud answers at {}; is it up? (`boira up`)",
                    self.access.endpoint
                )
            })?;
            stream
                .set_nodelay(true)
                .context("send small messages at once")?;
            if !self.tls {
                return Ok(Box::new(stream) as Box<dyn Connection>);
            }
            let connector = tokio_rustls::TlsConnector::from(Arc::new(self.trust()?));
            let name = server_name(&self.host)?;
            let stream = connector
                .connect(name, stream)
                .await
                .context("shake hands with the cloud")?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        };
        tokio::time::timeout(CONNECT, open)
            .await
            .map_err(|_| anyhow::anyhow!("no connection to {} in time", self.access.endpoint))?
    }

    fn trust(&self) -> Result<rustls::ClientConfig> {
        let path = self
            .access
            .authority
            .as_ref()
            .context("the endpoint speaks TLS: set AWS_CA_BUNDLE to the cloud's CA")?;
        let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in rustls_pemfile::certs(&mut pem.as_slice()) {
            roots
                .add(certificate.context("read the CA")?)
                .context("trust the CA")?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}

/// Whom the certificate must name: an address in brackets is one without them.
fn server_name(host: &str) -> Result<rustls::pki_types::ServerName<'static>> {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    rustls::pki_types::ServerName::try_from(name.to_owned()).context("name the endpoint")
}

/// A name as one part of a path.
pub fn segment(name: &str) -> String {
    let mut text = String::new();
    boira_api::form::percent_encode(&mut text, name.as_bytes(), b"");
    text
}

async fn read(answer: Response<body::Incoming>) -> Result<(StatusCode, String)> {
    let status = answer.status();
    let bytes = answer
        .into_body()
        .collect()
        .await
        .context("read the answer")?
        .to_bytes();
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

/// What Boira's own API answered, as JSON or as an error in its words.
fn answered(status: StatusCode, text: &str) -> Result<serde_json::Value> {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    match (status, value.get("error").and_then(|error| error.as_str())) {
        (StatusCode::OK, _) => Ok(value),
        (_, Some(error)) => bail!("{error}"),
        (status, None) => bail!("the cloud answered {status}: {text}"),
    }
}

fn ec2_error(status: StatusCode, text: &str) -> anyhow::Error {
    let document = roxmltree::Document::parse(text).ok();
    let find = |name: &str| {
        let document = document.as_ref()?;
        let node = document
            .descendants()
            .find(|node| node.has_tag_name(name))?;
        node.text().map(str::to_owned)
    };
    match (find("Code"), find("Message")) {
        (Some(code), Some(message)) => ServiceError { code, message }.into(),
        _ => anyhow::anyhow!("the cloud answered {status}: {text}"),
    }
}

/// A file's bytes as frames, with a note of each.
struct Pieces<F> {
    stream: tokio_util::io::ReaderStream<tokio::fs::File>,
    note: F,
}

impl<F: Fn(u64) + Unpin> futures_core::Stream for Pieces<F> {
    type Item = std::io::Result<body::Frame<Bytes>>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let this = &mut *self;
        std::pin::Pin::new(&mut this.stream)
            .poll_next(cx)
            .map(|item| {
                item.map(|piece| {
                    piece.map(|bytes| {
                        (this.note)(bytes.len() as u64);
                        body::Frame::data(bytes)
                    })
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_an_address_without_brackets() {
        let name = |host: &str| server_name(host).expect("a name").to_str().into_owned();
        assert_eq!(name("[::1]:8773"), "::1");
        assert_eq!(name("192.0.2.1:8773"), "192.0.2.1");
        assert_eq!(name("cloud.example"), "cloud.example");
    }

    #[test]
    fn a_name_stays_one_part_of_a_path() {
        assert_eq!(segment("a b/c"), "a%20b%2Fc");
        assert_eq!(segment("i-0feacebc35132c429"), "i-0feacebc35132c429");
    }
}
