//! `boira doctor`: what this machine can and cannot do, each with the remedy.

use crate::home::Home;
use crate::output::{self, Format, line_out};
use crate::terminal::Progress;
use anyhow::{Context, Result};
use boira_hypervisor::cgroup::Cgroups;
use boira_hypervisor::{Acceleration, Accelerator, Probe};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How long a kernel may take to its first line before virtualization counts as unusable.
const PROBE: Duration = Duration::from_secs(10);
/// The user that the probe runs as: below those of guests.
const PROBE_UID: u32 = 699_999_999;

const NOT_TRIED: &str = "not tried, because that takes root";
const SUDO: &str = "run it with sudo";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It works, with something less.
    Less,
    /// Something won't work.
    Missing,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    detail: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

impl Finding {
    fn ok(what: &'static str, detail: impl Into<String>) -> Self {
        Self {
            what,
            verdict: Verdict::Ok,
            detail: detail.into(),
            remedy: String::new(),
        }
    }

    /// What is not fine always comes with what to do.
    fn bad(
        verdict: Verdict,
        what: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            what,
            verdict,
            detail: detail.into(),
            remedy: remedy.into(),
        }
    }
}

/// Exit code 1 where something is missing without which no guest runs.
pub async fn doctor(home: &Home, format: Format) -> Result<ExitCode> {
    let progress = Progress::new(format == Format::Json);
    progress.step(format!(
        "looking at this machine (up to {} s)",
        PROBE.as_secs()
    ));
    let findings = findings(home).await;
    drop(progress);
    show(format, &findings);
    let broken = findings.iter().any(|one| one.verdict == Verdict::Missing);
    Ok(match broken {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

async fn findings(home: &Home) -> Vec<Finding> {
    let is_root = nix::unistd::geteuid().is_root();
    let mut findings = vec![root(is_root)];
    findings.extend(programs_and_networks());
    for program in ["ssh", "ssh-keygen"] {
        findings.push(program_there(program, "openssh-client", Verdict::Missing));
    }
    findings.push(building());
    findings.push(disk(home));
    findings.push(shares(is_root));
    findings.push(confinement());
    findings.push(execution(home, is_root).await);
    findings
}

/// What keeps guests from running here, as far as a look tells.
pub fn lacking() -> Vec<String> {
    missing(programs_and_networks())
}

/// The same for a machine that people start a cloud on, with a key to log in to its instances.
pub fn lacking_for_a_controller() -> Vec<String> {
    let keygen = program_there("ssh-keygen", "openssh-client", Verdict::Missing);
    missing(programs_and_networks().chain([keygen]))
}

fn missing(findings: impl Iterator<Item = Finding>) -> Vec<String> {
    findings
        .filter(|finding| finding.verdict == Verdict::Missing)
        .map(|finding| format!("{} is missing: {}", finding.what, finding.remedy))
        .collect()
}

fn programs_and_networks() -> impl Iterator<Item = Finding> {
    let programs = boira_hypervisor::PROGRAMS
        .map(|(program, package)| program_there(program, package, Verdict::Missing));
    let networks = boira_network::doctor::requirements();
    programs
        .into_iter()
        .chain([machine_type()])
        .chain(networks.into_iter().map(network))
}

fn show(format: Format, findings: &[Finding]) {
    if format == Format::Json {
        return output::json(&findings);
    }
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Less => "less",
            Verdict::Missing => "missing",
        };
        line_out(&format!(
            "{verdict:<8}{:<20}{}",
            finding.what, finding.detail
        ));
        if !finding.remedy.is_empty() {
            line_out(&format!("{:<28}-> {}", "", finding.remedy));
        }
    }
}

fn root(is_root: bool) -> Finding {
    let detail = "for namespaces and for users that guests run as";
    match is_root {
        true => Finding::ok("root", detail),
        false => Finding::bad(Verdict::Missing, "root", detail, SUDO),
    }
}

fn program_there(program: &'static str, package: &str, otherwise: Verdict) -> Finding {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    match found {
        Some(path) => Finding::ok(program, path.display().to_string()),
        None => Finding::bad(
            otherwise,
            program,
            "not found",
            format!("apt-get install {package}"),
        ),
    }
}

fn machine_type() -> Finding {
    let what = "machine type";
    match boira_hypervisor::newest_machine() {
        Ok(name) => Finding::ok(what, name),
        Err(why) => Finding::bad(Verdict::Missing, what, why, "install Debian 12's QEMU"),
    }
}

fn network(requirement: boira_network::doctor::Requirement) -> Finding {
    let detail = "for guests' networks";
    match (requirement.present, requirement.optional) {
        (true, _) => Finding::ok(requirement.what, detail),
        (false, true) => Finding::bad(
            Verdict::Less,
            requirement.what,
            format!("not found, {detail}"),
            requirement.remedy,
        ),
        (false, false) => Finding::bad(
            Verdict::Missing,
            requirement.what,
            format!("not found, {detail}"),
            requirement.remedy,
        ),
    }
}

fn building() -> Finding {
    let missing = boira_images::missing_programs();
    if missing.is_empty() {
        return Finding::ok("building images", "has the programs that it needs");
    }
    let (programs, mut packages): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
    packages.sort_unstable();
    packages.dedup();
    Finding::bad(
        Verdict::Less,
        "building images",
        format!("not found: {}", programs.join(", ")),
        format!("apt-get install {}", packages.join(" ")),
    )
}

