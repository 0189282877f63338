//! The `local` disk driver: a guest's disks as files of its host.
//!
//! A disk made from an image is a copy-on-write overlay over a base that is shared and never
//! written; an empty one is a sparse file. Every function may be repeated, and a crash leaves
//! either nothing or a whole disk: a new one is written beside its name, synced, and renamed. They
//! block, for a few milliseconds: on what the file system takes for a sync.
//!
//! Overlays are written here and not by a subprocess, because an empty one is four clusters of
//! known bytes: `qemu-img create` takes 20 to 30 ms of every start for them.

mod qcow2;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::Context;
use crate::{Base, DiskFormat, Error, Result};

/// What guests see as the smallest unit.
const SECTOR_BYTES: u64 = 512;

/// Makes a copy-on-write disk over `base`, which must be no larger. One that is there is kept with
/// its content, and grown if it is smaller; over another base it is an error.
pub fn ensure_overlay(path: &Path, base: &Base, size_bytes: u64) -> Result<()> {
    if base.format == DiskFormat::Qcow2 {
        qcow2::stands_alone(&header(&base.path)?)
            .map_err(|reason| Error::InvalidSpec(format!("{}: {reason}", base.path.display())))?;
    }
    let least = virtual_size_bytes(&base.path, base.format)?;
    if size_bytes < least {
        let reason = format!("its disk of {size_bytes} bytes is smaller than its image of {least}");
        return Err(Error::InvalidSpec(reason));
    }
    check_size(size_bytes)?;
    if !exists(path)? {
        let clusters =
            qcow2::overlay(&base.path, base.format, size_bytes).map_err(Error::InvalidSpec)?;
        return create(path, |file| file.write_all_at(&clusters, 0));
    }
    let found = header(path)?;
    if found.backing.as_deref() != Some(base.path.as_path()) {
        let reason = format!(
            "{} is no overlay of {}",
            path.display(),
            base.path.display()
        );
        return Err(Error::InvalidSpec(reason));
    }
    grow(path, DiskFormat::Qcow2, size_bytes)
}

/// Makes a disk of zeros, raw and sparse. One that is there is kept, and grown if it is smaller.
pub fn ensure_empty(path: &Path, size_bytes: u64) -> Result<()> {
    check_size(size_bytes)?;
    if exists(path)? {
        return grow(path, DiskFormat::Raw, size_bytes);
    }
    create(path, |file| file.set_len(size_bytes))
}

/// Makes a disk larger, while no guest has it. A disk is never made smaller.
pub fn grow(path: &Path, format: DiskFormat, size_bytes: u64) -> Result<()> {
    check_size(size_bytes)?;
    if virtual_size_bytes(path, format)? >= size_bytes {
        return Ok(());
    }
    let trying = || format!("growing {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .context(trying())?;
    match format {
        DiskFormat::Raw => file.set_len(size_bytes).context(trying())?,
        DiskFormat::Qcow2 => {
            let (at, bytes) =
                qcow2::grown(&header(path)?, size_bytes).map_err(Error::InvalidSpec)?;
            file.write_all_at(&bytes, at).context(trying())?;
        }
    }
    file.sync_all().context(trying())
}

/// Removes a disk. Absent is fine.
pub fn remove(path: &Path) -> Result<()> {
    for path in [path, &boira_files::unfinished(path)] {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.context(format!("removing {}", path.display()))?,
        }
    }
    Ok(())
}

/// How large a guest sees the disk.
pub fn virtual_size_bytes(path: &Path, format: DiskFormat) -> Result<u64> {
    match format {
        DiskFormat::Raw => {
            let metadata = fs::metadata(path).context(format!("reading {}", path.display()))?;
            Ok(metadata.len())
        }
        DiskFormat::Qcow2 => Ok(header(path)?.size_bytes),
    }
}

fn header(path: &Path) -> Result<qcow2::Header> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(qcow2::HEADER_BYTES_MAX).read_to_end(&mut start))
        .context(format!("reading {}", path.display()))?;
    qcow2::parse(&start)
        .map_err(|reason| Error::InvalidSpec(format!("{}: {reason}", path.display())))
}

fn check_size(size_bytes: u64) -> Result<()> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(Error::InvalidSpec(format!(
            "a disk can't have {size_bytes} bytes"
        )));
    }
    Ok(())
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists()
        .context(format!("looking for {}", path.display()))
}

fn create(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    boira_files::create(path, 0o600, fill).context(format!("creating {}", path.display()))
}
