//! The cloud's API for guests: bytes to and fro, nothing looked at.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// No call takes this long, and what idles longer has been forgotten.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(15 * 60);
const BUFFER_SIZE: usize = 16 * 1024;

pub async fn run(mut guest: TcpStream, api: SocketAddr) {
    let connecting = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(api)).await;
    let Ok(Ok(mut api)) = connecting else {
        tracing::debug!("the API doesn't answer");
        return;
    };
    let _ = guest.set_nodelay(true);
    let _ = api.set_nodelay(true);
    let copying = copy_bidirectional_with_sizes(&mut guest, &mut api, BUFFER_SIZE, BUFFER_SIZE);
    let _ = tokio::time::timeout(CONNECTION_DEADLINE, copying).await;
}
