//! The computers that run guests.

use crate::wire::Endpoint;
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// More than any PC has: a host says these figures, and they are added to others.
    const MOST_BYTES: u64 = 1 << 50;

    /// For a guest of this size, in bytes.
    pub fn of(&self, memory_bytes: u64) -> u64 {
        let mut steps = self.0.iter().rev();
        let step = steps.find(|(from_bytes, _)| *from_bytes <= memory_bytes);
        step.map_or(0, |(_, bytes)| (*bytes).min(Self::MOST_BYTES))
    }
}

/// What a PC is, and what it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intake {
    /// The CPU's own name.
    pub cpu: String,
    /// Who made it, as it says itself: `GenuineIntel`; empty where it isn't known.
    #[serde(default)]
    pub cpu_vendor: String,
    /// The level of x86-64 that the CPU reaches, 1 to 4; 0 where it isn't known.
    pub cpu_level: u8,
    /// What the CPU can, as Linux names it.
    #[serde(default)]
    pub flags: String,
    /// With size and kind.
    #[serde(default)]
    pub disks: Vec<String>,
    pub system: String,
    pub kernel: String,
    /// Network interfaces, with their speed.
    pub links: Vec<String>,
    /// `None` for a host that wasn't measured, as one that no other can join.
    pub speed: Option<Speed>,
}

/// What a PC reached in the benchmark at joining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speed {
    /// MiB/s of SHA-256 on one core.
    pub integer_mib_s: u64,
    /// MiB/s copied in memory.
    pub memory_mib_s: u64,
    /// Small writes that the disk makes durable in a second.
    pub disk_syncs_s: u64,
    /// MiB/s written and made durable.
    pub disk_mib_s: u64,
    /// Rounds of a loop (a call, arithmetic, memory) in a second, on one core of the host.
    #[serde(default)]
    pub own_rounds_s: u64,
    /// The same by a guest whose instructions are translated; 0 where it wasn't measured.
    #[serde(default)]
    pub guest_rounds_s: u64,
    pub at: Wall,
}

/// A host's end of the network between hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// Public key, in WireGuard's base64.
    pub key: String,
    /// Where other hosts reach it; `None` behind address translation, where they can't.
    pub endpoint: Option<Endpoint>,
}

/// Whether a host takes part in the cloud.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    #[default]
    Open,
    /// Nothing new is placed here.
    Draining,
    /// Cut off: its certificate opens nothing any more.
    Revoked,
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
    #[serde(default)]
    pub intake: Intake,
    /// `None` while the host has not said how others reach it.
    #[serde(default)]
    pub underlay: Option<Underlay>,
    /// SHA-256, in hex, of the public key that this host's certificate must have, as its
    /// SubjectPublicKeyInfo in DER. A certificate that is renewed keeps the key.
    #[serde(default)]
    pub key: String,
    pub joined: Wall,
    #[serde(default)]
    pub admission: Admission,
    /// While it is drained, its instances move to other hosts, those that run by a stop and a start.
    #[serde(default)]
    pub evacuating: bool,
    /// When that last changed.
    #[serde(default = "never")]
    pub admission_since: Wall,
    /// The longest fence by which it may have been given a lease that isn't over, in milliseconds.
    #[serde(default)]
    pub fence_ms: u64,
    /// The version of the protocol that its agent spoke last.
    #[serde(default)]
    pub protocol: u32,
    /// The boot that it reported last, and when others began before, as far as that matters.
    #[serde(default)]
    pub boot: String,
    #[serde(default)]
    pub boots: Vec<Wall>,
    /// Why nothing new is placed here although nobody drains it: it starts again and again.
    #[serde(default)]
    pub quarantine: Option<String>,
    /// The administrator's words about it, such as why it is being drained.
    #[serde(default)]
    pub note: String,
    /// Labels.
    pub tags: Tags,
}

impl Host {
    /// Where other hosts reach its guests, and by which key; `None` where they can't or mustn't.
    pub fn peer(&self) -> Option<(&str, Endpoint)> {
        let underlay = self.underlay.as_ref()?;
        let endpoint = underlay
            .endpoint
            .filter(|_| self.admission != Admission::Revoked)?;
        Some((&underlay.key, endpoint))
    }

    /// Whether anything new may be placed here.
    pub fn is_open(&self) -> bool {
        self.admission == Admission::Open && self.quarantine.is_none()
    }

    /// Opens, drains or revokes it, as of now.
    pub fn admit(&mut self, admission: Admission, now: Wall) {
        if admission == Admission::Open {
            self.quarantine = None;
            self.boots.clear();
        }
        if self.admission != admission {
            self.admission = admission;
            self.admission_since = now;
        }
        self.evacuating &= self.admission == Admission::Draining;
    }

    /// A host that has not reported yet.
    pub fn new(id: HostId, number: u64, name: &str, zone: &str, joined: Wall) -> Self {
        Self {
            id,
            number,
            name: name.into(),
            zone: zone.into(),
            capacity: HostCapacity::default(),
            acceleration: Acceleration {
                hardware: false,
                verdict: "the host has not reported yet".into(),
            },
            machine: String::new(),
            cpu: String::new(),
            overhead: Overhead::default(),
            intake: Intake::default(),
            underlay: None,
            key: String::new(),
            joined,
            admission: Admission::default(),
            evacuating: false,
            admission_since: joined,
            fence_ms: 0,
            protocol: 0,
            boot: String::new(),
            boots: Vec::new(),
            quarantine: None,
            note: String::new(),
            tags: Tags::new(),
        }
    }
}

fn never() -> Wall {
    Wall(0)
}

/// Lets one PC join, once and until it expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// SHA-256 of the token, in hex; the token itself is shown once and kept nowhere.
    pub digest: String,
    /// The zone's id, which stays when the zone is renamed.
    pub zone: String,
    /// The host that may come back with another key; absent for a new one.
    #[serde(default)]
    pub host: Option<HostId>,
    pub expires: Wall,
    /// Who has used it and with which key. A PC that didn't get its answer may ask again.
    #[serde(default)]
    pub used: Option<(HostId, String)>,
}
