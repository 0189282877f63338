//! Encryption at rest: AES-256-GCM, a fresh key for every content, which is kept wrapped by the master
//! key or by a key of the client's.
//!
//! A block is sealed with its number as nonce, which no other block of its key has; its tag lies beside
//! its checksum, so that bytes keep their places. The wrapped key is bound to its content's number.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub const KEY_BYTES: usize = 32;
pub const TAG_BYTES: usize = 16;

/// Whose key a content's key is wrapped by: the first byte of what is kept.
const BY_MASTER: u8 = 1;
const BY_CUSTOMER: u8 = 2;

/// A key of 256 bits, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system has random numbers");
    bytes
}

impl Key {
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Tells keys apart without saying what they are.
    pub fn check(&self) -> String {
        let digest = Sha256::new()
            .chain_update("boira SSE-C")
            .chain_update(self.0);
        hex::encode(&digest.finalize()[..16])
    }

    /// In base64, as clients name it.
    pub fn md5(&self) -> String {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(self.0))
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &self.0).expect("it has the length of such a key");
        LessSafeKey::new(key)
    }

    fn wrap(&self, by: u8, content: i64, key: &Key) -> Vec<u8> {
        let nonce = random::<NONCE_LEN>();
        let mut wrapped = key.0.to_vec();
        self.cipher()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(content.to_le_bytes()),
                &mut wrapped,
            )
            .expect("it is short");
        [&[by][..], &nonce, &wrapped].concat()
    }

    fn unwrap(&self, content: i64, wrapped: &[u8]) -> Option<Key> {
        let (nonce, sealed) = wrapped.get(1..)?.split_at_checked(NONCE_LEN)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let aad = Aad::from(content.to_le_bytes());
        let key = self.cipher().open_in_place(nonce, aad, &mut sealed).ok()?;
        Key::of(key)
    }
}

/// How the bytes of a new content are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    Open,
    Master,
    Customer(Key),
}

impl Lock {
    /// The client's.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Customer(key) => Some(key),
            Self::Open | Self::Master => None,
        }
    }
}

/// The key that wraps others, from a file of its own.
pub struct Master(Key);

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error("{0} is no master key: 64 hexadecimal digits are")]
    Malformed(PathBuf),
    #[error("{0} isn't there: restore the key there and start again")]
    Missing(PathBuf),
    #[error(
        "{0} is another key than the one that encrypted objects were written with: restore that one and start again"
    )]
    Another(PathBuf),
}

impl MasterError {
    /// What that means, for who looks after the store.
    pub fn consequence(&self) -> String {
        format!("objects that the master key encrypts can't be read or written: {self}")
    }
}

impl Master {
    /// Reads the file; makes it, durably, if that is wished and nothing needs the one that was there.
    /// `needed` are contents whose keys were wrapped by it.
    pub fn open(
        path: &Path,
        make_it: bool,
        needed: &[(i64, Vec<u8>)],
    ) -> Result<Self, MasterError> {
        let failed = |error| MasterError::Io(path.to_owned(), error);
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Err(_) if make_it && needed.is_empty() => {
                let key = Key(random());
                boira_files::replace(path, hex::encode(key.0).as_bytes(), 0o600).map_err(failed)?;
                return Ok(Self(key));
            }
            Err(_) => return Err(MasterError::Missing(path.to_owned())),
        };
        let key = hex::decode(text.trim())
            .ok()
            .and_then(|bytes| Key::of(&bytes));
        let key = key.ok_or_else(|| MasterError::Malformed(path.to_owned()))?;
        let opens = |(content, wrapped): &(i64, Vec<u8>)| key.unwrap(*content, wrapped).is_some();
        match needed.is_empty() || needed.iter().any(opens) {
            true => Ok(Self(key)),
            false => Err(MasterError::Another(path.to_owned())),
        }
    }

    /// Whether a content's key was wrapped by a master key.
    pub fn wrapped(wrapped: &[u8]) -> bool {
        wrapped.first() == Some(&BY_MASTER)
    }
}

