//! The file of what this host has accepted and done, replaced as a whole and surely kept.

use anyhow::{Context, Result};
use boira_core::sync::Accepted;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub struct AcceptedFile(PathBuf);

impl AcceptedFile {
    pub fn new(home: &Path) -> Self {
        Self(home.join("accepted.json"))
    }

    pub fn read(&self) -> Result<Accepted> {
        let path = &self.0;
        match std::fs::read(path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Accepted::default()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// On return the file and its name are on the disk.
    pub async fn write(&self, accepted: &Accepted) -> Result<()> {
        let bytes = serde_json::to_vec(accepted).context("write as JSON")?;
        let path = self.0.clone();
        tokio::task::spawn_blocking(move || replace(&path, &bytes))
            .await
            .context("write a file")?
    }
}

/// Replaces a file as a whole; on return it and its name are on the disk.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| format!("write {}", temporary.display()))?;
    file.write_all(bytes).context("write")?;
    file.sync_data().context("sync")?;
    std::fs::rename(&temporary, path).context("rename")?;
    let folder = path.parent().context("find its folder")?;
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .context("sync its folder")
}
