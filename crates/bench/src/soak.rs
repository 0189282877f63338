//! The tests that take longer than `./test` may: Debian with cloud-init from the command line to a
//! login, a kernel that has WireGuard, a whole old PC that becomes a host, then seeds of the simulator
//! without limit.

use crate::{debian, old_pc, wireguard};
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Arguments {
    /// How long; without it, until something fails or ctrl-c
    #[arg(long)]
    seconds: Option<u64>,
    /// The first seed; the next ones follow it
    #[arg(long)]
    seed: Option<u64>,
    /// Only this; guests need root
    #[arg(long, value_enum)]
    only: Option<What>,
    /// The program of the tests of Boira's networks
    #[arg(long)]
    network_tests: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// The debian image with cloud-init
    Debian,
    /// The network between hosts on a kernel that has WireGuard
    Wireguard,
    /// A PC with 1 GiB and a CPU of the first x86-64, which joins and runs an instance
    OldPc,
    /// The simulator
    Seeds,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let is_asked = |what| arguments.only.is_none_or(|only| only == what);
    if is_asked(What::Debian) {
        debian::boot().context("Debian with cloud-init")?;
    }
    if is_asked(What::Wireguard) {
        let tests = arguments.network_tests.as_deref();
        wireguard::run(tests.context("which program tests networks?")?)
            .context("the kernel's WireGuard")?;
    }
    if is_asked(What::OldPc) {
        old_pc::run().context("an old PC")?;
    }
    if !is_asked(What::Seeds) {
        return Ok(());
    }
    let seed = arguments
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("simulating from seed {seed} on");
    let outcome = boira_sim::soak(arguments.seconds, seed, |totals| {
        print!(
            "\r{} seeds, {} steps, {} commits, {} promises kept, {} h simulated",
            totals.seeds,
            totals.steps,
            totals.commits,
            totals.promises,
            totals.simulated_ms / 3_600_000
        );
        // A terminal that is gone hears nothing.
        let _ = std::io::stdout().flush();
    });
    println!();
    match outcome {
        Ok(totals) => {
            println!("{} seeds from {seed} on, no failure", totals.seeds);
            Ok(())
        }
        Err(failure) => bail!(
            "{failure}\nrepeat with cargo xtask soak --only seeds --seconds 1 --seed {}",
            failure.seed
        ),
    }
}
