//! Copies a file of unknown origin into a qcow2 image of our own making.
//!
//! The file is first copied into a private directory and inspected there, so that it cannot
//! change between the check and its use. `qemu-img` then converts it as a user that owns nothing
//! else, in an empty network namespace, with limits on memory, time and what it may write, and
//! with the format given instead of guessed.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::build::{Progress, Reporter};
use crate::error::{AtPath, ImageError, Result};
use crate::inspect::{Format, Info, inspect, refuse};
use crate::sparse;
use crate::tools;

/// The user and group of `qemu-img`: a number that no system gives to anybody, above the ranges
/// of containers (systemd's `UIDS-GIDS`).
const CONVERTER: u32 = 1_900_000_001;
const MEMORY_BYTES: u64 = 2 << 30;
/// The time for a small image, and the slowest rate that is still waited for.
const BASE_SECONDS: u64 = 120;
const BYTES_PER_SECOND: u64 = 10 << 20;

/// Makes `destination`, a qcow2 image that stands alone, from the qcow2 or raw image `source`.
///
/// `destination` appears whole or not at all; files are staged beside it. Needs root, for the
/// namespace and the change of user.
///
/// # Errors
/// [`ImageError::Refused`] says why the source may not be imported; the others name the program
/// that failed or ran for too long. The source is never changed.
pub async fn import(source: &Path, destination: &Path, progress: &Progress<'_>) -> Result<Info> {
    tools::require(&["qemu-img"])?;
    let reporter = Reporter(progress);
    let parent = destination
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let staging = tempfile::Builder::new()
        .prefix(".import-")
        .tempdir_in(parent)
        .at(parent)?;
    let copy = staging.path().join("source");
    reporter.start("copy image");
    let source_bytes = copy_source(source, &copy).await?;
    let info = inspect(&mut fs::File::open(&copy).at(&copy)?)?;
    if info.format == Format::Raw && source.extension().is_some_and(|name| name == "qcow2") {
        let name = source.display();
        return refuse(&format!("{name} is called qcow2 and doesn't begin as one"));
    }

    for path in [staging.path(), &copy] {
        chown(path, Some(CONVERTER), Some(CONVERTER)).at(path)?;
    }
    let confined = Confined::new(staging.path(), info, source_bytes);
    if info.format == Format::Qcow2 {
        check(&confined, &reporter).await?;
    }
    convert(&confined, info.format, &reporter).await?;

    let result = staging.path().join("result");
    let file = fs::File::open(&result).at(&result)?;
    // What was written by a program that read hostile data is itself only believed when read.
    let converted = inspect(&mut &file)?;
    if converted.virtual_size_bytes != info.virtual_size_bytes {
        return refuse("the image's disk changed its size while it was converted");
    }
    chown(&result, Some(0), Some(0)).at(&result)?;
    fs::set_permissions(&result, fs::Permissions::from_mode(0o644)).at(&result)?;
    file.sync_all().at(&result)?;
    boira_files::publish(&result, destination).at(destination)?;
    Ok(converted)
}

/// Copies the source, holes kept as holes, and gives how many bytes it has.
async fn copy_source(source: &Path, copy: &Path) -> Result<u64> {
    let kind = fs::metadata(source).at(source)?.file_type();
    if kind.is_dir()
        || kind.is_fifo()
        || kind.is_socket()
        || kind.is_char_device()
        || kind.is_block_device()
    {
        return refuse(&format!("{} is not a file", source.display()));
    }
    let (from, to) = (source.to_owned(), copy.to_owned());
    let copying = tokio::task::spawn_blocking(move || {
        let mut reader = fs::File::open(&from).at(&from)?;
        let mut writer = fs::File::create(&to).at(&to)?;
        sparse::copy(&mut reader, &mut writer).at(&from)
    });
    copying.await.map_err(|error| ImageError::Io {
        path: source.to_owned(),
        why: io::Error::other(error),
    })?
}

/// Lets `qemu-img` look for references to what is not there, as a download that was cut off
/// has them; reading would give zeros for these.
async fn check(confined: &Confined<'_>, reporter: &Reporter<'_>) -> Result<()> {
    const ONLY_LEAKS: i32 = 3;
    reporter.start("check image");
    let ended = confined
        .run(
            "qemu-img",
            &["check", "-q", "-f", "qcow2", "./source"],
            |_| (),
        )
        .await?;
    match ended.status.code() {
        Some(0 | ONLY_LEAKS) => Ok(()),
        _ => refuse(&format!(
            "the qcow2 image is damaged: {}",
            tools::last_lines(&ended.said)
        )),
    }
}

async fn convert(confined: &Confined<'_>, format: Format, reporter: &Reporter<'_>) -> Result<()> {
    let arguments = [
        "convert",
        "-p",
        "-f",
        format.name(),
        "-O",
        "qcow2",
        "./source",
        "./result",
    ];
    let ended = confined
        .run("qemu-img", &arguments, |percent| {
            reporter.step("convert image", percent, 100)
        })
        .await?;
    if ended.status.success() {
        return Ok(());
    }
    let detail = tools::last_lines(&ended.said);
    Err(ImageError::Program {
        program: "qemu-img".to_owned(),
        status: ended.status.to_string(),
        detail,
    })
}

