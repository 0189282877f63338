//! Copies files without filling their holes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

const BLOCK_BYTES: usize = 64 << 10;

/// Copies all of `from` to the empty file `to`, leaving holes where blocks are zero, and gives
/// the number of bytes, holes included.
pub(crate) fn copy(from: &mut File, to: &mut File) -> io::Result<u64> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut length = 0;
    loop {
        let filled = read_block(from, &mut block)?;
        if filled == 0 {
            break;
        }
        if block[..filled].iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(length))?;
            to.write_all(&block[..filled])?;
        }
        length += filled as u64;
    }
    to.set_len(length)?;
    Ok(length)
}

fn read_block(from: &mut File, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match from.read(&mut block[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn holes_stay_holes_and_bytes_stay_bytes() {
        let mut from = tempfile::tempfile().unwrap();
        from.set_len(8 << 20).unwrap();
        from.seek(SeekFrom::Start(5 << 20)).unwrap();
        from.write_all(b"data").unwrap();
        from.rewind().unwrap();
        let mut to = tempfile::tempfile().unwrap();
        assert_eq!(copy(&mut from, &mut to).unwrap(), 8 << 20);
        let metadata = to.metadata().unwrap();
        assert_eq!(metadata.len(), 8 << 20);
        assert!(
            metadata.blocks() * 512 < 1 << 20,
            "{} blocks",
            metadata.blocks()
        );
        let mut text = [0; 4];
        to.seek(SeekFrom::Start(5 << 20)).unwrap();
        to.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"data");
    }
}
