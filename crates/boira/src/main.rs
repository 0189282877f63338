//! `boira`: the one binary. Controller, agent, their helpers and the command line.

mod cli;
mod client;
mod commands;
mod completion;
mod home;
mod memory;
mod node;
mod output;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    // One of these runs beside every guest, so it starts before anything that takes memory.
    let mut arguments = std::env::args_os().skip(1);
    if arguments
        .next()
        .is_some_and(|first| first == "guest-console")
    {
        return match boira_hypervisor::guest_console(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    cli::main()
}
