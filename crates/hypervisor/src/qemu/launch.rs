//! Starting a process that may do next to nothing but compute on what it was handed.
//!
//! Between fork and exec the child gives up, in this order: its session, core dumps, the host's
//! network, its groups and user id, the gain of privileges by exec, files (Landlock), and every
//! descriptor that isn't named. QEMU itself then adds its seccomp filter. The uid is dropped here
//! because QEMU's own `-runas` doesn't go together with that filter.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::landlock;

/// What the child is left with.
pub struct Confinement<'a> {
    /// User and group id.
    pub uid: u32,
    /// Supplementary groups: none, but for a device that only a group may open.
    pub groups: Vec<u32>,
    /// The files that it may open; everything its uid may where the kernel has no Landlock.
    pub landlock: Option<OwnedFd>,
    /// Where it leaves its `/proc/self/stat`, by which it is found again.
    pub process: File,
    /// The descriptors that it keeps, under their numbers.
    pub keep: &'a [RawFd],
    /// The time of the boot clock, in milliseconds, after which it doesn't exec any more.
    pub not_after_ms: Option<u64>,
    /// Seconds of processor time after which the kernel ends it.
    pub cpu_s: Option<u64>,
}

/// The error of a child that was too late.
pub const TOO_LATE: libc::c_int = libc::ETIME;

/// Starts `program` and returns its process id; an error of exec or of any step before is returned.
pub fn spawn<A: AsRef<OsStr>>(
    program: &Path,
    arguments: &[A],
    errors: File,
    confinement: Confinement<'_>,
) -> io::Result<u32> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(errors.try_clone()?)
        .stderr(errors);
    let Confinement {
        uid,
        groups,
        landlock,
        process,
        keep,
        not_after_ms,
        cpu_s,
    } = confinement;
    let groups: Vec<libc::gid_t> = groups;
    let keep = keep.to_vec();
    let parent = std::process::id();
    // SAFETY: the closure makes system calls on values that it owns and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            check(libc::setsid())?;
            die_with(parent)?;
            record(&process)?;
            // Whoever holds guests at a deadline finds it from here on.
            in_time(not_after_ms)?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, 0))?;
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            check(libc::setrlimit(libc::RLIMIT_CORE, &none))?;
            if let Some(seconds) = cpu_s {
                let bound = libc::rlimit {
                    rlim_cur: seconds,
                    rlim_max: seconds,
                };
                check(libc::setrlimit(libc::RLIMIT_CPU, &bound))?;
            }
            check(libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWIPC))?;
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setresgid(uid, uid, uid))?;
            check(libc::setresuid(uid, uid, uid))?;
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            if let Some(ruleset) = &landlock {
                landlock::restrict_self(ruleset.as_raw_fd())?;
            }
            close_all_but(&keep)
        });
    }
    let child = command.spawn()?;
    Ok(child.id())
}

/// Ties the child to its parent until it can be found without it: a child that outlived the agent
/// unrecorded would run for ever.
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: plain values only.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        if libc::getppid() != parent as libc::pid_t {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    Ok(())
}

/// Copies `/proc/self/stat` into `process`.
fn record(process: &File) -> io::Result<()> {
    let mut stat = [0_u8; 1024];
    // SAFETY: the path ends with a zero and the buffer is as long as said.
    unsafe {
        let fd = check(libc::open(
            c"/proc/self/stat".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        ))?;
        let length = check(libc::read(fd, stat.as_mut_ptr().cast(), stat.len()) as i32)?;
        libc::close(fd);
        check(libc::pwrite(
            process.as_raw_fd(),
            stat.as_ptr().cast(),
            length as usize,
            0,
        ) as i32)?;
    }
    Ok(())
}

/// Async-signal-safe, as all that a child does between fork and exec.
fn in_time(not_after_ms: Option<u64>) -> io::Result<()> {
    let Some(not_after_ms) = not_after_ms else {
        return Ok(());
    };
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec that outlives the call.
    check(unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) })?;
    let now_ms = now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000;
    match now_ms < not_after_ms {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(TOO_LATE)),
    }
}

