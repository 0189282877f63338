//! What this PC is and what it can do: an inventory that is looked up at every start of the agent, and
//! a benchmark of some seconds that is taken once, when the PC joins.

use anyhow::{Context, Result};
use boira_model::{Intake, Speed};
use sha2::{Digest, Sha256};
use std::hint::black_box;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;
/// The unit of `/sys/block/*/size`, whatever the disk's own is.
const SECTOR: u64 = 512;
/// The user that a guest is measured as.
const UID: u32 = 734_504;
/// Rounds of its loop that the host does before it looks at the clock.
const ROUNDS: u32 = 1 << 22;
/// How long each measurement goes on.
const EACH: Duration = Duration::from_millis(1700);
/// What is written before it starts from the beginning again.
const FILE_BYTES: u64 = 256 << 20;

/// The inventory of now, with the speed that was measured when this host joined.
pub fn look(home: &Path) -> Intake {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let (cpu, cpu_level) = cpu(&cpuinfo);
    let speed = std::fs::read(speed_path(home)).ok();
    Intake {
        cpu,
        cpu_vendor: field(&cpuinfo, "vendor_id").unwrap_or_default().to_owned(),
        cpu_level,
        flags: field(&cpuinfo, "flags").unwrap_or_default().to_owned(),
        disks: disks(Path::new("/sys/block")),
        system: system(&read("/etc/os-release")),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        links: links(Path::new("/sys/class/net")),
        speed: speed.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
    }
}

fn speed_path(home: &Path) -> PathBuf {
    home.join("speed.json")
}

/// What the first CPU has by this name.
fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

/// The first CPU's name, and the level of x86-64 that its flags reach: 1 to 4 as the psABI defines
/// them ("x86-64 psABI", 3.1.1), 0 for another architecture.
fn cpu(cpuinfo: &str) -> (String, u8) {
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    let flags: Vec<&str> = flags.split(' ').collect();
    const LEVELS: [&[&str]; 4] = [
        &[
            "cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2",
        ],
        &[
            "cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3",
        ],
        &[
            "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave",
        ],
        &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
    ];
    let reached = LEVELS
        .iter()
        .take_while(|level| level.iter().all(|flag| flags.contains(flag)))
        .count();
    let name = field(cpuinfo, "model name").unwrap_or_default().to_owned();
    (name, reached as u8)
}

fn system(os_release: &str) -> String {
    let name = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or_default().trim_matches('"').to_owned()
}

