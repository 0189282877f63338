//! Processes that end with who started them, and what is cleaned up when the bench is interrupted.

use anyhow::{Context, Result};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;

/// Nanoseconds on the clock that all processes of a machine share.
pub fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("Linux has a monotonic clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

pub fn ms_between(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e6
}

/// A child that is killed when it is dropped, and by the kernel when its parent is gone.
pub struct Tied(pub Child);

impl Tied {
    pub fn spawn(command: &mut Command) -> Result<Self> {
        // SAFETY: prctl is async-signal-safe and takes plain values.
        unsafe {
            command.pre_exec(
                || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                },
            );
        }
        let name = command.get_program().to_string_lossy().into_owned();
        Ok(Self(
            command.spawn().with_context(|| format!("start {name}"))?,
        ))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn kill(&mut self) {
        // It may have ended on its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        self.kill();
    }
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

/// Ends detached clouds on SIGINT and SIGTERM. Call it before the first thread starts.
pub fn clean_up_on_signals() -> Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("block signals")?;
    std::thread::spawn(move || {
        let _ = signals.wait();
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
