//! What this PC's disk has room for. Others write to it too, so it is looked at again and again.

use anyhow::{Context, Result};
use nix::sys::statvfs::FsFlags;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

const LOOK: Duration = Duration::from_secs(15);
/// Bytes of images that a host caches, and the part of its free disk if that is less. The rest is for
/// volumes.
const CACHE_BYTES: u64 = 64 << 30;
const CACHE_PART: u64 = 8;
/// With less than this nothing new is begun: steps and what is told have to be written down.
const LEAST_BYTES: u64 = 64 << 20;
/// What the free space has to change by before it is said again.
const STEP_BYTES: u64 = 1 << 30;

pub struct Space {
    blobs: PathBuf,
    volumes: PathBuf,
    seen: Mutex<Seen>,
    changed: Notify,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// Bytes that are free, or used for images and volumes.
    room: u64,
    /// Why nothing new can be done.
    unable: Option<String>,
}

impl Space {
    pub fn look(blobs: PathBuf, volumes: PathBuf) -> Result<Self> {
        Ok(Self {
            seen: Mutex::new(Seen::look(&blobs, &volumes)?),
            blobs,
            volumes,
            changed: Notify::new(),
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no holder of this lock panics")
    }

    /// For images.
    pub fn cache_bytes(&self) -> u64 {
        cache_bytes(self.seen().room)
    }

    /// For volumes, in whole GiB.
    pub fn volume_bytes(&self) -> u64 {
        let room = self.seen().room;
        (room - cache_bytes(room)) >> 30 << 30
    }

    /// Why nothing new can be done here.
    pub fn unable(&self) -> Option<String> {
        self.seen().unable.clone()
    }

    /// Resolves when one of these has changed. For one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub async fn keep_looking(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let (blobs, volumes) = (self.blobs.clone(), self.volumes.clone());
            let looking = tokio::task::spawn_blocking(move || Seen::look(&blobs, &volumes));
            match looking.await.context("look at the disk").flatten() {
                Ok(seen) => self.note(seen),
                Err(error) => tracing::warn!("the free disk space is not known: {error:#}"),
            }
        }
    }

    fn note(&self, now: Seen) {
        let mut seen = self.seen();
        let room = match now.room.abs_diff(seen.room) < STEP_BYTES {
            true => seen.room,
            false => now.room,
        };
        // How many bytes are left is said once.
        let is_same = now.unable.is_some() == seen.unable.is_some() && room == seen.room;
        if !is_same {
            *seen = Seen { room, ..now };
            self.changed.notify_one();
        }
    }
}

impl Seen {
    fn look(blobs: &Path, volumes: &Path) -> Result<Self> {
        let disk = nix::sys::statvfs::statvfs(volumes).context("ask for the free disk space")?;
        let free = disk.blocks_available() * disk.fragment_size();
        let unable = if disk.flags().contains(FsFlags::ST_RDONLY) {
            Some("its disk can only be read".to_owned())
        } else if free < LEAST_BYTES {
            Some(format!("its disk is full: {} MiB are free", free >> 20))
        } else {
            None
        };
        Ok(Self {
            room: free + used(&blobs.join("blobs")) + used(volumes),
            unable,
        })
    }
}

fn used(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| entry.metadata().ok());
    sizes
        .map(|meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512)
        .sum()
}

fn cache_bytes(room: u64) -> u64 {
    (room / CACHE_PART).min(CACHE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    const GIB: u64 = 1 << 30;

    fn space(room: u64) -> Space {
        Space {
            blobs: PathBuf::new(),
            volumes: PathBuf::new(),
            seen: Mutex::new(Seen { room, unable: None }),
            changed: Notify::new(),
        }
    }

    #[tokio::test]
    async fn what_is_said_follows_the_disk_and_not_each_byte() {
        let space = space(80 * GIB);
        assert_eq!(space.volume_bytes(), 70 * GIB);
        let sees = |room, unable: Option<&str>| {
            let unable = unable.map(str::to_owned);
            space.note(Seen { room, unable });
            let mut task = std::task::Context::from_waker(std::task::Waker::noop());
            let changed = pin!(space.changed()).poll(&mut task).is_ready();
            (changed, space.volume_bytes() / GIB)
        };
        assert_eq!(sees(80 * GIB - 1, None), (false, 70));
        assert_eq!(sees(8 * GIB, None), (true, 7));
        assert_eq!(sees(8 * GIB, Some("full: 3")), (true, 7));
        assert_eq!(sees(8 * GIB, Some("full: 2")), (false, 7));
        assert_eq!(sees(8 * GIB, None), (true, 7));
    }
}
