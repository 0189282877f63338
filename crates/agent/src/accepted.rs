//! The file of what this host has accepted and done, replaced as a whole and surely kept.

use anyhow::{Context, Result};
use boira_core::sync::Accepted;
use boira_model::wire::SyncAnswer;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// What is in the file, which is what counts.
pub struct Kept {
    path: PathBuf,
    accepted: Accepted,
    /// Why it could not be written the last time.
    trouble: Option<String>,
    /// Why the last answer was refused.
    refused: Option<String>,
}

impl Deref for Kept {
    type Target = Accepted;

    fn deref(&self) -> &Accepted {
        &self.accepted
    }
}

impl Kept {
    pub fn read(home: &Path) -> Result<Self> {
        let path = home.join("accepted.json");
        let accepted = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("parse {}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Accepted::default(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        Ok(Self {
            path,
            accepted,
            trouble: None,
            refused: None,
        })
    }

    /// Whether it is on the disk. Where it isn't, all is as before and there is a [`Kept::trouble`].
    pub async fn replace(&mut self, accepted: Accepted) -> bool {
        let written = self.write(&accepted).await;
        let before = self.trouble.take();
        self.trouble = written.as_ref().err().map(|error| {
            format!(
                "what it is told can't be written to its disk, so nothing new is done: {error:#}"
            )
        });
        match &self.trouble {
            None => self.accepted = accepted,
            Some(why) if before.as_ref() == Some(why) => {}
            Some(why) => tracing::error!("{why}"),
        }
        written.is_ok()
    }

    /// Whether it could not be written the last time.
    pub fn is_stuck(&self) -> bool {
        self.trouble.is_some()
    }

    /// Tries again what could not be done: what it is told next may be what it has, and so nothing to write.
    pub async fn try_again(&mut self) {
        if self.is_stuck() {
            self.replace(self.accepted.clone()).await;
        }
    }

    /// Notes why an answer is refused, if it is.
    pub fn judge(&mut self, answer: &SyncAnswer) {
        let refused = self.accepted.is_ahead_of(answer);
        if let Some(why) = refused
            .as_ref()
            .filter(|why| self.refused.as_ref() != Some(why))
        {
            tracing::error!("{why}");
        }
        self.refused = refused;
    }

    /// What keeps this host from doing anything new, in words.
    pub fn trouble(&self) -> impl Iterator<Item = String> {
        self.trouble.clone().into_iter().chain(self.refused.clone())
    }

    /// On return the file and its name are on the disk.
    async fn write(&self, accepted: &Accepted) -> Result<()> {
        let bytes = serde_json::to_vec(accepted).context("write as JSON")?;
        let path = self.path.clone();
        let writing = move || {
            boira_files::replace(&path, &bytes, 0o600)
                .with_context(|| format!("write {}", path.display()))
        };
        tokio::task::spawn_blocking(writing)
            .await
            .context("write a file")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the host is told next may be what it has, so that nothing else would write.
    #[tokio::test]
    async fn what_could_not_be_written_is_tried_again() {
        let home = tempfile::tempdir().expect("a folder");
        let mut kept = Kept::read(home.path()).expect("there is none yet");
        let in_the_way = home.path().join("accepted.json");
        std::fs::create_dir_all(in_the_way.join("full")).expect("a folder");
        assert!(!kept.replace(Accepted::default()).await);
        kept.try_again().await;
        assert!(kept.is_stuck() && kept.trouble().count() == 1);
        std::fs::remove_dir_all(&in_the_way).expect("it goes");
        kept.try_again().await;
        assert!(!kept.is_stuck() && kept.trouble().count() == 0);
        assert!(in_the_way.is_file());
    }
}
