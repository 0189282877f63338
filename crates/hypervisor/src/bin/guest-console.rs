//! The recorder as a program of its own, for this crate's tests. The product's binary calls
//! [`boira_hypervisor::guest_console`] from a hidden subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    match boira_hypervisor::guest_console(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest-console: {error}");
            ExitCode::FAILURE
        }
    }
}
