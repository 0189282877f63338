//! Kernels unpacked once on the host instead of in every guest.
//!
//! A distribution's kernel is a compressed ELF file behind a decompressor. Under emulation that
//! decompressor takes a fifth of the way to userspace, and QEMU goes on holding some 50 MB for it
//! (`docs/tcg.md`). QEMU boots the ELF file itself through its PVH entry, with the same command line
//! and RAM disk. What can't be unpacked here boots as it is.
//!
//! Format: Linux's `Documentation/x86/boot.rst` for the image, `scripts/Makefile.lib` for the
//! payload: LZ4's legacy frame, and the unpacked size as its last four bytes.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const LZ4_LEGACY_MAGIC: u32 = 0x184C_2102;
const LZ4_BLOCK_BYTES_MAX: usize = 8 << 20;
/// More than any kernel, and little enough to be held for a moment.
const UNPACKED_BYTES_MAX: usize = 256 << 20;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: where QEMU enters a kernel by PVH.
const PVH_NOTE: u32 = 18;
const PT_NOTE: u32 = 4;
/// How many unpacked kernels are kept, of some 50 MB each.
const KEPT_MAX: usize = 4;

/// Unpacked kernels in a directory of their own.
#[derive(Debug, Clone)]
pub struct Kernels {
    dir: PathBuf,
}

impl Kernels {
    /// Nothing is done before the first kernel is asked for.
    pub fn new(dir: PathBuf) -> Kernels {
        Kernels { dir }
    }

    /// The file to boot for `kernel`: unpacked, now or before, or the same where that can't be.
    pub fn bootable(&self, kernel: &Path) -> PathBuf {
        self.unpacked(kernel).unwrap_or_else(|error| {
            tracing::warn!(kernel = %kernel.display(), %error, "booting a kernel without unpacking it");
            kernel.to_owned()
        })
    }

    fn unpacked(&self, kernel: &Path) -> io::Result<PathBuf> {
        let packed = fs::metadata(kernel)?;
        // The file as it is now: another content has another time or another inode.
        let name = format!(
            "{:x}-{:x}-{:x}-{:x}.{:x}",
            packed.dev(),
            packed.ino(),
            packed.size(),
            packed.mtime(),
            packed.mtime_nsec()
        );
        let path = self.dir.join(name);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(file) => {
                file.set_times(FileTimes::new().set_modified(SystemTime::now()))?;
                // An empty one is the note that it can't be unpacked.
                return Ok(if file.metadata()?.len() == 0 {
                    kernel.to_owned()
                } else {
                    path
                });
            }
        }
        let unpacked = unpack(&fs::read(kernel)?).unwrap_or_default();
        self.keep(&path, &unpacked)?;
        Ok(if unpacked.is_empty() {
            kernel.to_owned()
        } else {
            path
        })
    }

    fn keep(&self, path: &Path, unpacked: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        boira_files::replace(path, unpacked, 0o644)?;
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Another start's may have got its name meanwhile.
            if let Ok(metadata) = entry.metadata() {
                kept.push((metadata.modified()?, entry.path()));
            }
        }
        kept.sort();
        let excess = kept.len().saturating_sub(KEPT_MAX);
        // A guest that is starting has its kernel open already.
        kept[..excess]
            .iter()
            .try_for_each(|(_, path)| fs::remove_file(path))
    }
}

/// The ELF file in a compressed kernel image, if it is one that can be booted.
fn unpack(image: &[u8]) -> Option<Vec<u8>> {
    let payload = payload(image)?;
    let (blocks, size) = payload.split_at_checked(payload.len().checked_sub(4)?)?;
    let size = u32_at(size, 0)? as usize;
    if size > UNPACKED_BYTES_MAX || u32_at(blocks, 0)? != LZ4_LEGACY_MAGIC {
        return None;
    }
    let mut rest = &blocks[4..];
    let mut unpacked = Vec::with_capacity(size);
    let mut block = vec![0; LZ4_BLOCK_BYTES_MAX];
    while !rest.is_empty() {
        let (packed, after) = rest.get(4..)?.split_at_checked(u32_at(rest, 0)? as usize)?;
        let length = lz4_flex::block::decompress_into(packed, &mut block).ok()?;
        unpacked.extend_from_slice(&block[..length]);
        if unpacked.len() > size {
            return None;
        }
        rest = after;
    }
    (unpacked.len() == size && has_pvh_entry(&unpacked)).then_some(unpacked)
}

/// The compressed part of an image by Linux's boot protocol 2.08 or later.
fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(0x202..0x206)? != b"HdrS" || u16_at(image, 0x206)? < 0x0208 {
        return None;
    }
    let setup_sectors = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + u32_at(image, 0x248)? as usize;
    image.get(start..)?.get(..u32_at(image, 0x24c)? as usize)
}

/// Whether a 64-bit ELF file says where to enter it by PVH.
fn has_pvh_entry(elf: &[u8]) -> bool {
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        return false;
    }
    let headers = || {
        let (start, size) = (u64_at(elf, 0x20)?, usize::from(u16_at(elf, 0x36)?));
        let all = elf
            .get(start..)?
            .get(..size.checked_mul(usize::from(u16_at(elf, 0x38)?))?)?;
        Some(all.chunks_exact(size.max(1)))
    };
    let notes = |header: &[u8]| {
        let is_note = u32_at(header, 0) == Some(PT_NOTE);
        is_note
            .then(|| {
                elf.get(u64_at(header, 0x08)?..)?
                    .get(..u64_at(header, 0x20)?)
            })
            .flatten()
    };
    headers()
        .is_some_and(|mut headers| headers.any(|header| notes(header).is_some_and(tells_pvh_entry)))
}

