//! What a cloud does when nobody wants anything.

use super::Extent;
use crate::figure::{Figure, Target};
use crate::process::usage;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Watches processes of the cloud in `home` for a minute: what they write, and their CPU time.
pub fn figures(
    scene: &str,
    processes: &[(&str, u32)],
    home: &Path,
    extent: Extent,
) -> Result<Vec<Figure>> {
    let seconds = extent.size(60, 4);
    let look = || -> Result<_> {
        let used = processes.iter().map(|(_, pid)| usage(*pid));
        Ok((used.collect::<Result<Vec<_>>>()?, files(home)?))
    };
    let before = look()?;
    std::thread::sleep(Duration::from_secs(seconds.into()));
    let after = look()?;
    let mut figures = Vec::new();
    for (((name, _), before), after) in processes.iter().zip(&before.0).zip(&after.0) {
        let mut cpu = Figure::new(
            format!("Idle for {seconds} s {scene}: share of one core that the {name} takes"),
            "%",
            Target::AtMost(0.2),
        )
        .because(
            "each host asks every 15 s, and a question over TLS costs about half a millisecond",
        );
        cpu.series
            .0
            .push((after.ticks - before.ticks) as f64 / f64::from(seconds));
        cpu.note("The kernel counts CPU time in ticks of 10 ms; 0.2 % are twelve ticks in 60 s.");
        let mut written = Figure::new(
            format!("Idle for {seconds} s {scene}: bytes that the {name} writes"),
            "B",
            Target::AtMost(0.0),
        );
        written
            .series
            .0
            .push((after.write_bytes - before.write_bytes) as f64);
        figures.extend([written, cpu]);
    }
    if let Some(first) = figures.first_mut() {
        first.note(match before.1 == after.1 {
            true => "Size and time of the store's files stay the same.".to_owned(),
            false => format!(
                "The store's files change: {:?} and then {:?}.",
                before.1, after.1
            ),
        });
    }
    Ok(figures)
}

/// Size and time of the store's files.
fn files(home: &Path) -> Result<Vec<(u64, Option<SystemTime>)>> {
    ["boira.db", "boira.db-wal"]
        .iter()
        .map(|name| {
            let meta =
                std::fs::metadata(home.join(name)).with_context(|| format!("look at {name}"))?;
            Ok((meta.len(), meta.modified().ok()))
        })
        .collect()
}
