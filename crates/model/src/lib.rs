//! The vocabulary of the cloud: ids, specs and states as plain data.
//!
//! Nothing here decides and nothing here acts. Every row that the store keeps is a struct of this
//! crate, and so is everything that travels between controller and agent; `boira-core` decides over
//! these types and the edges carry decisions out.

pub mod account;
pub mod host;
pub mod id;
pub mod image;
pub mod instance;
pub mod network;
pub mod shared;
pub mod time;
pub mod volume;
pub mod wire;

pub use account::{AccessKey, Account, KeyKind, KeyPair};
pub use host::{
    Acceleration, Admission, Host, HostCapacity, Intake, Invitation, Overhead, Packing, Speed,
    Underlay, Zone,
};
pub use id::*;
pub use image::{Boot, Image};
pub use instance::{
    Desired, Event, Exit, Fencing, Held, Instance, InstanceType, Live, MetadataOptions, Observed,
    Placement, Reboots, Recovery, ShutdownBehavior, StateName, StateReason, StopHow,
};
pub use network::{
    Cidr, Direction, Interface, InterfaceAttachment, Peer, Protocol, Rule, SecurityGroup, Subnet,
    Vpc,
};
pub use time::{Boot as BootTime, Wall};
pub use volume::{Attachment, Copying, Volume, VolumeSource};

/// Tags of a resource, in AWS's order of keys (bytes).
pub type Tags = std::collections::BTreeMap<String, String>;
