//! Measures Boira beside what it is compared with, and runs the long tests.
//!
//! ```text
//!  figures ── starts ──► boira controller (its own process, a temporary home, loopback)
//!     │                        ▲ EC2          ▲ agents' protocol over TLS
//!     ├──────► worker × n ─────┘              │
//!     └──────► hosts (hundreds of simulated hosts in one process)
//! ```
//! Who measures does as little as possible beside: clients, simulated hosts, the reference and Boira
//! are processes of their own, and times are read on the clock that all of them share.

mod by_hand;
mod client;
mod cloud;
mod console;
mod debian;
mod figure;
mod figures;
mod hosts;
mod machine;
mod moto;
mod old_pc;
mod pc;
mod process;
mod report;
mod soak;
mod wire;
mod wireguard;
mod worker;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "boira-bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take the figures of docs/performance.md
    Figures(figures::Arguments),
    /// Boot Debian with cloud-init, then simulate without limit
    Soak(soak::Arguments),
    /// A client process: jobs on standard input, outcomes on standard output
    #[command(hide = true)]
    Worker,
    /// Simulated hosts: an order on standard input, until it is closed
    #[command(hide = true)]
    Hosts,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Figures(arguments) => {
            process::clean_up_on_signals().and_then(|()| figures::run(&arguments))
        }
        Command::Soak(arguments) => {
            process::clean_up_on_signals().and_then(|()| soak::run(&arguments))
        }
        Command::Worker => worker::serve(),
        Command::Hosts => hosts::serve(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
