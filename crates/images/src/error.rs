//! What can go wrong with an image, in words for the person who asked for it.

use std::io;
use std::path::{Path, PathBuf};

/// Why an image could not be built, read or imported.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A program that the builder runs is not on this machine.
    #[error(
        "the program {tool} is missing: install the package {package} (apt-get install {package})"
    )]
    MissingTool { tool: String, package: String },
    /// The builder needs something of the machine that it does not have.
    #[error("{0}")]
    Unsupported(String),
    /// A program ran and failed; `detail` is the end of what it said.
    #[error("{program} failed ({status}): {detail}")]
    Program {
        program: String,
        status: String,
        detail: String,
    },
    /// A program was stopped because it took longer than it may.
    #[error("{program} was stopped after {seconds} seconds")]
    TimedOut { program: String, seconds: u64 },
    /// The file is not an image that may be imported; the text says which rule it breaks.
    #[error("{0}")]
    Refused(String),
    /// Packages or files of the distribution are not what the builder expects.
    #[error("{0}")]
    Distribution(String),
    #[error("{path}: {why}")]
    Io { path: PathBuf, why: io::Error },
}

pub type Result<T> = std::result::Result<T, ImageError>;

/// Adds to an I/O error the path that it is about.
pub(crate) trait AtPath<T> {
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|why| ImageError::Io {
            path: path.to_owned(),
            why,
        })
    }
}
