//! What the cloud's processes log, in the home's `run` folder.

use crate::home::Home;
use anyhow::{Context, Result};
use std::fs::File;

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

/// Opens the log of a process for it to append to.
pub fn log_file(home: &Home, name: &str) -> Result<File> {
    let path = home.run(&format!("{name}.log"));
    // Logs of long-lived clouds must not fill the disk; one older one is kept.
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > 16 << 20) {
        std::fs::rename(&path, home.run(&format!("{name}.log.1"))).context("turn the log over")?;
    }
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))
}
