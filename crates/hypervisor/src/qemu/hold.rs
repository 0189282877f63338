//! Guests that are held: their process is stopped, so no virtual CPU runs, whatever becomes of the
//! agent and of its connection to QEMU's monitor, which takes one client at a time.
//!
//! For who isn't the driver: it needs the directory of the guests and nothing else, and once a guest
//! is found not even that.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::process::{self, Found};
use super::rundir::{self, Launch, RunDir};

/// A guest's process, found once and for all.
pub struct GuestProcess {
    process: Found,
    generation: u64,
}

impl GuestProcess {
    /// Finds a guest's process; none where there is none that runs the hypervisor yet. One that is about
    /// to be it looks at its deadline itself ([`crate::GuestSpec::not_after_ms`]).
    ///
    /// # Errors
    /// Where the guest can't be looked at; it may run then.
    pub fn find(guests: &Path, guest: &str) -> io::Result<Option<GuestProcess>> {
        let dir = match RunDir::open(&guests.join(guest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            dir => dir?,
        };
        let stat = dir.read_text(rundir::PROCESS, 4096)?;
        let Some(stat) = stat.filter(|stat| !stat.is_empty()) else {
            return Ok(None);
        };
        let process = match process::find(&stat, &process::marker(guest), Duration::ZERO) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
            process => process?,
        };
        let launch: Option<Launch> = dir.read_json(rundir::LAUNCH)?;
        Ok(process.map(|process| GuestProcess {
            process,
            generation: launch.map_or(0, |launch| launch.spec.generation),
        }))
    }

    /// Which start of the guest it is; 0 where that can't be read.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Stops it. Idempotent.
    pub fn hold(&self) -> io::Result<()> {
        self.process.signal(libc::SIGSTOP)
    }

    /// Lets it go on. Idempotent.
    pub fn let_go(&self) -> io::Result<()> {
        self.process.signal(libc::SIGCONT)
    }

    /// Whether it is no more.
    pub fn has_ended(&self) -> bool {
        self.process.has_ended()
    }
}
