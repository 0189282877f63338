//! A guest's process: told apart from whatever may have its number later, and never signalled
//! before that is certain.
//!
//! The process writes its own `/proc/self/stat` before it execs, so that there is no moment in
//! which it runs and nobody could find it. A finder opens a pidfd for the number first and then
//! compares the start time and the command line: if they fit, the pidfd is the guest's, whatever
//! becomes of the number.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long a process may take from writing its stat to the end of exec.
const EXEC: Duration = Duration::from_secs(1);

/// A process that was verified, held by a pidfd.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
}

/// How a process of ours ended, when the kernel told us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its exit status.
    Status(i32),
    /// The signal that killed it.
    Signal(i32),
    /// It was another process's child.
    Unknown,
}

impl Process {
    /// Takes over a child that was just spawned and hasn't been waited for.
    pub fn of_child(pid: u32) -> io::Result<Process> {
        Ok(Process {
            pid,
            pidfd: watched(pidfd_open(pid)?)?,
        })
    }

    /// As [`find`].
    pub fn find(stat: &str, marker: &str) -> io::Result<Option<Process>> {
        let Some(Found { pid, pidfd }) = find(stat, marker, EXEC)? else {
            return Ok(None);
        };
        let pidfd = watched(pidfd)?;
        Ok(Some(Process { pid, pidfd }))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills it, if it is there.
    pub fn kill(&self) -> io::Result<()> {
        signal(self.pidfd.as_raw_fd(), libc::SIGKILL)
    }

    /// Whether somebody has stopped it.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid));
        let stat = stat.ok().and_then(|stat| Stat::parse(&stat));
        stat.is_some_and(|stat| stat.stopped)
    }

    /// Kills a child that nobody awaits, and blocks until it is gone.
    pub fn kill_and_reap(&self) -> io::Result<()> {
        self.kill()?;
        let pid = nix::unistd::Pid::from_raw(self.pid as libc::pid_t);
        nix::sys::wait::waitpid(pid, None)?;
        Ok(())
    }

    /// Resolves when it has ended.
    pub async fn gone(&self) {
        // An error of epoll would be one of this process; the caller goes on to kill.
        let _ = self.pidfd.readable().await;
    }

    /// Resolves when it has ended, and how. A child is reaped, by whoever gets there first.
    pub async fn ended(&self) -> io::Result<Ending> {
        // A pidfd is readable from the end of its process on, for ever.
        let _ready = self.pidfd.readable().await?;
        // SAFETY: all zeros is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, and the kernel writes into what is there.
        let result = unsafe {
            libc::waitid(
                libc::P_PIDFD,
                self.pidfd.as_raw_fd() as libc::id_t,
                &mut info,
                libc::WEXITED | libc::WNOHANG,
            )
        };
        if result != 0 {
            return Ok(Ending::Unknown);
        }
        // SAFETY: waitid succeeded with WEXITED, so that the status member is the valid one.
        let status = unsafe { info.si_status() };
        Ok(match info.si_code {
            libc::CLD_EXITED => Ending::Status(status),
            libc::CLD_KILLED | libc::CLD_DUMPED => Ending::Signal(status),
            _ => Ending::Unknown,
        })
    }
}

/// A process that was verified, for one signal.
pub struct Found {
    pid: u32,
    pidfd: OwnedFd,
}

impl Found {
    /// Sends it a signal, if it is there.
    pub fn signal(&self, number: libc::c_int) -> io::Result<()> {
        signal(self.pidfd.as_raw_fd(), number)
    }

    /// Whether it is no more.
    pub fn has_ended(&self) -> bool {
        has_ended(&self.pidfd).unwrap_or(false)
    }
}

/// Finds the process that wrote `stat`, if it still runs and `marker` is in its command line.
///
/// May block for `patience`: a process that has written its stat may yet have to exec. One that takes
/// longer is an error of the kind `TimedOut`: it is there and may become the guest.
pub fn find(stat: &str, marker: &str, patience: Duration) -> io::Result<Option<Found>> {
    let Some(recorded) = Stat::parse(stat) else {
        return Ok(None);
    };
    let pid = recorded.pid;
    let pidfd = match pidfd_open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    let end = Instant::now() + patience;
    loop {
        let identity = identify(&recorded, marker);
        // What was read belongs to the pidfd's process only if that one hasn't ended meanwhile.
        if identity == Identity::Other || has_ended(&pidfd)? {
            return Ok(None);
        }
        if identity == Identity::Same {
            return Ok(Some(Found { pid, pidfd }));
        }
        if Instant::now() >= end {
            let late = format!("process {pid} has not begun yet");
            return Err(io::Error::new(io::ErrorKind::TimedOut, late));
        }
        std::thread::sleep(EXEC / 100);
    }
}

