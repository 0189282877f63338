//! Clouds to test with, a plain client for them, and what is left of them on the machine.

pub mod api;
mod boto3;
pub mod cloud;
pub mod machine;
pub mod processes;
pub mod room;
mod run;
mod watcher;

pub use api::Api;
pub use boto3::{Boto3, python};
pub use cloud::Cloud;
pub use machine::Machine;
pub use run::{Run, run};

use std::time::{Duration, Instant};

/// Asks again and again until there is an answer. Panics with the last refusal when time is up.
#[track_caller]
pub fn wait<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if begun.elapsed() > limit => {
                panic!("{what}: not within {} s: {why}", limit.as_secs())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// A guest's boot under emulation, on a machine that does other things too.
pub const BOOT: Duration = Duration::from_secs(90);
