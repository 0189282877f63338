//! A built `tiny` image that all tests of the workspace share.

use std::fs;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::build::{Built, Kind, build};
use crate::error::{AtPath, ImageError, Result};
use crate::tiny;

/// The `tiny` image from `cache_directory`, built first when it isn't there.
///
/// The cache's key is a hash of the guest's scripts and of the builder, so a changed script is a new
/// image; new package versions alone are not. Processes that ask at once wait for one build.
pub async fn cached_tiny(cache_directory: &Path) -> Result<Built> {
    fs::create_dir_all(cache_directory).at(cache_directory)?;
    let directory = cache_directory.join(key());
    let place = directory.join(Kind::Tiny.name());
    let lock = lock(cache_directory.join("lock")).await?;
    let built = match Built::load(&place) {
        Ok(built) => built,
        Err(_) => {
            build(
                Kind::Tiny,
                &cache_directory.join("work"),
                &directory,
                &|_| (),
            )
            .await?
        }
    };
    drop(lock);
    Ok(built)
}

async fn lock(path: PathBuf) -> Result<Flock<fs::File>> {
    let waiting = tokio::task::spawn_blocking(move || {
        let file = fs::File::create(&path).at(&path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| ImageError::Io {
            path,
            source: errno.into(),
        })
    });
    waiting.await.expect("locking does not panic")
}

fn key() -> String {
    let mut hash = Sha256::new();
    for input in tiny::inputs() {
        hash.update(input.len().to_le_bytes());
        hash.update(input);
    }
    hex::encode(&hash.finalize()[..8])
}
