//! The reference for a guest's start: the very command line that Boira's driver gave a running QEMU,
//! started again by hand, with files, sockets and a tap of the same kinds under the same numbers.

use crate::process::{Tied, now_ns};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Above every number that the hypervisor is handed.
const OUT_OF_THE_WAY: RawFd = 500;
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recipe {
    program: PathBuf,
    arguments: Vec<String>,
    descriptors: Vec<(RawFd, Source)>,
    folder: PathBuf,
}

/// What stands behind a descriptor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Source {
    /// A listening socket.
    Socket,
    /// The one with the serial port, whose client waits already.
    Serial,
    Read(PathBuf),
    /// Copied anew for each start.
    Write(PathBuf),
    Tap,
}

impl Recipe {
    /// Reads the command line of a running hypervisor. What it may write is copied into `folder`.
    pub fn of(pid: u32, folder: &Path) -> Result<Self> {
        let line = fs::read(format!("/proc/{pid}/cmdline")).context("read the command line")?;
        let mut words = line
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned());
        words.next();
        let mut arguments: Vec<String> = words.collect();
        arguments.pop();
        let program = fs::read_link(format!("/proc/{pid}/exe")).context("find the program")?;
        let mut descriptors = Vec::new();
        for argument in &arguments {
            let Some((fd, kind)) = descriptor(argument) else {
                continue;
            };
            let source = match kind {
                Kind::Socket => Source::Socket,
                Kind::Serial => Source::Serial,
                Kind::Tap => Source::Tap,
                Kind::File => file(pid, fd, folder)?,
            };
            descriptors.push((fd, source));
        }
        ensure!(
            descriptors
                .iter()
                .any(|(_, source)| *source == Source::Serial),
            "the command line has no serial port"
        );
        Ok(Self {
            program,
            arguments,
            descriptors,
            folder: folder.to_owned(),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Socket,
    Serial,
    Tap,
    File,
}

/// The descriptor that an argument names, if it does.
fn descriptor(argument: &str) -> Option<(RawFd, Kind)> {
    if let Some(number) = argument.strip_prefix("/proc/self/fd/") {
        return Some((number.parse().ok()?, Kind::File));
    }
    let fd = argument
        .split(',')
        .find_map(|part| part.strip_prefix("fd="))?
        .parse()
        .ok()?;
    let kind = match argument.split(',').next()? {
        "tap" => Kind::Tap,
        "socket" if argument.contains("id=serial,") => Kind::Serial,
        "socket" => Kind::Socket,
        _ => Kind::File,
    };
    Some((fd, kind))
}

fn file(pid: u32, fd: RawFd, folder: &Path) -> Result<Source> {
    let path = fs::read_link(format!("/proc/{pid}/fd/{fd}"))
        .with_context(|| format!("find the file behind descriptor {fd}"))?;
    let about = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).context("read fdinfo")?;
    let flags = about
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap_or_default();
    let flags = i32::from_str_radix(flags.trim(), 8).context("read the file's flags")?;
    if flags & libc::O_ACCMODE == libc::O_RDONLY {
        return Ok(Source::Read(path));
    }
    let copy = folder.join(format!("disk-{fd}"));
    fs::copy(&path, &copy).with_context(|| format!("copy {}", path.display()))?;
    Ok(Source::Write(copy))
}

/// Starts it, waits for the first byte and kills it: when it was started and when the byte came.
pub fn start(recipe: &Recipe) -> Result<(u64, u64)> {
    let scratch = tempfile::tempdir_in(&recipe.folder).context("make a folder")?;
    let mut opened = Vec::new();
    let mut serial = None;
    let mut tap = None;
    for (target, source) in &recipe.descriptors {
        let descriptor = match source {
            Source::Socket | Source::Serial => {
                let path = scratch.path().join(target.to_string());
                let listener = UnixListener::bind(&path).context("listen")?;
                if *source == Source::Serial {
                    serial = Some(UnixStream::connect(&path).context("connect the serial port")?);
                }
                OwnedFd::from(listener)
            }
            Source::Read(path) => File::open(path).context("open a file")?.into(),
            Source::Write(path) => {
                let own = scratch.path().join(format!("disk-{target}"));
                fs::copy(path, &own).context("copy a disk")?;
                File::options()
                    .read(true)
                    .write(true)
                    .open(own)
                    .context("open a disk")?
                    .into()
            }
            Source::Tap => {
                let (descriptor, keeper) = open_tap()?;
                tap = Some(keeper);
                descriptor
            }
        };
        opened.push((out_of_the_way(&descriptor)?, *target));
    }
    let mut serial = serial.context("no serial port")?;
    serial
        .set_read_timeout(Some(LIMIT))
        .context("limit the wait")?;
    let mut command = Command::new(&recipe.program);
    command.args(&recipe.arguments).env_clear().current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let pairs: Vec<(RawFd, RawFd)> = opened
        .iter()
        .map(|(own, target)| (own.as_raw_fd(), *target))
        .collect();
    // SAFETY: dup2 is async-signal-safe; the pairs are owned by the closure.
    unsafe {
        command.pre_exec(move || {
            for (own, target) in &pairs {
                if libc::dup2(*own, *target) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let begun_ns = now_ns();
    let mut process = Tied::spawn(&mut command)?;
    let mut first = [0];
    let outcome = serial.read_exact(&mut first);
    let ended_ns = now_ns();
    process.kill();
    drop(tap);
    outcome.context("the hypervisor started by hand said nothing")?;
    Ok((begun_ns, ended_ns))
}

fn out_of_the_way(descriptor: &OwnedFd) -> Result<OwnedFd> {
    // SAFETY: the result is a new descriptor that nobody else owns.
    unsafe {
        match libc::fcntl(
            descriptor.as_raw_fd(),
            libc::F_DUPFD_CLOEXEC,
            OUT_OF_THE_WAY,
        ) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(std::io::Error::last_os_error()).context("move a descriptor"),
        }
    }
}

/// Keeps the network namespace of a tap.
struct Keeper(
    Option<std::sync::mpsc::Sender<()>>,
    Option<std::thread::JoinHandle<()>>,
);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0 = None;
        if let Some(thread) = self.1.take() {
            // A thread that only waits has nothing to say.
            let _ = thread.join();
        }
    }
}

/// A tap in a network namespace of its own, that of a thread which lasts as long as the keeper.
fn open_tap() -> Result<(OwnedFd, Keeper)> {
    let (made, outcome) = std::sync::mpsc::channel();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let tap = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .context("make a network namespace")
            .and_then(|()| make_tap());
        if made.send(tap).is_ok() {
            // Ends when the keeper is dropped.
            let _ = held.recv();
        }
    });
    let keeper = Keeper(Some(hold), Some(thread));
    let descriptor = outcome.recv().context("the tap's thread ended")??;
    Ok((descriptor, keeper))
}

fn make_tap() -> Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("open /dev/net/tun")?;
    // SAFETY: an ifreq is plain data and outlives the call.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"bench0") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        if libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) < 0 {
            bail!("make a tap: {}", std::io::Error::last_os_error());
        }
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_told_from_the_arguments_that_name_them() {
        for (argument, expected) in [
            (
                "socket,id=qmp,fd=7,server=on,wait=off",
                Some((7, Kind::Socket)),
            ),
            (
                "socket,id=serial,fd=9,server=on,wait=on",
                Some((9, Kind::Serial)),
            ),
            ("tap,id=net0,fd=21", Some((21, Kind::Tap))),
            ("fd=14,set=1", Some((14, Kind::File))),
            ("/proc/self/fd/12", Some((12, Kind::File))),
            ("chardev=qmp,mode=control", None),
            ("guest=i-0123", None),
        ] {
            assert_eq!(descriptor(argument), expected, "{argument}");
        }
    }
}
