//! Contents: the bytes of objects and parts, immutable, each with a row that counts its uses.
//!
//! Small ones are in their row, so that one sync makes bytes and metadata durable; others are a file
//! each, `data/<low byte of the id>/<id>`, which is synced, and its folder, before the row is written.
//! A file without a row is removed by the next start. Every block of [`BLOCK`] bytes has a CRC32C,
//! which is compared at every read: what is damaged is an error, never an answer.

use crate::buffers::Buffers;
use crate::crypt::{Blocks, Lock, Master, MasterError};
use crate::error::{full, internal};
use crate::opened::Damaged;
use crate::sum::crc32c;
use bytes::Bytes;
use rusqlite::Connection;
use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Bytes that one checksum covers, and that are read at once.
pub const BLOCK: usize = 256 << 10;
/// Contents up to this many bytes are in their row.
pub const INLINE: usize = 64 << 10;
/// After so many bytes the kernel is told to begin writing.
const AHEAD: u64 = 8 << 20;
/// What stays free on the disk, so that what is deleted can still be written down.
const RESERVE: u64 = 64 << 20;

/// Bytes of a content, which an object or a part consists of: `[content, offset, length]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, u64, u64)", into = "(i64, u64, u64)")]
pub struct Slice {
    pub content: i64,
    pub offset: u64,
    pub len: u64,
}

impl From<(i64, u64, u64)> for Slice {
    fn from((content, offset, len): (i64, u64, u64)) -> Self {
        Self {
            content,
            offset,
            len,
        }
    }
}

impl From<Slice> for (i64, u64, u64) {
    fn from(slice: Slice) -> Self {
        (slice.content, slice.offset, slice.len)
    }
}

/// The part of `slices` from byte `start` on, `len` bytes long.
pub fn cut(slices: &[Slice], start: u64, len: u64) -> Vec<Slice> {
    let (mut skip, mut left) = (start, len);
    let mut found = Vec::new();
    for slice in slices {
        let skipped = skip.min(slice.len);
        skip -= skipped;
        let taken = (slice.len - skipped).min(left);
        left -= taken;
        if taken > 0 {
            found.push(Slice {
                content: slice.content,
                offset: slice.offset + skipped,
                len: taken,
            });
        }
    }
    found
}

pub struct Contents {
    data: PathBuf,
    /// Where the master key is, and it, or why it isn't there; known once the rows were read.
    master_key: PathBuf,
    /// Whether it may be made.
    makes_master: bool,
    master: OnceLock<Result<Master, MasterError>>,
    pub buffers: Buffers,
    next: AtomicI64,
    /// Bytes of uploads that are under way.
    promised: AtomicU64,
    /// Contents that were found damaged since the start.
    pub damaged: Arc<Damaged>,
    /// The newest entry of `freed` that is committed.
    freed: AtomicI64,
    /// For each of them that a reader began with, how many such readers there are.
    readers: Mutex<BTreeMap<i64, usize>>,
}

/// As long as it is there, nothing is collected that was in use when it was made.
pub struct Reading {
    contents: Arc<Contents>,
    since: i64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readers = self
            .contents
            .readers
            .lock()
            .expect("no holder of this lock panics");
        if let Some(count) = readers.get_mut(&self.since) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.since);
            }
        }
    }
}

/// Room that an upload was promised, less what it has taken.
pub struct Room {
    contents: Arc<Contents>,
    bytes: u64,
}

