//! The directory that a driver keeps for each guest, and what is in it.
//!
//! ```text
//! <guest>/launch.json   the specification and the boot of the host; written first, never changed
//!         process       /proc/self/stat of the guest's process, written by itself before exec
//!         recorder      the same of its recorder
//!         answered      exists once the hypervisor has answered: it started
//!         departure.json  the generation that it gets where it was sent last
//!         nbd-serves    exists once its disks can be written to by the host that it comes from
//!         taken-over    exists once a guest that came from another host was let go on
//!         exit.json     why the guest ended; written before its process is ended
//!         console.log   the console's bounded log (see `recorder`)
//!         hypervisor.log  the first 64 KiB of what QEMU said on stderr
//!         *.sock        qmp, serial, watch and nbd, served by QEMU; console, served by the recorder
//! ```
//!
//! The directory belongs to root and nobody else enters it: QEMU gets open file descriptors.
//! Nothing here is synced while the guest lives, because no guest survives the host's power cut
//! either. How it ended of its own accord is: whoever has heard of that may have given its place away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{ExitReason, GuestSpec};

/// What was started, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// What was asked for.
    pub spec: GuestSpec,
    /// The host's boot, because process ids mean nothing after another.
    pub host_boot: String,
    /// When `start` was called.
    pub at: SystemTime,
}

/// How a guest ended, and when that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Why.
    pub reason: ExitReason,
    /// When that was seen.
    pub at: SystemTime,
}

/// One guest's directory, held open: it is reached whatever the length of its path, which matters
/// for sockets (108 bytes).
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    fd: OwnedFd,
}

pub const LAUNCH: &str = "launch.json";
pub const PROCESS: &str = "process";
pub const RECORDER: &str = "recorder";
pub const DEPARTURE: &str = "departure.json";
pub const NBD_SERVES: &str = "nbd-serves";
pub const TAKEN_OVER: &str = "taken-over";
pub const EXIT: &str = "exit.json";
pub const ANSWERED: &str = "answered";
pub const CONSOLE_LOG: &str = "console.log";
pub const HYPERVISOR_LOG: &str = "hypervisor.log";
pub const QMP_SOCKET: &str = "qmp.sock";
pub const WATCH_SOCKET: &str = "watch.sock";
pub const SERIAL_SOCKET: &str = "serial.sock";
pub const NBD_SOCKET: &str = "nbd.sock";
pub const CONSOLE_SOCKET: &str = "console.sock";

impl RunDir {
    /// Makes the guest's directory. It must not exist.
    pub fn create(path: &Path) -> io::Result<RunDir> {
        fs::DirBuilder::new().mode(0o700).create(path)?;
        RunDir::open(path)
    }

    /// Opens a directory that exists.
    pub fn open(path: &Path) -> io::Result<RunDir> {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let fd = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)?
            .into();
        Ok(RunDir {
            path: path.to_owned(),
            fd,
        })
    }

    /// Removes everything. The caller has made sure that no process is left.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// A short path to `name`, good as long as this value lives.
    pub fn at(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()))
    }

    /// Whether `name` exists.
    pub fn has(&self, name: &str) -> bool {
        self.at(name).exists()
    }

    /// A listening socket of that name, in place of an old one.
    pub fn listen(&self, name: &str) -> io::Result<UnixListener> {
        match fs::remove_file(self.at(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => UnixListener::bind(self.at(name)),
        }
    }

    /// A connection to a socket of that name.
    pub fn connect(&self, name: &str) -> io::Result<UnixStream> {
        UnixStream::connect(self.at(name))
    }

    /// Opens `name` for reading and writing, making it if need be.
    pub fn file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.at(name))
    }

    /// Opens `name` for appending, making it if need be.
    pub fn append(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.at(name))
    }

    /// Writes a document so that a reader sees it whole or not at all.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec(value)?;
        boira_files::swap(&self.at(name), 0o644, |file| file.write_all(&bytes))
    }

    /// Makes what is kept of an ended guest durable.
    pub fn sync(&self) -> io::Result<()> {
        for name in [LAUNCH, PROCESS, EXIT, "."] {
            File::open(self.at(name))?.sync_all()?;
        }
        File::open(self.at(".."))?.sync_all()
    }

    /// Reads a document; nothing where there is none. One that is torn is `InvalidData`.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match fs::read(self.at(name)) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the end of a text; nothing where there is none.
    pub fn read_text(&self, name: &str, max_bytes: u64) -> io::Result<Option<String>> {
        let mut file = match File::open(self.at(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let start = file.metadata()?.len().saturating_sub(max_bytes);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(max_bytes).read_to_end(&mut bytes)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

impl AsFd for RunDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_work_below_a_path_that_no_socket_address_can_hold() {
        let base = tempfile::tempdir().unwrap();
        let deep = base.path().join("d".repeat(120)).join("e".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        let dir = RunDir::create(&deep.join("i-1")).unwrap();
        let listener = dir.listen(QMP_SOCKET).unwrap();
        dir.connect(QMP_SOCKET).unwrap();
        listener.accept().unwrap();
        let again = dir.listen(QMP_SOCKET).unwrap();
        dir.connect(QMP_SOCKET).unwrap();
        again.accept().unwrap();
        dir.remove().unwrap();
        assert!(!deep.join("i-1").exists());
        dir.remove().unwrap();
    }
}
