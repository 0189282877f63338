//! What guests that are gone said last: EC2 answers a console's output for an hour after the instance's
//! end (AWS, "GetConsoleOutput"). What is older goes when the next one is kept, or the agent starts.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The end of a log, as much as EC2 answers.
pub const BYTES: usize = 64 << 10;
const KEPT: Duration = Duration::from_secs(3600);

pub struct Consoles(PathBuf);

impl Consoles {
    pub fn open(folder: &Path) -> io::Result<Self> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
        let consoles = Self(folder.to_owned());
        consoles.sweep(SystemTime::now());
        Ok(consoles)
    }

    /// Keeps a log, and removes those whose hour is over.
    pub fn keep(&self, guest: &str, log: &[u8]) -> io::Result<()> {
        self.sweep(SystemTime::now());
        let mut options = std::fs::File::options();
        let options = options.create(true).write(true).truncate(true);
        let mut file = options.mode(0o600).open(self.0.join(guest))?;
        io::Write::write_all(&mut file, log)
    }

    /// Empty where there is none.
    pub fn read(&self, guest: &str) -> io::Result<Vec<u8>> {
        match std::fs::read(self.0.join(guest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            outcome => outcome,
        }
    }

    /// What can't be removed now may be when the next one is kept; several sweep at once.
    fn sweep(&self, now: SystemTime) {
        let Ok(entries) = std::fs::read_dir(&self.0) else {
            return;
        };
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|about| about.modified());
            let age = modified.map(|at| now.duration_since(at).unwrap_or_default());
            if age.is_ok_and(|age| age > KEPT) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_kept_for_an_hour() {
        let home = tempfile::tempdir().unwrap();
        let consoles = Consoles::open(&home.path().join("consoles")).unwrap();
        assert_eq!(consoles.read("i-1").unwrap(), b"");
        consoles.keep("i-1", b"the first").unwrap();
        consoles.keep("i-1", b"over").unwrap();
        assert_eq!(consoles.read("i-1").unwrap(), b"over");
        let later = |minutes: u64| SystemTime::now() + Duration::from_secs(60 * minutes);
        consoles.sweep(later(59));
        assert_eq!(consoles.read("i-1").unwrap(), b"over");
        std::fs::create_dir(home.path().join("consoles/stray")).unwrap();
        consoles.sweep(later(61));
        assert_eq!(consoles.read("i-1").unwrap(), b"");
    }
}
