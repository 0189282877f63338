//! Files that come and change as a whole: who reads them, and who comes after a crash, finds the old one or the
//! new one. Modes are those of a new file, whatever the old one's was, less the process's mask.
//!
//! Errors are the file system's. They leave the old file and nothing beside it, unless only the sync of the
//! folder failed: then the new one is there, and a power cut may take it. Who is killed may leave a file beside,
//! `NAME.new…`, which nobody reads and which has the mode of what it was to be.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Replaces a small file; on return it and its name are on the disk. Several may do so at a time.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    put(path, &own_name(path), mode, |file| {
        file.write_all(bytes)?;
        file.sync_all()
    })?;
    sync_folder_of(path)
}

/// Replaces a small file that a power cut may take, or leave as it was before.
pub fn swap(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    put(path, &own_name(path), mode, fill)
}

/// Makes a file of any size, for which there is one maker at a time: what a crash leaves is [`unfinished`], and
/// in nobody's way. On return it and its name are on the disk.
pub fn create(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    put(path, &unfinished(path), mode, |file| {
        fill(file)?;
        file.sync_all()
    })?;
    sync_folder_of(path)
}

/// The name of a file in the making, `NAME.new`.
pub fn unfinished(path: &Path) -> PathBuf {
    beside(path, ".new")
}

/// Gives a file its name in the same folder; on return the name is on the disk, as the file has to be.
pub fn publish(partial: &Path, path: &Path) -> io::Result<()> {
    fs::rename(partial, path)?;
    sync_folder_of(path)
}

/// On return the names in a file's folder are on the disk.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn put(
    path: &Path,
    new: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let write = || {
        match fs::remove_file(new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(new)?;
        fill(&mut file)?;
        fs::rename(new, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(new)))
}

/// A name beside a file that nobody else has now.
fn own_name(path: &Path) -> PathBuf {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    beside(path, &format!(".new-{}-{number}", std::process::id()))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_changes_as_a_whole_and_has_its_mode() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.json");
        fs::write(&path, "old").unwrap();
        fs::write(home.path().join("a.json.new"), "of before a crash").unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode()), (b"new".to_vec(), 0o600));
        create(&path, 0o640, |file| file.write_all(b"newer")).unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), mode()),
            (b"newer".to_vec(), 0o640)
        );
        swap(&path, 0o600, |file| file.write_all(b"newest")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newest");
        assert_eq!(names(home.path()), ["a.json"]);
    }

    #[test]
    fn what_fails_leaves_the_old_one_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        fs::write(&path, "old").unwrap();
        let half = |file: &mut File| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        };
        swap(&path, 0o600, half).unwrap_err();
        create(&path, 0o600, half).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let taken = home.path().join("taken");
        fs::create_dir_all(taken.join("by a folder")).unwrap();
        replace(&taken, b"x", 0o600).unwrap_err();
        assert_eq!(names(home.path()), ["a", "taken"]);
    }
}
