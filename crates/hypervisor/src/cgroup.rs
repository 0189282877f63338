//! A guest's share of the processor, by a cgroup of its own: version 1 or 2, whichever the host has.
//!
//! ```text
//! /sys/fs/cgroup[/cpu]/<cloud>/<guest>
//! ```
//!
//! Shares weigh guests of one cloud against each other. A host without a writable cpu controller
//! runs guests without them, and [`Cgroups::verdict`] says so. Nothing outside the cloud's own
//! directory is changed, the controllers of the root included.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

/// The cgroups of one cloud on this host.
#[derive(Debug)]
pub struct Cgroups {
    place: Result<Place, String>,
}

#[derive(Debug)]
struct Place {
    version: Version,
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Cgroups {
    /// Makes, or finds, the cloud's directory below the cpu controller of this host.
    pub fn open(cloud: &str) -> Cgroups {
        let root = Path::new("/sys/fs/cgroup");
        let is =
            |path: &Path, magic| statfs(path).is_ok_and(|found| found.filesystem_type() == magic);
        let v1 = root.join("cpu");
        let place = if is(&v1, CGROUP_SUPER_MAGIC) {
            make(Version::V1, v1.join(cloud))
        } else if is(root, CGROUP2_SUPER_MAGIC) {
            make(Version::V2, root.join(cloud))
        } else {
            Err("the host has mounted no cpu controller".to_owned())
        };
        Cgroups { place }
    }

    /// Cgroups that do nothing, and why.
    pub fn none(reason: &str) -> Cgroups {
        Cgroups {
            place: Err(reason.to_owned()),
        }
    }

    /// For the administrator: whether CPU shares work here, and if not, why.
    pub fn verdict(&self) -> Result<String, String> {
        match &self.place {
            Ok(Place {
                version: Version::V1,
                dir,
            }) => Ok(format!("CPU shares by cgroup v1 in {}", dir.display())),
            Ok(Place {
                version: Version::V2,
                dir,
            }) => Ok(format!("CPU weights by cgroup v2 in {}", dir.display())),
            Err(reason) => Err(format!("no CPU shares: {reason}")),
        }
    }

    /// Makes a guest's cgroup and opens its `cgroup.procs`: a process whose id is written there joins.
    pub fn add(&self, guest: &str, cpu_shares: u32) -> io::Result<Option<File>> {
        let Ok(place) = &self.place else {
            return Ok(None);
        };
        // Again, because another driver of this cloud may have removed it meanwhile.
        make(place.version, place.dir.clone()).map_err(io::Error::other)?;
        let dir = place.dir.join(guest);
        create(&dir)?;
        let (file, value) = match place.version {
            Version::V1 => ("cpu.shares", cpu_shares.clamp(2, 1 << 18)),
            Version::V2 => ("cpu.weight", weight(cpu_shares)),
        };
        fs::write(dir.join(file), value.to_string())?;
        OpenOptions::new()
            .write(true)
            .open(dir.join("cgroup.procs"))
            .map(Some)
    }

    /// Removes a guest's cgroup; its processes are gone.
    pub fn remove(&self, guest: &str) -> io::Result<()> {
        match &self.place {
            Ok(place) => remove(&place.dir.join(guest)),
            Err(_) => Ok(()),
        }
    }

    /// Removes what no process is in: the cgroups of guests that have ended, and the cloud's
    /// directory with the last of them. A guest that runs keeps both.
    pub fn remove_all(&self) -> io::Result<()> {
        let Ok(place) = &self.place else {
            return Ok(());
        };
        let entries = match fs::read_dir(&place.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                remove_unless_busy(&path)?;
            }
        }
        remove_unless_busy(&place.dir)
    }
}

fn make(version: Version, dir: PathBuf) -> Result<Place, String> {
    let failed = |error: io::Error| format!("{}: {error}", dir.display());
    create(&dir).map_err(failed)?;
    if version == Version::V2 {
        let offered = fs::read_to_string(dir.join("cgroup.controllers")).map_err(failed)?;
        if !offered
            .split_whitespace()
            .any(|controller| controller == "cpu")
        {
            remove(&dir).map_err(failed)?;
            return Err("the host's root cgroup doesn't hand on the cpu controller \
                (cgroup.subtree_control lacks cpu)"
                .to_owned());
        }
        fs::write(dir.join("cgroup.subtree_control"), "+cpu").map_err(failed)?;
    }
    Ok(Place { version, dir })
}

/// Version 2 counts from 1 to 10,000 around 100 where version 1 has 1024.
fn weight(cpu_shares: u32) -> u32 {
    (u64::from(cpu_shares) * 100 / 1024).clamp(1, 10_000) as u32
}

fn remove_unless_busy(dir: &Path) -> io::Result<()> {
    match remove(dir) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        other => other,
    }
}

fn create(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_the_proportion_of_shares_within_their_range() {
        assert_eq!(
            [0, 512, 1024, 4096, u32::MAX].map(weight),
            [1, 50, 100, 400, 10_000]
        );
    }

    #[test]
    fn a_guests_cgroup_is_made_with_its_shares_and_removed_without_a_trace() {
        let name = format!("boira-test-{}", std::process::id());
        let cgroups = Cgroups::open(&name);
        let Ok(place) = &cgroups.place else {
            assert!(
                cgroups
                    .verdict()
                    .is_err_and(|why| why.starts_with("no CPU shares: "))
            );
            assert!(cgroups.add("i-1", 512).unwrap().is_none());
            return;
        };
        assert!(cgroups.add("i-1", 512).unwrap().is_some());
        assert!(
            cgroups.add("i-1", 256).unwrap().is_some(),
            "again, with other shares"
        );
        let (file, value) = match place.version {
            Version::V1 => ("cpu.shares", "256"),
            Version::V2 => ("cpu.weight", "25"),
        };
        assert_eq!(
            fs::read_to_string(place.dir.join("i-1").join(file))
                .unwrap()
                .trim(),
            value
        );
        cgroups.remove("i-1").unwrap();
        cgroups.remove("i-1").unwrap();
        assert!(cgroups.add("i-2", 512).unwrap().is_some());
        cgroups.remove_all().unwrap();
        cgroups.remove_all().unwrap();
        assert!(!place.dir.exists());
        assert!(
            cgroups.add("i-3", 512).unwrap().is_some(),
            "the cloud's directory is made again"
        );
        cgroups.remove_all().unwrap();
    }
}
