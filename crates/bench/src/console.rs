//! What a guest's console has said so far, read from the recorder's log beside it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

const MAGIC: &[u8] = b"BOIRALOG";
const HEADER_BYTES: usize = 24;

/// Whether it has said anything. Looked at often, so only the header is read: what a bench does beside a
/// guest, the guest does later.
pub fn has_spoken(log: &Path) -> bool {
    let mut header = [0; HEADER_BYTES];
    let read = File::open(log).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok() && header.starts_with(MAGIC) && header[8..16] != [0; 8]
}

/// The bytes since the guest's start, as long as the log's ring has not come round.
pub fn bytes(log: &Path) -> Vec<u8> {
    let mut file = std::fs::read(log).unwrap_or_default();
    if file.len() < HEADER_BYTES || !file.starts_with(MAGIC) {
        return Vec::new();
    }
    let count = u64::from_le_bytes(file[8..16].try_into().expect("eight bytes are eight bytes"));
    let mut said = file.split_off(HEADER_BYTES);
    said.truncate(count.try_into().unwrap_or(usize::MAX));
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_yet_counted_was_not_yet_said() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("console.log");
        assert_eq!(bytes(&log), b"");
        assert!(!has_spoken(&log));
        let mut file = MAGIC.to_vec();
        file.extend(2_u64.to_le_bytes());
        file.extend(0_u64.to_le_bytes());
        file.extend(b"boot");
        std::fs::write(&log, file).unwrap();
        assert_eq!(bytes(&log), b"bo");
        assert!(has_spoken(&log));
    }
}
