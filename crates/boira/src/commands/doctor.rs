//! `boira doctor`: what this machine can and cannot do, each with the remedy.

use crate::home::Home;
use crate::output::{self, Format, line_out};
use anyhow::{Context, Result};
use boira_hypervisor::{Acceleration, Accelerator, Probe, find_acceleration};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How long a kernel may take to its first line before KVM counts as unusable.
const PROBE: Duration = Duration::from_secs(10);
/// The user that the probe runs as: below those of guests.
const PROBE_UID: u32 = 699_999_999;

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    /// `ok`, `missing` (something won't work) or `less` (it works, with something less).
    verdict: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

/// Exit code 1 where something is missing without which no guest runs.
pub async fn doctor(home: &Home, format: Format) -> Result<ExitCode> {
    let mut findings = vec![root()];
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("qemu-img", "qemu-utils"),
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("mke2fs", "e2fsprogs"),
        ("ssh", "openssh-client"),
    ] {
        findings.push(program_there(program, package, "missing"));
    }
    for (program, package) in [("slirp4netns", "slirp4netns"), ("mmdebstrap", "mmdebstrap")] {
        findings.push(program_there(program, package, "less"));
    }
    findings.push(device("/dev/net/tun", "guests' network interfaces"));
    findings.push(home_finding(home));
    let acceleration = acceleration(&home.agent()).await?;
    findings.push(Finding {
        what: "acceleration",
        verdict: match acceleration.accelerator {
            Accelerator::Kvm => "ok",
            Accelerator::Tcg => "less",
        },
        detail: acceleration.verdict,
        remedy: String::new(),
    });
    show(format, &findings);
    let broken = findings.iter().any(|finding| finding.verdict == "missing");
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn show(format: Format, findings: &[Finding]) {
    if format == Format::Json {
        return output::json(&findings);
    }
    for finding in findings {
        line_out(&format!(
            "{:<8}{:<20}{}",
            finding.verdict, finding.what, finding.detail
        ));
        if !finding.remedy.is_empty() {
            line_out(&format!("{:<28}-> {}", "", finding.remedy));
        }
    }
}

fn root() -> Finding {
    let is_root = nix::unistd::geteuid().is_root();
    Finding {
        what: "root",
        verdict: if is_root { "ok" } else { "missing" },
        detail: "for namespaces and for users that guests run as".into(),
        remedy: if is_root {
            String::new()
        } else {
            "run it with sudo".into()
        },
    }
}

fn program_there(program: &'static str, package: &str, otherwise: &'static str) -> Finding {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    match found {
        Some(path) => Finding {
            what: program,
            verdict: "ok",
            detail: path.display().to_string(),
            remedy: String::new(),
        },
        None => Finding {
            what: program,
            verdict: otherwise,
            detail: "not found".into(),
            remedy: format!("apt-get install {package}"),
        },
    }
}

fn device(path: &'static str, what: &str) -> Finding {
    let opened = std::fs::File::options().read(true).write(true).open(path);
    Finding {
        what: path,
        verdict: if opened.is_ok() { "ok" } else { "missing" },
        detail: match &opened {
            Ok(_) => format!("for {what}"),
            Err(error) => format!("for {what}: {error}"),
        },
        remedy: match opened {
            Ok(_) => String::new(),
            Err(_) => "modprobe tun, and run as root".into(),
        },
    }
}

fn home_finding(home: &Home) -> Finding {
    let mut folder = home.path();
    while !folder.exists() {
        let Some(parent) = folder.parent() else { break };
        folder = parent;
    }
    let free = nix::sys::statvfs::statvfs(folder)
        .map(|fs| fs.blocks_available() * fs.fragment_size())
        .unwrap_or(0);
    let enough = free > 2 << 30;
    Finding {
        what: "disk",
        verdict: if enough { "ok" } else { "less" },
        detail: format!("{} free for {}", output::bytes(free), home.path().display()),
        remedy: match enough {
            true => String::new(),
            false => "free some space, or choose another folder with --home".into(),
        },
    }
}

/// How guests run here. A device that opens proves nothing, so a kernel is booted to its first line;
/// the verdict is kept in `directory` for this boot of the host, this kernel and this hypervisor.
pub async fn acceleration(directory: &Path) -> Result<Acceleration> {
    let Some(kernel) = kernel(directory) else {
        return Ok(Acceleration {
            verdict: "QEMU translates guests' instructions (TCG); KVM is tried at the next start, when there is a kernel to try it with (`boira image build tiny`)".into(),
            ..without_probe()
        });
    };
    let probe = Probe {
        kernel,
        cache: directory.join("acceleration.json"),
        deadline: PROBE,
        uid: PROBE_UID,
    };
    find_acceleration(&probe)
        .await
        .context("find out how guests run here")
}

/// The kernel of the tiny image that was built here, else this system's own.
fn kernel(directory: &Path) -> Option<PathBuf> {
    let home = directory.parent()?;
    let tiny = boira_images::Built::load(&home.join("work/images/tiny")).ok();
    let of_the_host = || {
        let mut kernels: Vec<PathBuf> = std::fs::read_dir("/boot")
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz"))
            })
            .collect();
        kernels.sort();
        kernels.pop()
    };
    tiny.and_then(|built| built.kernel)
        .filter(|path| path.exists())
        .or_else(of_the_host)
}

/// Translation works everywhere and needs no probe.
pub fn without_probe() -> Acceleration {
    Acceleration {
        accelerator: Accelerator::Tcg,
        verdict: "QEMU translates guests' instructions (TCG)".into(),
    }
}
