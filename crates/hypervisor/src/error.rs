//! What may go wrong with a guest, as far as a caller can act on it.

use std::io;

/// A guest's trouble.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver's directory holds no such guest.
    #[error("no guest {0} on this host")]
    Unknown(String),
    /// There is something of the guest on this host, and for now it can't be looked at: why.
    #[error("guest {0} can't be looked at: {1}")]
    Unclear(String, String),
    /// The guest runs, or is kept, with another generation than the one asked for.
    #[error("guest {guest} is here with generation {present}, not {asked}")]
    OtherGeneration {
        /// The guest's id.
        guest: String,
        /// The generation that is here.
        present: u64,
        /// The generation asked for.
        asked: u64,
    },
    /// The guest has exited and must be forgotten before it can start again.
    #[error("guest {0} has exited")]
    Exited(String),
    /// The guest has not exited, so that it can't be forgotten.
    #[error("guest {0} has not exited")]
    StillRunning(String),
    /// It took until after the time by which the guest had to begin; it has not begun.
    #[error("guest {0} could not begin in time")]
    TooLate(String),
    /// The specification can't be carried out by this driver.
    #[error("guest can't be started: {0}")]
    InvalidSpec(String),
    /// The hypervisor refused the command.
    #[error("guest {guest}: {reason}")]
    Refused {
        /// The guest's id.
        guest: String,
        /// What the hypervisor answered.
        reason: String,
    },
    /// The hypervisor did not answer in time.
    #[error("guest {0}: the hypervisor doesn't answer")]
    Unresponsive(String),
    /// The host failed to do something.
    #[error("{context}: {why}")]
    Io {
        /// What was tried.
        context: String,
        /// What the system said.
        why: io::Error,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds to a system error what was tried.
pub(crate) trait Context<T> {
    fn context(self, context: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, context: impl Into<String>) -> Result<T> {
        self.map_err(|why| Error::Io {
            context: context.into(),
            why: why.into(),
        })
    }
}
