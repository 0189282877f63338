//! What the figures were taken on: processor, load, and how fast its disk makes bytes durable.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: f64,
    pub kernel: String,
    pub load: String,
    /// Rounds in a second of the loop that PCs are measured by when they join, on one core.
    pub rounds_s: u64,
}

impl Machine {
    pub fn look() -> Result<Self> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let meminfo = read("/proc/meminfo")?;
        let kib: f64 = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .context("/proc/meminfo has no MemTotal")?;
        Ok(Self {
            cpu: cpuinfo
                .lines()
                .find_map(|line| line.strip_prefix("model name"))
                .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']))
                .to_owned(),
            cores: std::thread::available_parallelism()
                .context("count the cores")?
                .get(),
            memory_gib: kib / f64::from(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: load()?,
            rounds_s: boira_agent::intake::own_rounds_s(),
        })
    }
}

/// The part of all processors' time that may be somebody else's while figures are taken.
const BUSY: f64 = 0.05;

/// Waits until the machine has had nothing to do for some seconds.
pub fn wait_until_idle() -> Result<()> {
    const WINDOW: Duration = Duration::from_secs(5);
    let begun = Instant::now();
    let mut before = ProcessorTime::now()?;
    loop {
        std::thread::sleep(WINDOW);
        let now = ProcessorTime::now()?;
        let busy = now.busy_since(before);
        if busy <= BUSY {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(600),
            "the machine is never idle: others take {:.0} % of it",
            100.0 * busy
        );
        before = now;
    }
}

/// Ticks of all processors since the boot.
#[derive(Clone, Copy)]
struct ProcessorTime {
    idle: u64,
    all: u64,
}

impl ProcessorTime {
    fn now() -> Result<Self> {
        Self::parse(&read("/proc/stat")?).context("/proc/stat has no processors")
    }

    /// The first line: user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in the
    /// users' (proc(5)).
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<u64> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .take(8)
            .map_while(|field| field.parse().ok())
            .collect();
        Some(Self {
            idle: fields.get(3)? + fields.get(4)?,
            all: fields.iter().sum(),
        })
    }

    fn busy_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        1.0 - (self.idle.saturating_sub(before.idle) as f64 / all as f64).min(1.0)
    }
}

/// The load averages of 1, 5 and 15 minutes.
pub fn load() -> Result<String> {
    let text = read("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {path}"))
}

/// How often a second 4 KiB can be overwritten and synced in this folder, as a write-ahead log that
/// has reached its size does. Measured for half a second.
pub fn fdatasync_per_s(folder: &Path) -> Result<f64> {
    const BLOCKS: u64 = 256;
    let file: File = tempfile::tempfile_in(folder).context("make a file to sync")?;
    let block = [0x5a; 4096];
    for index in 0..BLOCKS {
        file.write_all_at(&block, index * 4096)
            .context("fill the file")?;
    }
    file.sync_all().context("sync the file")?;
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < Duration::from_millis(500) {
        file.write_all_at(&block, (count % BLOCKS) * 4096)
            .context("write")?;
        file.sync_data().context("sync")?;
        count += 1;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_idle_and_working_is_not() {
        let at = |stat| ProcessorTime::parse(stat).unwrap();
        let before = at("cpu  100 0 50 1000 10 0 0 0 7 0\ncpu0 1 2 3 4\n");
        let after = at("cpu  110 5 55 1075 15 0 0 0 9 0\n");
        assert!((after.busy_since(before) - 0.2).abs() < 1e-9);
        assert_eq!(before.busy_since(before), 1.0);
    }
}