/// Marks every descriptor beyond stderr to be closed by exec, except those to keep.
fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;
    // SAFETY: plain values; marking descriptors closes none before exec.
    unsafe {
        check(libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, CLOSE_RANGE_CLOEXEC) as i32)?;
        for fd in keep {
            check(libc::fcntl(*fd, libc::F_SETFD, 0))?;
        }
    }
    Ok(())
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::super::landlock::Access;
    use super::super::process::{Ending, Process};
    use super::super::start;
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const UID: u32 = 734_499;

    /// Another user's, with these descriptors and all files.
    fn confined(keep: &[RawFd]) -> Confinement<'_> {
        Confinement {
            uid: UID,
            groups: Vec::new(),
            landlock: None,
            process: tempfile::tempfile().unwrap(),
            keep,
            not_after_ms: None,
            cpu_s: None,
        }
    }

    /// Runs `cat` in confinement; whether it could read `path`, and what it said.
    async fn cat(path: &Path, allowed: &[(&Path, Access)], keep: &[RawFd]) -> (bool, String) {
        let program = Path::new("/usr/bin/cat");
        let mut allowed = allowed.to_vec();
        allowed.push((program, Access::Execute));
        allowed.extend(start::libraries());
        let said = tempfile::tempfile().unwrap();
        let confinement = Confinement {
            landlock: landlock::ruleset(&allowed).unwrap(),
            ..confined(keep)
        };
        let pid = spawn(program, &[path], said.try_clone().unwrap(), confinement).unwrap();
        let ending = Process::of_child(pid).unwrap().ended().await.unwrap();
        let said = fs::read_to_string(format!("/proc/self/fd/{}", said.as_raw_fd())).unwrap();
        (ending == Ending::Status(0), said)
    }

    #[tokio::test]
    async fn a_file_that_everyone_may_read_is_denied_unless_it_is_named() {
        let dir = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let file = dir.path().join("notes");
        fs::write(&file, "words").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let named = cat(&file, &[(&file, Access::Read)], &[]).await;
        assert_eq!(named, (true, "words".to_owned()));
        let (could, said) = cat(&file, &[], &[]).await;
        assert_eq!(could, landlock::abi().is_none(), "{said}");
    }

    #[tokio::test]
    async fn a_descriptor_is_inherited_only_if_it_is_named_and_then_reaches_past_directories() {
        let dir = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .unwrap();
        let path = dir.path().join("kernel");
        fs::write(&path, "words").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let file = File::open(&path).unwrap();
        let inherited = format!("/proc/self/fd/{}", file.as_raw_fd());
        let allowed = [(path.as_path(), Access::Read)];
        let by_path = cat(&path, &allowed, &[]).await;
        assert!(!by_path.0, "its directory is closed");
        let (kept, said) = cat(Path::new(&inherited), &allowed, &[file.as_raw_fd()]).await;
        assert!(kept || landlock::abi().is_none(), "{said}");
        let (leaked, said) = cat(Path::new(&inherited), &allowed, &[]).await;
        assert!(!leaked, "{said}");
    }

    #[tokio::test]
    async fn a_program_that_isnt_there_is_an_error_of_the_start() {
        let errors = tempfile::tempfile().unwrap();
        let started = spawn::<&str>(Path::new("/nonexistent"), &[], errors, confined(&[]));
        assert_eq!(started.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn what_is_too_late_does_not_begin() {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
        let now_ms = now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000;
        for (not_after_ms, begins) in [(now_ms, false), (now_ms + 60_000, true)] {
            let confinement = Confinement {
                not_after_ms: Some(not_after_ms),
                ..confined(&[])
            };
            let errors = tempfile::tempfile().unwrap();
            let started = spawn::<&str>(Path::new("/usr/bin/true"), &[], errors, confinement);
            match started {
                Ok(pid) => {
                    assert!(begins);
                    Process::of_child(pid).unwrap().ended().await.unwrap();
                }
                Err(error) => assert_eq!((begins, error.raw_os_error()), (false, Some(TOO_LATE))),
            }
        }
    }
}