/// Whether the entry is among the notes of a segment.
fn tells_pvh_entry(mut notes: &[u8]) -> bool {
    let mut next = || {
        let (name, content) = (u32_at(notes, 0)? as usize, u32_at(notes, 4)? as usize);
        let kind = u32_at(notes, 8)?;
        let is_xen = notes.get(12..)?.get(..name)? == b"Xen\0";
        notes = notes.get(12 + name.next_multiple_of(4) + content.next_multiple_of(4)..)?;
        Some(is_xen && kind == PVH_NOTE)
    };
    std::iter::from_fn(&mut next).any(|found| found)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with one segment of notes, and `filling` bytes.
    fn elf(note: u32, filling: usize) -> Vec<u8> {
        let mut elf = vec![0; 0x40 + 0x38];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20..0x28].copy_from_slice(&0x40_u64.to_le_bytes());
        elf[0x36..0x38].copy_from_slice(&0x38_u16.to_le_bytes());
        elf[0x38..0x3a].copy_from_slice(&1_u16.to_le_bytes());
        let notes: Vec<u8> = [
            (5_u32, &b"GNU\0"[..], &b"123"[..]),
            (note, b"Xen\0", &[0; 8]),
        ]
        .iter()
        .flat_map(|(kind, name, content)| {
            let mut bytes = [name.len() as u32, content.len() as u32, *kind]
                .map(u32::to_le_bytes)
                .concat();
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        })
        .collect();
        elf[0x40..0x44].copy_from_slice(&PT_NOTE.to_le_bytes());
        elf[0x48..0x50].copy_from_slice(&((0x40 + 0x38) as u64).to_le_bytes());
        elf[0x60..0x68].copy_from_slice(&(notes.len() as u64).to_le_bytes());
        elf.extend(notes);
        elf.extend((0..filling).map(|n| (n / 7) as u8));
        elf
    }

    /// A kernel image around it.
    fn image(elf: &[u8]) -> Vec<u8> {
        let mut payload = LZ4_LEGACY_MAGIC.to_le_bytes().to_vec();
        for block in elf.chunks(LZ4_BLOCK_BYTES_MAX) {
            let packed = lz4_flex::block::compress(block);
            payload.extend((packed.len() as u32).to_le_bytes());
            payload.extend(packed);
        }
        payload.extend((elf.len() as u32).to_le_bytes());
        let mut image = vec![0; 0x600];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&0x200_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend(payload);
        image.extend([0xaa; 100]);
        image
    }

    #[test]
    fn a_kernel_comes_out_as_it_went_in_once_and_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let kernels = Kernels::new(dir.path().join("kernels"));
        let path = dir.path().join("vmlinuz");
        let content = elf(PVH_NOTE, 9 << 20);
        fs::write(&path, image(&content)).unwrap();
        let unpacked = kernels.bootable(&path);
        assert!(fs::read(&unpacked).unwrap() == content);
        assert_eq!(fs::metadata(&unpacked).unwrap().mode() & 0o777, 0o644);
        let inode = fs::metadata(&unpacked).unwrap().ino();
        assert_eq!(kernels.bootable(&path), unpacked);
        assert_eq!(
            fs::metadata(&unpacked).unwrap().ino(),
            inode,
            "not written twice"
        );
    }

    #[test]
    fn what_cant_be_unpacked_boots_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let kernels = Kernels::new(dir.path().join("kernels"));
        let good = image(&elf(PVH_NOTE, 1000));
        let mut wrong_size = good.clone();
        let size_at = good.len() - 100 - 4;
        wrong_size[size_at] ^= 1;
        let mut bomb = good.clone();
        bomb[size_at..size_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let wrong = [
            image(&elf(PVH_NOTE + 1, 1000)),
            image(b"no ELF file at all"),
            good[..good.len() - 200].to_vec(),
            wrong_size,
            bomb,
            b"no kernel".to_vec(),
            Vec::new(),
        ];
        for (number, kernel) in wrong.iter().enumerate() {
            let path = dir.path().join(format!("vmlinuz-{number}"));
            fs::write(&path, kernel).unwrap();
            assert_eq!(kernels.bootable(&path), path);
            assert_eq!(
                kernels.bootable(&path),
                path,
                "{number}, and it is known now"
            );
        }
        let missing = dir.path().join("missing");
        assert_eq!(kernels.bootable(&missing), missing);
        assert!(fs::read_dir(dir.path().join("kernels")).unwrap().count() <= KEPT_MAX);
    }

    #[test]
    fn no_mangled_kernel_is_more_than_refused() {
        let good = image(&elf(PVH_NOTE, 300));
        for at in 0..good.len() {
            let mut mangled = good.clone();
            for value in [0, 1, 0x7f, 0xff] {
                mangled[at] = value;
                if let Some(unpacked) = unpack(&mangled) {
                    assert!(has_pvh_entry(&unpacked));
                }
            }
            assert_eq!(unpack(&good[..at]).is_some(), at >= good.len() - 100);
        }
    }
}
