//! What guests that are gone said last: EC2 answers a console's output for an hour after the instance's
//! end (AWS, "GetConsoleOutput").

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
        consoles.sweep(SystemTime::now())?;
        Ok(consoles)
    }

    /// Keeps a log, and removes those whose hour is over.
    pub fn keep(&self, guest: &str, log: &[u8]) -> io::Result<()> {
        self.sweep(SystemTime::now())?;
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

    fn sweep(&self, now: SystemTime) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            let age = now.duration_since(entry.metadata()?.modified()?);
            if age.is_ok_and(|age| age > KEPT) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
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
        consoles.sweep(later(59)).unwrap();
        assert_eq!(consoles.read("i-1").unwrap(), b"over");
        consoles.sweep(later(61)).unwrap();
        assert_eq!(consoles.read("i-1").unwrap(), b"");
    }
}
