//! A volume's file on its way from one host to another: its data without its holes, and at the end
//! what it must be.
//!
//! ```text
//!  size: u64 │ { offset: u64, length: u32 > 0, bytes }… │ offset: u64 = size, length: u32 = 0 │ SHA-256 of all before
//! ```
//! Numbers are big-endian. A stream that is cut or changed anywhere lacks its end, so nothing of it is
//! kept.

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes that travel as one piece.
const PIECE: u64 = 256 << 10;

/// Writes a file as a stream. Nobody may write to it meanwhile.
pub fn send(path: &Path, out: impl Write) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let size = file.metadata().context("ask for its size")?.len();
    let mut out = Hashing::new(out);
    out.write_all(&size.to_be_bytes()).context("send")?;
    let mut at = 0;
    let mut piece = Vec::new();
    while let Some((from, to)) = data_after(&file, at, size)? {
        at = from;
        while at < to {
            piece.resize((to - at).min(PIECE) as usize, 0);
            file.read_exact_at(&mut piece, at).context("read")?;
            head(&mut out, at, piece.len() as u32).context("send")?;
            out.write_all(&piece).context("send")?;
            at += piece.len() as u64;
        }
    }
    head(&mut out, size, 0).context("send")?;
    let (mut out, digest) = out.end();
    out.write_all(&digest).context("send")?;
    out.flush().context("send")
}

fn head(out: &mut impl Write, offset: u64, length: u32) -> std::io::Result<()> {
    out.write_all(&offset.to_be_bytes())?;
    out.write_all(&length.to_be_bytes())
}

/// The next part of a file that isn't a hole. A file system that knows no holes has one part.
fn data_after(file: &File, at: u64, size: u64) -> Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let from = match lseek(file, at as i64, Whence::SeekData) {
        Ok(from) => from as u64,
        Err(Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(error).context("look for data"),
    };
    let to = lseek(file, from as i64, Whence::SeekHole).context("look for a hole")?;
    Ok(Some((from, (to as u64).min(size))))
}

/// How large the file of a disk of that many bytes can get: a hundredth more is plenty for what qcow2 says of
/// its clusters.
pub fn most_bytes(disk: u64) -> u64 {
    disk.saturating_add(disk / 100).saturating_add(16 << 20)
}

/// Reads a stream into a new file of at most so many bytes, which is on the disk under its own name when this
/// returns. `note` is told how far it has got, in bytes of the file, and its size.
///
/// # Errors
/// A stream that doesn't hold what it says leaves nothing.
pub fn receive(
    input: impl Read,
    path: &Path,
    most_bytes: u64,
    note: impl FnMut(u64, u64),
) -> Result<()> {
    let partial = path.with_extension(partial_extension(path));
    let outcome = receive_into(input, &partial, most_bytes, note);
    if outcome.is_err() {
        let _ = std::fs::remove_file(&partial);
        return outcome;
    }
    boira_files::publish(&partial, path).context("give it its name")
}

/// A copy's number is an extension of its name already.
fn partial_extension(path: &Path) -> String {
    match path.extension() {
        Some(number) => format!("{}.part", number.to_string_lossy()),
        None => "part".into(),
    }
}

/// Removes what an agent that was ended had received of disks.
pub fn remove_partial(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).context("list the disks")? {
        let path = entry.context("list the disks")?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "part")
        {
            std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn receive_into(
    input: impl Read,
    path: &Path,
    most_bytes: u64,
    mut note: impl FnMut(u64, u64),
) -> Result<()> {
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("write {}", path.display()))?;
    let mut input = Hashing::new(input);
    let size = u64::from_be_bytes(read(&mut input)?);
    ensure!(
        size <= most_bytes,
        "its {size} bytes are more than its disk can have"
    );
    file.set_len(size).context("make a file of its size")?;
    note(0, size);
    let mut piece = Vec::new();
    loop {
        let offset = u64::from_be_bytes(read(&mut input)?);
        let length = u32::from_be_bytes(read(&mut input)?);
        let end = offset.checked_add(u64::from(length));
        ensure!(
            end.is_some_and(|end| end <= size) && u64::from(length) <= PIECE,
            "a piece lies outside of the file"
        );
        if length == 0 {
            break;
        }
        piece.resize(length as usize, 0);
        input.read_exact(&mut piece).context("receive")?;
        file.seek(SeekFrom::Start(offset)).context("write")?;
        file.write_all(&piece).context("write")?;
        note(offset + u64::from(length), size);
    }
    let (mut input, digest) = input.end();
    if read::<32>(&mut input)? != digest {
        bail!("what arrived is not what was sent");
    }
    file.sync_all().context("sync")
}

fn read<const N: usize>(input: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).context("receive")?;
    Ok(bytes)
}

/// Passes bytes on and knows their hash.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }

    fn end(self) -> (T, [u8; 32]) {
        (self.inner, self.hash.finalize().into())
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(bytes)?;
        self.hash.update(&bytes[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    /// A file with data at both ends and a hole between.
    fn sparse(path: &Path) {
        let file = File::create(path).expect("a file");
        file.write_all_at(&[7; 300_000], 0).expect("it is written");
        file.write_all_at(b"the end", 64 << 20)
            .expect("it is written");
        file.set_len((64 << 20) + 4096).expect("it has a size");
    }

    fn sent(path: &Path) -> Vec<u8> {
        let mut stream = Vec::new();
        send(path, &mut stream).expect("it is sent");
        stream
    }

    #[test]
    fn a_file_arrives_as_it_is_with_its_holes() {
        let folder = folder();
        let (from, to) = (folder.path().join("vol-1"), folder.path().join("vol-1.2"));
        sparse(&from);
        let stream = sent(&from);
        assert!(stream.len() < 2 << 20, "{} bytes", stream.len());
        let mut seen = Vec::new();
        receive(&stream[..], &to, u64::MAX, |done, of| seen.push((done, of))).expect("it arrives");
        assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&from).unwrap());
        let used = |path| std::fs::metadata(path).unwrap().blocks();
        assert!(used(&to) <= used(&from) + 1024);
        assert!(seen.is_sorted() && seen.len() > 2, "{seen:?}");
    }

    #[test]
    fn what_was_cut_or_changed_leaves_nothing() {
        let folder = folder();
        let (from, to) = (folder.path().join("vol-1"), folder.path().join("vol-1.2"));
        sparse(&from);
        let stream = sent(&from);
        for length in [0, 5, 20, 1000, stream.len() - 40, stream.len() - 1] {
            assert!(receive(&stream[..length], &to, u64::MAX, |_, _| {}).is_err());
        }
        for at in [0, 9, 17, 1000, stream.len() - 36, stream.len() - 1] {
            let mut changed = stream.clone();
            changed[at] ^= 1;
            assert!(
                receive(&changed[..], &to, u64::MAX, |_, _| {}).is_err(),
                "{at}"
            );
        }
        let size = std::fs::metadata(&from).unwrap().len();
        assert!(receive(&stream[..], &to, size - 1, |_, _| {}).is_err());
        let names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["vol-1"]);
    }
}