/// Seals and opens the blocks of one content.
pub struct Blocks(LessSafeKey);

impl Blocks {
    /// For a new content, with its key, wrapped: by the client's key, or else by the master's.
    pub fn new(by: Result<&Key, &Master>, content: i64) -> (Self, Vec<u8>) {
        let key = Key(random());
        let wrapped = match by {
            Ok(own) => own.wrap(BY_CUSTOMER, content, &key),
            Err(master) => master.0.wrap(BY_MASTER, content, &key),
        };
        (Self(key.cipher()), wrapped)
    }

    /// For a content that is there. `None` if no key at hand opens it.
    pub fn of(
        wrapped: &[u8],
        master: Option<&Master>,
        own: Option<&Key>,
        content: i64,
    ) -> Option<Self> {
        let by = match wrapped.first() {
            Some(&BY_MASTER) => &master?.0,
            Some(&BY_CUSTOMER) => own?,
            _ => return None,
        };
        Some(Self(by.unwrap(content, wrapped)?.cipher()))
    }

    pub fn seal(&self, index: u64, block: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(index), Aad::empty(), block)
            .expect("a block is short");
        tag.as_ref().try_into().expect("its length")
    }

    pub fn open(&self, index: u64, block: &mut [u8], tag: &[u8]) -> bool {
        let Ok(tag) = Tag::try_from(tag) else {
            return false;
        };
        self.0
            .open_in_place_separate_tag(nonce(index), Aad::empty(), tag, block, 0..)
            .is_ok()
    }
}

fn nonce(index: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_opens_the_right_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let master = Master::open(&path, true, &[]).unwrap();
        let own = Key::of(&[7; 32]).unwrap();
        for by in [Err(&master), Ok(&own)] {
            let (blocks, wrapped) = Blocks::new(by, 5);
            let again = Master::open(&path, true, &[]).unwrap();
            let mut block = *b"some bytes";
            let tag = blocks.seal(3, &mut block);
            assert_ne!(&block, b"some bytes");
            let opener = |content, key| Blocks::of(&wrapped, Some(&again), key, content);
            assert!(opener(6, Some(&own)).is_none(), "another content");
            let blocks = opener(5, Some(&own)).unwrap();
            assert!(!blocks.open(2, &mut block.clone(), &tag), "another place");
            assert!(!blocks.open(3, &mut block.clone(), &[0; TAG_BYTES]));
            assert!(blocks.open(3, &mut block, &tag));
            assert_eq!(&block, b"some bytes");
        }
        let (_, wrapped) = Blocks::new(Ok(&own), 5);
        assert!(Blocks::of(&wrapped, Some(&master), None, 5).is_none());
        assert!(Blocks::of(&wrapped, None, Key::of(&[8; 32]).as_ref(), 5).is_none());
        assert_eq!(format!("{own:?}"), "Key(…)");
    }

    #[test]
    fn a_master_key_is_what_it_should_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let (_, wrapped) = Blocks::new(Err(&Master::open(&path, true, &[]).unwrap()), 5);
        let needed = [(6, wrapped.clone()), (5, wrapped)];
        assert!(Master::open(&path, true, &needed).is_ok());
        fs::remove_file(&path).unwrap();
        assert!(matches!(
            Master::open(&path, true, &needed),
            Err(MasterError::Missing(_))
        ));
        let asked = Master::open(&path, false, &[]);
        assert!(
            matches!(asked, Err(MasterError::Missing(_))),
            "not where it is kept elsewhere"
        );
        Master::open(&path, true, &[]).unwrap();
        assert!(matches!(
            Master::open(&path, true, &needed),
            Err(MasterError::Another(_))
        ));
        fs::write(&path, "short").unwrap();
        assert!(matches!(
            Master::open(&path, true, &[]),
            Err(MasterError::Malformed(_))
        ));
    }
}
