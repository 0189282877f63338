//! `cargo xtask fresh`: a newcomer's machine. An empty Debian 12 (mmdebstrap's minbase, no Rust in
//! it), a clean clone of HEAD, and `./run` and `./test` in it as root.
//!
//! How this machine reaches its package registries is handed in: apt's sources and proxies, cargo's
//! and pip's configuration, proxy variables and certificate authorities.

use crate::tasks::workspace;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SUITE: &str = "bookworm";
const SCRIPT: &str = include_str!("fresh.sh");
/// What `./test` may take, cold and on two cores.
const TEST_LIMIT: Duration = Duration::from_secs(18 * 60);
/// Where the authorities of the outer machine lie in the new one.
const AUTHORITIES: &str = "/etc/boira-fresh/authorities.pem";

#[derive(clap::Args)]
pub struct Arguments {
    /// Only one of the two commands
    #[arg(long, value_enum)]
    only: Option<What>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Run,
    Test,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .context("run id")?
        .stdout
        == b"0\n";
    ensure!(
        is_root,
        "cargo xtask fresh needs root: it makes a Debian of its own and mounts in it"
    );
    let folder = workspace()?.join("target/fresh");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let scratch = tempfile::Builder::new()
        .prefix("work-")
        .tempdir_in(&folder)?;
    let tarball = scratch.path().join("debian.tar");
    println!("making an empty Debian ({SUITE}, minbase)");
    make_debian(&tarball)?;
    let clone = scratch.path().join("clone");
    checked(
        Command::new("git")
            .args(["clone", "--quiet", "--no-hardlinks"])
            .arg(workspace()?)
            .arg(&clone),
    )?;
    let handed = scratch.path().join("handed");
    hand_in(&handed)?;
    for what in [What::Run, What::Test] {
        if arguments.only.is_none_or(|only| only == what) {
            attempt(what, scratch.path(), [&tarball, &clone, &handed])?;
        }
    }
    Ok(())
}

/// Runs one of the commands in a Debian of its own.
fn attempt(what: What, scratch: &Path, [tarball, clone, handed]: [&Path; 3]) -> Result<()> {
    let script = match what {
        What::Run => format!(
            "./run --detach --listen 127.0.0.1:{}; ./boira ssh demo 'uname -srm; uptime'; ./boira instance ls; ./boira host show 1; if ./boira host show 1 | grep 'next start'; then exit 1; fi; ./boira down",
            free_port_pair()?
        ),
        What::Test => "./test".to_owned(),
    };
    println!("in it: {script}");
    let begun = Instant::now();
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT, "fresh"])
        .arg(tarball)
        .arg(clone);
    command
        .arg(scratch.join("new"))
        .arg(script)
        .arg(handed)
        .stdin(Stdio::null());
    let status = command.status().context("run sh")?;
    ensure!(status.success(), "it failed in an empty Debian ({status})");
    let took = begun.elapsed();
    println!("done in {} s", took.as_secs());
    ensure!(
        what != What::Test || took <= TEST_LIMIT,
        "./test may take {} s",
        TEST_LIMIT.as_secs()
    );
    Ok(())
}

/// Two free ports side by side: the API's and the agents'.
fn free_port_pair() -> Result<u16> {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
        let port = first.local_addr().context("ask for the port")?.port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no two free ports side by side")
}

fn checked(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("run {name}"))?;
    ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}

/// The empty system, with the security suite, which has a newer Rust.
fn make_debian(tarball: &Path) -> Result<()> {
    let (main, security) = mirrors();
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--variant=minbase", SUITE])
        .arg(tarball);
    for line in [
        format!("deb {main} {SUITE} main"),
        format!("deb {main} {SUITE}-updates main"),
        format!("deb {security} {SUITE}-security main"),
    ] {
        command.arg(line);
    }
    checked(&mut command).context("make an empty Debian; is the package mmdebstrap there?")
}

