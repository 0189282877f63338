//! Contents that are read: every block is compared with its checksum and, where it was sealed, opened. What
//! isn't what was written is an error, and is remembered.

use crate::buffers::{Buffer, Buffers};
use crate::contents::{BLOCK, Contents, Slice};
use crate::crypt::{Blocks, Key, Master, TAG_BYTES};
use crate::error::internal;
use crate::sum::crc32c;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use std::collections::BTreeSet;
use std::fs::File;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// A content that is being read.
pub struct Opened {
    id: i64,
    place: Place,
    size: u64,
    /// A CRC32C of every block, and the tags of sealed ones.
    sums: Vec<u8>,
    tags: Vec<u8>,
    blocks: Option<Blocks>,
    buffers: Buffers,
    damaged: Arc<Damaged>,
}

enum Place {
    Row(Bytes),
    File(File),
}

impl Opened {
    pub fn is_file(&self) -> bool {
        matches!(self.place, Place::File(_))
    }

    /// Reads bytes of it, in the clear; of a file, whole blocks are read for that.
    pub fn read(&self, slice: Slice) -> S3Result<Bytes> {
        match &self.place {
            Place::Row(bytes) => {
                let (from, to) = (slice.offset, slice.offset + slice.len);
                self.verify(0, bytes)?;
                if bytes.len() as u64 != self.size || to > self.size {
                    return Err(self.damaged.note(self.id, "its bytes are missing"));
                }
                let clear = match &self.blocks {
                    None => bytes.clone(),
                    Some(_) => {
                        let mut bytes = bytes.to_vec();
                        self.open(0, &mut bytes)?;
                        Bytes::from(bytes)
                    }
                };
                Ok(clear.slice(from as usize..to as usize))
            }
            Place::File(file) => {
                let (start, len) = self.around(slice);
                let read = self.buffers.read(file, start, len);
                let read = read.map_err(|error| self.damaged.note(self.id, &error.to_string()))?;
                self.finish(slice, read)
            }
        }
    }

    /// Bytes of a file that the system has in memory, which take no time to read; `None` if it hasn't, or if
    /// they have to be opened, which does take time.
    pub fn at_hand(&self, slice: Slice) -> S3Result<Option<Bytes>> {
        let Place::File(file) = &self.place else {
            return Ok(None);
        };
        if self.blocks.is_some() {
            return Ok(None);
        }
        let (start, len) = self.around(slice);
        match self.buffers.read_at_hand(file, start, len) {
            None => Ok(None),
            Some(read) => self.finish(slice, read).map(Some),
        }
    }

    /// Offset and length of the blocks that a slice is in.
    fn around(&self, slice: Slice) -> (u64, usize) {
        let block = BLOCK as u64;
        let start = slice.offset / block * block;
        let end = (slice.offset + slice.len).div_ceil(block);
        let end = end.saturating_mul(block).min(self.size);
        (start, (end - start) as usize)
    }

    /// The bytes of a slice, of the blocks that it is in.
    fn finish(&self, slice: Slice, mut read: Buffer) -> S3Result<Bytes> {
        let first = slice.offset / BLOCK as u64;
        self.verify(first, read.as_ref())?;
        self.open(first, read.as_mut())?;
        let from = (slice.offset % BLOCK as u64) as usize;
        Ok(read.freeze().slice(from..from + slice.len as usize))
    }

    /// `first` is the number of the first of these blocks.
    fn verify(&self, first: u64, bytes: &[u8]) -> S3Result<()> {
        for (index, block) in (first..).zip(bytes.chunks(BLOCK)) {
            let at = index as usize * 4;
            if self.sums.get(at..at + 4) != Some(&crc32c(block).to_le_bytes()[..]) {
                let why = format!("block {index} has another checksum");
                return Err(self.damaged.note(self.id, &why));
            }
        }
        Ok(())
    }

    /// Decrypts blocks in their place.
    fn open(&self, first: u64, bytes: &mut [u8]) -> S3Result<()> {
        let Some(blocks) = &self.blocks else {
            return Ok(());
        };
        for (index, block) in (first..).zip(bytes.chunks_mut(BLOCK)) {
            let at = index as usize * TAG_BYTES;
            let tag = self.tags.get(at..at + TAG_BYTES).unwrap_or_default();
            if !blocks.open(index, block, tag) {
                let why = format!("block {index} isn't what was sealed");
                return Err(self.damaged.note(self.id, &why));
            }
        }
        Ok(())
    }
}

