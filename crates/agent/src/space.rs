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
/// With less than this nothing new is begun, until there is twice as much: steps and what is told have to be
/// written down.
const LEAST_BYTES: u64 = 64 << 20;
/// What the free space has to change by before it is said again.
const STEP_BYTES: u64 = 1 << 30;

pub struct Space {
    blobs: PathBuf,
    volumes: PathBuf,
    seen: Mutex<Seen>,
    changed: Notify,
}

/// What was said of the disk last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// Bytes that are free, or used for images and volumes.
    room: u64,
    unable: Option<Unable>,
}

/// Why nothing new can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unable {
    ReadOnly,
    Full,
}

/// The disk as it is.
struct Disk {
    free: u64,
    used: u64,
    read_only: bool,
}

impl Space {
    pub fn look(blobs: PathBuf, volumes: PathBuf) -> Result<Self> {
        Ok(Self {
            seen: Mutex::new(Disk::look(&blobs, &volumes)?.seen(None)),
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
        let why = match self.seen().unable? {
            Unable::ReadOnly => "its disk can only be read".to_owned(),
            Unable::Full => format!(
                "its disk is full: fewer than {} MiB are free",
                LEAST_BYTES >> 20
            ),
        };
        Some(why)
    }

    /// Resolves when one of these has changed. For one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub async fn keep_looking(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let (blobs, volumes) = (self.blobs.clone(), self.volumes.clone());
            let looking = tokio::task::spawn_blocking(move || Disk::look(&blobs, &volumes));
            match looking.await.context("look at the disk").flatten() {
                Ok(disk) => self.note(&disk),
                Err(error) => tracing::warn!("the free disk space is not known: {error:#}"),
            }
        }
    }

    fn note(&self, disk: &Disk) {
        let mut seen = self.seen();
        let now = disk.seen(Some(&seen));
        if now != *seen {
            *seen = now;
            self.changed.notify_one();
        }
    }
}

impl Disk {
    fn look(blobs: &Path, volumes: &Path) -> Result<Self> {
        let disk = nix::sys::statvfs::statvfs(volumes).context("ask for the free disk space")?;
        Ok(Self {
            free: disk.blocks_available() * disk.fragment_size(),
            used: used(&blobs.join("blobs")) + used(volumes),
            read_only: disk.flags().contains(FsFlags::ST_RDONLY),
        })
    }

    /// What is to be said of it, after what was said before.
    fn seen(&self, before: Option<&Seen>) -> Seen {
        let room = self.free + self.used;
        let said = before.map(|seen| seen.room);
        let least = match before.and_then(|seen| seen.unable) {
            Some(Unable::Full) => 2 * LEAST_BYTES,
            Some(Unable::ReadOnly) | None => LEAST_BYTES,
        };
        Seen {
            room: match said {
                Some(said) if room.abs_diff(said) < STEP_BYTES => said,
                Some(_) | None => room,
            },
            unable: match (self.read_only, self.free < least) {
                (true, _) => Some(Unable::ReadOnly),
                (false, true) => Some(Unable::Full),
                (false, false) => None,
            },
        }
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
        let sees = |free, used, read_only| {
            space.note(&Disk {
                free,
                used,
                read_only,
            });
            let mut task = std::task::Context::from_waker(std::task::Waker::noop());
            let changed = pin!(space.changed()).poll(&mut task).is_ready();
            let why = space.unable().unwrap_or_default();
            (changed, space.volume_bytes() / GIB, why)
        };
        let fine = String::new;
        let full = || "its disk is full: fewer than 64 MiB are free".to_owned();
        assert_eq!(sees(80 * GIB - 1, 0, false), (false, 70, fine()));
        assert_eq!(sees(4 * GIB, 4 * GIB, false), (true, 7, fine()));
        assert_eq!(sees(1 << 20, 8 * GIB, false), (true, 7, full()));
        assert_eq!(sees(3 << 20, 8 * GIB, false), (false, 7, full()));
        assert_eq!(
            sees(100 << 20, 8 * GIB, false),
            (false, 7, full()),
            "barely"
        );
        let read_only = "its disk can only be read".to_owned();
        assert_eq!(sees(3 << 20, 8 * GIB, true), (true, 7, read_only));
        assert_eq!(sees(GIB, 7 * GIB, false), (true, 7, fine()));
        assert_eq!(sees(100 << 20, 8 * GIB, false), (false, 7, fine()));
    }
}
