//! The metadata service's HTTP: small requests, small answers, no patience.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::{Shared, boot_time_s, set_hop_limit};
use crate::metadata;

/// Request line and headers, in bytes.
const REQUEST_SIZE_MAX: usize = 16 * 1024;
/// How long a client may take to say its request, the wait for it included.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// After this a connection ends, with the answer that it is at.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(5);

/// What the kernel sends with where nothing else was asked for.
const HOPS: u8 = 64;

/// Serves one connection of the port `eni`.
pub async fn serve(stream: TcpStream, eni: &str, shared: &Shared) {
    // A second handle, because the connection takes the stream and its hop limit depends on what
    // is answered.
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else {
        return;
    };
    let answer = service_fn(|request: Request<Incoming>| {
        let response = respond(&request, eni, shared, &socket);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_DEADLINE)
        .max_buf_size(REQUEST_SIZE_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    if tokio::time::timeout(CONNECTION_DEADLINE, connection.as_mut())
        .await
        .is_err()
    {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(GRACE, connection).await;
    }
}

fn respond(
    request: &Request<Incoming>,
    eni: &str,
    shared: &Shared,
    socket: &OwnedFd,
) -> Response<Full<Bytes>> {
    let state = shared.state();
    let Some(port) = state.spec.port(eni) else {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return response;
    };
    let answer = metadata::answer(
        &state.spec,
        port,
        &shared.tokens,
        &metadata::Request {
            method: request.method(),
            path: request.uri().path(),
            headers: request.headers(),
            now_s: boot_time_s(),
            nonce: rand::random(),
        },
    );
    if let Err(error) = set_hop_limit(socket, answer.hop_limit.unwrap_or(HOPS)) {
        tracing::debug!(%error, eni, "the hop limit can't be set");
    }
    answer.response.map(Full::new)
}
