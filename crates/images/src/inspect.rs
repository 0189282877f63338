//! Judges the header of an imported image before a program that trusts headers opens it.
//!
//! A qcow2 header can name a backing file or a data file, by any path or URL that QEMU knows;
//! whoever opens such an image reads that file for its author. So nothing is opened by format
//! probing: an image is qcow2 only if [`crate::qcow2`] accepts every field, raw only if it does
//! not begin like any other format, and refused otherwise. The verdict is passed on as an
//! explicit `-f`.

use std::io::{self, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};

use crate::error::{ImageError, Result};
use crate::qcow2;

/// The largest disk that may be imported: the largest EBS volume, 64 TiB.
pub const MAX_VIRTUAL_SIZE_BYTES: u64 = 64 << 40;
/// Enough for every signature below and for a qcow2 header with its extensions.
const HEAD_BYTES: u64 = 64 << 10;
const SECTOR_BYTES: u64 = 512;

/// How the bytes of an image are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Qcow2,
    Raw,
}

impl Format {
    /// The name that QEMU's `-f` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// What the header of an acceptable image says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    pub format: Format,
    /// The size of the disk that a guest sees.
    pub virtual_size_bytes: u64,
}

/// Reads the header of an image and decides whether it may be imported.
///
/// # Errors
/// [`ImageError::Refused`] with the reason, for every image that is not plainly qcow2 (version 2
/// or 3, standing alone, clean, not encrypted, without snapshots) or plainly raw; and when the
/// file cannot be read.
pub fn inspect(file: &mut (impl Read + Seek)) -> Result<Info> {
    let unreadable =
        |error: io::Error| ImageError::Refused(format!("the image cannot be read: {error}"));
    let length = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
    let head = read_at(file, 0, HEAD_BYTES).map_err(unreadable)?;
    let tail =
        read_at(file, length.saturating_sub(SECTOR_BYTES), SECTOR_BYTES).map_err(unreadable)?;
    judge(&head, &tail, length)
}

fn judge(head: &[u8], tail: &[u8], length: u64) -> Result<Info> {
    if length == 0 {
        return refuse("the image is empty");
    }
    let info = if head.starts_with(&qcow2::MAGIC) {
        Info {
            format: Format::Qcow2,
            virtual_size_bytes: qcow2::virtual_size(head, length)?,
        }
    } else if let Some(name) = foreign_format(head, tail) {
        return refuse(&format!(
            "this is {name}, and only qcow2 and raw images can be imported: convert it with \
             qemu-img convert -O qcow2 first"
        ));
    } else {
        if length < SECTOR_BYTES {
            return refuse(&format!("{length} bytes are no disk"));
        }
        Info {
            format: Format::Raw,
            virtual_size_bytes: length.next_multiple_of(SECTOR_BYTES),
        }
    };
    if info.virtual_size_bytes > MAX_VIRTUAL_SIZE_BYTES {
        return refuse("the image's disk is larger than 64 TiB");
    }
    Ok(info)
}

/// The formats that a file is recognised as by its first bytes: offset, bytes, name.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0, b"KDMV", "a VMDK image"),
    (0, b"COWD", "a VMDK image"),
    (
        0,
        b"# Disk DescriptorFile",
        "a VMDK descriptor, which names other files",
    ),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0, b"QED\0", "a QED image"),
    (0, b"LUKS\xba\xbe", "a LUKS-encrypted disk"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"Bochs Virtual HD Image", "a Bochs image"),
    (0, b"#!/bin/sh\n#V2.0 Format", "a cloop image"),
    (0, b"OOOM", "a user-mode Linux COW image"),
    (0, b"\x1f\x8b", "gzip-compressed"),
    (0, b"\xfd7zXZ\0", "xz-compressed"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (0, b"BZh", "bzip2-compressed"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (257, b"ustar", "a tar archive (an OVA is one)"),
];
/// And those that are known by their last sector.
const FOOTERS: &[(&[u8], &str)] = &[(b"conectix", "a VHD image"), (b"koly", "a DMG image")];

fn foreign_format(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    let has = |offset: usize, bytes: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(bytes))
    };
    let signature = SIGNATURES
        .iter()
        .find(|(offset, bytes, _)| has(*offset, bytes))
        .map(|(_, _, name)| *name);
    let footer = || {
        FOOTERS
            .iter()
            .find(|(bytes, _)| tail.starts_with(bytes))
            .map(|(_, name)| *name)
    };
    signature.or_else(footer)
}

fn read_at(file: &mut (impl Read + Seek), offset: u64, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn refuse<T>(reason: &str) -> Result<T> {
    Err(ImageError::Refused(reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn plain_bytes_are_a_raw_disk_of_whole_sectors() {
        let info = inspect(&mut Cursor::new(vec![0xeb; 1000])).unwrap();
        assert_eq!(
            info,
            Info {
                format: Format::Raw,
                virtual_size_bytes: 1024
            }
        );
    }

    #[test]
    fn every_other_format_is_refused_by_name() {
        for (offset, bytes, name) in SIGNATURES {
            let mut image = vec![0; 4096];
            image[*offset..offset + bytes.len()].copy_from_slice(bytes);
            let error = inspect(&mut Cursor::new(image)).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("only qcow2 and raw"),
                "{error}"
            );
        }
        for (bytes, name) in FOOTERS {
            let mut image = vec![0; 4096];
            image[4096 - 512..][..bytes.len()].copy_from_slice(bytes);
            let error = inspect(&mut Cursor::new(image)).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn an_empty_file_is_no_image() {
        assert!(inspect(&mut Cursor::new(Vec::new())).is_err());
        let error = inspect(&mut Cursor::new(b"hi\n")).unwrap_err();
        assert_eq!(error.to_string(), "3 bytes are no disk");
    }
}
