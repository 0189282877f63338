//! The cloud's API for guests: bytes to and fro, nothing looked at.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A connection on which nothing comes for so long, neither way, has been forgotten.
const IDLE: Duration = Duration::from_secs(15 * 60);
const BUFFER_SIZE: usize = 16 * 1024;

pub async fn run(guest: TcpStream, api: SocketAddr) {
    let connecting = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(api)).await;
    let Ok(Ok(api)) = connecting else {
        tracing::debug!("the API doesn't answer");
        return;
    };
    let _ = guest.set_nodelay(true);
    let _ = api.set_nodelay(true);
    relay(guest, api, IDLE).await;
}

/// Until both have ended, or one is broken, or nothing has moved for `idle`.
async fn relay(
    guest: impl AsyncRead + AsyncWrite,
    api: impl AsyncRead + AsyncWrite,
    idle: Duration,
) {
    let (from_guest, to_guest) = tokio::io::split(guest);
    let (from_api, to_api) = tokio::io::split(api);
    let moved = Mutex::new(Instant::now());
    let last = || *moved.lock().expect("no holder of this lock panics");
    let both = async {
        let there = one_way(from_guest, to_api, &moved);
        let back = one_way(from_api, to_guest, &moved);
        tokio::try_join!(there, back)
    };
    tokio::pin!(both);
    loop {
        let before = last();
        tokio::select! {
            _ = &mut both => return,
            () = tokio::time::sleep_until(before + idle) => if last() == before {
                return;
            }
        }
    }
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Mutex<Instant>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        *moved.lock().expect("no holder of this lock panics") = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_lasts_as_long_as_something_moves() {
        let (mut guest, near) = tokio::io::duplex(64);
        let (mut api, far) = tokio::io::duplex(64);
        let relaying = tokio::spawn(relay(near, far, IDLE));
        let mut byte = [0];
        for _ in 0..10 {
            tokio::time::sleep(IDLE * 2 / 3).await;
            guest.write_all(b"x").await.unwrap();
            api.read_exact(&mut byte).await.unwrap();
        }
        // Whoever has said all gets the answer all the same.
        guest.shutdown().await.unwrap();
        assert_eq!(api.read(&mut byte).await.unwrap(), 0);
        api.write_all(b"y").await.unwrap();
        guest.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"y");

        let silent = Instant::now();
        assert_eq!(guest.read(&mut byte).await.unwrap(), 0);
        assert_eq!(silent.elapsed(), IDLE);
        relaying.await.unwrap();
    }
}