/// What is in the command line of a guest's process and in no other's.
pub fn marker(guest: &str) -> String {
    format!("guest={guest}")
}

/// One that has ended takes every signal.
fn signal(pidfd: i32, number: libc::c_int) -> io::Result<()> {
    // SAFETY: the callers hold the descriptor open and the other arguments are plain values.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd,
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match check(result) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// The members of `/proc/PID/stat` that identify a process (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    start_ticks: u64,
    dead: bool,
    stopped: bool,
}

impl Stat {
    fn parse(line: &str) -> Option<Stat> {
        let pid = line.split(' ').next()?.parse().ok()?;
        // The second member is the program's name, which may contain anything.
        let mut rest = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace();
        let state = rest.next()?;
        let start_ticks = rest.nth(18)?.parse().ok()?;
        Some(Stat {
            pid,
            start_ticks,
            dead: matches!(state, "Z" | "X"),
            stopped: state == "T",
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// The recorded process, running what it should.
    Same,
    /// The recorded process, running something else: not past exec yet.
    Unmarked,
    /// Gone, or another process with its number.
    Other,
}

fn identify(recorded: &Stat, marker: &str) -> Identity {
    let proc = format!("/proc/{}", recorded.pid);
    let stat = fs::read_to_string(format!("{proc}/stat"))
        .ok()
        .and_then(|stat| Stat::parse(&stat));
    let same = stat.is_some_and(|now| now.start_ticks == recorded.start_ticks && !now.dead);
    let Ok(cmdline) = fs::read(format!("{proc}/cmdline")) else {
        return Identity::Other;
    };
    match same {
        false => Identity::Other,
        true if cmdline
            .windows(marker.len())
            .any(|window| window == marker.as_bytes()) =>
        {
            Identity::Same
        }
        true => Identity::Unmarked,
    }
}

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: both arguments are plain values.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_open,
            pid as libc::pid_t,
            libc::PIDFD_NONBLOCK,
        )
    })?;
    // SAFETY: a result that isn't an error is a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn watched(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor for as long as it lives.
    unsafe { Ok(AsyncFd::register_with_interest(pidfd, Interest::READABLE)?) }
}

fn has_ended(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut fds = [nix::poll::PollFd::new(
        pidfd.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    Ok(nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO)? > 0)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// This boot of the host, as the kernel names it.
pub fn host_boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn stat_of(pid: u32) -> String {
        fs::read_to_string(format!("/proc/{pid}/stat")).unwrap()
    }

    #[test]
    fn a_program_name_may_contain_parentheses_and_spaces() {
        let line = "42 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        assert_eq!(
            Stat::parse(line),
            Some(Stat {
                pid: 42,
                start_ticks: 777,
                dead: false,
                stopped: false
            })
        );
        assert_eq!(Stat::parse("42 (a"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[tokio::test]
    async fn only_the_process_that_was_recorded_is_found_and_its_end_is_seen() {
        let mut child = Command::new("sleep").arg("61.5").spawn().unwrap();
        let stat = stat_of(child.id());
        let unmarked = Process::find(&stat, "another").unwrap_err();
        assert_eq!(unmarked.kind(), io::ErrorKind::TimedOut, "it is there");
        let later = stat.replacen(") S", ") R", 1);
        let found = Process::find(&later, "61.5").unwrap().expect("it runs");
        assert_eq!(found.pid(), child.id());
        let ours = stat_of(std::process::id());
        let start = Stat::parse(&stat).unwrap().start_ticks.to_string();
        let imposter = stat.replace(
            &start,
            &(Stat::parse(&ours).unwrap().start_ticks - 1).to_string(),
        );
        assert!(Process::find(&imposter, "61.5").unwrap().is_none());

        found.kill().unwrap();
        assert_eq!(found.ended().await.unwrap(), Ending::Signal(libc::SIGKILL));
        found.kill().unwrap();
        assert!(Process::find(&stat, "61.5").unwrap().is_none());
        assert!(child.wait().is_err(), "it was reaped");
    }
}
