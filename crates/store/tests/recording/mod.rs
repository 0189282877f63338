//! A file layer below SQLite that records every write, truncation, sync and deletion, and rebuilds
//! the files as a power cut after any of them would have left them.
//!
//! It is the default VFS with five functions replaced; see <https://sqlite.org/vfs.html>.

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{LazyLock, Mutex, OnceLock};

/// What a disk may tear: it writes a sector whole or not at all.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
pub enum Op {
    Write {
        file: String,
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        file: String,
        size: usize,
    },
    /// The unix VFS syncs the directory with the first sync of a journal or log that it created
    /// (`UNIXFILE_DIRSYNC` in SQLite's os_unix.c).
    Sync {
        file: String,
    },
    Delete {
        file: String,
        durable: bool,
    },
}

static OPS: LazyLock<Mutex<Vec<Op>>> = LazyLock::new(Mutex::default);
/// The open files that are recorded, by address.
static FILES: LazyLock<Mutex<HashMap<usize, File>>> = LazyLock::new(Mutex::default);
static DEFAULT: OnceLock<Address<sqlite3_vfs>> = OnceLock::new();

struct File {
    name: String,
    real: &'static sqlite3_io_methods,
}

struct Address<T>(*const T);

// SAFETY: SQLite's default VFS and its table of methods are constants that live for ever.
unsafe impl<T> Send for Address<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Address<T> {}

/// Registers the layer; the URI names a database that uses it. For one test per process.
pub fn uri(path: &Path) -> String {
    // SAFETY: the default VFS lives for ever; its copy and the copy's name are leaked.
    unsafe {
        let default = ffi::sqlite3_vfs_find(std::ptr::null());
        assert!(!default.is_null(), "SQLite has a default VFS");
        DEFAULT.get_or_init(|| Address(default));
        let mut vfs = *default;
        vfs.pNext = std::ptr::null_mut();
        vfs.zName = CString::new("recording").expect("no zero byte").into_raw();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        let code = ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 0);
        assert_eq!(code, ffi::SQLITE_OK);
    }
    format!("file:{}?vfs=recording", path.display())
}

/// How many operations there were so far.
pub fn position() -> usize {
    OPS.lock().expect("no holder panics").len()
}

pub fn recorded() -> Vec<Op> {
    OPS.lock().expect("no holder panics").clone()
}

fn record(file: *const sqlite3_file, op: impl FnOnce(String) -> Op) {
    let files = FILES.lock().expect("no holder panics");
    let name = &files.get(&(file as usize)).expect("an open file").name;
    OPS.lock().expect("no holder panics").push(op(name.clone()));
}

fn file_name(path: *const c_char) -> Option<String> {
    if path.is_null() {
        return None;
    }
    // SAFETY: SQLite passes a string that ends with zero.
    let path = unsafe { CStr::from_ptr(path) };
    let path = Path::new(path.to_str().ok()?);
    Some(path.file_name()?.to_str()?.to_owned())
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    path: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are SQLite's own; the file was made for the default VFS, whose size the
    // copy has kept.
    unsafe {
        let default = DEFAULT.get().expect("registered").0.cast_mut();
        let real_open = (*default).xOpen.expect("every VFS opens");
        let code = real_open(default, path, file, flags, out_flags);
        let opened = code == ffi::SQLITE_OK && !(*file).pMethods.is_null();
        if let Some(name) = file_name(path).filter(|_| opened) {
            // A constant table of SQLite, one per kind of file.
            let real: &'static sqlite3_io_methods = &*(*file).pMethods;
            // As many small tables as files are opened are left behind.
            (*file).pMethods = Box::leak(Box::new(sqlite3_io_methods {
                // Version 2 lacks memory-mapped reads, which this layer doesn't know.
                iVersion: real.iVersion.min(2),
                xClose: Some(close),
                xWrite: Some(write),
                xTruncate: Some(truncate),
                xSync: Some(sync),
                ..*real
            }));
            let mut files = FILES.lock().expect("no holder panics");
            files.insert(file as usize, File { name, real });
        }
        code
    }
}

