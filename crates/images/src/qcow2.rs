//! A reader of qcow2 headers that accepts only images which stand alone.
//!
//! The layout is QEMU's `docs/interop/qcow2.txt`. Limits are those that QEMU itself enforces
//! (`block/qcow2.h`), so that an image accepted here is also one that QEMU opens.

use crate::error::Result;
use crate::inspect::{MAX_VIRTUAL_SIZE_BYTES, refuse};

pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

const VERSION_2_HEADER_BYTES: u64 = 72;
const VERSION_3_HEADER_BYTES: u64 = 104;
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
const L1_ENTRY_BYTES: u64 = 8;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

const END_OF_EXTENSIONS: u32 = 0;
const BACKING_FORMAT: u32 = 0xE279_2ACA;
const FEATURE_NAMES: u32 = 0x6803_F857;
const BITMAPS: u32 = 0x2385_2875;
const ENCRYPTION: u32 = 0x0537_BE77;
const DATA_FILE_NAME: u32 = 0x4441_5441;

/// The virtual size of an image whose header breaks no rule. `head` is the beginning of the
/// file (64 KiB, or all of a smaller file), `length` the size of the whole file.
pub(crate) fn virtual_size(head: &[u8], length: u64) -> Result<u64> {
    let header = Header::read(head)?;
    header.check_dependencies()?;
    header.check_geometry(length)?;
    header.check_extensions(head)?;
    Ok(header.size)
}

struct Header {
    backing_offset: u64,
    backing_size: u32,
    cluster_bits: u32,
    size: u64,
    encryption: u32,
    l1_entries: u32,
    l1_offset: u64,
    refcount_offset: u64,
    refcount_clusters: u32,
    snapshots: u32,
    incompatible: u64,
    refcount_order: u32,
    header_bytes: u64,
    compression: u8,
}

impl Header {
    fn read(head: &[u8]) -> Result<Self> {
        let Some(old) = head.first_chunk::<72>() else {
            return refuse("the qcow2 header is cut off");
        };
        let mut header = Self {
            backing_offset: be64(old, 8),
            backing_size: be32(old, 16),
            cluster_bits: be32(old, 20),
            size: be64(old, 24),
            encryption: be32(old, 32),
            l1_entries: be32(old, 36),
            l1_offset: be64(old, 40),
            refcount_offset: be64(old, 48),
            refcount_clusters: be32(old, 56),
            snapshots: be32(old, 60),
            incompatible: 0,
            refcount_order: 4,
            header_bytes: VERSION_2_HEADER_BYTES,
            compression: 0,
        };
        match be32(old, 4) {
            2 => Ok(header),
            3 => {
                let Some(new) = head.first_chunk::<104>() else {
                    return refuse("the qcow2 header is cut off");
                };
                header.incompatible = be64(new, 72);
                header.refcount_order = be32(new, 96);
                header.header_bytes = be32(new, 100).into();
                if header.header_bytes > VERSION_3_HEADER_BYTES {
                    header.compression = head.get(104).copied().unwrap_or(0);
                }
                Ok(header)
            }
            version => refuse(&format!(
                "qcow version {version} is not supported: only versions 2 and 3 of qcow2 are"
            )),
        }
    }

    /// Nothing of the image may lie outside of its file or need more than its file.
    fn check_dependencies(&self) -> Result<()> {
        if self.backing_offset != 0 || self.backing_size != 0 {
            return refuse(
                "the qcow2 image has a backing file, and an image must stand alone: flatten it with qemu-img convert first",
            );
        }
        if self.incompatible & EXTERNAL_DATA_FILE != 0 {
            return refuse(
                "the qcow2 image keeps its data in another file, and an image must stand alone",
            );
        }
        if self.encryption != 0 {
            return refuse("the qcow2 image is encrypted");
        }
        if self.incompatible & DIRTY != 0 {
            return refuse(
                "the qcow2 image was not closed cleanly: repair it with qemu-img check -r all first",
            );
        }
        if self.incompatible & CORRUPT != 0 {
            return refuse("the qcow2 image is marked as corrupt");
        }
        if self.incompatible & !(COMPRESSION_TYPE | EXTENDED_L2) != 0 {
            return refuse("the qcow2 image uses features that are unknown here");
        }
        if self.snapshots != 0 {
            return refuse(
                "the qcow2 image has internal snapshots, which would be lost: delete them first",
            );
        }
        let wanted_compression = if self.incompatible & COMPRESSION_TYPE == 0 {
            0
        } else {
            1
        };
        if self.compression != wanted_compression {
            return refuse("the qcow2 image names a compression that is unknown here");
        }
        Ok(())
    }

