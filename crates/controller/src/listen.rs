//! Listening sockets: accept, TLS where it is due, and HTTP over it with limits that a slow or greedy
//! client can't exceed.

use crate::agents::PeerCertificate;
use crate::pki;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections that a listener serves at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);

/// What a listener speaks.
#[derive(Clone)]
pub enum Security {
    /// Plain HTTP, for loopback; TLS on the same port for who begins with it.
    PlainOrTls(Arc<rustls::ServerConfig>),
    Tls(Arc<rustls::ServerConfig>),
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, security: Security, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
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
        let _ = stream.set_nodelay(true);
        let (security, router) = (security.clone(), router.clone());
        tokio::spawn(async move {
            connection(stream, security, router).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, security: Security, router: Router) {
    let config = match security {
        Security::Tls(config) => config,
        Security::PlainOrTls(config) => match begins_with_tls(&stream).await {
            Some(true) => config,
            Some(false) => return http(stream, router).await,
            None => return,
        },
    };
    let accepted = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
    let Ok(Ok(stream)) = accepted else {
        tracing::debug!("a TLS handshake failed");
        return;
    };
    let peer = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let router = match peer {
        Some(certificate) => router.layer(axum::Extension(PeerCertificate(pki::fingerprint(
            certificate,
        )))),
        None => router,
    };
    http(stream, router).await;
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

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(64 << 10)
        .pipeline_flush(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256);
    let service = TowerToHyperService::new(router);
    if let Err(error) = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
    {
        tracing::debug!("a connection ended: {error}");
    }
}
