//! Disks that outlive or follow instances.

use crate::{AccountId, HostId, ImageId, InstanceId, Tags, VolumeId, Wall};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeSource {
    /// Copy-on-write over a verified blob (SHA-256 in hex) in `format`.
    Image {
        image: ImageId,
        blob: String,
        format: String,
    },
    Empty,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    pub instance: InstanceId,
    pub device: String,
    pub delete_on_termination: bool,
    pub since: Wall,
}

/// A volume of the `local` driver: a file on the host where its instance was first placed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub id: VolumeId,
    pub number: u64,
    pub owner: AccountId,
    pub zone: String,
    pub size_bytes: u64,
    /// EC2's name of the volume's type, which is only recorded.
    #[serde(default = "default_type")]
    pub volume_type: String,
    pub source: VolumeSource,
    /// Where the bytes are; `None` until the instance is placed.
    pub host: Option<HostId>,
    /// Which copy of the bytes that is: 0 until it moves to another host for the first time.
    #[serde(default)]
    pub copy: u64,
    /// Copies that were ever begun. No number is given out twice, so what is left of one that was
    /// given up is never taken for another.
    #[serde(default)]
    pub copies: u64,
    /// The copy that is being made.
    #[serde(default)]
    pub copying: Option<Copying>,
    pub attachment: Option<Attachment>,
    /// A guest has run on it, so that its file can't be made again.
    #[serde(default)]
    pub written: bool,
    /// The row waits for its host to say that the file is gone.
    pub deleting: bool,
    pub created: Wall,
    pub tags: Tags,
}

/// A copy of a volume in the making, on another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    pub to: HostId,
    pub copy: u64,
    /// Nobody writes to the volume any more; until then there is only room kept for the copy.
    pub ready: bool,
    /// The guest takes its bytes along: the host makes a file, and the hypervisors fill it.
    #[serde(default)]
    pub live: bool,
}

impl Volume {
    /// The name of its file where its bytes are.
    pub fn file(&self) -> VolumeId {
        file(&self.id, self.copy)
    }

    /// The number of the copy that a host is to make for a guest that comes running.
    pub fn following_to(&self, host: &HostId) -> Option<u64> {
        let copying = self.copying.as_ref();
        copying
            .filter(|copying| copying.to == *host && copying.live)
            .map(|copying| copying.copy)
    }

    /// The number of the copy that a host is to fetch.
    pub fn arriving_at(&self, host: &HostId) -> Option<u64> {
        let copying = self.copying.as_ref();
        copying
            .filter(|copying| copying.to == *host && copying.ready)
            .map(|copying| copying.copy)
    }
}

/// The name of the file of a copy: the volume's id, from the first move on with the copy's number.
pub fn file(id: &VolumeId, copy: u64) -> VolumeId {
    match copy {
        0 => id.clone(),
        copy => VolumeId::from(format!("{id}.{copy}").as_str()),
    }
}

/// What EC2 gives a root volume whose mapping names no type.
pub fn default_type() -> String {
    "gp2".into()
}
