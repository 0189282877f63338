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

/// How long to wait before asking again.
const SOON: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_secs(1);

/// Asks again and again until there is an answer. Panics with the last refusal when time is up.
#[track_caller]
pub fn wait<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        let asked = Instant::now();
        match ask() {
            Ok(answer) => return answer,
            Err(why) if begun.elapsed() > limit => {
                panic!("{what}: not within {} s: {why}", limit.as_secs())
            }
            // Questions that cost much, such as a login, don't take the processor from who is waited for.
            Err(_) => std::thread::sleep((asked.elapsed() * 3).clamp(SOON, LATER)),
        }
    }
}

/// A guest's boot under emulation, on a machine that does other things too.
pub const BOOT: Duration = Duration::from_secs(90);
