//! Guests that are held: their process is stopped, so no virtual CPU runs, whatever becomes of the
//! agent and of its connection to QEMU's monitor, which takes one client at a time.
//!
//! For who isn't the driver: it needs the directory of the guests and nothing else.

use std::io;
use std::path::Path;

use super::process::{self, Found};
use super::rundir::{self, Launch, RunDir};

/// Stops a guest's process, or lets it go on where it is of this generation. Answers whether there is
/// one. Idempotent.
///
/// # Errors
/// Where the guest can't be looked at or signalled; it may run then.
pub fn set_held(guests: &Path, guest: &str, generation: u64, held: bool) -> io::Result<bool> {
    let dir = match RunDir::open(&guests.join(guest)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        dir => dir?,
    };
    let Some(found) = find(&dir, guest)? else {
        return Ok(false);
    };
    if held {
        found.signal(libc::SIGSTOP)?;
        return Ok(true);
    }
    // An older one is about to be ended.
    let launch: Option<Launch> = dir.read_json(rundir::LAUNCH)?;
    if launch.is_some_and(|launch| launch.spec.generation == generation) {
        found.signal(libc::SIGCONT)?;
    }
    Ok(true)
}

fn find(dir: &RunDir, guest: &str) -> io::Result<Option<Found>> {
    let stat = dir.read_text(rundir::PROCESS, 4096)?;
    match stat.filter(|stat| !stat.is_empty()) {
        Some(stat) => process::find(&stat, &process::marker(guest)),
        None => Ok(None),
    }
}
