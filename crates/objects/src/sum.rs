//! Checksums that clients send and ask for (AWS, "Checking object integrity for data uploads"): what
//! each is called, how it is computed, and how those of parts make one of an object.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use serde::{Deserialize, Serialize};
use sha1::Digest as _;

/// An algorithm of `x-amz-checksum-algorithm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    #[serde(rename = "CRC32")]
    Crc32,
    #[serde(rename = "CRC32C")]
    Crc32c,
    #[serde(rename = "CRC64NVME")]
    Crc64Nvme,
    #[serde(rename = "SHA1")]
    Sha1,
    #[serde(rename = "SHA256")]
    Sha256,
}

/// What of an object a checksum covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Covers {
    /// All its bytes.
    #[serde(rename = "FULL_OBJECT")]
    FullObject,
    /// The checksums of its parts.
    #[serde(rename = "COMPOSITE")]
    Composite,
}

/// A checksum of an object or of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    #[serde(rename = "a")]
    pub algorithm: Algorithm,
    #[serde(rename = "c")]
    pub covers: Covers,
    /// In base64; a composite one is followed by `-` and the number of parts.
    #[serde(rename = "v")]
    pub value: String,
}

impl Algorithm {
    pub const ALL: [Algorithm; 5] = [
        Algorithm::Crc32,
        Algorithm::Crc32c,
        Algorithm::Crc64Nvme,
        Algorithm::Sha1,
        Algorithm::Sha256,
    ];

    /// As in `x-amz-checksum-algorithm`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "CRC32",
            Algorithm::Crc32c => "CRC32C",
            Algorithm::Crc64Nvme => "CRC64NVME",
            Algorithm::Sha1 => "SHA1",
            Algorithm::Sha256 => "SHA256",
        }
    }

    /// The header, or the trailer, that carries the value.
    pub fn header(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "x-amz-checksum-crc32",
            Algorithm::Crc32c => "x-amz-checksum-crc32c",
            Algorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Algorithm::Sha1 => "x-amz-checksum-sha1",
            Algorithm::Sha256 => "x-amz-checksum-sha256",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        let found = |algorithm: &Self| algorithm.name().eq_ignore_ascii_case(name);
        Self::ALL.into_iter().find(found)
    }

    pub fn bytes(self) -> usize {
        match self {
            Algorithm::Crc32 | Algorithm::Crc32c => 4,
            Algorithm::Crc64Nvme => 8,
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
        }
    }

    /// How parts' checksums are put together where the client doesn't say.
    pub fn default_of_parts(self) -> Covers {
        match self {
            Algorithm::Crc64Nvme => Covers::FullObject,
            _ => Covers::Composite,
        }
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Algorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Algorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Algorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Algorithm::Sha1 | Algorithm::Sha256 => None,
        }
    }

    /// Whether the checksum of an object can be had from its parts'.
    pub fn covers(self, covers: Covers) -> bool {
        match covers {
            Covers::FullObject => self.crc().is_some(),
            Covers::Composite => self != Algorithm::Crc64Nvme,
        }
    }
}

/// A checksum that is being computed.
pub enum Digester {
    Crc(crc_fast::Digest, usize),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Digester {
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm.crc() {
            Some(crc) => Digester::Crc(crc_fast::Digest::new(crc), algorithm.bytes()),
            None if algorithm == Algorithm::Sha1 => Digester::Sha1(sha1::Sha1::new()),
            None => Digester::Sha256(sha2::Sha256::new()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Digester::Crc(digest, _) => digest.update(bytes),
            Digester::Sha1(digest) => digest.update(bytes),
            Digester::Sha256(digest) => digest.update(bytes),
        }
    }

    pub fn finish(self) -> Vec<u8> {
        match self {
            Digester::Crc(digest, bytes) => tail(digest.finalize(), bytes),
            Digester::Sha1(digest) => digest.finalize().to_vec(),
            Digester::Sha256(digest) => digest.finalize().to_vec(),
        }
    }
}

/// The CRC32C of a block, as it is kept beside the bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

impl Sum {
    pub fn of_bytes(algorithm: Algorithm, digest: &[u8]) -> Self {
        Self {
            algorithm,
            covers: Covers::FullObject,
            value: STANDARD.encode(digest),
        }
    }

