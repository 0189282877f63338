//! Buffers that are used again: fresh ones of this size come from the kernel page by page, zeroed, which
//! costs as much as what is done with them.

use bytes::Bytes;
use std::fs::File;
use std::io;
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
        let kept = self.0.lock().expect("no holder of this lock panics").pop();
        let mut bytes = kept.unwrap_or_default();
        // What an earlier use left is overwritten; only what it didn't reach is zeroed first.
        bytes.resize(len, 0);
        let mut buffer = Buffer {
            bytes,
            home: self.clone(),
        };
        file.read_exact_at(&mut buffer.bytes, offset)?;
        Ok(buffer)
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
