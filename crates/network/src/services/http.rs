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
        // Guests' `nc` has said all, and waits for the answer.
        .half_close(true)
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
        return unavailable();
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
    if let Some(hops) = answer.hop_limit {
        // What the kernel sends again goes out with the limit of that moment, so it stays for all that
        // follows on this connection.
        if let Err(error) = set_hop_limit(socket, hops) {
            tracing::debug!(%error, eni, "the hop limit can't be set");
            return unavailable();
        }
    }
    answer.response.map(Full::new)
}

fn unavailable() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::*;
    use crate::fixture::spec;
    use crate::metadata::Tokens;
    use crate::services::State;

    fn hops_of(socket: &OwnedFd) -> i32 {
        let mut hops: libc::c_int = 0;
        let mut size = size_of_val(&hops) as libc::socklen_t;
        // SAFETY: the pointers are those of `hops` and of `size`, which says how large it is.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_TTL,
                (&raw mut hops).cast(),
                &raw mut size,
            )
        };
        assert_eq!(result, 0);
        hops
    }

    /// What a client hears that says all of `said` at once, and the hop limit in the end.
    async fn exchange(said: &str) -> (String, i32) {
        let spec = spec();
        let eni = spec.ports[0].eni.clone();
        let (_state, watching) = watch::channel(Arc::new(State::new(spec, &Default::default())));
        let shared = Shared {
            state: watching,
            tokens: Arc::new(Tokens::new([1; 32])),
            forwarder: Arc::default(),
            api_places: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).await.expect("it listens");
        let (stream, _) = listener.accept().await.expect("it connects");
        let socket = stream.as_fd().try_clone_to_owned().expect("a handle");
        client.write_all(said.as_bytes()).await.expect("it reads");
        client.shutdown().await.expect("it is open");
        serve(stream, &eni, &shared).await;
        let hops = hops_of(&socket);
        drop(socket);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.expect("text");
        (heard, hops)
    }

    const PUT: &str = "PUT /latest/api/token HTTP/1.1\r\nhost: x\r\n\
                       x-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n";
    const GET: &str = "GET /latest/meta-data/ HTTP/1.1\r\nhost: x\r\n\r\n";

    #[tokio::test]
    async fn after_a_token_nothing_raises_the_hop_limit_of_its_connection() {
        let wanted = i32::from(spec().ports[0].metadata.hop_limit);
        for said in [format!("{PUT}{GET}"), format!("{GET}{PUT}{GET}")] {
            let (heard, hops) = exchange(&said).await;
            assert_eq!(hops, wanted);
            let asked = said.matches("HTTP/1.1").count();
            assert_eq!(heard.matches("HTTP/1.1").count(), asked, "{heard}");
        }
        let (heard, hops) = exchange(&format!("{GET}{GET}")).await;
        assert_eq!(heard.matches("HTTP/1.1").count(), 2);
        assert!(hops > wanted);
    }
}
