//! What lies in the home: files of the administrator, read at start-up and again when they change.
//!
//! ```text
//!  settings.toml         Settings; missing members have their defaults
//!  instance-types.toml   [[type]] rows; written with the default table on the first start
//! ```

use anyhow::{Context, Result};
use boira_core::{InstanceTypes, Settings, settings};
use boira_model::InstanceType;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Serialize, Deserialize)]
struct Table {
    #[serde(rename = "type", default)]
    types: Vec<InstanceType>,
}

/// The two files of one home.
#[derive(Clone, Debug)]
pub struct Files {
    settings: PathBuf,
    types: PathBuf,
}

impl Files {
    pub fn of(home: &Path) -> Self {
        Self {
            settings: home.join("settings.toml"),
            types: home.join("instance-types.toml"),
        }
    }

    /// Writes the default table where there is none yet.
    pub fn create_missing(&self) -> Result<()> {
        if !self.types.exists() {
            self.write_types(&settings::default_types())?;
        }
        Ok(())
    }

    pub fn settings(&self) -> Result<Settings> {
        let text = match std::fs::read_to_string(&self.settings) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Settings::default());
            }
            Err(error) => return Err(error).context(format!("read {}", self.settings.display())),
        };
        toml::from_str(&text).with_context(|| format!("{} is not valid", self.settings.display()))
    }

    pub fn types(&self) -> Result<InstanceTypes> {
        let text = std::fs::read_to_string(&self.types)
            .with_context(|| format!("read {}", self.types.display()))?;
        let table: Table = toml::from_str(&text)
            .with_context(|| format!("{} is not valid", self.types.display()))?;
        let mut types = InstanceTypes::new();
        for row in table.types {
            check_type(&row).with_context(|| format!("in {}", self.types.display()))?;
            types.insert(row.name.clone(), row);
        }
        Ok(types)
    }

    pub fn write_types(&self, types: &InstanceTypes) -> Result<()> {
        let table = Table {
            types: types.values().cloned().collect(),
        };
        let text = format!(
            "# Instance types; change them here or with `boira type`. Read again when saved.\n\n{}",
            toml::to_string(&table).context("write instance types as TOML")?
        );
        write_atomically(&self.types, text.as_bytes(), 0o644)
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
    Ok(())
}

/// Writes a file so that readers and crashes see the old or the new one.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))
}