    /// The checksum of an object from those of its parts, each with its size in bytes. `None` where
    /// they aren't of that algorithm, or can't be put together so.
    pub fn of_parts(algorithm: Algorithm, covers: Covers, parts: &[(&Sum, u64)]) -> Option<Self> {
        let mut digests = Vec::with_capacity(parts.len());
        for (sum, size) in parts {
            let same = sum.algorithm == algorithm;
            digests.push((STANDARD.decode(&sum.value).ok().filter(|_| same)?, *size));
        }
        if covers == Covers::Composite {
            let mut digester = Digester::new(algorithm);
            digests
                .iter()
                .for_each(|(digest, _)| digester.update(digest));
            let value = format!("{}-{}", STANDARD.encode(digester.finish()), parts.len());
            return Some(Self {
                algorithm,
                covers,
                value,
            });
        }
        let crc = algorithm.crc()?;
        let whole = digests
            .iter()
            .map(|(digest, size)| (number(digest), *size))
            .reduce(|(so_far, before), (next, size)| {
                let both = crc_fast::checksum_combine(crc, so_far, next, size);
                (both, before + size)
            });
        let (value, _) = whole?;
        Some(Self::of_bytes(algorithm, &tail(value, algorithm.bytes())))
    }

    /// As GetObjectAttributes tells it: of a composite checksum without the number of parts.
    pub fn without_count(&self) -> Self {
        Self {
            value: self.plain().to_owned(),
            ..self.clone()
        }
    }

    /// Whether a client that names `value` means this one; the number of parts may be left out.
    pub fn is(&self, value: &str) -> bool {
        value == self.value || (self.covers == Covers::Composite && value == self.plain())
    }

    fn plain(&self) -> &str {
        self.value.split('-').next().unwrap_or_default()
    }
}

fn tail(value: u64, bytes: usize) -> Vec<u8> {
    value.to_be_bytes()[8 - bytes..].to_vec()
}

fn number(digest: &[u8]) -> u64 {
    digest
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(algorithm: Algorithm, bytes: &[u8]) -> Sum {
        let mut digester = Digester::new(algorithm);
        digester.update(bytes);
        Sum::of_bytes(algorithm, &digester.finish())
    }

    /// Check values of the CRC catalogue, and of FIPS 180 for "abc".
    #[test]
    fn known_values() {
        for (algorithm, expected) in [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
        ] {
            let found = STANDARD.decode(sum(algorithm, b"123456789").value).unwrap();
            assert_eq!(hex::encode(found), expected);
        }
        let found = STANDARD.decode(sum(Algorithm::Sha1, b"abc").value).unwrap();
        assert_eq!(
            hex::encode(found),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
    }

    #[test]
    fn parts_make_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..9_000u32).map(|n| (n * 7 % 251) as u8).collect();
        let pieces = [&bytes[..4000], &bytes[4000..8000], &bytes[8000..]];
        for algorithm in Algorithm::ALL {
            let sums: Vec<Sum> = pieces.iter().map(|piece| sum(algorithm, piece)).collect();
            let parts: Vec<(&Sum, u64)> = sums
                .iter()
                .zip(pieces)
                .map(|(sum, piece)| (sum, piece.len() as u64))
                .collect();
            let whole = Sum::of_parts(algorithm, Covers::FullObject, &parts);
            assert_eq!(whole.is_some(), algorithm.covers(Covers::FullObject));
            if let Some(whole) = whole {
                assert_eq!(whole, sum(algorithm, &bytes));
            }
            let composite = Sum::of_parts(algorithm, Covers::Composite, &parts).unwrap();
            assert!(composite.value.ends_with("-3"));
            assert!(
                composite.is(&composite.value)
                    && composite.is(&composite.value[..composite.value.len() - 2])
            );
        }
    }
}
