//! The tests that take longer than `./test` may: Debian with cloud-init from the command line to a
//! login, then seeds of the simulator without limit.

use crate::debian;
use anyhow::{Context, Result, bail};
use std::io::Write;

#[derive(clap::Args)]
pub struct Arguments {
    /// How long; without it, until something fails or ctrl-c
    #[arg(long)]
    seconds: Option<u64>,
    /// The first seed; the next ones follow it
    #[arg(long)]
    seed: Option<u64>,
    /// Only the simulator: don't boot Debian first, which needs root
    #[arg(long)]
    no_debian: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.no_debian {
        debian::boot().context("Debian with cloud-init")?;
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
            "{failure}\nrepeat with cargo xtask soak --no-debian --seconds 1 --seed {}",
            failure.seed
        ),
    }
}