impl Room {
    /// So many bytes are on their way to the disk, which has less free space for them.
    pub fn take(&mut self, bytes: u64) {
        let taken = bytes.min(self.bytes);
        self.bytes -= taken;
        self.contents.promised.fetch_sub(taken, Ordering::Relaxed);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.contents
            .promised
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A content that is written and has no row yet. Dropped, it is removed.
pub struct New {
    pub id: i64,
    pub size: u64,
    pub sums: Vec<u8>,
    pub bytes: Option<Bytes>,
    /// Of an encrypted one: its key, wrapped, and the tag of every block.
    pub sealed: Option<(Vec<u8>, Vec<u8>)>,
    file: Option<PathBuf>,
}

impl New {
    pub fn slice(&self) -> Slice {
        Slice {
            content: self.id,
            offset: 0,
            len: self.size,
        }
    }

    /// Its row is committed.
    pub fn stays(mut self) {
        self.file = None;
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if let Some(path) = &self.file {
            remove(path);
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!("{}: {error}; the next start removes it", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}

impl Contents {
    /// Makes the folders. What has no row goes in [`Contents::reconcile`].
    pub fn open(dir: &Path, master_key: Option<&Path>) -> Result<Arc<Self>, crate::db::OpenError> {
        let data = dir.join("data");
        for low in 0..=u8::MAX {
            fs::create_dir_all(data.join(format!("{low:02x}")))?;
        }
        File::open(&data)?.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(Arc::new(Self {
            data,
            makes_master: master_key.is_none(),
            master_key: master_key.map_or_else(|| dir.join("master.key"), Path::to_owned),
            master: OnceLock::new(),
            buffers: Buffers::default(),
            promised: AtomicU64::new(0),
            damaged: Arc::default(),
            next: AtomicI64::new(1),
            freed: AtomicI64::new(0),
            readers: Mutex::default(),
        }))
    }

    /// Removes files that no row names, and goes on with numbers above those of all rows.
    pub fn reconcile(&self, connection: &Connection) -> Result<(), crate::db::OpenError> {
        let mut named = HashSet::new();
        let (mut highest, mut needed) = (0, Vec::new());
        let mut rows = connection.prepare("SELECT id, bytes IS NULL, key FROM contents")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            highest = highest.max(id);
            if row.get(1)? {
                named.insert(id);
            }
            let key: Option<Vec<u8>> = row.get(2)?;
            // Some are enough: one may be damaged.
            if let Some(key) = key.filter(|key| needed.len() < 64 && Master::wrapped(key)) {
                needed.push((id, key));
            }
        }
        for low in 0..=u8::MAX {
            for entry in fs::read_dir(self.data.join(format!("{low:02x}")))? {
                let entry = entry?;
                let id = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| i64::from_str_radix(name, 16).ok());
                if !id.is_some_and(|id| named.contains(&id)) {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        self.next.store(highest + 1, Ordering::Relaxed);
        let master = Master::open(&self.master_key, self.makes_master, &needed);
        if let Err(error) = &master {
            tracing::error!("{}", error.consequence());
        }
        let _ = self.master.set(master);
        Ok(())
    }

    /// Why there is no master key, if there is none.
    pub fn no_master(&self) -> Option<&MasterError> {
        self.master.get().and_then(|master| master.as_ref().err())
    }

    pub fn master(&self) -> Option<&Master> {
        self.master.get().and_then(|master| master.as_ref().ok())
    }

    fn blocks(&self, lock: &Lock, id: i64) -> S3Result<Option<(Blocks, Vec<u8>)>> {
        match lock {
            Lock::Open => Ok(None),
            Lock::Customer(own) => Ok(Some(Blocks::new(Ok(own), id))),
            Lock::Master => match self.master() {
                Some(master) => Ok(Some(Blocks::new(Err(master), id))),
                None => Err(s3_error!(
                    ServiceUnavailable,
                    "The cloud's master key isn't there, so nothing can be encrypted with it. Tell the administrator."
                )),
            },
        }
    }

    pub fn path(&self, id: i64) -> PathBuf {
        self.data.join(format!("{:02x}/{id:016x}", id & 0xff))
    }

    fn fresh(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A content that goes into its row.
    pub fn inline(&self, bytes: Bytes, lock: &Lock) -> S3Result<New> {
        let id = self.fresh();
        let (bytes, sealed) = match self.blocks(lock, id)? {
            None => (bytes, None),
            Some((blocks, key)) => {
                let mut bytes = bytes.to_vec();
                let tag = blocks.seal(0, &mut bytes);
                (Bytes::from(bytes), Some((key, tag.to_vec())))
            }
        };
        Ok(New {
            id,
            sealed,
            size: bytes.len() as u64,
            sums: bytes
                .chunks(BLOCK)
                .flat_map(|block| crc32c(block).to_le_bytes())
                .collect(),
            bytes: Some(bytes),
            file: None,
        })
    }

    /// Begins a content that is a file.
    pub fn create(&self, lock: &Lock) -> S3Result<Writing> {
        let id = self.fresh();
        let (blocks, key) = self.blocks(lock, id)?.unzip();
        let path = self.path(id);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error)?;
        Ok(Writing {
            file,
            blocks,
            begun: 0,
            new: New {
                id,
                size: 0,
                sums: Vec::new(),
                bytes: None,
                sealed: key.map(|key| (key, Vec::new())),
                file: Some(path),
            },
        })
    }

    /// Whether there are any files.
    pub fn has_files(&self) -> io::Result<bool> {
        for low in 0..=u8::MAX {
            if fs::read_dir(self.data.join(format!("{low:02x}")))?
                .next()
                .is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Room for that many bytes, kept until the answer is dropped.
    pub fn room(self: &Arc<Self>, bytes: u64) -> S3Result<Room> {
        let promised = self.promised.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let room = Room {
            contents: self.clone(),
            bytes,
        };
        self.has_room(promised)?;
        Ok(room)
    }

    fn has_room(&self, bytes: u64) -> S3Result<()> {
        let disk = nix::sys::statvfs::statvfs(&self.data).map_err(internal)?;
        let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
        match free >= bytes.saturating_add(RESERVE) {
            true => Ok(()),
            false => Err(full()),
        }
    }

    /// To be called before the rows are read.
    pub fn reading(self: &Arc<Self>) -> Reading {
        let mut readers = self.readers.lock().expect("no holder of this lock panics");
        let since = self.freed.load(Ordering::Acquire);
        *readers.entry(since).or_default() += 1;
        Reading {
            contents: self.clone(),
            since,
        }
    }

    pub fn freed_up_to(&self, n: i64) {
        self.freed.store(n, Ordering::Release);
    }

    /// The newest entry of `freed` that nobody reads any more.
    pub fn unread(&self) -> i64 {
        let readers = self.readers.lock().expect("no holder of this lock panics");
        let newest = self.freed.load(Ordering::Acquire);
        readers
            .keys()
            .next()
            .map_or(newest, |oldest| newest.min(*oldest))
    }

    pub fn remove(&self, id: i64) {
        remove(&self.path(id));
    }
}

pub fn io_error(error: io::Error) -> s3s::S3Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => full(),
        _ => internal(error),
    }
}

/// A content that is being written, in blocks of [`BLOCK`] bytes but for the last.
pub struct Writing {
    file: File,
    new: New,
    blocks: Option<Blocks>,
    /// So far the kernel was told to write.
    begun: u64,
}

impl Writing {
    pub fn block(&mut self, block: &[u8]) -> io::Result<()> {
        let index = self.new.size / BLOCK as u64;
        let ciphertext = match (&self.blocks, &mut self.new.sealed) {
            (Some(blocks), Some((_, tags))) => {
                let mut block = block.to_vec();
                tags.extend(blocks.seal(index, &mut block));
                Some(block)
            }
            _ => None,
        };
        let block = ciphertext.as_deref().unwrap_or(block);
        self.file.write_all(block)?;
        self.new.size += block.len() as u64;
        if self.new.size - self.begun >= AHEAD {
            self.begin_to_write();
        }
        self.new.sums.extend(crc32c(block).to_le_bytes());
        Ok(())
    }

    /// Tells the kernel to begin with what came since the last time, so that the sync at the end has
    /// little left to wait for. Only that: what it says of errors is said by the sync again.
    fn begin_to_write(&mut self) {
        let (from, len) = (self.begun as i64, (self.new.size - self.begun) as i64);
        // SAFETY: it takes a descriptor, which is open, and numbers.
        unsafe {
            libc::sync_file_range(
                self.file.as_raw_fd(),
                from,
                len,
                libc::SYNC_FILE_RANGE_WRITE,
            )
        };
        self.begun = self.new.size;
    }

    /// Makes it durable.
    pub fn finish(self) -> io::Result<New> {
        self.file.sync_all()?;
        let path = self.new.file.as_deref().expect("it is a file");
        File::open(path.parent().expect("it is in a folder"))?.sync_all()?;
        Ok(self.new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_cut() {
        let slices = [Slice::from((1, 10, 5)), Slice::from((2, 0, 7))];
        assert_eq!(cut(&slices, 0, 12), slices);
        assert_eq!(
            cut(&slices, 3, 4),
            [Slice::from((1, 13, 2)), Slice::from((2, 0, 2))]
        );
        assert_eq!(cut(&slices, 5, 1), [Slice::from((2, 0, 1))]);
        assert_eq!(cut(&slices, 12, 1), []);
    }
}
