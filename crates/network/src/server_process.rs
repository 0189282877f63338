//! A process that serves a directory, as the agent sees it: start, find, tell, stop. The process's own
//! side is `serving`.
//!
//! The agent talks to it by a socket in a directory that only root may write to, so whoever answers
//! there is the process, and the kernel says which one that is. A process that doesn't answer is
//! found by its command line.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::process::{Process, bound_files};
use crate::serving::{CONTROL_SOCKET, ControlAnswer, READY, SPEC_FILE, ServedFile, digest};

const START_DEADLINE: Duration = Duration::from_secs(10);
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
const LOG_FILE: &str = "services.log";
const LOG_SIZE_MAX: u64 = 1 << 20;

/// Users of such processes are numbers from here on, where no system hands out any.
const UID_FIRST: u32 = 1_900_000_000;
const UIDS: u32 = 100_000_000;

pub struct ServerProcess {
    namespace: String,
    directory: PathBuf,
    command: Vec<OsString>,
    /// The user that it becomes: one for each directory and cloud.
    uid: u32,
}

impl ServerProcess {
    pub fn new(namespace: &str, directory: &Path, command: &[OsString]) -> Self {
        ServerProcess {
            namespace: namespace.to_owned(),
            directory: directory.to_owned(),
            command: command.to_vec(),
            uid: uid_for(namespace),
        }
    }

    /// Root's, and the process may pass through it to the file that they know.
    pub fn prepare_directory(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        std::os::unix::fs::chown(&self.directory, None, Some(self.uid))?;
        fs::set_permissions(&self.directory, Permissions::from_mode(0o710))
    }

    /// Makes it run and serve `spec` in the namespace with the given identity. Returns whether there
    /// was anything to do. `devices_changed` makes it look at the devices again, even if the spec is
    /// the one that it has.
    pub async fn ensure<S: Serialize>(
        &self,
        spec: &S,
        namespace: u64,
        devices_changed: bool,
    ) -> io::Result<bool> {
        let wanted = self.write_spec(spec)?;
        let serves = |answer: &ControlAnswer| {
            answer.digest == wanted && answer.namespace == namespace && answer.error.is_none()
        };
        if !devices_changed
            && let Ok(answer) = self.ask("state\n").await
            && serves(&answer)
        {
            return Ok(false);
        }
        match self.ask("reload\n").await {
            Ok(answer) if serves(&answer) => return Ok(true),
            Ok(answer) => tracing::warn!(?answer, "a process doesn't follow; starting it anew"),
            Err(error) if is_absence(&error) => {}
            Err(error) => tracing::warn!(%error, "a process doesn't answer; starting it anew"),
        }
        self.stop().await?;
        self.start().await?;
        Ok(true)
    }

    /// Ends it, whether it answers or not.
    pub async fn stop(&self) -> io::Result<()> {
        for process in self.running() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Every process that serves the directory, or is about to.
    pub fn running(&self) -> Vec<Process> {
        let Some(name) = self.command.last() else {
            return Vec::new();
        };
        // Who merely names the directory, such as `ls`, isn't it.
        let directory = self.directory.as_os_str();
        Process::find(
            |line| matches!(line, [.., before, last] if before == name && last == directory),
        )
    }

    /// The spec that was last written for it.
    pub fn read_spec<S: DeserializeOwned>(&self) -> io::Result<S> {
        let bytes = fs::read(self.directory.join(SPEC_FILE))?;
        Ok(serde_json::from_slice::<ServedFile<S>>(&bytes)?.spec)
    }

    /// Replaces the file unless it says the same. Returns its digest.
    fn write_spec<S: Serialize>(&self, spec: &S) -> io::Result<String> {
        let bytes = serde_json::to_vec(&ServedFile {
            namespace: self.namespace.clone(),
            uid: self.uid,
            spec,
        })?;
        let path = self.directory.join(SPEC_FILE);
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(digest(&bytes));
        }
        boira_files::swap(&path, 0o640, |file| {
            std::os::unix::fs::fchown(&*file, None, Some(self.uid))?;
            io::Write::write_all(file, &bytes)
        })?;
        Ok(digest(&bytes))
    }

    async fn ask(&self, request: &str) -> io::Result<ControlAnswer> {
        // By the directory's descriptor, because a socket's path may only be 107 bytes long.
        let directory = File::open(&self.directory)?;
        let path = format!("/proc/self/fd/{}/{CONTROL_SOCKET}", directory.as_raw_fd());
        let talk = async {
            let mut stream = BufReader::new(UnixStream::connect(path).await?);
            stream.write_all(request.as_bytes()).await?;
            let mut line = String::new();
            (&mut stream).take(16 * 1024).read_line(&mut line).await?;
            Ok(serde_json::from_str(&line)?)
        };
        tokio::time::timeout(ANSWER_DEADLINE, talk)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn start(&self) -> io::Result<()> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(io::Error::other("no command to start"));
        };
        let log_path = self.directory.join(LOG_FILE);
        let log = File::create(&log_path)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(&self.directory)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log));
        // SAFETY: the closure makes system calls only; it neither allocates nor takes locks.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                bound_files(LOG_SIZE_MAX)
            });
        }
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().expect("standard output was asked for");
        let ready = tokio::time::timeout(START_DEADLINE, wait_ready(BufReader::new(stdout))).await;
        if !matches!(ready, Ok(Ok(()))) {
            let _ = child.kill().await;
            let said = fs::read_to_string(&log_path).unwrap_or_default();
            let said: Vec<&str> = said.lines().take(4).collect();
            return Err(io::Error::other(format!(
                "it didn't start: {}",
                said.join("; ")
            )));
        }
        // Whoever starts a process has to collect it; an agent that ends leaves that to init.
        tokio::spawn(async move { child.wait().await });
        Ok(())
    }
}

/// Skips what a program says before it serves.
async fn wait_ready(mut stdout: impl tokio::io::AsyncBufRead + Unpin) -> io::Result<()> {
    let mut line = String::new();
    while (&mut stdout).take(4096).read_line(&mut line).await? > 0 {
        if line == READY {
            return Ok(());
        }
        line.clear();
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Nobody is there to answer, which is how it is before the first start.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// A number that only this directory's process has: FNV-1a of the namespace's name, spread over a
/// range. Two that collide could look into each other's memory, which is as likely as one in a
/// hundred million.
fn uid_for(namespace: &str) -> u32 {
    let hash = namespace.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    UID_FIRST + hash % UIDS
}