/// Disks of hardware, with their size and kind.
fn disks(class: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(class).into_iter().flatten().flatten();
    let disk = |entry: std::fs::DirEntry| {
        let read = |name: &str| {
            let text = std::fs::read_to_string(entry.path().join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        // A CD drive without a disc has a size, too.
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_disk = entry.path().join("device").exists() && !name.starts_with("sr");
        let gib = read("size")?.parse::<u64>().ok()? / (GIB / SECTOR);
        // Also virtual disks are said to turn.
        let kind = match read("queue/rotational")?.as_str() {
            "0" => ", no moving parts",
            _ => "",
        };
        let model = read("device/model").map(|model| format!(" {model}"));
        let model = model.unwrap_or_default();
        (is_disk && gib > 0).then(|| format!("{name}{model}, {gib} GiB{kind}"))
    };
    let mut disks: Vec<String> = entries.filter_map(disk).collect();
    disks.sort();
    disks
}

/// Interfaces of hardware that are up, with their speed where the driver tells.
fn links(class: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(class).into_iter().flatten().flatten();
    let mut links: Vec<String> = entries
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| {
            let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
            if read("operstate")?.trim() == "down" {
                return None;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let mbps: Option<i64> = read("speed").and_then(|text| text.trim().parse().ok());
            Some(match mbps {
                Some(mbps) if mbps > 0 => format!("{name} {mbps} Mbit/s"),
                _ => name,
            })
        })
        .collect();
    links.sort();
    links
}

/// Measures this PC for ten seconds and keeps the figures in its home. `note` hears what is measured.
pub async fn measure(home: &Path, note: impl Fn(&str) + Send + 'static) -> Result<Speed> {
    note("how fast a guest computes");
    let guest = boira_hypervisor::translated_rounds_s(UID, EACH).await;
    let guest = guest.unwrap_or_else(|error| {
        tracing::warn!("a guest could not be measured: {error}");
        0
    });
    let home = home.to_owned();
    let rest = tokio::task::spawn_blocking(move || measure_host(&home, note, guest));
    rest.await.context("measure this machine")?
}

fn measure_host(home: &Path, note: impl Fn(&str), guest_rounds_s: u64) -> Result<Speed> {
    note("how fast it computes itself");
    let own_rounds_s = own_rounds_s();
    note("integer arithmetic");
    let integer_mib_s = integer();
    note("memory");
    let memory_mib_s = memory();
    note("how fast the disk syncs");
    let mut file = nameless(home)?;
    let disk_syncs_s = syncs(&mut file).context("measure the disk's syncs")?;
    note("how fast the disk writes");
    let disk_mib_s = writes(&mut file).context("measure the disk's throughput")?;
    let speed = Speed {
        integer_mib_s,
        memory_mib_s,
        disk_syncs_s,
        disk_mib_s,
        own_rounds_s,
        guest_rounds_s,
        at: crate::identity::now(),
    };
    let bytes = serde_json::to_vec(&speed).context("write the figures")?;
    boira_files::replace(&speed_path(home), &bytes, 0o600).context("keep the figures")?;
    Ok(speed)
}

/// A file without a name: gone with this process, however it ends.
fn nameless(home: &Path) -> Result<std::fs::File> {
    let path = home.join("measuring");
    let file = std::fs::File::create(&path).with_context(|| format!("write {}", path.display()))?;
    std::fs::remove_file(&path).context("take the file's name")?;
    Ok(file)
}

/// How often `work` can be done in a second, times `amount`.
fn rate(amount: f64, mut work: impl FnMut() -> std::io::Result<()>) -> std::io::Result<u64> {
    let begun = Instant::now();
    let mut count = 0u64;
    while begun.elapsed() < EACH {
        work()?;
        count += 1;
    }
    Ok((count as f64 * amount / begun.elapsed().as_secs_f64()) as u64)
}

/// Rounds in a second of the loop that guests are measured by, on one core of this host.
pub fn own_rounds_s() -> u64 {
    let mut rounds = boira_hypervisor::Rounds::default();
    let work = || {
        black_box(rounds.go(ROUNDS));
        Ok(())
    };
    rate(f64::from(ROUNDS), work).unwrap_or(0)
}

/// SHA-256 in portable instructions or the CPU's own, on one core.
fn integer() -> u64 {
    let block = vec![7u8; MIB];
    let hash = || {
        black_box(Sha256::digest(black_box(&block)));
        Ok(())
    };
    rate(1.0, hash).unwrap_or(0)
}

/// Copies between blocks that no cache holds.
fn memory() -> u64 {
    const BLOCK: usize = 64 * MIB;
    let (from, mut to) = (vec![1u8; BLOCK], vec![0u8; BLOCK]);
    let copy = || {
        to.copy_from_slice(black_box(&from));
        black_box(&to);
        Ok(())
    };
    rate((BLOCK / MIB) as f64, copy).unwrap_or(0)
}

fn syncs(file: &mut std::fs::File) -> std::io::Result<u64> {
    let block = [0u8; 4096];
    rate(1.0, || {
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&block)?;
        file.sync_data()
    })
}

fn writes(file: &mut std::fs::File) -> std::io::Result<u64> {
    let block = vec![5u8; 4 * MIB];
    rate(4.0, || {
        if file.stream_position()? >= FILE_BYTES {
            file.seek(SeekFrom::Start(0))?;
        }
        file.write_all(&block)?;
        file.sync_data()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpus_level_is_the_highest_that_it_reaches_as_a_whole() {
        let v1 = "cmov cx8 fpu fxsr mmx syscall sse sse2";
        let v2 = format!("{v1} cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3");
        let v3 = format!("{v2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave");
        let lacks_sse42 = v3.replace("sse4_2", "");
        for (flags, level) in [("fpu", 0), (v1, 1), (&v2, 2), (&v3, 3), (&lacks_sse42, 1)] {
            let text = format!("processor\t: 0\nmodel name\t: Old  CPU\nflags\t\t: {flags}\n");
            assert_eq!(cpu(&text), ("Old  CPU".to_owned(), level), "{flags}");
        }
        assert_eq!(cpu(""), (String::new(), 0));
    }

    #[test]
    fn a_system_is_called_as_it_calls_itself() {
        let text = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(system(text), "Debian GNU/Linux 12 (bookworm)");
    }

    #[tokio::test]
    async fn what_was_measured_is_kept_and_nothing_else_is_left() {
        let home = tempfile::tempdir().expect("a folder");
        let speed = measure(home.path(), |_| {})
            .await
            .expect("it can be measured");
        let Speed {
            integer_mib_s,
            memory_mib_s,
            disk_syncs_s,
            disk_mib_s,
            own_rounds_s,
            guest_rounds_s,
            at: _,
        } = speed;
        for figure in [
            integer_mib_s,
            memory_mib_s,
            disk_syncs_s,
            disk_mib_s,
            own_rounds_s,
            guest_rounds_s,
        ] {
            assert!(figure > 0, "{speed:?}");
        }
        assert_eq!(look(home.path()).speed, Some(speed));
        let left = std::fs::read_dir(home.path()).expect("it is there").count();
        assert_eq!(left, 1, "the figures");
    }
}
