//! Tasks that call other programs of the workspace.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(clap::Args)]
pub struct Bench {
    /// One round of tiny sizes: tries the bench, says nothing about Boira
    #[arg(long)]
    quick: bool,
    /// Only these: guests, durable, placing, describe, across, objects, resident, room
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Rounds of each figure
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The debug build, to try the bench itself
    #[arg(long)]
    debug: bool,
}

#[derive(clap::Args)]
pub struct Soak {
    /// How long; without it, until something fails or ctrl-c
    #[arg(long)]
    seconds: Option<u64>,
    /// The first seed; the next ones follow it
    #[arg(long)]
    seed: Option<u64>,
    /// Only `moves`, `debian`, `wireguard`, `old-pc` or `seeds`; guests need root
    #[arg(long)]
    only: Option<String>,
}

#[derive(clap::Args)]
pub struct Conformance {
    /// Only these: moto, minio, s3fs, botocore, javascript
    suites: Vec<String>,
}

#[derive(clap::Args)]
pub struct Fuzz {
    /// `--seconds N` for each target, `--input FILE` to repeat one, or a target's name
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// The workspace's folder.
pub fn workspace() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(own.parent().context("no workspace")?.to_owned())
}

/// Runs a program in the workspace's folder; anything but success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .current_dir(workspace()?)
        .status()
        .with_context(|| format!("run {name}"))?;
    ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Builds packages alike and answers in which folder their programs are.
fn build(packages: &[&str], debug: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--locked"]);
    for package in packages {
        command.args(["--package", package]);
    }
    if !debug {
        command.arg("--release");
    }
    run(&mut command)?;
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => workspace()?.join(folder),
        None => workspace()?.join("target"),
    };
    Ok(target.join(if debug { "debug" } else { "release" }))
}

/// The bench, and beside it the program that it measures.
fn bench_program(debug: bool) -> Result<PathBuf> {
    Ok(build(&["boira", "boira-bench"], debug)?.join("boira-bench"))
}

pub fn bench(arguments: &Bench) -> Result<()> {
    let mut command = Command::new(bench_program(arguments.debug)?);
    command
        .arg("figures")
        .args(["--rounds", &arguments.rounds.to_string()]);
    if arguments.quick {
        command.arg("--quick");
    }
    for name in &arguments.only {
        command.args(["--only", name]);
    }
    if !arguments.debug {
        command
            .arg("--page")
            .arg(workspace()?.join("docs/performance.md"));
    }
    run(&mut command)
}

/// Everybody dies in every phase of a move, of which `./test` takes one for each.
fn moves() -> Result<()> {
    let test = "live::a_move_that_is_cut_short_leaves_it_where_it_runs";
    let mut command = cargo();
    command.args([
        "test",
        "--locked",
        "--package",
        "boira",
        "--test",
        "e2e",
        "--",
    ]);
    command.args(["--exact", "--nocapture", test]);
    run(command.env("BOIRA_MOVES", "all"))
}

pub fn soak(arguments: &Soak) -> Result<()> {
    if arguments.only.as_deref().is_none_or(|only| only == "moves") {
        moves()?;
    }
    if arguments.only.as_deref() == Some("moves") {
        return Ok(());
    }
    let mut command = Command::new(bench_program(false)?);
    command.arg("soak");
    for (name, value) in [("--seconds", arguments.seconds), ("--seed", arguments.seed)] {
        if let Some(value) = value {
            command.args([name, &value.to_string()]);
        }
    }
    if let Some(only) = &arguments.only {
        command.args(["--only", only]);
    }
    if arguments
        .only
        .as_deref()
        .is_none_or(|only| only == "wireguard")
    {
        command.arg("--network-tests").arg(network_tests()?);
    }
    run(&mut command)
}

/// Builds the tests that make networks, and answers where their program is.
fn network_tests() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["test", "--locked", "--no-run", "--message-format", "json"]);
    command.args(["--package", "boira-network", "--test", "kernel"]);
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.context("build the tests of networks")?;
    ensure!(
        output.status.success(),
        "the tests of networks weren't built"
    );
    let said = String::from_utf8(output.stdout).context("read what cargo says")?;
    let mut programs = said.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "kernel" && message["profile"]["test"] == true;
        is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    programs.next_back().context("cargo names no program")
}

pub fn conformance(arguments: &Conformance) -> Result<()> {
    let boira = build(&["boira"], true)?.join("boira");
    let mut command = Command::new(workspace()?.join("scripts/conformance.py"));
    command.env("BOIRA", boira);
    run(command.args(&arguments.suites))
}

pub fn fuzz(arguments: &Fuzz) -> Result<()> {
    let mut command = cargo();
    command.args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "boira-fuzz",
        "--",
    ]);
    run(command.args(&arguments.arguments))
}

pub fn ci() -> Result<()> {
    run(&mut Command::new(workspace()?.join(".ci/run")))
}

/// The pages follow from tables in the code; the tests that compare them can also write them.
pub fn docs() -> Result<()> {
    for words in [
        &["--package", "boira-controller", "coverage"][..],
        &["--package", "boira-objects", "--test", "coverage"],
    ] {
        let mut command = cargo();
        command.args(["test", "--quiet", "--locked"]).args(words);
        run(command.env("BOIRA_WRITE_DOCS", "1"))?;
    }
    Ok(())
}
