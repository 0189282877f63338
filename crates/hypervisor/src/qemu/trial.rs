//! A guest that is started to learn something of this host, and ended again. It gets the confinement of
//! any guest.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

use super::landlock::{self, Access};
use super::launch::{self, Confinement};
use super::process::Process;
use super::{PROGRAM, probe, start};
use crate::Accelerator;

/// Nobody ends it whose parent was killed, and some never end by themselves.
const CPU_S: u64 = 60;
/// How long one may take to end that has closed its stream.
const LAST_WORDS: Duration = Duration::from_secs(10);

pub struct Trial {
    process: Process,
    errors: File,
    is_over: bool,
}

impl Trial {
    /// Starts QEMU with a file in memory to boot from, given by `option`, and with the stream that comes
    /// back as the character device `words`.
    pub fn start(
        accelerator: Accelerator,
        uid: u32,
        option: &str,
        image: &File,
        more: &[&str],
    ) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (accelerator_name, groups) = match accelerator {
            Accelerator::Kvm => ("kvm", probe::device_groups()),
            Accelerator::Tcg => ("tcg,tb-size=32", Vec::new()),
        };
        let image_path = format!("/proc/self/fd/{}", image.as_raw_fd());
        let chardev = format!("socket,id=words,fd={}", theirs.as_raw_fd());
        let fixed = [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "pc",
            "-cpu",
            "qemu64",
            "-m",
            "256M",
            "-accel",
            accelerator_name,
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-chardev",
            &chardev,
            option,
            &image_path,
        ];
        let mut allowed = start::program_files(Path::new(PROGRAM));
        allowed.push((Path::new(probe::DEVICE), Access::Device));
        let errors = unnamed_file()?;
        let confinement = Confinement {
            uid,
            groups,
            landlock: landlock::ruleset(&allowed)?,
            process: unnamed_file()?,
            keep: &[image.as_raw_fd(), theirs.as_raw_fd()],
            not_after_ms: None,
            cpu_s: Some(CPU_S),
        };
        let arguments = [&fixed[..], more].concat();
        let program = Path::new(PROGRAM);
        let pid = launch::spawn(program, &arguments, errors.try_clone()?, confinement)?;
        let trial = Self {
            process: Process::of_child(pid)?,
            errors,
            is_over: false,
        };
        Ok((trial, UnixStream::from_std(ours)?))
    }

    pub async fn end(mut self) -> io::Result<()> {
        self.process.kill()?;
        self.process.ended().await?;
        self.is_over = true;
        Ok(())
    }

    /// Of one that is ending by itself: what QEMU said last, in one line.
    pub async fn last_words(mut self) -> String {
        let ended = tokio::time::timeout(LAST_WORDS, self.process.ended());
        self.is_over = matches!(ended.await, Ok(Ok(_)));
        let mut errors = &self.errors;
        let mut text = String::new();
        let read = errors
            .rewind()
            .and_then(|()| errors.take(4096).read_to_string(&mut text));
        match (read, text.trim().lines().last()) {
            (Ok(_), Some(line)) => line.to_owned(),
            _ => "QEMU ended without a word".to_owned(),
        }
    }
}

/// Also where nobody waits for it any more.
impl Drop for Trial {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.process.kill_and_reap();
        }
    }
}

/// A copy in memory, which Landlock has no say over.
pub fn in_memory(mut content: impl Read) -> io::Result<File> {
    let mut file = unnamed_file()?;
    io::copy(&mut content, &mut file)?;
    Ok(file)
}

/// A file in memory, for what a child reads or writes.
fn unnamed_file() -> io::Result<File> {
    let fd = nix::sys::memfd::memfd_create(c"boira-trial", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    Ok(File::from(fd))
}
