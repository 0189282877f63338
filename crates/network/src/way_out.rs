//! The way out: slirp4netns carries what leaves the namespace as connections of an ordinary
//! process of the host, so nothing of the host's own network has to change.
//!
//! It runs for itself, drops all privileges but one and outlives the agent, which finds it again
//! by its command line: that names the namespace, which no other process does.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::namespace::{Namespace, find_tool};
use crate::process::{Process, bound_files};
use crate::rules::WAY_OUT_DEVICE;

/// The network between the namespace and the connector: link-local, so that it can't be a network
/// of a VPC, and guests are kept out of it like out of the rest of that range.
const NETWORK: &str = "169.254.168.0/24";

/// How long it may take to configure the device.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// Its log may grow to this, in bytes.
const LOG_SIZE_MAX: u64 = 1 << 20;

/// Starts the connector of `namespace` unless it runs with the same settings. Says whether it had
/// to be started.
///
/// # Errors
/// `NotFound` where slirp4netns is not installed.
pub async fn ensure(
    namespace: &Namespace,
    mtu: u16,
    directory: &Path,
) -> io::Result<(Process, bool)> {
    let arguments = arguments(namespace, mtu);
    let mut found = None;
    for process in find(namespace) {
        let same = Process::hold(process.pid, |line| line[1..] == arguments);
        match same {
            Some(same) if found.is_none() => found = Some(same),
            _ => process.kill().await?,
        }
    }
    match found {
        Some(process) => Ok((process, false)),
        None => Ok((start(&arguments, namespace, directory).await?, true)),
    }
}

/// Ends the connector of `namespace`. Returns whether there was one.
pub async fn stop(namespace: &Namespace) -> io::Result<bool> {
    let found = find(namespace);
    let any = !found.is_empty();
    for process in found {
        process.kill().await?;
    }
    Ok(any)
}

/// The connectors of `namespace`: one, or none.
pub fn find(namespace: &Namespace) -> Vec<Process> {
    let path = namespace.path();
    Process::find(|line| {
        let program = line
            .first()
            .and_then(|program| Path::new(program).file_name());
        program == Some(OsStr::new("slirp4netns")) && line.iter().any(|word| *word == *path)
    })
}

fn arguments(namespace: &Namespace, mtu: u16) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "--configure",
        "--disable-host-loopback",
        "--disable-dns",
        "--enable-sandbox",
        "--enable-seccomp",
        "--ready-fd=0",
        "--netns-type=path",
    ]
    .map(OsString::from)
    .to_vec();
    arguments.push(format!("--cidr={NETWORK}").into());
    arguments.push(format!("--mtu={mtu}").into());
    arguments.push(namespace.path().into());
    arguments.push(WAY_OUT_DEVICE.into());
    arguments
}

async fn start(
    arguments: &[OsString],
    namespace: &Namespace,
    directory: &Path,
) -> io::Result<Process> {
    let log_path = directory.join("way-out.log");
    let log = File::create(&log_path)?;
    let (ready, ready_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let mut command = Command::new(find_tool("slirp4netns")?);
    command
        .args(arguments)
        .stdin(Stdio::from(ready_end))
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .current_dir("/");
    // SAFETY: the closure makes system calls only; it neither allocates nor takes locks.
    unsafe {
        command.pre_exec(detach);
    }
    let mut child = command.spawn()?;
    // The command still holds the pipe's other end.
    drop(command);
    let pid = child.id();
    let configured = wait_ready(ready).await;
    let process = pid.and_then(|pid| {
        Process::hold(pid, |line| {
            line.iter().any(|word| *word == *namespace.path())
        })
    });
    let Some(process) = process.filter(|_| configured.is_ok()) else {
        let _ = child.kill().await;
        let said = std::fs::read_to_string(&log_path).unwrap_or_default();
        let said: Vec<&str> = said.lines().take(4).collect();
        return Err(io::Error::other(format!(
            "slirp4netns didn't start: {}",
            said.join("; ")
        )));
    };
    // Whoever starts a process has to collect it; an agent that ends leaves that to init.
    tokio::spawn(async move { child.wait().await });
    Ok(process)
}

/// Before the exec: a session of its own, so that no terminal's Ctrl-C reaches it; mounts of its
/// own, because its sandbox unmounts everything, which would otherwise take the names of all
/// namespaces of the host with it; and a log that can't fill the disk.
fn detach() -> io::Result<()> {
    nix::unistd::setsid()?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    bound_files(LOG_SIZE_MAX)
}

/// The connector writes one byte once the device is configured.
async fn wait_ready(pipe: std::os::fd::OwnedFd) -> io::Result<()> {
    let mut ready = pipe::Receiver::from_owned_fd(pipe)?;
    let read = tokio::time::timeout(START_DEADLINE, ready.read_u8()).await;
    read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(())
}
