//! What lies in the home: files of the administrator, read at start-up and again when they change.
//!
//! ```text
//!  settings.toml         Settings; missing members have their defaults
//!  instance-types.toml   [[type]] rows; written with the default table on the first start
//!  region                the region that the cloud was made with
//!  *.toml.good           the last copies that could be read
//! ```
//! A file that is broken counts as its last good copy until it is mended, at a start as in between.

use anyhow::{Context, Result};
use boira_core::{InstanceTypes, Settings, settings};
use boira_model::InstanceType;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Serialize, Deserialize)]
struct Table {
    #[serde(rename = "type", default)]
    types: Vec<InstanceType>,
}

/// These files of one home.
#[derive(Clone, Debug)]
pub struct Files {
    settings: PathBuf,
    types: PathBuf,
    region: PathBuf,
}

impl Files {
    pub fn of(home: &Path) -> Self {
        Self {
            settings: home.join("settings.toml"),
            types: home.join("instance-types.toml"),
            region: home.join("region"),
        }
    }

    /// Writes the default table where there is none yet.
    pub fn create_missing(&self) -> Result<()> {
        if !self.types.exists() {
            self.write_types(&settings::default_types())?;
        }
        Ok(())
    }

    /// Settings and types that count now, and what is wrong with the files.
    pub fn read(&self) -> Result<(Settings, InstanceTypes, Vec<String>)> {
        let mut problems = Vec::new();
        let settings = or_last_good(&self.settings, parse_settings, &mut problems)?;
        let types = or_last_good(&self.types, parse_types, &mut problems)?;
        Ok((settings, types, problems))
    }

    /// An error where a file is broken, for who is there to mend it.
    pub fn check(&self) -> Result<()> {
        read(&self.settings, parse_settings)?;
        read(&self.types, parse_types)?;
        Ok(())
    }

    /// The region that the cloud was made with, which is `now` at its first start. It stays: clients
    /// sign for it, and what they were told names it.
    pub fn first_region(&self, now: &str) -> Result<String> {
        match std::fs::read_to_string(&self.region) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                replace(&self.region, now.as_bytes(), 0o644)?;
                Ok(now.to_owned())
            }
            first => first.with_context(|| format!("read {}", self.region.display())),
        }
    }

    /// The types to change; an error where the file is broken.
    pub fn types(&self) -> Result<InstanceTypes> {
        Ok(read(&self.types, parse_types)?.1)
    }

    pub fn write_types(&self, types: &InstanceTypes) -> Result<()> {
        anyhow::ensure!(!types.is_empty(), "a cloud has at least one instance type");
        let table = Table {
            types: types.values().cloned().collect(),
        };
        let text = format!(
            "# Instance types; change them here or with `boira type`. Read again when saved.\n\n{}",
            toml::to_string(&table).context("write instance types as TOML")?
        );
        replace(&self.types, text.as_bytes(), 0o644)
    }

    /// Changes whenever one of the files does.
    pub fn stamp(&self) -> [Option<SystemTime>; 2] {
        [&self.settings, &self.types].map(|path| {
            std::fs::metadata(path)
                .and_then(|meta| meta.modified())
                .ok()
        })
    }
}

fn good_copy(path: &Path) -> PathBuf {
    path.with_extension("toml.good")
}

/// The file's text and what it says.
fn read<T>(path: &Path, parse: fn(&str) -> Result<T>) -> Result<(String, T)> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("read {}", path.display()))?,
    };
    let value = parse(&text).with_context(|| format!("{} is not valid", path.display()))?;
    Ok((text, value))
}

/// Commands that switch PCs on hold passwords, and only the administrator's own file says who may read them.
fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path);
    metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o077 == 0)
}

fn or_last_good<T>(
    path: &Path,
    parse: fn(&str) -> Result<T>,
    problems: &mut Vec<String>,
) -> Result<T> {
    let copy = good_copy(path);
    match read(path, parse) {
        Ok((text, value)) => {
            let kept = std::fs::read_to_string(&copy).ok();
            if kept.as_ref() != Some(&text) || !is_private(&copy) {
                replace(&copy, text.as_bytes(), 0o600)?;
            }
            Ok(value)
        }
        // Where there is no copy the file is the only word on what the administrator wants.
        Err(error) if !copy.exists() => Err(error),
        Err(error) => {
            let (_, value) = read(&copy, parse)?;
            problems.push(format!(
                "{error:#}; until it is mended, its last good copy counts"
            ));
            Ok(value)
        }
    }
}

fn parse_settings(text: &str) -> Result<Settings> {
    let settings: Settings = toml::from_str(text)?;
    check_settings(&settings)?;
    Ok(settings)
}

fn parse_types(text: &str) -> Result<InstanceTypes> {
    let table: Table = toml::from_str(text)?;
    let mut types = InstanceTypes::new();
    for row in table.types {
        check_type(&row)?;
        types.insert(row.name.clone(), row);
    }
    // An editor may empty or remove the file for a moment before it writes.
    anyhow::ensure!(!types.is_empty(), "there is no instance type in it");
    Ok(types)
}

/// What is wrong with the file of the object store's master key: no reason to refuse the settings, for it
/// may be on a disk that isn't there just now.
pub fn master_key_problem(settings: &Settings) -> Option<String> {
    let path = settings.s3_master_key.as_ref()?;
    match std::fs::metadata(path) {
        Err(_) => Some(format!(
            "s3_master_key: {path} isn't there; it is read at a start, and what is encrypted needs its key: copy objects/master.key of the home there first"
        )),
        Ok(file) if file.permissions().mode() & 0o077 != 0 => Some(format!(
            "s3_master_key: {path} can be read by others: chmod 600 {path}"
        )),
        Ok(_) => None,
    }
}

