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
    pub attachment: Option<Attachment>,
    /// A guest has run on it, so that its file can't be made again.
    #[serde(default)]
    pub written: bool,
    /// The row waits for its host to say that the file is gone.
    pub deleting: bool,
    pub created: Wall,
    pub tags: Tags,
}

/// What EC2 gives a root volume whose mapping names no type.
pub fn default_type() -> String {
    "gp2".into()
}
