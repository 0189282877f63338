//! Built images that all tests of the workspace share.

use std::fs;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::build::{Built, Kind, build, builder};
use crate::error::{AtPath, ImageError, Result};

/// The `tiny` image from `cache_directory`, built first when it isn't there: [`cached`].
pub async fn cached_tiny(cache_directory: &Path) -> Result<Built> {
    cached(Kind::Tiny, cache_directory).await
}

/// An image from `cache_directory`, built first when it isn't there.
///
/// The cache's key is a hash of the guest's scripts and of the builder, so a changed script is a
/// new image; new package versions alone are not. Processes that ask at once wait for one build.
pub async fn cached(kind: Kind, cache_directory: &Path) -> Result<Built> {
    fs::create_dir_all(cache_directory).at(cache_directory)?;
    let directory = cache_directory.join(builder(kind));
    let place = directory.join(kind.name());
    let lock = lock(cache_directory.join(format!("{}.lock", kind.name()))).await?;
    let built = match Built::load(&place) {
        Ok(built) => built,
        Err(_) => {
            build(
                kind,
                &cache_directory.join(kind.name()),
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
            why: errno.into(),
        })
    });
    waiting.await.expect("locking does not panic")
}
