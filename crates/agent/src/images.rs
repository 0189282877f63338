//! Images on their way to a host, from whoever has them. Only a blob's SHA-256 is believed.

use crate::client::Controller;
use crate::host::{PIECE, Stream, written_by};
use anyhow::{Context, Result};
use boira_chunks::{Blobs, Digest, Error};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::io::SyncIoBridge;

/// Brings a blob into the cache, or what is missing of it: from another host, where that is to send it and
/// does, else from the controller.
pub async fn fetch(blobs: &Arc<Blobs>, controller: &Arc<Controller>, sha256: &str) -> Result<()> {
    let fetching = Fetching {
        blobs: blobs.clone(),
        controller: controller.clone(),
        digest: sha256.parse().context("name the blob")?,
        runtime: Handle::current(),
    };
    let done = tokio::task::spawn_blocking(move || fetching.whole());
    done.await.context("fetch a blob")?
}

struct Fetching {
    blobs: Arc<Blobs>,
    controller: Arc<Controller>,
    digest: Digest,
    runtime: Handle,
}

impl Fetching {
    fn whole(&self) -> Result<()> {
        match self.by_peer() {
            Ok(true) => return Ok(()),
            Ok(false) => return self.by_controller(),
            // It has no room, whoever sends it.
            Err(error @ Error::Full { .. }) => return Err(error).context("keep a blob"),
            Err(error) => tracing::warn!("an image comes from the controller after all: {error}"),
        }
        // What the other host has sent may be wrong, and then nothing is left of it.
        let after_peer = self.by_controller();
        after_peer.or_else(|_| self.by_controller())
    }

    /// Whether it is there now; it isn't where no other host is to send it.
    fn by_peer(&self) -> Result<bool, Error> {
        let Some(arrival) = self.blobs.arrive(self.digest)? else {
            return Ok(true);
        };
        let name = self.digest.to_string();
        let asking = self.controller.blob_of_peer(&name, arrival.bytes());
        let Some(reader) = self.runtime.block_on(asking) else {
            return Ok(false);
        };
        arrival.finish(self.blocking(reader))?;
        Ok(true)
    }

    fn by_controller(&self) -> Result<()> {
        let arrival = self
            .blobs
            .arrive(self.digest)
            .context("go on with a blob")?;
        let Some(mut arrival) = arrival else {
            return Ok(());
        };
        let name = self.digest.to_string();
        let asking = self.controller.blob(&name, arrival.bytes());
        let (reader, begins) = self.runtime.block_on(asking)?;
        if begins != arrival.bytes() {
            arrival.start_over().context("begin a blob anew")?;
        }
        let kept = arrival.finish(self.blocking(reader));
        kept.context("keep a blob")
    }

    fn blocking<R: AsyncRead + Unpin>(&self, reader: R) -> SyncIoBridge<R> {
        SyncIoBridge::new_with_handle(reader, self.runtime.clone())
    }
}

/// How many other hosts get a blob from this one at a time.
static SENDING: Semaphore = Semaphore::const_new(4);

/// A blob's file from so many bytes on, for another host.
pub fn send(path: &Path, from: u64) -> Result<impl Stream + use<>> {
    let place = SENDING.try_acquire();
    let place = place.context("it sends images to others already")?;
    let mut file = File::open(path).context("open a blob")?;
    file.seek(SeekFrom::Start(from)).context("read a blob")?;
    Ok(written_by(move |mut writer| {
        let _place = place;
        let mut reader = std::io::BufReader::with_capacity(PIECE, file);
        std::io::copy(&mut reader, &mut writer).context("send a blob")?;
        Ok(())
    }))
}
