//! The console's log: a ring in a file of fixed size, with one writer and any number of readers.
//!
//! ```text
//! offset 0   "BOIRALOG"
//!        8   bytes written so far, little endian
//!       16   resets counted so far, little endian
//!       24   ring of RING_BYTES: byte n of the console is at n modulo RING_BYTES
//! ```
//!
//! The writer puts data first and the count after it, at most [`CHUNK_BYTES_MAX`] at a time, so that
//! a reader knows which part may change under it. A file, because it must outlive whoever wrote it;
//! a ring, because nothing then has to be renamed or cut while somebody reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much of the console is kept.
pub const RING_BYTES: u64 = 256 * 1024;
/// The most that one call of [`Log::append`] may take.
pub const CHUNK_BYTES_MAX: usize = 4096;

const MAGIC: &[u8; 8] = b"BOIRALOG";
const HEADER_BYTES: u64 = 24;

/// The writer's end.
pub struct Log {
    file: File,
    counts: Counts,
}

/// What a log's header counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that the console has said.
    pub written_bytes: u64,
    /// Resets of the guest.
    pub resets: u64,
}

impl Log {
    /// Takes up a log where its last writer left it, or begins one.
    pub fn open(file: File) -> io::Result<Log> {
        let counts = match counts(&file) {
            Ok(counts) => counts,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Counts::default(),
            Err(error) => return Err(error),
        };
        file.write_all_at(MAGIC, 0)?;
        let mut log = Log { file, counts };
        log.write_counts()?;
        Ok(log)
    }

    /// Adds what the console said: at most [`CHUNK_BYTES_MAX`].
    pub fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        assert!(chunk.len() <= CHUNK_BYTES_MAX, "readers count on the limit");
        let at = self.counts.written_bytes % RING_BYTES;
        let until_end = chunk.len().min((RING_BYTES - at) as usize);
        self.file
            .write_all_at(&chunk[..until_end], HEADER_BYTES + at)?;
        self.file.write_all_at(&chunk[until_end..], HEADER_BYTES)?;
        self.counts.written_bytes += chunk.len() as u64;
        self.write_counts()
    }

    /// Counts a reset.
    pub fn count_reset(&mut self) -> io::Result<()> {
        self.counts.resets += 1;
        self.write_counts()
    }

    /// The newest bytes, as [`tail`].
    pub fn tail(&self, max_bytes: usize) -> io::Result<Vec<u8>> {
        tail(&self.file, max_bytes)
    }

    fn write_counts(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.counts.written_bytes.to_le_bytes());
        bytes[8..].copy_from_slice(&self.counts.resets.to_le_bytes());
        self.file.write_all_at(&bytes, 8)
    }
}

/// What the header of a log counts.
pub fn counts(file: &File) -> io::Result<Counts> {
    let mut header = [0; HEADER_BYTES as usize];
    file.read_exact_at(&mut header, 0)?;
    let (magic, rest) = header.split_at(8);
    if magic != MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a console log",
        ));
    }
    let (written, resets) = rest.split_at(8);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    Ok(Counts {
        written_bytes: number(written),
        resets: number(resets),
    })
}

/// The newest bytes of a log, also while it is written to.
pub fn tail(file: &File, max_bytes: usize) -> io::Result<Vec<u8>> {
    let end = counts(file)?.written_bytes;
    let mut ring = vec![0; end.min(RING_BYTES) as usize];
    let present = read_up_to(file, &mut ring)?;
    // Whatever the writer has put over the oldest bytes meanwhile, counted or not, is left out.
    let overwritten = counts(file)?.written_bytes + CHUNK_BYTES_MAX as u64;
    let start = end
        .saturating_sub(max_bytes as u64)
        .max(overwritten.saturating_sub(RING_BYTES))
        .min(end);
    if present < ring.len() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "console log cut short",
        ));
    }
    Ok((start..end)
        .map(|n| ring[(n % RING_BYTES) as usize])
        .collect())
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], HEADER_BYTES + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(range: std::ops::Range<u32>) -> Vec<u8> {
        range
            .flat_map(|n| format!("{n:07}\n").into_bytes())
            .collect()
    }

    fn append_all(log: &mut Log, bytes: &[u8]) {
        for chunk in bytes.chunks(1000) {
            log.append(chunk).unwrap();
        }
    }

    #[test]
    fn a_log_keeps_the_newest_bytes_within_its_bound_and_across_writers() {
        let file = tempfile::tempfile().unwrap();
        let mut log = Log::open(file.try_clone().unwrap()).unwrap();
        assert_eq!(log.tail(10).unwrap(), b"");
        append_all(&mut log, &numbered(0..10));
        assert_eq!(tail(&file, usize::MAX).unwrap(), numbered(0..10));
        assert_eq!(tail(&file, 16).unwrap(), numbered(8..10));

        log.count_reset().unwrap();
        let mut log = Log::open(file.try_clone().unwrap()).unwrap();
        append_all(&mut log, &numbered(10..100_000));
        assert!(file.metadata().unwrap().len() <= HEADER_BYTES + RING_BYTES);
        assert_eq!(
            counts(&file).unwrap(),
            Counts {
                written_bytes: 800_000,
                resets: 1
            }
        );
        assert_eq!(tail(&file, 64 * 1024).unwrap(), numbered(91_808..100_000));
        let all = tail(&file, usize::MAX).unwrap();
        assert_eq!(all.len(), RING_BYTES as usize - CHUNK_BYTES_MAX);
        assert!(numbered(0..100_000).ends_with(&all));
    }

    #[test]
    fn a_file_that_is_no_log_is_refused_and_left_alone() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 100], 0).unwrap();
        assert!(Log::open(file.try_clone().unwrap()).is_err());
        assert!(tail(&file, 10).is_err());
        let mut start = [0; 8];
        file.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(start, [7; 8]);
    }
}