fn real(file: *const sqlite3_file) -> &'static sqlite3_io_methods {
    let files = FILES.lock().expect("no holder panics");
    files.get(&(file as usize)).expect("an open file").real
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let closed = FILES
        .lock()
        .expect("no holder panics")
        .remove(&(file as usize));
    let real = closed.expect("an open file").real;
    // SAFETY: handed on as it came.
    unsafe { real.xClose.expect("every file closes")(file) }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    data: *const c_void,
    length: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes `length` readable bytes.
    let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length as usize) };
    record(file, |file| Op::Write {
        file,
        offset: offset as usize,
        data: bytes.to_vec(),
    });
    // SAFETY: handed on as it came.
    unsafe { real(file).xWrite.expect("every file writes")(file, data, length, offset) }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    record(file, |file| Op::Truncate {
        file,
        size: size as usize,
    });
    // SAFETY: handed on as it came.
    unsafe { real(file).xTruncate.expect("every file truncates")(file, size) }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    record(file, |file| Op::Sync { file });
    // SAFETY: handed on as it came.
    unsafe { real(file).xSync.expect("every file syncs")(file, flags) }
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, path: *const c_char, sync_dir: c_int) -> c_int {
    if let Some(file) = file_name(path) {
        let op = Op::Delete {
            file,
            durable: sync_dir != 0,
        };
        OPS.lock().expect("no holder panics").push(op);
    }
    // SAFETY: handed on as it came, to the VFS that it belongs to.
    unsafe {
        let default = DEFAULT.get().expect("registered").0.cast_mut();
        (*default).xDelete.expect("every VFS deletes")(default, path, sync_dir)
    }
}

/// What becomes of writes that no sync has followed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// All reached the disk, as when only the process was killed.
    Kept,
    Dropped,
    /// The last one reached the disk up to its middle, the others whole.
    LastTorn,
    /// Each sector reached the disk or not, by chance.
    Scattered(u64),
}

/// Files while operations are replayed: what is surely on the disk, and what follows it.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<String, Durable>,
}

#[derive(Clone, Debug, Default)]
struct Durable {
    /// `None` where the file isn't surely there.
    content: Option<Vec<u8>>,
    unsynced: Vec<Op>,
}

impl Disk {
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Write { file, .. } | Op::Truncate { file, .. } => {
                let file = self.files.entry(file.clone()).or_default();
                file.unsynced.push(op.clone());
            }
            Op::Sync { file } => {
                let file = self.files.entry(file.clone()).or_default();
                let created = file.content.is_none() || file.is_deleted();
                file.content = file.after(Unsynced::Kept);
                file.content.get_or_insert_default();
                file.unsynced.clear();
                if created {
                    // This sync was one of the directory too.
                    self.files.retain(|_, file| !file.is_deleted());
                }
            }
            Op::Delete {
                file,
                durable: true,
            } => {
                self.files.remove(file);
            }
            Op::Delete { file, .. } => {
                let file = self.files.entry(file.clone()).or_default();
                file.unsynced.push(op.clone());
            }
        }
    }

    /// Writes the files as a power cut leaves them.
    pub fn cut(&self, unsynced: Unsynced, directory: &Path) {
        for (name, file) in &self.files {
            if let Some(content) = file.after(unsynced) {
                std::fs::write(directory.join(name), content).expect("the test's directory");
            }
        }
    }
}

impl Durable {
    fn is_deleted(&self) -> bool {
        let deletes = |op: &Op| matches!(op, Op::Delete { .. });
        self.unsynced.iter().any(deletes)
    }

    fn after(&self, unsynced: Unsynced) -> Option<Vec<u8>> {
        let mut content = self.content.clone();
        let mut chance = Chance(match unsynced {
            Unsynced::Scattered(seed) => seed,
            _ => 0,
        });
        let last = self.unsynced.len();
        for (index, op) in self.unsynced.iter().enumerate() {
            let mut keep = |_sector: usize, middle: bool| match unsynced {
                Unsynced::Kept => true,
                Unsynced::Dropped => false,
                Unsynced::LastTorn => index + 1 < last || middle,
                Unsynced::Scattered(_) => chance.coin(),
            };
            match op {
                Op::Write { offset, data, .. } => {
                    write_sectors(&mut content, *offset, data, &mut keep);
                }
                Op::Truncate { size, .. } if keep(0, false) => {
                    content.get_or_insert_default().resize(*size, 0);
                }
                Op::Delete { .. } if keep(0, false) => content = None,
                Op::Truncate { .. } | Op::Delete { .. } | Op::Sync { .. } => {}
            }
        }
        content
    }
}

/// Writes those sectors of `data` that `keep` lets through; it is told whether a sector lies in the
/// first half.
fn write_sectors(
    content: &mut Option<Vec<u8>>,
    offset: usize,
    data: &[u8],
    keep: &mut impl FnMut(usize, bool) -> bool,
) {
    let mut start = 0;
    while start < data.len() {
        let end = (((offset + start) / SECTOR + 1) * SECTOR - offset).min(data.len());
        if keep(start / SECTOR, start < data.len() / 2) {
            let content = content.get_or_insert_default();
            if content.len() < offset + end {
                content.resize(offset + end, 0);
            }
            content[offset + start..offset + end].copy_from_slice(&data[start..end]);
        }
        start = end;
    }
}

/// Coins from a seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn coin(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) & 1 == 1
    }
}
