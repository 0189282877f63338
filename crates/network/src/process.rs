//! Processes that outlive the agent: how a new agent finds them again, and how one is ended
//! without ever hitting another that got its number.
//!
//! A process is held by a pidfd, which stays the same process whatever becomes of its number. Who
//! it is is checked after the pidfd was opened, so what was checked is what is held.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use crate::readiness::readable;

/// A running process, or one that ran.
pub struct Process {
    pub pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// Holds the process `pid` if its command line pleases `is_it`.
    pub fn hold(pid: u32, is_it: impl Fn(&[OsString]) -> bool) -> Option<Process> {
        let pidfd = open_pidfd(pid).ok()?;
        let process = Process { pid, pidfd };
        (is_it(&command_line(pid)?) && process.is_alive()).then_some(process)
    }

    /// Finds the processes whose command line pleases `is_it`.
    pub fn find(is_it: impl Fn(&[OsString]) -> bool) -> Vec<Process> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| command_line(*pid).is_some_and(|line| is_it(&line)))
            .filter_map(|pid| Process::hold(pid, &is_it))
            .collect()
    }

    pub fn is_alive(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.pidfd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one `pollfd` is passed, with its count, and it outlives the call.
        let ended = unsafe { libc::poll(&mut poll, 1, 0) };
        ended == 0
    }

    /// Returns when it has ended.
    pub async fn ended(self) -> io::Result<()> {
        readable(self.pidfd)?.readable().await?.retain_ready();
        Ok(())
    }

    /// Ends it and waits until it is gone.
    ///
    /// # Errors
    /// `TimedOut` if the kernel doesn't let it go within ten seconds.
    pub async fn kill(self) -> io::Result<()> {
        // SAFETY: the arguments are a file descriptor that we own, a number, null and zero.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ESRCH) {
                return Ok(());
            }
            return Err(error);
        }
        tokio::time::timeout(Duration::from_secs(10), self.ended())
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// Lets the process write files up to a size and fail, rather than die, beyond it.
pub fn bound_files(size_bytes: u64) -> io::Result<()> {
    nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_FSIZE,
        size_bytes,
        size_bytes,
    )?;
    // SAFETY: ignoring a signal installs no handler.
    unsafe {
        nix::sys::signal::signal(
            nix::sys::signal::Signal::SIGXFSZ,
            nix::sys::signal::SigHandler::SigIgn,
        )?;
    }
    Ok(())
}

/// The arguments of a process, or `None` if it is gone or a thread of the kernel.
fn command_line(pid: u32) -> Option<Vec<OsString>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let bytes = bytes.strip_suffix(&[0])?;
    Some(
        bytes
            .split(|byte| *byte == 0)
            .map(|part| OsStr::from_bytes(part).to_owned())
            .collect(),
    )
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: the arguments are numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
