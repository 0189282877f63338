//! Makes a disk image bootable by the BIOS without `grub-install`, which wants a real device.
//!
//! GRUB's first sector loads one sector of its core, and that one the rest; both find the next
//! by a sector number that `grub-bios-setup` normally writes into them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{AtPath, ImageError, Result};

const SECTOR_BYTES: usize = 512;
/// Offsets in `boot.img` (GRUB's `include/grub/i386/pc/boot.h`).
const CORE_SECTOR: usize = 0x5c;
const DRIVE_CHECK: usize = 0x66;
/// Two no-ops: believe the BIOS about the drive, which is right for hard disks.
const NO_DRIVE_CHECK: [u8; 2] = [0x90, 0x90];
/// The first 440 bytes of the disk are code, what follows is the partition table's.
const CODE_BYTES: usize = 440;
/// The only entry of the list of blocks at the end of the core's first sector: start, length,
/// segment. The length and segment are right as built.
const BLOCK_LIST: usize = SECTOR_BYTES - 12;

/// Writes GRUB's first sector to the start of the disk and its core to a BIOS boot partition of
/// `room` sectors at `sector`.
pub(crate) fn embed(disk: &Path, boot: &[u8], core: &[u8], sector: u64, room: u64) -> Result<()> {
    let (boot, core) = located(boot, core, sector, room)?;
    let file = File::options().write(true).open(disk).at(disk)?;
    file.write_all_at(&boot, 0).at(disk)?;
    file.write_all_at(&core, sector * SECTOR_BYTES as u64)
        .at(disk)
}

/// Both parts with the sector numbers filled in.
fn located(boot: &[u8], core: &[u8], sector: u64, room: u64) -> Result<(Vec<u8>, Vec<u8>)> {
    if boot.len() != SECTOR_BYTES
        || core.len() <= SECTOR_BYTES
        || core.len().div_ceil(SECTOR_BYTES) as u64 > room
    {
        return Err(ImageError::Distribution(
            "GRUB's files do not have the sizes that were expected".to_owned(),
        ));
    }
    let mut boot = boot[..CODE_BYTES].to_vec();
    boot[CORE_SECTOR..][..8].copy_from_slice(&sector.to_le_bytes());
    boot[DRIVE_CHECK..][..2].copy_from_slice(&NO_DRIVE_CHECK);
    let mut core = core.to_vec();
    core[BLOCK_LIST..][..8].copy_from_slice(&(sector + 1).to_le_bytes());
    Ok((boot, core))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_grub_find_each_other_and_leave_the_partition_table() {
        let (boot, core) = located(&[7; 512], &[9; 2000], 2048, 2048).unwrap();
        assert_eq!(boot.len(), 440);
        assert_eq!(&boot[0x5c..0x64], &2048_u64.to_le_bytes());
        assert_eq!(&core[500..508], &2049_u64.to_le_bytes());
        assert!(located(&[7; 512], &[9; 2000], 2048, 3).is_err(), "no room");
    }
}
