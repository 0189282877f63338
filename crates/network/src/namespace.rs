//! A network namespace with a name, and how to act inside it.
//!
//! Namespaces are made as `ip netns add` makes them, so an administrator can look into them with
//! `ip netns exec`. Only a thread made for the purpose ever enters one: a thread of a pool that
//! stayed inside would do somebody else's work in the wrong network.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";

/// The file system type of a namespace's file (`NSFS_MAGIC`); a name left from before a reboot is
/// an ordinary empty file.
const NSFS_MAGIC: i64 = 0x6e73_6673;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub fn named(name: &str) -> Self {
        Namespace {
            name: name.to_owned(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// What tells this namespace from a later one of the same name, or `None` if it doesn't exist.
    pub fn identity(&self) -> Option<u64> {
        let path = self.path();
        let kind = nix::sys::statfs::statfs(&path).ok()?.filesystem_type();
        if kind.0 != NSFS_MAGIC {
            return None;
        }
        Some(fs::metadata(path).ok()?.ino())
    }

    /// Makes it unless it exists.
    pub fn create(&self) -> io::Result<()> {
        if self.identity().is_some() {
            return Ok(());
        }
        if self.path().exists() {
            fs::remove_file(self.path())?;
        }
        run_tool("ip", &["netns", "add", &self.name], "")
    }

    /// Removes its name, as `ip netns del` does but whoever else removes it at the same time; the
    /// namespace goes when nothing holds it any more.
    pub fn remove(&self) -> io::Result<()> {
        match umount2(&self.path(), MntFlags::MNT_DETACH) {
            // No mount is a name from before a reboot.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// All names that start with `prefix`, sorted.
    pub fn list(prefix: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(NAMES) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort();
        names
    }

    /// Does `work` on a thread of its own inside the namespace. Sockets and devices that it opens
    /// stay there; processes that it starts run there.
    pub async fn run<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.spawn(move || {
            let _ = answer.send(work());
        })?;
        answered
            .await
            .map_err(|_| io::Error::other("a thread inside a namespace panicked"))?
    }

    /// Like [`Namespace::run`], for callers that may block.
    pub fn run_blocking<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        self.spawn(move || {
            let _ = answer.send(work());
        })?;
        answered
            .recv()
            .map_err(|_| io::Error::other("a thread inside a namespace panicked"))?
    }

    /// Starts a thread inside the namespace. Returns once it has entered, or failed to.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let file = File::open(self.path())?;
        let (entered, entering) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("boira-netns".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                let result = setns(file.as_fd(), CloneFlags::CLONE_NEWNET);
                let inside = result.is_ok();
                let _ = entered.send(result);
                if inside {
                    work();
                }
            })?;
        entering
            .recv()
            .map_err(|_| io::Error::other("a thread died before it entered a namespace"))?
            .map_err(io::Error::from)
    }
}

/// Runs a system tool to its end with `input` on its standard input, in the calling thread's
/// network namespace. A failure carries what the tool said.
pub fn run_tool(tool: &str, args: &[&str], input: &str) -> io::Result<()> {
    ask_tool(tool, args, input).map(drop)
}

/// [`run_tool`] for what it says.
pub fn ask_tool(tool: &str, args: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(find_tool(tool)?)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let written = child
        .stdin
        .take()
        .expect("standard input was asked for")
        .write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    if output.status.success() {
        return written.map(|()| String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first_lines: Vec<&str> = said.lines().take(3).collect();
    Err(io::Error::other(format!(
        "{tool} {}: {}",
        args.join(" "),
        first_lines.join("; ")
    )))
}

/// Where a tool is; the directories of system tools count even where PATH lacks them.
pub fn find_tool(tool: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(tool))
        .find(|path| path.is_file())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{tool} is not installed")))
}
