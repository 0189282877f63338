use crate::build::{Built, Reporter};
use crate::error::{ImageError, Result};
use std::path::Path;
pub(crate) async fn build(_work: &Path, _out: &Path, _reporter: &Reporter<'_>) -> Result<Built> {
    Err(ImageError::Unsupported("later".into()))
}