fn disk(home: &Home) -> Finding {
    let mut folder = home.path();
    while !folder.exists() {
        let Some(parent) = folder.parent() else { break };
        folder = parent;
    }
    let free = nix::sys::statvfs::statvfs(folder)
        .map(|fs| fs.blocks_available() * fs.fragment_size())
        .unwrap_or(0);
    let detail = format!("{} free for {}", output::bytes(free), home.path().display());
    match free > 2 << 30 {
        true => Finding::ok("disk", detail),
        false => Finding::bad(
            Verdict::Less,
            "disk",
            detail,
            "free some space, or choose another folder with --home",
        ),
    }
}

/// Whether guests get their share of the processor. Only root can find out.
fn shares(is_root: bool) -> Finding {
    let what = "CPU shares";
    if !is_root {
        return Finding::bad(Verdict::Less, what, NOT_TRIED, SUDO);
    }
    let group = Cgroups::open(&format!("boira-doctor-{}", std::process::id()));
    let verdict = group.verdict();
    // It is empty; what can't be removed now is of no harm.
    let _ = group.remove_all();
    match verdict {
        Ok(_) => Finding::ok(what, "guests get CPU time by their size"),
        Err(why) => Finding::bad(
            Verdict::Less,
            what,
            why,
            "hand on the cpu controller: echo +cpu >/sys/fs/cgroup/cgroup.subtree_control",
        ),
    }
}

fn confinement() -> Finding {
    match boira_hypervisor::confinement_verdict() {
        Ok(detail) => Finding::ok("confinement", detail),
        Err(why) => Finding::bad(
            Verdict::Less,
            "confinement",
            why,
            "add landlock to lsm= on the kernel's command line, or take a newer kernel",
        ),
    }
}

/// How guests would be executed: found out by root, for others what root found out.
async fn execution(home: &Home, is_root: bool) -> Finding {
    let agent = home.agent();
    let verdict = match is_root {
        true => acceleration(&agent).await,
        false => probe(&agent)
            .and_then(|probe| boira_hypervisor::kept_acceleration(&probe))
            .context(NOT_TRIED),
    };
    match verdict {
        Ok(Acceleration {
            accelerator: Accelerator::Kvm,
            verdict,
        }) => Finding::ok("acceleration", verdict),
        Ok(Acceleration {
            accelerator: Accelerator::Tcg,
            verdict,
        }) => Finding::bad(
            Verdict::Less,
            "acceleration",
            verdict,
            boira_hypervisor::ACCELERATION_REMEDY,
        ),
        Err(error) => Finding::bad(
            Verdict::Less,
            "acceleration",
            format!("{error:#}"),
            match is_root {
                true => "mend what is missing above",
                false => SUDO,
            },
        ),
    }
}

/// How guests run here. A device that opens proves nothing, so a kernel is booted to its first line;
/// the verdict is kept in `directory` for this boot of the host, this kernel and this hypervisor.
pub async fn acceleration(directory: &Path) -> Result<Acceleration> {
    let Some(probe) = probe(directory) else {
        return Ok(Acceleration {
            verdict: "guests are emulated; virtualization is tried at the next start, when there is a kernel to try it with (`boira image build tiny`)".into(),
            ..without_probe()
        });
    };
    boira_hypervisor::find_acceleration(&probe)
        .await
        .context("find out how guests run here")
}

/// Nothing where there is no kernel to try.
fn probe(directory: &Path) -> Option<Probe> {
    Some(Probe {
        kernel: kernel(directory)?,
        cache: directory.join("acceleration.json"),
        deadline: PROBE,
        uid: PROBE_UID,
    })
}

/// The kernel of an image that was built here, else this system's own.
fn kernel(directory: &Path) -> Option<PathBuf> {
    let built = files(&directory.parent()?.join("work/images"))
        .into_iter()
        .filter_map(|folder| boira_images::Built::load(&folder).ok()?.kernel)
        .find(|kernel| kernel.exists());
    let is_kernel = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    };
    built.or_else(|| files(Path::new("/boot")).into_iter().rfind(is_kernel))
}

/// A folder's entries by name; none where it can't be read.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    paths
}

/// Emulation works everywhere and needs no probe.
pub fn without_probe() -> Acceleration {
    Acceleration {
        accelerator: Accelerator::Tcg,
        verdict: "guests are emulated".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_where_nothing_was_started_is_described_with_a_remedy_for_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::find(Some(&folder.path().join("not made")));
        for is_root in [true, false] {
            let execution = execution(&home, is_root).await;
            assert!(!execution.detail.is_empty());
        }
        let findings = findings(&home).await;
        assert!(findings.len() > 10, "{findings:?}");
        for finding in findings {
            assert_eq!(
                finding.verdict == Verdict::Ok,
                finding.remedy.is_empty(),
                "{finding:?}"
            );
        }
    }

    #[tokio::test]
    async fn without_root_nothing_is_tried() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::find(Some(folder.path()));
        assert_eq!(execution(&home, false).await.remedy, "run it with sudo");
        assert_eq!(shares(false).verdict, Verdict::Less);
    }
}
