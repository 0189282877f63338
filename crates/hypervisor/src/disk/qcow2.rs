//! As much of qcow2 as an empty overlay takes: version 3, clusters of 64 KiB, 16-bit reference
//! counts. Format: <https://www.qemu.org/docs/master/interop/qcow2.html>.
//!
//! ```text
//! cluster 0  header, its extension, the base's name
//!         1  reference table: one entry, to cluster 2
//!         2  reference block: clusters 0 to 3 are used once
//!         3  L1 table: empty, so that everything reads from the base
//! ```
//!
//! The L1 table owns its whole cluster however small the disk, so that growing is one write into
//! the header.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::DiskFormat;

/// How much of a file [`parse`] may want to see: the name of the base ends within it.
pub const HEADER_BYTES_MAX: u64 = CLUSTER_BYTES as u64;

const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: usize = 1 << CLUSTER_BITS;
/// What one entry of the L1 table covers: a cluster full of entries for a cluster each.
const L1_ENTRY_BYTES: u64 = (CLUSTER_BYTES as u64 / 8) * CLUSTER_BYTES as u64;
const L1_ENTRIES_MAX: u64 = CLUSTER_BYTES as u64 / 8;
const L1_OFFSET: u64 = 3 * CLUSTER_BYTES as u64;
const VERSION_3_HEADER_BYTES: u32 = 104;
const EXTENSION_BACKING_FORMAT: u32 = 0xE279_2ACA;
/// Bits of `incompatible`: all that may be set under an overlay are an image that wasn't closed, a
/// compression type and extended entries.
const KNOWN_FEATURES: u64 = 1 << 0 | 1 << 3 | 1 << 4;
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
/// The longest name that the format allows.
const BACKING_NAME_BYTES_MAX: usize = 1023;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub size_bytes: u64,
    pub backing: Option<PathBuf>,
    cluster_bits: u32,
    l1_offset: u64,
    snapshots: u32,
    incompatible: u64,
}

/// The bytes of an empty overlay.
pub fn overlay(base: &Path, base_format: DiskFormat, size_bytes: u64) -> Result<Vec<u8>, String> {
    let l1_entries = l1_entries(size_bytes)?;
    let name = base.as_os_str().as_bytes();
    if name.len() > BACKING_NAME_BYTES_MAX || name.is_empty() {
        return Err(format!("the format can't name the base {}", base.display()));
    }
    let mut image = vec![0; 4 * CLUSTER_BYTES];
    let extension = extension(EXTENSION_BACKING_FORMAT, base_format.name().as_bytes());
    let name_offset = VERSION_3_HEADER_BYTES as usize + extension.len();
    let header: [&[u8]; 17] = [
        b"QFI\xfb",
        &3_u32.to_be_bytes(),
        &(name_offset as u64).to_be_bytes(),
        &(name.len() as u32).to_be_bytes(),
        &CLUSTER_BITS.to_be_bytes(),
        &size_bytes.to_be_bytes(),
        &0_u32.to_be_bytes(), // not encrypted
        &l1_entries.to_be_bytes(),
        &L1_OFFSET.to_be_bytes(),
        &(CLUSTER_BYTES as u64).to_be_bytes(), // reference table
        &1_u32.to_be_bytes(),                  // clusters of it
        &0_u32.to_be_bytes(),                  // snapshots
        &0_u64.to_be_bytes(),                  // and their table
        &[0; 24],                              // no features
        &4_u32.to_be_bytes(),                  // reference counts of 2^4 bits
        &VERSION_3_HEADER_BYTES.to_be_bytes(),
        &extension,
    ];
    let header = header.concat();
    image[..header.len()].copy_from_slice(&header);
    image[name_offset..name_offset + name.len()].copy_from_slice(name);
    image[CLUSTER_BYTES..][..8].copy_from_slice(&(2 * CLUSTER_BYTES as u64).to_be_bytes());
    for cluster in 0..4 {
        image[2 * CLUSTER_BYTES + 2 * cluster..][..2].copy_from_slice(&1_u16.to_be_bytes());
    }
    Ok(image)
}

/// Reads a header, as far as it matters here.
pub fn parse(start: &[u8]) -> Result<Header, String> {
    let part = |at: usize, length: usize| start.get(at..at + length).ok_or("not a qcow2 image");
    let u32_at =
        |at| part(at, 4).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")));
    let u64_at =
        |at| part(at, 8).map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes")));
    if part(0, 4)? != b"QFI\xfb" || !(2..=3).contains(&u32_at(4)?) {
        return Err("not a qcow2 image".to_owned());
    }
    let (name_offset, name_length) = (u64_at(8)? as usize, u32_at(16)? as usize);
    let backing = if name_offset == 0 {
        None
    } else if name_length > BACKING_NAME_BYTES_MAX || name_offset > start.len() {
        return Err("the name of its base is out of bounds".to_owned());
    } else {
        Some(PathBuf::from(OsStr::from_bytes(part(
            name_offset,
            name_length,
        )?)))
    };
    Ok(Header {
        size_bytes: u64_at(24)?,
        backing,
        cluster_bits: u32_at(20)?,
        l1_offset: u64_at(40)?,
        snapshots: u32_at(60)?,
        incompatible: match u32_at(4)? {
            2 => 0,
            _ => u64_at(72)?,
        },
    })
}

/// Why an image can't be under an overlay: it names another file, or has features that nobody has
/// judged. What an image is made of must be in its one file.
pub fn stands_alone(header: &Header) -> Result<(), String> {
    if header.backing.is_some() {
        return Err("it names a base of its own".to_owned());
    }
    if header.incompatible & EXTERNAL_DATA_FILE != 0 {
        return Err("its data is in another file".to_owned());
    }
    match header.incompatible & !KNOWN_FEATURES {
        0 => Ok(()),
        unknown => Err(format!("it has unknown features: {unknown:#x}")),
    }
}

/// The bytes that make an overlay of ours larger, and where they go: its size and the length of its
/// L1 table, which share a sector and so change together.
pub fn grown(header: &Header, size_bytes: u64) -> Result<(u64, Vec<u8>), String> {
    if header.cluster_bits != CLUSTER_BITS || header.l1_offset != L1_OFFSET || header.snapshots != 0
    {
        return Err("only an overlay that was made here, without snapshots, can grow".to_owned());
    }
    let mut bytes = size_bytes.to_be_bytes().to_vec();
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend(l1_entries(size_bytes)?.to_be_bytes());
    Ok((24, bytes))
}

fn l1_entries(size_bytes: u64) -> Result<u32, String> {
    let entries = size_bytes.div_ceil(L1_ENTRY_BYTES);
    if entries > L1_ENTRIES_MAX {
        return Err(format!(
            "a disk can't have more than {} bytes",
            L1_ENTRIES_MAX * L1_ENTRY_BYTES
        ));
    }
    Ok(entries as u32)
}

/// A header extension, padded to 8 bytes, and the one that ends the list.
fn extension(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = [
        &kind.to_be_bytes(),
        &(data.len() as u32).to_be_bytes(),
        data,
    ]
    .concat();
    bytes.resize(bytes.len().next_multiple_of(8) + 8, 0);
    bytes
}
