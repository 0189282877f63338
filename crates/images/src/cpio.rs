//! Writes the "newc" cpio archives that Linux unpacks as its ramdisk.
//!
//! The format is `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel:
//! a header of ASCII hexadecimal fields, the name, the data, each padded to four bytes.

const TYPE_FILE: u32 = 0o100_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_LINK: u32 = 0o120_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;

/// A ramdisk in the making. Parent directories must be added before what they contain.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    pub(crate) fn directory(&mut self, name: &str) {
        self.entry(name, TYPE_DIRECTORY | 0o755, (0, 0), &[]);
    }

    pub(crate) fn file(&mut self, name: &str, permissions: u32, data: &[u8]) {
        self.entry(name, TYPE_FILE | permissions, (0, 0), data);
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) {
        self.entry(name, TYPE_LINK | 0o777, (0, 0), target.as_bytes());
    }

    pub(crate) fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, TYPE_CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// Closes the archive and gives its bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), data: &[u8]) {
        self.inode += 1;
        let links = if mode & TYPE_DIRECTORY == TYPE_DIRECTORY {
            2
        } else {
            1
        };
        let size = u32::try_from(data.len()).expect("files of a ramdisk are far below 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_headers_names_and_data_padded_to_four_bytes() {
        let mut archive = Archive::default();
        archive.file("ab", 0o644, b"hello");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081a4", "mode");
        assert_eq!(&bytes[54..62], b"00000005", "size");
        assert_eq!(
            &bytes[94..102],
            b"00000003",
            "size of the name with its NUL"
        );
        assert_eq!(&bytes[110..113], b"ab\0");
        assert_eq!(&bytes[116..121], b"hello");
        assert_eq!(&bytes[124..130], b"070701", "the trailer is aligned");
        assert_eq!(bytes.len() % 4, 0);
    }
}