    /// Sizes are sane and the tables lie inside the file.
    fn check_geometry(&self, length: u64) -> Result<()> {
        let smallest = if self.incompatible & EXTENDED_L2 == 0 {
            9
        } else {
            14
        };
        if !(smallest..=21).contains(&self.cluster_bits) {
            return refuse("the qcow2 image has an invalid cluster size");
        }
        if self.size == 0 || self.size > MAX_VIRTUAL_SIZE_BYTES || !self.size.is_multiple_of(512) {
            return refuse("the qcow2 image has an invalid disk size");
        }
        if self.refcount_order > 6 {
            return refuse("the qcow2 image has an invalid width of reference counts");
        }
        let cluster = 1_u64 << self.cluster_bits;
        let inside = |offset: u64, bytes: u64| {
            offset != 0
                && offset.is_multiple_of(cluster)
                && offset.checked_add(bytes).is_some_and(|end| end <= length)
        };
        let l1_bytes = u64::from(self.l1_entries) * L1_ENTRY_BYTES;
        let l2_entry_bytes = if self.incompatible & EXTENDED_L2 == 0 {
            8
        } else {
            16
        };
        let bytes_per_l1_entry = cluster * (cluster / l2_entry_bytes);
        let needed = self.size.div_ceil(bytes_per_l1_entry);
        if u64::from(self.l1_entries) < needed
            || l1_bytes > MAX_L1_BYTES
            || !inside(self.l1_offset, l1_bytes)
        {
            return refuse("the qcow2 image's first-level table does not fit its disk or its file");
        }
        let refcount_bytes = u64::from(self.refcount_clusters) * cluster;
        if refcount_bytes == 0
            || refcount_bytes > MAX_REFCOUNT_TABLE_BYTES
            || !inside(self.refcount_offset, refcount_bytes)
        {
            return refuse("the qcow2 image's reference counts do not fit its file");
        }
        Ok(())
    }

    /// Walks the header extensions, of which only harmless ones pass.
    fn check_extensions(&self, head: &[u8]) -> Result<()> {
        let cluster = 1_u64 << self.cluster_bits;
        let long_enough = self.header_bytes == VERSION_2_HEADER_BYTES
            || self.header_bytes >= VERSION_3_HEADER_BYTES;
        if !long_enough || !self.header_bytes.is_multiple_of(8) || self.header_bytes > cluster {
            return refuse("the qcow2 header has an invalid length");
        }
        // Extensions lie in the first cluster; no real ones are longer than what was read.
        let mut rest = head.get(self.header_bytes as usize..).unwrap_or_default();
        if let Ok(cluster) = usize::try_from(cluster - self.header_bytes) {
            rest = &rest[..rest.len().min(cluster)];
        }
        while let Some(start) = rest.first_chunk::<8>() {
            match be32(start, 0) {
                END_OF_EXTENSIONS => return Ok(()),
                FEATURE_NAMES | BITMAPS => (),
                BACKING_FORMAT => {
                    return refuse(
                        "the qcow2 image names a backing format, and an image must stand alone",
                    );
                }
                DATA_FILE_NAME => {
                    return refuse(
                        "the qcow2 image names a data file, and an image must stand alone",
                    );
                }
                ENCRYPTION => return refuse("the qcow2 image is encrypted"),
                kind => {
                    return refuse(&format!(
                        "the qcow2 header has an unknown extension {kind:#x}"
                    ));
                }
            }
            let bytes = (be32(start, 4) as usize).checked_next_multiple_of(8);
            let Some(next) = bytes.and_then(|bytes| rest[8..].get(bytes..)) else {
                return refuse("a qcow2 header extension does not fit its cluster");
            };
            rest = next;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            refuse("the qcow2 header extensions have no end")
        }
    }
}

