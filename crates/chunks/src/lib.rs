//! Blobs on a host, named by their content: what images share, and later snapshots, backups and
//! large objects.
//!
//! A blob enters only if its SHA-256 is the one that was expected, and is never written again. What
//! is in use is pinned; the rest is a cache, which gives up what was used longest ago when it is
//! full. For now a blob is one file; the store's users don't depend on that.
//!
//! ```text
//! <dir>/blobs/<digest>.<size>     mode 0444, mtime SEAL, atime the last use
//!       pins/<digest>.<holder>    an empty file for each user
//!       incoming/                 what isn't verified yet; emptied by open, but for
//!       incoming/<digest>.part    the beginning of a blob whose fetching was interrupted
//! ```
//!
//! The seal makes a start cheap: whatever writes to a file changes its mtime, so that a blob with
//! the right size and the seal's mtime is what was verified. One without is read through again. A
//! blob's file is synced before it gets its name, so that a power cut leaves it whole or not there.
//!
//! Everything here blocks; the lock is never held while content is read or written.

mod digest;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

pub use digest::{Digest, NotADigest};

/// The mtime of every verified blob: 2001-09-09T01:46:40Z.
const SEAL: Duration = Duration::from_secs(1_000_000_000);
const BUFFER_BYTES: usize = 256 * 1024;
/// How long the beginning of a blob waits for the rest.
const PART_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A store of blobs in a directory of its own, used by one process at a time.
pub struct Blobs {
    dir: PathBuf,
    capacity_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, Blob>,
    /// Bytes of all blobs, and of those that are on their way in.
    used_bytes: u64,
}

#[derive(Debug, Clone)]
struct Blob {
    size_bytes: u64,
    last_use: SystemTime,
    holders: BTreeSet<String>,
}

/// What a scrub found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrubbed {
    /// The content is what the name says.
    Sound,
    /// It was not, and the blob has been removed.
    Removed,
    /// It is not, but the blob is pinned and has been kept.
    DamagedInUse,
    /// There is no such blob.
    Absent,
}

