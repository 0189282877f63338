//! What building an image has in common, whichever image it is: the result, the progress, and
//! that a result appears whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{AtPath, ImageError, Result};
use crate::{debian, tiny};

/// The images that can be built from the distribution's packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Debian's cloud kernel, busybox and dropbear: small, and up in seconds under emulation.
    Tiny,
    /// Debian 12 with systemd, OpenSSH and cloud-init.
    Debian,
}

impl Kind {
    /// The word that `boira image build` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Debian => "debian",
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = ImageError;

    fn from_str(word: &str) -> Result<Self> {
        [Self::Tiny, Self::Debian]
            .into_iter()
            .find(|kind| kind.name() == word)
            .ok_or_else(|| {
                ImageError::Unsupported(format!(
                    "there is no image {word:?} to build: tiny and debian are known"
                ))
            })
    }
}

/// A finished image. `image.json` beside the files says the same, with paths relative to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    pub kind: Kind,
    pub name: String,
    pub description: String,
    /// `x86_64`, as EC2 spells it.
    pub architecture: String,
    /// The root disk: qcow2, compressed, without a backing file.
    pub disk: PathBuf,
    /// Kernel and ramdisk for an image that is not booted by its own boot loader.
    pub kernel: Option<PathBuf>,
    pub ramdisk: Option<PathBuf>,
    /// The kernel's command line; empty when the image has its own boot loader.
    pub cmdline: String,
    /// The user whose authorized keys the image fills in from the metadata.
    pub user: String,
    pub min_memory_bytes: u64,
    /// The smallest root disk that the image fits on: the disk's virtual size.
    pub min_disk_bytes: u64,
    /// Packages that the image was made of, `name version`, sorted.
    pub packages: Vec<String>,
    /// A hash of the guest's scripts and of the builder.
    #[serde(default)]
    pub builder: String,
}

/// The file beside an image that describes it.
const DESCRIPTION_FILE: &str = "image.json";

impl Built {
    /// Reads the finished image in `directory`.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join(DESCRIPTION_FILE);
        let text = fs::read(&path).at(&path)?;
        let built: Self = serde_json::from_slice(&text)
            .map_err(|error| ImageError::Refused(format!("{}: {error}", path.display())))?;
        Ok(built.below(directory))
    }

    /// Whether both were made of the same by the same, so that one of them is enough. Their bytes differ:
    /// file systems have times and ids.
    fn is_alike(&self, other: &Self) -> bool {
        self.builder == other.builder && self.packages == other.packages
    }

    fn below(mut self, directory: &Path) -> Self {
        for path in [
            Some(&mut self.disk),
            self.kernel.as_mut(),
            self.ramdisk.as_mut(),
        ]
        .into_iter()
        .flatten()
        {
            *path = directory.join(&*path);
        }
        self
    }
}

/// How far a build is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// What is being done, in a few words.
    pub name: &'a str,
    pub done: u64,
    /// In the same unit as `done`; 0 when nobody knows.
    pub total: u64,
}

/// What an image of this kind depends on beside its packages, as a hash.
pub(crate) fn builder(kind: Kind) -> String {
    let mut hash = Sha256::new();
    let inputs = match kind {
        Kind::Tiny => tiny::inputs(),
        Kind::Debian => debian::inputs(),
    };
    for input in inputs {
        hash.update(input.len().to_le_bytes());
        hash.update(input);
    }
    hex::encode(&hash.finalize()[..8])
}

/// Receives the progress of a build; called often, must return quickly.
pub type Progress<'a> = dyn Fn(Step<'_>) + Send + Sync + 'a;

/// Tells the caller of a build where it is.
pub(crate) struct Reporter<'a>(pub(crate) &'a Progress<'a>);

impl Reporter<'_> {
    pub(crate) fn step(&self, name: &str, done: u64, total: u64) {
        (self.0)(Step { name, done, total });
    }

    /// A step of which nobody knows how long it is.
    pub(crate) fn start(&self, name: &str) {
        self.step(name, 0, 0);
    }
}

