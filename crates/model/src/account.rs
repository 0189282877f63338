//! Who may ask: accounts, their access keys, and the SSH keys they give to instances.

use crate::{AccountId, KeyPairId, Tags, VpcId, Wall};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub id: AccountId,
    pub number: u64,
    pub name: String,
    /// May use Boira's own administrative API.
    pub admin: bool,
    pub default_vpc: VpcId,
    pub created: Wall,
}

/// An access key. `Debug` hides the secret so that it can't reach a log.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct AccessKey {
    pub id: String,
    pub owner: AccountId,
    pub secret: String,
    pub created: Wall,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey({} of {})", self.id, self.owner)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyKind {
    Rsa,
    Ed25519,
}

/// The public half of an SSH key; the private half is never kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyPair {
    pub id: KeyPairId,
    pub number: u64,
    pub owner: AccountId,
    pub name: String,
    pub kind: KeyKind,
    /// As AWS computes it for this kind and origin (see `CreateKeyPair`, `ImportKeyPair`).
    pub fingerprint: String,
    /// One line in OpenSSH's format.
    pub public_key: String,
    pub created: Wall,
    pub tags: Tags,
}