/// Why something can't be stored, or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The content is not what was expected; nothing was stored.
    #[error("the content's digest is {found}, not {expected}")]
    Mismatch {
        /// What the caller asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// What isn't in use doesn't make enough room; nothing was stored.
    #[error("the blob doesn't fit: {capacity_bytes} bytes in all, {pinned_bytes} of them in use")]
    Full {
        /// The store's size.
        capacity_bytes: u64,
        /// What can't be evicted.
        pinned_bytes: u64,
    },
    /// A holder's name becomes part of a file's name.
    #[error("{0:?} can't be a holder's name")]
    InvalidHolder(String),
    /// The file system failed.
    #[error("{context}: {why}")]
    Io {
        /// What was tried.
        context: String,
        /// What the system said.
        why: io::Error,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Blobs {
    /// Opens a store, making it if need be. What a crash left half written is removed, and a blob
    /// that doesn't carry the seal is verified anew, or removed.
    pub fn open(dir: impl Into<PathBuf>, capacity_bytes: u64) -> Result<Blobs> {
        let dir = dir.into();
        let blobs = Blobs {
            dir,
            capacity_bytes,
            state: Mutex::default(),
        };
        for part in ["blobs", "pins", "incoming"] {
            let path = blobs.dir.join(part);
            fs::create_dir_all(&path).context("making", &path)?;
            // Files are for all of a host's guests to read, by descriptor; nobody need know their names.
            fs::set_permissions(&path, Permissions::from_mode(0o711)).context("closing", &path)?;
        }
        for leftover in list(&blobs.dir.join("incoming"))? {
            if !is_recent_part(&leftover) {
                fs::remove_file(&leftover).context("removing", &leftover)?;
            }
        }
        for path in list(&blobs.dir.join("blobs"))? {
            blobs.take_up(&path)?;
        }
        for path in list(&blobs.dir.join("pins"))? {
            blobs.take_up_pin(&path)?;
        }
        Ok(blobs)
    }

    /// Stores what `content` yields, if its digest is `expected`. A blob that is there is kept, and
    /// `content` isn't read. Makes room as the content comes, so that a store never takes more than
    /// its capacity.
    pub fn put(&self, content: impl Read, expected: Digest) -> Result<()> {
        if self.get(&expected).is_some() {
            return Ok(());
        }
        let incoming = self.dir.join("incoming");
        let mut file = NamedTempFile::new_in(&incoming).context("making a file in", &incoming)?;
        let mut reserved = Reservation {
            blobs: self,
            bytes: 0,
        };
        let mut hash = Sha256::new();
        self.copy(content, file.as_file_mut(), &mut hash, &mut reserved)?;
        is_expected(hash, expected)?;
        seal(file.as_file()).context("sealing", file.path())?;
        self.enter(expected, &mut reserved, |path| {
            file.persist(path).map(drop).map_err(|failed| failed.error)
        })
    }

    /// Begins to fetch a blob, or goes on where an earlier attempt was interrupted, also one of an
    /// earlier process. Nothing where the blob is there. Whoever is fetching it is waited for.
    pub fn arrive(&self, expected: Digest) -> Result<Option<Arrival<'_>>> {
        let path = self.dir.join("incoming").join(format!("{expected}.part"));
        let mut file = loop {
            if self.get(&expected).is_some() {
                return Ok(None);
            }
            let file = File::options()
                .create(true)
                .read(true)
                .append(true)
                .open(&path)
                .context("opening", &path)?;
            file.lock().context("going on with", &path)?;
            // Whoever was waited for has given it its name, or removed it.
            if is_still(&path, &file).context("opening", &path)? {
                break file;
            }
        };
        let mut arrival = Arrival {
            blobs: self,
            expected,
            hash: Sha256::new(),
            reserved: Reservation {
                blobs: self,
                bytes: 0,
            },
            path,
            file: file.try_clone().context("opening", &self.dir)?,
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = file.read(&mut buffer).context("reading", &arrival.path)?;
            if length == 0 {
                return Ok(Some(arrival));
            }
            self.make_room(length as u64)?;
            arrival.reserved.bytes += length as u64;
            arrival.hash.update(&buffer[..length]);
        }
    }

    /// A verified and sealed file gets its name and counts from now on.
    fn enter(
        &self,
        digest: Digest,
        reserved: &mut Reservation<'_>,
        name: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<()> {
        let size_bytes = reserved.bytes;
        let path = self.path(&digest, size_bytes);
        // Named and entered in one step: in between, the eviction of an equal blob that another put
        // has entered would take this one's file.
        let mut state = self.state();
        name(&path).context("naming", &path)?;
        sync_dir(&path)?;
        state.blobs.entry(digest).or_insert_with(|| {
            reserved.bytes = 0;
            Blob {
                size_bytes,
                last_use: SystemTime::now(),
                holders: BTreeSet::new(),
            }
        });
        Ok(())
    }

    /// The file of a blob, verified when it was stored. It counts as used now. It stays for sure
    /// only while it is pinned.
    pub fn get(&self, digest: &Digest) -> Option<PathBuf> {
        let mut state = self.state();
        let blob = state.blobs.get_mut(digest)?;
        blob.last_use = SystemTime::now();
        let path = self.path(digest, blob.size_bytes);
        // Only the order of eviction after the next start depends on it.
        let _ = File::open(&path)
            .and_then(|file| file.set_times(FileTimes::new().set_accessed(blob.last_use)));
        Some(path)
    }

    /// Keeps a blob from eviction as long as `holder`, a guest or a volume, has it pinned: across
    /// restarts. Repeating it is fine. Nothing if there is no such blob.
    pub fn pin(&self, digest: &Digest, holder: &str) -> Result<Option<PathBuf>> {
        check_holder(holder)?;
        let mut state = self.state();
        let Some(blob) = state.blobs.get_mut(digest) else {
            return Ok(None);
        };
        if !blob.holders.contains(holder) {
            let pin = self.pin_path(digest, holder);
            File::create(&pin).context("making", &pin)?;
            sync_dir(&pin)?;
            blob.holders.insert(holder.to_owned());
        }
        drop(state);
        Ok(self.get(digest))
    }

    /// Takes a holder's pin away. Absent is fine.
    pub fn unpin(&self, digest: &Digest, holder: &str) -> Result<()> {
        check_holder(holder)?;
        let mut state = self.state();
        let Some(blob) = state.blobs.get_mut(digest) else {
            return Ok(());
        };
        remove(&self.pin_path(digest, holder))?;
        blob.holders.remove(holder);
        Ok(())
    }

    /// Every pin, as digest and holder, so that their owner can drop those that it has forgotten.
    pub fn pins(&self) -> Vec<(Digest, String)> {
        let state = self.state();
        let pins = state
            .blobs
            .iter()
            .flat_map(|(digest, blob)| blob.holders.iter().map(|holder| (*digest, holder.clone())));
        pins.collect()
    }

    /// Removes what is neither pinned nor wanted and was last used before `unused_since`; for a store
    /// that holds the only copies, whose owner knows what they are for. Answers the bytes that came
    /// free.
    pub fn retain(
        &self,
        unused_since: SystemTime,
        wanted: impl Fn(&Digest) -> bool,
    ) -> Result<u64> {
        let mut state = self.state();
        let before = state.used_bytes;
        let unused: Vec<Digest> = state
            .blobs
            .iter()
            .filter(|(digest, blob)| {
                blob.holders.is_empty() && blob.last_use < unused_since && !wanted(digest)
            })
            .map(|(digest, _)| *digest)
            .collect();
        for digest in unused {
            self.evict(&mut state, &digest)?;
        }
        Ok(before - state.used_bytes)
    }

    /// Every blob that is here.
    pub fn digests(&self) -> Vec<Digest> {
        self.state().blobs.keys().copied().collect()
    }

    /// Bytes that the store takes.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes
    }

    /// Reads a blob through and compares. Damage is removed unless somebody uses it.
    pub fn scrub(&self, digest: &Digest) -> Result<Scrubbed> {
        let Some(path) = self.get(digest) else {
            return Ok(Scrubbed::Absent);
        };
        if digest_of(&path)? == *digest {
            return Ok(Scrubbed::Sound);
        }
        let mut state = self.state();
        match state.blobs.get(digest) {
            None => Ok(Scrubbed::Absent),
            Some(blob) if !blob.holders.is_empty() => Ok(Scrubbed::DamagedInUse),
            Some(_) => self.evict(&mut state, digest).map(|()| Scrubbed::Removed),
        }
    }

    /// Copies to the end, reserving the room chunk by chunk.
    fn copy(
        &self,
        mut content: impl Read,
        file: &mut File,
        hash: &mut Sha256,
        reserved: &mut Reservation<'_>,
    ) -> Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = match content.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.context("reading the content for", &self.dir)?,
            };
            if length == 0 {
                return Ok(());
            }
            self.make_room(length as u64)?;
            reserved.bytes += length as u64;
            hash.update(&buffer[..length]);
            file.write_all(&buffer[..length])
                .context("writing into", &self.dir)?;
        }
    }

    /// Takes `bytes` of the capacity, evicting what was used longest ago.
    fn make_room(&self, bytes: u64) -> Result<()> {
        let mut state = self.state();
        while state.used_bytes + bytes > self.capacity_bytes {
            let unpinned = state
                .blobs
                .iter()
                .filter(|(_, blob)| blob.holders.is_empty());
            let Some(oldest) = unpinned
                .min_by_key(|(_, blob)| blob.last_use)
                .map(|(digest, _)| *digest)
            else {
                let pinned = state.blobs.values().map(|blob| blob.size_bytes).sum();
                return Err(Error::Full {
                    capacity_bytes: self.capacity_bytes,
                    pinned_bytes: pinned,
                });
            };
            self.evict(&mut state, &oldest)?;
        }
        state.used_bytes += bytes;
        Ok(())
    }

    fn evict(&self, state: &mut State, digest: &Digest) -> Result<()> {
        if let Some(blob) = state.blobs.get(digest) {
            remove(&self.path(digest, blob.size_bytes))?;
            state.used_bytes -= blob.size_bytes;
            state.blobs.remove(digest);
        }
        Ok(())
    }

    /// Enters a file found by `open`, if it is a blob.
    fn take_up(&self, path: &Path) -> Result<()> {
        let Some((digest, size)) = split(path) else {
            return remove(path);
        };
        let metadata = fs::metadata(path).context("reading", path)?;
        let sized = size.parse() == Ok(metadata.len());
        let sealed = metadata
            .modified()
            .is_ok_and(|mtime| mtime == SystemTime::UNIX_EPOCH + SEAL);
        if !sized || (!sealed && digest_of(path)? != digest) {
            return remove(path);
        }
        if !sealed {
            File::open(path)
                .and_then(|file| seal(&file))
                .context("sealing", path)?;
        }
        let last_use = metadata.accessed().unwrap_or(SystemTime::UNIX_EPOCH);
        let blob = Blob {
            size_bytes: metadata.len(),
            last_use,
            holders: BTreeSet::new(),
        };
        let mut state = self.state();
        state.used_bytes += blob.size_bytes;
        state.blobs.insert(digest, blob);
        Ok(())
    }

    /// Enters a pin found by `open`; one without its blob holds nothing.
    fn take_up_pin(&self, path: &Path) -> Result<()> {
        let mut state = self.state();
        match split(path)
            .and_then(|(digest, holder)| state.blobs.get_mut(&digest).zip(Some(holder)))
        {
            Some((blob, holder)) => drop(blob.holders.insert(holder.to_owned())),
            None => remove(path)?,
        }
        Ok(())
    }

    fn path(&self, digest: &Digest, size_bytes: u64) -> PathBuf {
        self.dir
            .join("blobs")
            .join(format!("{digest}.{size_bytes}"))
    }

    fn pin_path(&self, digest: &Digest, holder: &str) -> PathBuf {
        self.dir.join("pins").join(format!("{digest}.{holder}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nobody panics while holding the state")
    }
}

