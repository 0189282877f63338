//! Fuzzes what reads bytes of strangers: `cargo xtask fuzz [--seconds N] [TARGET]`.

use anyhow::{Result, ensure};
use boira_fuzz::{TARGETS, fuzz};
use clap::Parser;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(name = "cargo xtask fuzz")]
struct Arguments {
    /// How long for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Give the targets this one input instead, as a failure has kept it
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Only this one: decoder, signature, metadata, image
    target: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wanted = |name: &str| arguments.target.as_deref().is_none_or(|only| only == name);
    ensure!(
        TARGETS.iter().any(|target| wanted(target.name)),
        "there is no such target"
    );
    for target in TARGETS.iter().filter(|target| wanted(target.name)) {
        if let Some(path) = &arguments.input {
            (target.run)(&std::fs::read(path)?);
            continue;
        }
        let seed = rand::random();
        let end = Instant::now() + Duration::from_secs(arguments.seconds);
        let inputs = fuzz(target, seed, |_| Instant::now() < end)
            .map_err(|failure| failure.keep(std::path::Path::new("target/fuzz")))?;
        println!("{}: {inputs} inputs from seed {seed}", target.name);
    }
    Ok(())
}
