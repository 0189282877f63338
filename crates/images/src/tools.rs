//! Runs the programs that builders use, and says which package brings a missing one.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::error::{ImageError, Result};

/// Programs and the Debian package of each, in no order.
const PACKAGES: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("apt-config", "apt"),
    ("gpgv", "gpgv"),
    ("dpkg-deb", "dpkg"),
    ("mke2fs", "e2fsprogs"),
    ("qemu-img", "qemu-utils"),
    ("dpkg-query", "dpkg"),
    ("mmdebstrap", "mmdebstrap"),
    ("sfdisk", "fdisk"),
    ("chroot", "coreutils"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Administrators' programs are not in every user's PATH.
const SYSTEM_DIRECTORIES: &[&str] = &[
    "/usr/sbin",
    "/sbin",
    "/usr/bin",
    "/bin",
    "/usr/local/bin",
    "/usr/local/sbin",
];

/// The path of a program, or an error that names the package to install.
pub(crate) fn find(tool: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(tool))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| ImageError::MissingTool {
            tool: tool.to_owned(),
            package: package_of(tool).to_owned(),
        })
}

/// What building and importing would need and this machine lacks, with the package of each.
pub fn missing_programs() -> Vec<(&'static str, &'static str)> {
    let absent = |(tool, _): &&(&str, &str)| find(tool).is_err();
    PACKAGES.iter().filter(absent).copied().collect()
}

/// Checks that all of `tools` are here, so that a build does not fail after a minute of work.
pub(crate) fn require(tools: &[&str]) -> Result<()> {
    tools.iter().try_for_each(|tool| find(tool).map(drop))
}

/// A command that dies with the future that waits for it and says everything in English.
pub(crate) fn command(tool: &str) -> Result<Command> {
    let mut command = Command::new(find(tool)?);
    command
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .env("LC_ALL", "C.UTF-8");
    Ok(command)
}

/// Runs a command to its end and gives its standard output; failure carries the end of its
/// error output.
pub(crate) async fn run(command: &mut Command) -> Result<String> {
    let program = program_name(command);
    let output = command.output().await.map_err(|why| ImageError::Io {
        path: PathBuf::from(&program),
        why,
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    };
    Err(ImageError::Program {
        program,
        status: output.status.to_string(),
        detail: last_lines(said),
    })
}

/// The last lines of a program's output, enough to see why it failed.
pub(crate) fn last_lines(output: &[u8]) -> String {
    const LINES: usize = 8;
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(LINES)..].join("; ")
}

fn program_name(command: &Command) -> String {
    let program = Path::new(command.as_std().get_program());
    program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn package_of(tool: &str) -> &str {
    PACKAGES
        .iter()
        .find(|(name, _)| *name == tool)
        .map_or(tool, |(_, package)| package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_reported_with_its_package() {
        let error = find("no-such-program-of-boira").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("apt-get install no-such-program-of-boira"),
            "{error}"
        );
        assert_eq!(package_of("mke2fs"), "e2fsprogs");
    }

    #[tokio::test]
    async fn a_failing_program_tells_its_name_and_last_words() {
        let error = run(command("sh")
            .unwrap()
            .args(["-c", "echo first; echo last words >&2; exit 3"]))
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3): last words");
    }
}