/// Where this machine gets Debian's packages from, if it does, else where everybody does.
fn mirrors() -> (String, String) {
    let mut uris = Vec::new();
    let mut files: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.push("/etc/apt/sources.list".into());
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        {
            uris.extend(
                line.split_whitespace()
                    .filter(|word| word.contains("://"))
                    .map(str::to_owned),
            );
        }
    }
    let find = |is_security: bool, default: &str| {
        uris.iter()
            .find(|uri| uri.contains("debian") && uri.contains("security") == is_security)
            .map_or(default, String::as_str)
            .to_owned()
    };
    (
        find(false, "http://deb.debian.org/debian"),
        find(true, "http://deb.debian.org/debian-security"),
    )
}

/// Lays out what the new machine needs to know of the network, as a tree over its root.
fn hand_in(tree: &Path) -> Result<()> {
    let own = tree.join("etc/boira-fresh");
    fs::create_dir_all(&own).context("make a folder")?;
    for name in ["etc/resolv.conf", "etc/hosts", "etc/pip.conf"] {
        copy(Path::new("/"), tree, name)?;
    }
    if let Some(home) = std::env::var_os("HOME").map(PathBuf::from) {
        for name in [
            ".cargo/config.toml",
            ".cargo/config",
            ".config/pip/pip.conf",
            ".pip/pip.conf",
        ] {
            copy(&home, &tree.join("root"), name)?;
        }
    }
    let apt = Command::new("apt-config")
        .arg("dump")
        .output()
        .context("run apt-config")?
        .stdout;
    let apt: String = String::from_utf8_lossy(&apt)
        .lines()
        .filter(|line| line.starts_with("Acquire::http::") || line.starts_with("Acquire::https::"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::create_dir_all(tree.join("etc/apt/apt.conf.d")).context("make a folder")?;
    fs::write(tree.join("etc/apt/apt.conf.d/90outer"), apt).context("write apt's configuration")?;
    fs::write(own.join("environment"), environment(tree)?).context("write the environment")
}

/// Copies a file where there is one.
fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    let (from, to) = (from.join(name), to.join(name));
    if !from.is_file() {
        return Ok(());
    }
    fs::create_dir_all(to.parent().context("a file lies in a folder")?).context("make a folder")?;
    fs::copy(&from, &to)
        .with_context(|| format!("copy {}", from.display()))
        .map(drop)
}

/// Variables that lead to registries, as a shell script. Programs look for authorities under many
/// names; all of them get this machine's where it names any.
fn environment(tree: &Path) -> Result<String> {
    const PATHS: [&str; 8] = [
        "SSL_CERT_FILE",
        "CARGO_HTTP_CAINFO",
        "PIP_CERT",
        "CURL_CA_BUNDLE",
        "REQUESTS_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "AWS_CA_BUNDLE",
        "NIX_SSL_CERT_FILE",
    ];
    const LEADING: [&str; 6] = [
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "PIP_",
    ];
    let authorities = PATHS
        .iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from)
        .find(|path| path.is_file());
    let mut script = String::new();
    let mut export = |name: &str, value: &str| {
        script.push_str(&format!(
            "export {name}='{}'\n",
            value.replace('\'', r"'\''")
        ));
    };
    for (name, value) in std::env::vars() {
        let is_proxy = name.to_ascii_lowercase().ends_with("_proxy");
        let leads = LEADING.iter().any(|prefix| name.starts_with(prefix));
        // Folders of this machine are not in the new one.
        if is_proxy || leads && !PATHS.contains(&name.as_str()) && !value.starts_with('/') {
            export(&name, &value);
        }
    }
    if let Some(path) = authorities {
        fs::copy(&path, tree.join(AUTHORITIES.trim_start_matches('/')))
            .with_context(|| format!("copy {}", path.display()))?;
        // AWS_CA_BUNDLE would make the tests' clients distrust the cloud under test.
        for name in PATHS.iter().filter(|name| **name != "AWS_CA_BUNDLE") {
            export(name, AUTHORITIES);
        }
    }
    Ok(script)
}