/// A blob on its way in. Dropped in the middle it keeps what has come.
pub struct Arrival<'a> {
    blobs: &'a Blobs,
    expected: Digest,
    /// Of what is there.
    hash: Sha256,
    reserved: Reservation<'a>,
    path: PathBuf,
    /// Locked as long as this lives.
    file: File,
}

impl Arrival<'_> {
    /// How much of it is there: content is to begin after so many bytes.
    pub fn bytes(&self) -> u64 {
        self.reserved.bytes
    }

    /// Forgets what is there, for who can only send the whole.
    pub fn start_over(&mut self) -> Result<()> {
        self.file.set_len(0).context("emptying", &self.path)?;
        self.hash = Sha256::new();
        self.blobs.state().used_bytes -= self.reserved.bytes;
        self.reserved.bytes = 0;
        Ok(())
    }

    /// Takes the rest. What has come stays where `content` fails in the middle, and goes where there is
    /// no room for the whole, or it isn't what was expected.
    pub fn finish(mut self, content: impl Read) -> Result<()> {
        let mut content = Noting {
            content,
            failed: false,
        };
        let copied = self.blobs.copy(
            &mut content,
            &mut self.file,
            &mut self.hash,
            &mut self.reserved,
        );
        if copied.is_err() && !content.failed {
            remove(&self.path)?;
        }
        copied?;
        if let Err(mismatch) = is_expected(self.hash.clone(), self.expected) {
            remove(&self.path)?;
            return Err(mismatch);
        }
        seal(&self.file).context("sealing", &self.path)?;
        let path = self.path.clone();
        self.blobs.enter(self.expected, &mut self.reserved, |name| {
            fs::rename(path, name)
        })
    }
}