/// A domain below which buckets may have names.
pub fn s3_domain(text: &str) -> Result<String> {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_fine = text.split('.').all(part) && text.parse::<std::net::IpAddr>().is_err();
    anyhow::ensure!(
        is_fine,
        "a domain's name, as s3.example.org, without a port"
    );
    Ok(text.to_owned())
}

fn check_settings(settings: &Settings) -> Result<()> {
    const YEAR_S: u64 = 366 * 24 * 3600;
    let region_is_fine = (1..=64).contains(&settings.region.len())
        && settings
            .region
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    anyhow::ensure!(
        region_is_fine,
        "region: {:?} is no name of a region: small letters, digits and dashes",
        settings.region
    );
    if let Some(domain) = &settings.s3_domain {
        s3_domain(domain).context("s3_domain")?;
    }
    let key = settings.s3_master_key.as_deref();
    anyhow::ensure!(
        key.is_none_or(|path| Path::new(path).is_absolute()),
        "s3_master_key: an absolute path, as /media/key/boira.key"
    );
    for (name, value) in [
        ("cpu_overcommit", settings.cpu_overcommit),
        ("memory_overcommit", settings.memory_overcommit),
    ] {
        anyhow::ensure!((0.01..=1000.0).contains(&value), "{name}: 0.01 to 1000");
    }
    anyhow::ensure!(
        settings.terminated_visible_s <= YEAR_S,
        "terminated_visible_s: a year at most"
    );
    anyhow::ensure!(
        (1..=YEAR_S).contains(&settings.host_silence_s),
        "host_silence_s: from a second to a year"
    );
    anyhow::ensure!(
        (3..=YEAR_S).contains(&settings.fence_s),
        "fence_s: from 3 seconds to a year"
    );
    Ok(())
}

pub fn check_type(row: &InstanceType) -> Result<()> {
    let name_is_fine = row.name.contains('.')
        && row.name.len() <= 64
        && row
            .name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    anyhow::ensure!(
        name_is_fine,
        "{:?} is no name for an instance type: FAMILY.SIZE of letters, digits and dashes",
        row.name
    );
    anyhow::ensure!(
        (1..=255).contains(&row.vcpus),
        "{}: 1 to 255 vCPUs",
        row.name
    );
    anyhow::ensure!(
        (16..=16 << 20).contains(&row.memory_mib),
        "{}: 16 MiB of memory at least",
        row.name
    );
    anyhow::ensure!(
        (1..=16_384).contains(&row.disk_gib),
        "{}: 1 to 16384 GiB of disk",
        row.name
    );
    anyhow::ensure!(
        row.cpu_level <= 3,
        "{}: cpu_level is 1 to 3, or 0 for what each host takes",
        row.name
    );
    Ok(())
}

/// [`boira_files::replace`], with an error that names the file.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    boira_files::replace(path, bytes, mode).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, text: &str) {
        std::fs::write(path, text).expect("there is room");
    }

    #[test]
    fn a_broken_file_counts_as_its_last_good_copy_until_it_is_mended() {
        let home = tempfile::tempdir().expect("a directory");
        let files = Files::of(home.path());
        files.create_missing().expect("there is room");
        put(&files.settings, "host_silence_s = 7");
        let (settings, types, problems) = files.read().expect("they are fine");
        assert_eq!((settings.host_silence_s, problems.len()), (7, 0));

        put(&files.types, "");
        let (_, before, problems) = files.read().expect("there is a good copy");
        assert_eq!(
            (&before, problems.len()),
            (&types, 1),
            "emptied, not wanted empty"
        );

        put(&files.settings, "host_silence_s = ");
        put(&files.types, "[[type]]");
        // As another process, after a crash.
        let files = Files::of(home.path());
        let (settings, same, problems) = files.read().expect("there are copies");
        assert_eq!((settings.host_silence_s, &same), (7, &types));
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("settings.toml"), "{problems:?}");
        assert!(files.types().is_err(), "a broken table is not overwritten");

        put(&files.settings, "host_silence_s = 8");
        let (settings, _, problems) = files.read().expect("there are copies");
        assert_eq!((settings.host_silence_s, problems.len()), (8, 1));
        std::fs::remove_file(&files.settings).expect("it is there");
        let (settings, _, _) = files.read().expect("there are copies");
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn the_last_good_copy_is_for_the_controller_alone() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().expect("a directory");
        let files = Files::of(home.path());
        files.create_missing().expect("there is room");
        files.read().expect("they are fine");
        let copy = good_copy(&files.settings);
        // As earlier versions left it.
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&copy, open).expect("it is there");
        files.read().expect("they are fine");
        assert!(is_private(&copy));
    }

    #[test]
    fn a_file_that_was_never_right_is_an_error() {
        let home = tempfile::tempdir().expect("a directory");
        let files = Files::of(home.path());
        files.create_missing().expect("there is room");
        put(&files.settings, "region = 7");
        assert!(files.read().is_err());
    }

    #[test]
    fn settings_that_nothing_could_work_with_are_refused() {
        assert!(parse_settings("").is_ok());
        for text in [
            "region = ''",
            "region = 'a/b'",
            "cpu_overcommit = nan",
            "memory_overcommit = -1.0",
            "terminated_visible_s = 9223372036854775807",
            "host_silence_s = 0",
            "host_silence_s = 9223372036854775807",
            "unknown = 1",
        ] {
            assert!(parse_settings(text).is_err(), "{text}");
        }
    }
}
