//! Buffers that are used again: fresh ones of this size come from the kernel page by page, zeroed, which
//! costs as much as what is done with them.

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

/// Those that wait to be used again.
const KEPT: usize = 32;

#[derive(Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer that goes back when it is dropped.
pub struct Buffer {
    bytes: Vec<u8>,
    home: Buffers,
}

impl Buffers {
    /// One that holds up to `capacity` bytes, and none yet.
    pub fn take(&self, capacity: usize) -> Buffer {
        let kept = self.0.lock().expect("no holder of this lock panics").pop();
        let mut bytes = kept.unwrap_or_default();
        bytes.clear();
        bytes.reserve_exact(capacity);
        Buffer {
            bytes,
            home: self.clone(),
        }
    }

    /// One with exactly these bytes of a file.
    pub fn read(&self, file: &File, offset: u64, len: usize) -> io::Result<Buffer> {
        let mut buffer = self.sized(len);
        file.read_exact_at(&mut buffer.bytes, offset)?;
        Ok(buffer)
    }

    /// The same, if the system has all of them in memory.
    pub fn read_at_hand(&self, file: &File, offset: u64, len: usize) -> Option<Buffer> {
        let mut buffer = self.sized(len);
        let mut place = [IoSliceMut::new(&mut buffer.bytes)];
        let read = preadv2(file, &mut place, offset, ReadWriteFlags::NOWAIT);
        (read == Ok(len)).then_some(buffer)
    }

    fn sized(&self, len: usize) -> Buffer {
        let kept = self.0.lock().expect("no holder of this lock panics").pop();
        let mut bytes = kept.unwrap_or_default();
        // What an earlier use left is overwritten; only what it didn't reach is zeroed first.
        bytes.resize(len, 0);
        Buffer {
            bytes,
            home: self.clone(),
        }
    }
}

impl Buffer {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.home.0.lock().expect("no holder of this lock panics");
        if kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_at_hand_is_what_the_file_holds_and_never_less_than_was_asked_for() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123456789").expect("it takes bytes");
        let buffers = Buffers::default();
        let found = |offset, len| {
            let read = buffers.read_at_hand(&file, offset, len);
            read.map(|bytes| bytes.as_ref().to_vec())
        };
        assert_eq!(found(2, 5).as_deref(), Some(&b"23456"[..]));
        assert_eq!(
            found(0, 2).as_deref(),
            Some(&b"01"[..]),
            "a buffer is used again"
        );
        assert_eq!(found(8, 5), None, "the file ends before");
    }
}
