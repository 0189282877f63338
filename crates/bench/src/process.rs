//! Processes that end with who started them, and what is cleaned up when the bench is interrupted.

use anyhow::{Context, Result};
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::IntoRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

const SERVER_START: Duration = Duration::from_secs(60);

/// Nanoseconds on the clock that all processes of a machine share.
pub fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("Linux has a monotonic clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

pub fn ms_between(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e6
}

/// A child that ends when it is dropped, and by the kernel when its parent is gone.
pub struct Tied(pub Child, i32);

impl Tied {
    pub fn spawn(command: &mut Command) -> Result<Self> {
        Self::ended_by(libc::SIGKILL, command)
    }

    /// One that has children of its own, which it ends on that signal.
    pub fn ended_by(signal: i32, command: &mut Command) -> Result<Self> {
        // SAFETY: prctl is async-signal-safe and takes plain values.
        unsafe {
            command.pre_exec(move || match libc::prctl(libc::PR_SET_PDEATHSIG, signal) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self(child, signal))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn kill(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // SAFETY: it takes numbers; the child isn't waited for yet, so the id is still its own.
            unsafe { libc::kill(self.0.id() as i32, self.1) };
        }
        // It may have ended on its own.
        let _ = self.0.wait();
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command that prepares something; what it said is told where it fails.
pub fn prepare(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {name}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{name} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Waits until a server that was started takes connections.
pub fn wait_for(server: &str, address: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    while let Err(error) = TcpStream::connect(address) {
        anyhow::ensure!(
            begun.elapsed() < SERVER_START,
            "{server} doesn't answer: {error}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub resident_kib: u64,
    /// CPU time in ticks of 10 ms.
    pub ticks: u64,
    /// Bytes that were handed to a disk.
    pub write_bytes: u64,
}

pub fn usage(pid: u32) -> Result<Usage> {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/{pid}/{name}"))
            .with_context(|| format!("read /proc/{pid}/{name}"))
    };
    let stat = read("stat")?;
    // The name in parentheses may hold spaces; utime and stime are fields 14 and 15 (proc(5)).
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|w| w.parse::<u64>().ok());
    Ok(Usage {
        ticks: ticks.sum(),
        resident_kib: field(&read("status")?, "VmRSS:").unwrap_or_default(),
        write_bytes: field(&read("io")?, "write_bytes:").unwrap_or_default(),
    })
}

pub fn resident_mb(pid: u32) -> Result<f64> {
    Ok(usage(pid)?.resident_kib as f64 * 1024.0 / 1e6)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The folder with this program, where cargo has also put `boira`.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own file")?;
    let path = own.with_file_name(name);
    anyhow::ensure!(
        path.exists(),
        "{} is missing: build it first",
        path.display()
    );
    Ok(path)
}

/// Clouds that are up and don't end with this process.
static DETACHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Notes a cloud of `boira up --detach` to be taken down if the bench is interrupted.
pub fn note_detached(home: &Path) {
    DETACHED
        .lock()
        .expect("no holder of this lock panics")
        .push(home.to_owned());
}

/// Removes folders that an interrupted bench has left here; a bench that runs holds its own.
pub fn sweep(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.context("list a folder")?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let owner = name
            .strip_prefix("boira-bench-")
            .and_then(|rest| rest.split('-').next());
        let gone = |pid: &str| !Path::new(&format!("/proc/{pid}")).exists();
        if owner.is_some_and(gone) {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Takes a detached cloud down and removes its home.
pub fn end_detached(home: &Path) {
    DETACHED
        .lock()
        .expect("no holder of this lock panics")
        .retain(|other| other != home);
    let outcome = program("boira").and_then(|boira| {
        let mut command = Command::new(boira);
        command
            .arg("--home")
            .arg(home)
            .arg("down")
            .output()
            .context("take the cloud down")
    });
    match outcome {
        Ok(output) if output.status.success() => {
            if let Err(error) = fs::remove_dir_all(home) {
                eprintln!("warning: {} is left: {error}", home.display());
            }
        }
        Ok(output) => eprintln!(
            "warning: the cloud in {} is left: {}",
            home.display(),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => eprintln!(
            "warning: the cloud in {} is left: {error:#}",
            home.display()
        ),
    }
}

/// The writing end of the pipe that tells of a signal.
static SIGNALLED: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note_signal(_: libc::c_int) {
    let byte = [0u8];
    // SAFETY: write is async-signal-safe. A full pipe tells of a signal already.
    unsafe { libc::write(SIGNALLED.load(Ordering::Relaxed), byte.as_ptr().cast(), 1) };
}

/// Ends detached clouds on SIGINT and SIGTERM. By a handler and not by blocking the signals, which
/// every process started from here would inherit, the cloud's supervisor too.
pub fn clean_up_on_signals() -> Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let (mut reader, writer) = std::io::pipe().context("make a pipe")?;
    SIGNALLED.store(writer.into_raw_fd(), Ordering::Relaxed);
    let handler = SigHandler::Handler(note_signal);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler does nothing but write to a pipe.
        unsafe { sigaction(signal, &action) }.context("handle signals")?;
    }
    std::thread::spawn(move || {
        if reader.read_exact(&mut [0]).is_err() {
            return;
        }
        let homes = DETACHED
            .lock()
            .map(|homes| homes.clone())
            .unwrap_or_default();
        for home in homes {
            end_detached(&home);
        }
        std::process::exit(130);
    });
    Ok(())
}
