//! A connection whose peer doesn't read is ended: it holds a place, and what is to be sent to it.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a peer may take nothing of what is sent to it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Whether a connection has become somebody's console or tunnel, where people pause as long as they like.
#[derive(Clone, Default)]
pub struct Unhurried(Arc<AtomicBool>);

impl Unhurried {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub struct Patient<S> {
    stream: S,
    patience: Duration,
    unhurried: Unhurried,
    /// Since it takes nothing.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub fn new(stream: S, patience: Duration, unhurried: Unhurried) -> Self {
        Self {
            stream,
            patience,
            unhurried,
            waiting: None,
        }
    }

    fn judged<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() || self.unhurried.0.load(Ordering::Relaxed) {
            self.waiting = None;
            return outcome;
        }
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judged(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.judged(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.judged(outcome, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judged(outcome, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_given_up_and_who_reads_slowly_is_not() {
        let (here, mut there) = tokio::io::duplex(8);
        let mut here = Patient::new(here, PATIENCE, Unhurried::default());
        let slow = tokio::spawn(async move {
            let mut buffer = [0; 8];
            for _ in 0..4 {
                tokio::time::sleep(PATIENCE / 2).await;
                there.read_exact(&mut buffer).await.expect("bytes come");
            }
            there
        });
        here.write_all(&[1; 32]).await.expect("it is read, slowly");
        let there = slow.await.expect("it ends");
        here.write_all(&[1; 8]).await.expect("there is room");
        let begun = Instant::now();
        let error = here.write_all(&[1]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
        drop(there);
    }

    #[tokio::test(start_paused = true)]
    async fn a_console_may_be_paused() {
        let (here, _there) = tokio::io::duplex(8);
        let unhurried = Unhurried::default();
        let mut here = Patient::new(here, PATIENCE, unhurried.clone());
        unhurried.set();
        let paused = tokio::time::timeout(PATIENCE * 10, here.write_all(&[1; 9])).await;
        assert!(paused.is_err(), "it goes on waiting");
    }
}
