//! The computers that run guests.

use crate::{HostId, Tags, Wall};
use serde::{Deserialize, Serialize};

/// An availability zone. Zone ids are the same for every account here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Zone {
    pub name: String,
    pub id: String,
    pub number: u64,
    #[serde(default)]
    pub packing: Packing,
}

/// How a zone's hosts are filled, as OpenNebula names the two policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// The host with the least memory left that has room: few hosts busy, the others free to rest.
    Packing,
    /// The host with the most memory left: load spread evenly.
    #[default]
    Striping,
}

/// How guests run on a host, with the words that explain the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceleration {
    /// True where the CPU runs guests itself, false where they are translated.
    pub hardware: bool,
    pub verdict: String,
}

/// What a host can give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCapacity {
    pub cpus: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// Memory that a host's hypervisor needs beside a guest's own: from so many bytes of the guest's
/// memory on, so many more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overhead(pub Vec<(u64, u64)>);

impl Overhead {
    /// For a guest of this size, in bytes.
    pub fn of(&self, memory_bytes: u64) -> u64 {
        let mut steps = self.0.iter().rev();
        let step = steps.find(|(from_bytes, _)| *from_bytes <= memory_bytes);
        step.map_or(0, |(_, bytes)| *bytes)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub id: HostId,
    pub number: u64,
    pub name: String,
    pub zone: String,
    pub capacity: HostCapacity,
    pub acceleration: Acceleration,
    /// Versioned machine type that a guest launched here gets for life.
    pub machine: String,
    /// Named CPU model that a guest launched here gets for life.
    pub cpu: String,
    #[serde(default)]
    pub overhead: Overhead,
    /// SHA-256 of the certificate that this host must show, in hex.
    pub certificate: String,
    pub joined: Wall,
    pub tags: Tags,
}