/// Content, and whether reading it has failed.
struct Noting<R> {
    content: R,
    failed: bool,
}

impl<R: Read> Read for Noting<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let outcome = self.content.read(bytes);
        let interrupted = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
        self.failed |= outcome.as_ref().is_err_and(|error| !interrupted(error));
        outcome
    }
}

fn is_expected(hash: Sha256, expected: Digest) -> Result<()> {
    let found: Digest = hash.into();
    match found == expected {
        true => Ok(()),
        false => Err(Error::Mismatch { expected, found }),
    }
}

/// Whether a path still leads to the file that was opened by it.
fn is_still(path: &Path, file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a file is the beginning of a blob that somebody may go on with.
fn is_recent_part(path: &Path) -> bool {
    let is_part = split(path).is_some_and(|(_, rest)| rest == "part");
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    let recent = modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < PART_KEPT));
    is_part && recent
}

/// Room taken for content that isn't stored yet; given back unless it is.
struct Reservation<'a> {
    blobs: &'a Blobs,
    bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.blobs.state().used_bytes -= self.bytes;
    }
}

/// Makes a verified file what a blob's file is, durably.
fn seal(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o444))?;
    let sealed = SystemTime::UNIX_EPOCH + SEAL;
    file.set_times(
        FileTimes::new()
            .set_modified(sealed)
            .set_accessed(SystemTime::now()),
    )?;
    file.sync_all()
}

fn digest_of(path: &Path) -> Result<Digest> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).context("opening", path)?;
    io::copy(&mut file, &mut hash).context("reading", path)?;
    Ok(hash.into())
}

/// A file's name as a digest and what follows the dot.
fn split(path: &Path) -> Option<(Digest, &str)> {
    let (digest, rest) = path.file_name()?.to_str()?.split_once('.')?;
    Some((digest.parse().ok()?, rest))
}

fn check_holder(holder: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !holder.is_empty() && holder.len() <= 128 && holder.chars().all(good) {
        true => Ok(()),
        false => Err(Error::InvalidHolder(holder.to_owned())),
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    entries.context("listing", dir)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.context("removing", path),
    }
}

/// Makes the name of a new file durable.
fn sync_dir(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .context("syncing", dir)
}

trait Context<T> {
    fn context(self, doing: &str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, doing: &str, path: &Path) -> Result<T> {
        self.map_err(|why| Error::Io {
            context: format!("{doing} {}", path.display()),
            why,
        })
    }
}
