//! What the cloud's processes log, in the home's `run` folder.

use crate::home::Home;
use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;

/// What the processes have logged since a moment.
pub struct Log([u64; 3]);

impl Log {
    const NAMES: [&str; 3] = ["supervisor", "controller", "agent"];

    pub fn now(home: &Home) -> Self {
        Self(Self::NAMES.map(|name| {
            std::fs::metadata(home.run(&format!("{name}.log"))).map_or(0, |meta| meta.len())
        }))
    }

    /// The last lines of each.
    pub fn since(&self, home: &Home) -> String {
        let mut lines = Vec::new();
        for (name, from) in Self::NAMES.iter().zip(self.0) {
            let bytes = std::fs::read(home.run(&format!("{name}.log"))).unwrap_or_default();
            // A log that was turned over is new from its beginning.
            let text = String::from_utf8_lossy(bytes.get(from as usize..).unwrap_or(&bytes));
            let all: Vec<_> = text.lines().collect();
            let last = all.len().saturating_sub(5);
            lines.extend(all[last..].iter().map(|line| format!("{name}: {line}")));
        }
        lines.join("\n")
    }
}

/// Logs of long-lived clouds must not fill the disk; one older one is kept.
const MOST: u64 = 16 << 20;

/// Opens the log of a process for it to append to.
pub fn log_file(home: &Home, name: &str) -> Result<File> {
    let path = home.run(&format!("{name}.log"));
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > MOST) {
        std::fs::rename(&path, home.run(&format!("{name}.log.1"))).context("turn the log over")?;
    }
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))
}

/// Turns over the logs of processes that live for months. They hold their files open, so what is in them is
/// copied; what is logged in that moment may be lost.
pub fn turn_over(home: &Home) {
    for name in Log::NAMES {
        let path = home.run(&format!("{name}.log"));
        if let Err(error) = turned(&path, &home.run(&format!("{name}.log.1")), MOST) {
            tracing::warn!("{} can't be turned over: {error}", path.display());
        }
    }
}

fn turned(path: &Path, older: &Path, most: u64) -> std::io::Result<()> {
    let file = match File::options().write(true).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if file.metadata()?.len() <= most {
        return Ok(());
    }
    std::fs::copy(path, older)?;
    file.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_log_is_turned_over_while_its_process_writes() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, older) = (folder.path().join("x.log"), folder.path().join("x.log.1"));
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .expect("a file");
        let read = |path| std::fs::read_to_string(path).expect("a file");
        log.write_all(b"first").expect("there is room");
        turned(&path, &older, 5).expect("it is short");
        assert!(!older.exists());
        log.write_all(b"!").expect("there is room");
        turned(&path, &older, 5).expect("it is turned over");
        log.write_all(b"second").expect("there is room");
        assert_eq!(
            (read(&older), read(&path)),
            ("first!".into(), "second".into())
        );
        turned(&folder.path().join("none"), &older, 5).expect("there is nothing to do");
    }
}