/// Big-endian numbers of a header whose length the caller has checked.
fn be32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn be64<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|index| bytes[at + index]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A minimal image: one 64 KiB cluster each for header, reference table, and L1 table.
    fn image() -> Vec<u8> {
        let mut image = vec![0; 4 << 16];
        put(&mut image, 0, &MAGIC);
        put(&mut image, 4, &3_u32.to_be_bytes());
        put(&mut image, 20, &16_u32.to_be_bytes());
        put(&mut image, 24, &(1_u64 << 30).to_be_bytes());
        put(&mut image, 36, &2_u32.to_be_bytes());
        put(&mut image, 40, &(3_u64 << 16).to_be_bytes());
        put(&mut image, 48, &(1_u64 << 16).to_be_bytes());
        put(&mut image, 56, &1_u32.to_be_bytes());
        put(&mut image, 96, &4_u32.to_be_bytes());
        put(&mut image, 100, &104_u32.to_be_bytes());
        image
    }

    fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn changed(at: usize, bytes: &[u8]) -> std::result::Result<u64, String> {
        let mut image = image();
        put(&mut image, at, bytes);
        virtual_size(&image, image.len() as u64).map_err(|error| error.to_string())
    }

    #[test]
    fn an_image_that_stands_alone_is_accepted() {
        assert_eq!(changed(0, &MAGIC), Ok(1 << 30));
        assert_eq!(
            changed(4, &2_u32.to_be_bytes()),
            Ok(1 << 30),
            "version 2, no features"
        );
    }

    #[test]
    fn each_field_that_leads_elsewhere_or_nowhere_is_refused() {
        let cases: &[(&str, usize, &[u8])] = &[
            ("backing file", 8, &0x200_u64.to_be_bytes()),
            ("backing file", 16, &11_u32.to_be_bytes()),
            ("another file", 72, &4_u64.to_be_bytes()),
            ("encrypted", 32, &2_u32.to_be_bytes()),
            ("cleanly", 72, &1_u64.to_be_bytes()),
            ("corrupt", 72, &2_u64.to_be_bytes()),
            ("unknown here", 72, &(1_u64 << 40).to_be_bytes()),
            ("compression", 72, &8_u64.to_be_bytes()),
            ("snapshots", 60, &1_u32.to_be_bytes()),
            ("cluster size", 20, &63_u32.to_be_bytes()),
            ("cluster size", 20, &8_u32.to_be_bytes()),
            ("disk size", 24, &u64::MAX.to_be_bytes()),
            ("disk size", 24, &0_u64.to_be_bytes()),
            ("first-level", 36, &1_u32.to_be_bytes()),
            ("first-level", 36, &u32::MAX.to_be_bytes()),
            ("first-level", 40, &(u64::MAX << 16).to_be_bytes()),
            ("first-level", 40, &(4_u64 << 16).to_be_bytes()),
            ("reference counts do", 48, &(9_u64 << 16).to_be_bytes()),
            ("reference counts do", 56, &0_u32.to_be_bytes()),
            ("width", 96, &7_u32.to_be_bytes()),
            ("invalid length", 100, &(1_u32 << 20).to_be_bytes()),
            ("invalid length", 100, &8_u32.to_be_bytes()),
            ("version 1", 4, &1_u32.to_be_bytes()),
            ("data file", 104, b"DATA\0\0\0\x0b/etc/shadow"),
            ("backing format", 104, b"\xe2\x79\x2a\xca\0\0\0\x03raw"),
            ("encrypted", 104, b"\x05\x37\xbe\x77\0\0\0\x10"),
            ("unknown extension", 104, b"\x01\x02\x03\x04\0\0\0\0"),
            ("does not fit", 104, b"\x68\x03\xf8\x57\xff\xff\xff\xff"),
        ];
        for (reason, at, bytes) in cases {
            let verdict = changed(*at, bytes);
            assert!(
                verdict.as_ref().is_err_and(|error| error.contains(reason)),
                "{reason} at {at}: {verdict:?}"
            );
        }
    }

    #[test]
    fn a_data_file_behind_a_harmless_extension_is_found() {
        let mut image = image();
        put(
            &mut image,
            104,
            b"\x68\x03\xf8\x57\0\0\0\x05names\0\0\0DATA\0\0\0\x04/etc",
        );
        assert!(
            virtual_size(&image, image.len() as u64)
                .unwrap_err()
                .to_string()
                .contains("data file")
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), length in any::<u64>()) {
            let mut head = MAGIC.to_vec();
            head.extend(bytes);
            let _ = virtual_size(&head, length);
        }

        #[test]
        fn no_change_of_a_valid_header_makes_the_reader_panic(
            changes in proptest::collection::vec((4_usize..200, any::<u8>()), 1..12),
            cut in 0_usize..300,
        ) {
            let mut image = image();
            for (at, byte) in changes {
                image[at] = byte;
            }
            let _ = virtual_size(&image, image.len() as u64);
            let _ = virtual_size(&image[..cut], cut as u64);
        }
    }
}
