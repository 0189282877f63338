//! What the figures were taken on: processor, load, and how fast its disk makes bytes durable.

use anyhow::{Context, Result};
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
        })
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
