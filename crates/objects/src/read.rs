//! Gives bytes out: verified, in pieces, two of them in memory at most. They begin small and grow for who
//! takes them at once, so that a thousand slow readers hold little. What the system has in memory is read where
//! it is sent from, anything else by a thread that may wait for the disk.

use crate::Store;
use crate::contents::{BLOCK, Reading, Slice};
use crate::crypt::Key;
use crate::error::internal;
use crate::opened::Opened;
use bytes::Bytes;
use futures_util::Stream;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3Result, StdError};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Bytes that are read at once for a reader that is quick.
const PIECE: u64 = 2 * BLOCK as u64;
/// For one that is slow, or of whom nothing is known yet.
const LITTLE: u64 = 64 << 10;
/// A reader that lets a piece wait for so long is slow.
const SLOW: std::time::Duration = std::time::Duration::from_millis(200);
/// How long a reader may take nothing of what waits for it.
const STALLED: std::time::Duration = std::time::Duration::from_secs(120);

/// Pieces in the order of their bytes.
struct Pieces {
    store: Arc<Store>,
    /// Keeps the bytes from being collected.
    _reading: Arc<Reading>,
    slices: std::vec::IntoIter<Slice>,
    /// What is left of the slice that is being read.
    left: Slice,
    opened: Option<Arc<Opened>>,
    /// The client's, where it takes one.
    key: Option<Key>,
    /// How much to read next.
    piece: u64,
}

impl Pieces {
    /// Reads more at once for who took the last piece quickly.
    fn at_pace(mut self, waited: std::time::Duration) -> Self {
        self.piece = match waited < SLOW {
            true => (self.piece * 2).min(PIECE),
            false => LITTLE,
        };
        self
    }

    async fn next(mut self) -> S3Result<Option<(Bytes, Self)>> {
        while self.left.len == 0 {
            let Some(slice) = self.slices.next() else {
                return Ok(None);
            };
            self.left = slice;
            let content = slice.content;
            let contents = self.store.contents.clone();
            let key = self.key.clone();
            let opened = self
                .store
                .db
                .read(move |db| contents.opened(db, content, key.as_ref()))
                .await?;
            // What is in a row isn't kept, so that no slow reader holds its bytes.
            self.opened = Some(opened).filter(Opened::is_file).map(Arc::new);
        }
        // Up to the end of a run of blocks, so that for the quick each is read and verified once.
        let end = (self.left.offset / self.piece + 1) * self.piece;
        let now = Slice {
            len: self.left.len.min(end - self.left.offset),
            ..self.left
        };
        let contents = self.store.contents.clone();
        let bytes = match self.opened.clone() {
            None => {
                let key = self.key.clone();
                let look = move |db: &rusqlite::Connection| {
                    contents.opened(db, now.content, key.as_ref())?.read(now)
                };
                self.store.db.read(look).await?
            }
            Some(opened) => match opened.at_hand(now)? {
                Some(bytes) => bytes,
                None => tokio::task::spawn_blocking(move || opened.read(now))
                    .await
                    .map_err(internal)??,
            },
        };
        // What a slow reader holds isn't to hold the whole block.
        let bytes = match self.piece < BLOCK as u64 {
            true => Bytes::copy_from_slice(&bytes),
            false => bytes,
        };
        self.left.offset += now.len;
        self.left.len -= now.len;
        Ok(Some((bytes, self)))
    }
}

/// The bytes of `slices` as a body. The first piece is read, so that damage there is an error and no
/// body that breaks off.
pub async fn body(
    store: &Arc<Store>,
    reading: Arc<Reading>,
    slices: Vec<Slice>,
    key: Option<Key>,
) -> S3Result<StreamingBlob> {
    let len: u64 = slices.iter().map(|slice| slice.len).sum();
    let pieces = Pieces {
        store: store.clone(),
        _reading: reading,
        slices: slices.into_iter(),
        left: Slice {
            content: 0,
            offset: 0,
            len: 0,
        },
        opened: None,
        key,
        piece: LITTLE,
    };
    let Some((first, rest)) = pieces.next().await? else {
        return Ok(whole(Bytes::new()));
    };
    if first.len() as u64 == len {
        return Ok(whole(first));
    }
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut rest = rest;
        loop {
            // Read only when there is a place for it. A reader that is gone, or that has stopped reading,
            // gets no more.
            let begun = tokio::time::Instant::now();
            let place = tokio::time::timeout(STALLED, sender.reserve()).await;
            let Ok(Ok(place)) = place else {
                return;
            };
            match rest.at_pace(begun.elapsed()).next().await {
                Ok(None) => return,
                Ok(Some((bytes, next))) => {
                    place.send(Ok(bytes));
                    rest = next;
                }
                Err(error) => return place.send(Err(StdError::from(error))),
            }
        }
    });
    Ok(StreamingBlob::new(Body {
        first: Some(first),
        receiver,
        left: len,
    }))
}

pub fn whole(bytes: Bytes) -> StreamingBlob {
    let left = bytes.len() as u64;
    let (_, receiver) = mpsc::channel(1);
    StreamingBlob::new(Body {
        first: Some(bytes),
        receiver,
        left,
    })
}

struct Body {
    first: Option<Bytes>,
    receiver: mpsc::Receiver<Result<Bytes, StdError>>,
    left: u64,
}

impl Stream for Body {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = match self.first.take().filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => Some(Ok(bytes)),
            None => match self.receiver.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(item) => item,
            },
        };
        match item {
            Some(Ok(bytes)) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Poll::Ready(Some(Ok(bytes)))
            }
            None if self.left > 0 => {
                self.left = 0;
                Poll::Ready(Some(Err("the rest of the object can't be read".into())))
            }
            other => Poll::Ready(other),
        }
    }
}

impl ByteStream for Body {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.left as usize)
    }
}