/// Where and within which bounds `qemu-img` works.
struct Confined<'a> {
    directory: &'a Path,
    seconds: u64,
    file_bytes: u64,
}

struct Ended {
    status: ExitStatus,
    /// The end of its output.
    said: Vec<u8>,
}

impl<'a> Confined<'a> {
    fn new(directory: &'a Path, info: Info, source_bytes: u64) -> Self {
        let disk_bytes = info.virtual_size_bytes;
        Self {
            directory,
            // Compressed data may become several times as much; holes take no time.
            seconds: BASE_SECONDS
                + disk_bytes.min(source_bytes.saturating_mul(4)) / BYTES_PER_SECOND,
            // A qcow2 file holds its disk and, beside it, tables of less than a hundredth of it.
            file_bytes: disk_bytes + disk_bytes / 100 + (16 << 20),
        }
    }

    /// Runs a program to its end or its time limit, and reports the percentages that it prints.
    async fn run(&self, program: &str, arguments: &[&str], report: impl Fn(u64)) -> Result<Ended> {
        let mut command = tools::command(program)?;
        command
            .args(arguments)
            .current_dir(self.directory)
            .env_clear()
            .env("LC_ALL", "C.UTF-8");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.confine(&mut command);
        let mut child = command.spawn().at(Path::new(program))?;
        let output = child.stdout.take().expect("standard output is a pipe");
        let errors = child.stderr.take().expect("standard error is a pipe");
        let work = async { tokio::join!(follow(output, report), tail(errors), child.wait()) };
        match tokio::time::timeout(Duration::from_secs(self.seconds), work).await {
            Ok(((), said, status)) => Ok(Ended {
                status: status.at(self.directory)?,
                said,
            }),
            Err(_) => Err(ImageError::TimedOut {
                program: program.to_owned(),
                seconds: self.seconds,
            }),
        }
    }

    /// Takes from a child what it does not need, in the order that keeps the right to do so.
    fn confine(&self, command: &mut Command) {
        let limits = [
            (Resource::RLIMIT_AS, MEMORY_BYTES),
            (Resource::RLIMIT_CPU, self.seconds),
            (Resource::RLIMIT_FSIZE, self.file_bytes),
            (Resource::RLIMIT_NOFILE, 64),
            (Resource::RLIMIT_CORE, 0),
        ];
        let restrict = move || -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)?;
            for (resource, limit) in limits {
                setrlimit(resource, limit, limit)?;
            }
            setgroups(&[])?;
            setgid(Gid::from_raw(CONVERTER))?;
            setuid(Uid::from_raw(CONVERTER))?;
            nix::sys::prctl::set_no_new_privs()?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure only makes system calls and touches no memory
        // that another thread could have locked or left half-written.
        unsafe {
            command.pre_exec(restrict);
        }
    }
}

/// Reads `    (12.34/100%)` and reports it.
async fn follow(mut output: impl AsyncRead + Unpin, report: impl Fn(u64)) {
    let mut buffer = [0; 256];
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]);
        let percent = text
            .rsplit('(')
            .next()
            .and_then(|rest| rest.split(['.', '/']).next())
            .and_then(|number| number.parse().ok());
        if let Some(percent) = percent {
            report(percent);
        }
    }
}

/// The end of what a program says; it may say more than anybody wants to keep.
async fn tail(mut errors: impl AsyncRead + Unpin) -> Vec<u8> {
    const KEPT_BYTES: usize = 4096;
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = errors.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..length]);
        kept.drain(..kept.len().saturating_sub(KEPT_BYTES));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn say(directory: &Path, seconds: u64, script: &str) -> Result<String> {
        let confined = Confined {
            directory,
            seconds,
            file_bytes: 1 << 20,
        };
        let ended = confined
            .run("sh", &["-c", &format!("exec >&2; {script}")], |_| ())
            .await?;
        Ok(String::from_utf8(ended.said).unwrap())
    }

    #[tokio::test]
    async fn a_confined_program_is_nobody_without_network_and_cannot_read_or_write_much() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        chown(path, Some(CONVERTER), Some(CONVERTER)).unwrap();
        assert_eq!(
            say(path, 20, "id -u; id -G").await.unwrap(),
            "1900000001\n1900000001\n"
        );
        let interfaces = say(path, 20, "tail -n +3 /proc/net/dev").await.unwrap();
        assert!(
            interfaces
                .lines()
                .all(|line| line.trim_start().starts_with("lo:")),
            "{interfaces}"
        );
        assert!(
            say(path, 20, "cat /etc/shadow")
                .await
                .unwrap()
                .contains("Permission denied")
        );
        say(path, 20, "head -c 5000000 /dev/zero >big")
            .await
            .unwrap();
        assert_eq!(fs::metadata(path.join("big")).unwrap().len(), 1 << 20);
    }

    #[tokio::test]
    async fn a_confined_program_that_does_not_end_is_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let error = say(directory.path(), 1, "sleep 60").await.unwrap_err();
        assert!(
            matches!(error, ImageError::TimedOut { seconds: 1, .. }),
            "{error}"
        );
    }
}