/// A content's row.
struct Row {
    size: u64,
    sums: Vec<u8>,
    bytes: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    tags: Option<Vec<u8>>,
}

fn row(connection: &Connection, id: i64) -> S3Result<Row> {
    let row = connection
        .prepare_cached("SELECT size, sums, bytes, key, tags FROM contents WHERE id = ?1")
        .and_then(|mut select| {
            let row = |row: &rusqlite::Row<'_>| {
                Ok(Row {
                    size: row.get(0)?,
                    sums: row.get(1)?,
                    bytes: row.get(2)?,
                    key: row.get(3)?,
                    tags: row.get(4)?,
                })
            };
            select.query_row([id], row).optional()
        })
        .map_err(internal)?;
    row.ok_or_else(|| internal(format!("content {id} is gone")))
}

impl Contents {
    /// Opens a content, with what it takes to read it.
    pub fn opened(&self, connection: &Connection, id: i64, key: Option<&Key>) -> S3Result<Opened> {
        let row = row(connection, id)?;
        let blocks = self.blocks_of(id, row.key.as_deref(), key)?;
        self.found(id, row, blocks)
    }

    /// Compares bytes of a content with their checksums, for which no key is needed, and with what was
    /// sealed, where the master key is at hand that did.
    pub fn check(&self, connection: &Connection, slice: Slice) -> S3Result<()> {
        let row = row(connection, slice.content)?;
        let by_master = row.key.as_deref().filter(|key| Master::wrapped(key));
        let by_master = by_master.filter(|_| self.master().is_some());
        let blocks = self.blocks_of(slice.content, by_master, None)?;
        let found = self.found(slice.content, row, blocks)?;
        found.read(slice).map(|_| ())
    }

    fn blocks_of(
        &self,
        id: i64,
        wrapped: Option<&[u8]>,
        key: Option<&Key>,
    ) -> S3Result<Option<Blocks>> {
        let Some(wrapped) = wrapped else {
            return Ok(None);
        };
        let has_key = match Master::wrapped(wrapped) {
            true => self.master().is_some(),
            false => key.is_some(),
        };
        match Blocks::of(wrapped, self.master(), key, id) {
            Some(blocks) => Ok(Some(blocks)),
            None if has_key => Err(self.damaged.note(id, "its key isn't what was wrapped")),
            None => Err(locked(id)),
        }
    }

    fn found(&self, id: i64, row: Row, blocks: Option<Blocks>) -> S3Result<Opened> {
        let place = match row.bytes {
            Some(bytes) => Place::Row(Bytes::from(bytes)),
            None => {
                let file = File::open(self.path(id));
                Place::File(file.map_err(|error| self.damaged.note(id, &error.to_string()))?)
            }
        };
        Ok(Opened {
            id,
            place,
            size: row.size,
            sums: row.sums,
            tags: row.tags.unwrap_or_default(),
            blocks,
            buffers: self.buffers.clone(),
            damaged: self.damaged.clone(),
        })
    }
}

const DAMAGED: &str = "The object is damaged on the disk. Tell the administrator.";

/// The numbers of contents that were found damaged since the start.
#[derive(Default)]
pub struct Damaged {
    all: Mutex<BTreeSet<i64>>,
    found: Notify,
}

impl Damaged {
    fn note(&self, id: i64, why: &str) -> S3Error {
        tracing::error!("content {id:016x} is damaged: {why}");
        let mut all = self.all.lock().expect("no holder of this lock panics");
        if all.insert(id) {
            self.found.notify_one();
        }
        S3Error::with_message(S3ErrorCode::InternalError, DAMAGED)
    }

    /// Resolves when another one was found. For one waiter.
    pub async fn found(&self) {
        self.found.notified().await;
    }

    /// Wakes who waits.
    pub fn wake(&self) {
        self.found.notify_one();
    }

    pub fn all(&self) -> Vec<i64> {
        let all = self.all.lock().expect("no holder of this lock panics");
        all.iter().copied().collect()
    }

    pub fn forget(&self, id: i64) {
        let mut all = self.all.lock().expect("no holder of this lock panics");
        all.remove(&id);
    }
}

/// Whether that was the reason, and not that nothing could be read just now.
pub fn is_damage(error: &S3Error) -> bool {
    error.message() == Some(DAMAGED)
}

/// The key is missing, and not the bytes.
fn locked(id: i64) -> S3Error {
    tracing::error!("no key at hand opens content {id:016x}");
    s3_error!(
        ServiceUnavailable,
        "The key that this object is encrypted with isn't there. Tell the administrator."
    )
}