/// Builds an image from the distribution's packages and leaves it in `out/tiny` or `out/debian`. One
/// that is there already and was made of the same is left, and answered.
///
/// `work` keeps package lists and packages, which make the next build quicker; nothing outside
/// of `work` and `out` is written. The directory in `out` is renamed into place when all is in
/// it: a build that ends early, also by dropping the future, leaves an earlier image as it was.
///
/// # Errors
/// [`ImageError::MissingTool`] and [`ImageError::Unsupported`] name what to install before
/// anything is done; the other kinds say which program failed and with which words.
pub async fn build(kind: Kind, work: &Path, out: &Path, progress: &Progress<'_>) -> Result<Built> {
    require_root()?;
    require_architecture()?;
    for directory in [work, out] {
        fs::create_dir_all(directory).at(directory)?;
    }
    let work = work.canonicalize().at(work)?;
    let reporter = Reporter(progress);
    let staging = tempfile::Builder::new()
        .prefix(".building-")
        .tempdir_in(out)
        .at(out)?;
    let built = match kind {
        Kind::Tiny => tiny::build(&work, staging.path(), &reporter).await?,
        Kind::Debian => debian::build(&work, staging.path(), &reporter).await?,
    };
    let place = out.join(kind.name());
    if let Ok(earlier) = Built::load(&place)
        && earlier.is_alike(&built)
    {
        return Ok(earlier);
    }
    let description = staging.path().join(DESCRIPTION_FILE);
    let text = serde_json::to_vec_pretty(&built).expect("a description is plain data");
    fs::write(&description, text).at(&description)?;
    publish(staging, &place)?;
    Ok(built.below(&place))
}

/// Puts a complete directory where the finished image belongs, instead of an earlier one.
fn publish(staging: tempfile::TempDir, place: &Path) -> Result<()> {
    let out = place
        .parent()
        .expect("the place is below the output directory");
    for entry in fs::read_dir(staging.path()).at(staging.path())? {
        let path = entry.at(staging.path())?.path();
        fs::File::open(&path)
            .and_then(|file| file.sync_all())
            .at(&path)?;
    }
    let old = tempfile::Builder::new()
        .prefix(".old-")
        .tempdir_in(out)
        .at(out)?;
    if place.exists() {
        fs::rename(place, old.path().join("image")).at(place)?;
    }
    let complete = staging.keep();
    set_readable(&complete)?;
    fs::rename(&complete, place).at(place)?;
    fs::File::open(out)
        .and_then(|directory| directory.sync_all())
        .at(out)
}

/// Temporary directories are closed to others; a finished image is for every process that serves it.
fn set_readable(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).at(directory)
}

fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(ImageError::Unsupported(
        "building an image needs root, because the files in it belong to root: run it with sudo"
            .to_owned(),
    ))
}

fn require_architecture() -> Result<()> {
    if std::env::consts::ARCH == "x86_64" {
        return Ok(());
    }
    Err(ImageError::Unsupported(format!(
        "images are built for x86_64 only, this machine is {}",
        std::env::consts::ARCH
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_image_replaces_the_earlier_one_whole() {
        let out = tempfile::tempdir().unwrap();
        let place = out.path().join("tiny");
        for content in ["first", "second"] {
            let staging = tempfile::tempdir_in(out.path()).unwrap();
            fs::write(staging.path().join(content), content).unwrap();
            publish(staging, &place).unwrap();
            let files: Vec<_> = fs::read_dir(&place)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(
                files,
                [content],
                "nothing of another image is among the files"
            );
        }
        assert_eq!(
            fs::read_dir(out.path()).unwrap().count(),
            1,
            "nothing is left beside the image"
        );
    }

    #[test]
    fn only_known_images_can_be_built() {
        assert_eq!("tiny".parse::<Kind>().unwrap(), Kind::Tiny);
        assert!(
            "arch"
                .parse::<Kind>()
                .unwrap_err()
                .to_string()
                .contains("tiny and debian")
        );
    }
}
