//! What instances are made from.

use crate::{AccountId, ImageId, Tags, Wall};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How a guest of this image starts. Blobs are named by their SHA-256 in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Boot {
    /// From the disk, by the machine's firmware.
    Firmware,
    Kernel {
        kernel: String,
        ramdisk: Option<String>,
        cmdline: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub id: ImageId,
    pub number: u64,
    pub owner: AccountId,
    /// `amazon` for images that the cloud itself provides, as clients filter for that word.
    pub alias: Option<String>,
    pub name: String,
    pub description: String,
    pub architecture: String,
    /// SHA-256 of the root disk's blob in hex.
    pub disk: String,
    /// `qcow2` or `raw`.
    pub format: String,
    /// Size of the disk as the guest sees it.
    pub virtual_bytes: u64,
    pub boot: Boot,
    pub min_memory_bytes: u64,
    pub min_disk_bytes: u64,
    pub root_device: String,
    pub public: bool,
    pub launch_accounts: BTreeSet<AccountId>,
    pub deregistration_protection: bool,
    /// From then on others than the owner find it only by its id.
    #[serde(default)]
    pub deprecated: Option<Wall>,
    /// Bytes that the image's blobs take in the cache.
    pub stored_bytes: u64,
    pub created: Wall,
    pub tags: Tags,
    /// What other accounts that may launch it have tagged it with, each for itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags_of_others: BTreeMap<AccountId, Tags>,
}
