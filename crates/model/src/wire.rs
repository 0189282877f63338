//! What controller and agent say to each other in `POST /v1/sync`.
//!
//! The agent sends what it observes and, per part, which generation and hash of the wanted state it
//! has accepted; the answer holds only the parts that differ. An idle heartbeat has no report.

use crate::shared::Shared;
use crate::{
    Acceleration, Boot, Cidr, CloudId, Exit, GroupId, HostCapacity, HostId, InstanceId, Intake,
    InterfaceId, Mac, Overhead, Peer, Protocol, StopHow, SubnetId, VolumeId, VolumeSource, VpcId,
    Wall,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The newest version of what is said here. 2 has fences: an agent of 1 doesn't know that a guest is to
/// be held. 3 has guests that go to another host running, and with 4 people's connections go along. 5 tells
/// what is around a VPC apart from what is in it. With 6 a poll says what the host has only where that may be
/// news. With 7 hosts give images to one another.
pub const PROTOCOL: u32 = 7;
/// The oldest that is still understood, on both sides.
pub const OLDEST_PROTOCOL: u32 = 1;
/// From this version on an agent holds fenced guests.
pub const FENCES: u32 = 2;
/// From this version on an agent sends and receives running guests.
pub const LIVE: u32 = 3;
/// From this version on an agent gives its images to other hosts.
pub const IMAGES: u32 = 7;
/// From this version on an agent takes over connections into guests that come to it.
pub const CALLS: u32 = 4;

/// From this version on an agent takes [`WantedNeighbours`].
pub const NEIGHBOURS: u32 = 5;
/// From this version on a poll may leave out [`SyncRequest::have`].
pub const BRIEF: u32 = 6;

/// Why a [`StreamKind::Resume`] is refused for now: the guest is on its way, or about to stay.
pub const MOVES: &str = "the guest is on its way";

/// Header of who would rather have a [`Ticket`] than the stream.
pub const DIRECT: &str = "x-boira-direct";
/// Header of a stream request that could not be met on the host, with the reason.
pub const STREAM_ERROR: &str = "x-boira-error";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncRequest {
    /// The version that the agent speaks and would like to be answered in.
    pub v: u32,
    pub host: HostId,
    /// Random per agent process.
    pub session: u32,
    /// Counts the requests of a session, so that a late or repeated one is recognised.
    pub seq: u64,
    /// `generation:hash` of each accepted part, in the order of [`Part::ALL`]; of no meaning in a report.
    /// Absent in a poll of a host that has what it had in the poll before of this session, which brought
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub have: Option<[String; 4]>,
    /// The same of the neighbours; absent where the agent is told them within the networks.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<String>,
    /// Absent where nothing changed since the last one that was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    Instances,
    Network,
    Images,
    Volumes,
}

impl Part {
    pub const ALL: [Part; 4] = [Part::Instances, Part::Network, Part::Images, Part::Volumes];
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SyncAnswer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<CloudId>,
    /// The request's report was taken and, where it changed a fact, committed.
    pub seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<Versioned<Vec<WantedInstance>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Versioned<Vec<WantedVpc>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<Versioned<Vec<Shared<WantedNeighbours>>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Versioned<Vec<WantedBlob>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Versioned<Vec<WantedVolume>>>,
    /// For so long after it has sent the poll that this answers, the host may run fenced guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Streams that somebody waits for; the agent opens them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamRequest>,
}

impl SyncAnswer {
    /// The oldest state of the store that one of its parts was derived from.
    pub fn oldest(&self) -> Option<u64> {
        let generations = [
            self.instances.as_ref().map(|part| part.generation),
            self.network.as_ref().map(|part| part.generation),
            self.neighbours.as_ref().map(|part| part.generation),
            self.images.as_ref().map(|part| part.generation),
            self.volumes.as_ref().map(|part| part.generation),
        ];
        generations.into_iter().flatten().min()
    }
}

/// A part of the wanted state with the store's sequence number that it was derived from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    pub generation: u64,
    pub hash: String,
    pub body: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    On,
    /// Stop; the files stay.
    Off(StopHow),
    /// Stop at once and forget everything; volumes go by the part that lists volumes.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedInstance {
    pub id: InstanceId,
    pub number: u64,
    pub generation: u64,
    pub power: Power,
    pub resets: u64,
    pub machine: String,
    pub cpu: String,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub boot: Boot,
    pub disks: Vec<VolumeId>,
    pub interfaces: Vec<WantedInterface>,
    /// To be held at the host's deadline ([`SyncAnswer::lease_ms`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
    /// How often in a row it was started again by now; the pause before a start grows with it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub restarts: u32,
    /// It comes to this host, or leaves it, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passage: Option<Passage>,
    /// Something follows when its guest restarts itself, so what is known of that is written down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counts_reboots: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Passage {
    /// Another host sends it; it must not run here.
    Arriving,
    /// To be sent to the host that has it with this generation; it runs here meanwhile.
    Leaving { generation: u64 },
}

fn is_none(number: &u32) -> bool {
    *number == 0
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedInterface {
    pub id: InterfaceId,
    pub vpc: VpcId,
    pub mac: Mac,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedVolume {
    pub id: VolumeId,
    pub size_bytes: u64,
    pub source: VolumeSource,
    /// A guest has run on it: a new one is no substitute.
    #[serde(default)]
    pub written: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub copy: u64,
    /// To be fetched from the host that has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub arriving: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl WantedVolume {
    /// The name of its file.
    pub fn file(&self) -> VolumeId {
        crate::volume::file(&self.id, self.copy)
    }
}

/// A blob that must be in the host's cache: an image's disk, kernel or ramdisk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedBlob {
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedVpc {
    pub vpc: VpcId,
    pub cidr: Cidr,
    pub subnets: Vec<WantedSubnet>,
    pub ports: Vec<WantedPort>,
    /// Ports of guests that are still on another host: there is something to open and nothing leads there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standby: Vec<WantedStandby>,
    /// Empty where [`WantedNeighbours`] has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<WantedGroup>,
    /// Absent where nothing of the VPC is within this host's reach elsewhere, and without peers where
    /// [`WantedNeighbours`] has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<WantedOverlay>,
}

/// What a host has to know of a VPC that isn't on it: told apart, as it is large where a VPC is on many
/// hosts, and most of what changes on a host leaves it as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedNeighbours {
    pub vpc: VpcId,
    /// Those of the ports, and those that their rules name.
    pub groups: Vec<WantedGroup>,
    /// All hosts where something of the VPC is, the one that is told included.
    pub peers: Vec<WantedPeer>,
}

/// The port of a guest that comes from another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedStandby {
    pub interface: InterfaceId,
    pub instance: InstanceId,
    pub ip: Ipv4Addr,
}

/// A VPC on other hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedOverlay {
    /// VXLAN's network identifier.
    pub vni: u64,
    /// This host's number.
    pub host: u64,
    pub peers: Vec<WantedPeer>,
}

/// Another host, and what of a VPC is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedPeer {
    /// Its number.
    pub host: u64,
    /// The public key of its end of the network between hosts, in WireGuard's base64.
    pub key: String,
    pub endpoint: Endpoint,
    pub addresses: Vec<Ipv4Addr>,
}

/// Where a host listens for the network between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    At(SocketAddr),
    /// At this port of the machine that the controller runs on, which each host reaches in its own way.
    BesideController(u16),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedSubnet {
    pub subnet: SubnetId,
    pub cidr: Cidr,
    pub gateway: Ipv4Addr,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedPort {
    pub interface: InterfaceId,
    pub instance: InstanceId,
    pub mac: Mac,
    pub ip: Ipv4Addr,
    /// What the instance is told to be its public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_ip: Option<Ipv4Addr>,
    pub subnet: SubnetId,
    pub groups: Vec<GroupId>,
    pub source_dest_check: bool,
    pub metadata: Metadata,
}

/// What the metadata service tells the instance behind a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    pub instance_id: String,
    pub image_id: String,
    pub launch_index: u32,
    pub instance_type: String,
    pub reservation_id: String,
    pub account: String,
    pub zone: String,
    pub zone_id: String,
    pub region: String,
    pub hostname: String,
    pub launched: Wall,
    pub architecture: String,
    /// Name and OpenSSH line.
    pub public_keys: Vec<(String, String)>,
    pub user_data: Option<String>,
    /// Ids and names.
    pub groups: Vec<(String, String)>,
    pub vpc: String,
    pub vpc_cidr: String,
    pub subnet: String,
    pub subnet_cidr: String,
    /// `None` where the instance's tags are not to be shown.
    pub tags: Option<BTreeMap<String, String>>,
    pub endpoint_enabled: bool,
    pub tokens_required: bool,
    pub hop_limit: u8,
    /// Whether its owner has detailed monitoring on.
    #[serde(default)]
    pub monitoring: bool,
    pub identity_document: String,
    pub identity_signature: String,
    pub identity_pkcs7: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedGroup {
    pub id: GroupId,
    /// Addresses of the members in the whole cloud.
    pub members: Vec<Ipv4Addr>,
    pub ingress: Vec<(Protocol, Peer)>,
    pub egress: Vec<(Protocol, Peer)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRequest {
    pub id: String,
    pub kind: StreamKind,
    /// Another host comes for it, with the id as its ticket; else the agent opens it at the controller.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
}

/// What a host needs to get a stream from another one itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ticket {
    pub ticket: String,
    /// Whose certificate is to be shown.
    pub host: HostId,
    pub endpoint: Endpoint,
    /// How many bytes are to come, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamKind {
    /// A TCP connection to a guest, from inside its VPC.
    Dial { vpc: VpcId, ip: Ipv4Addr, port: u16 },
    /// A volume's file, as `boira_agent::copy` writes it.
    Volume { file: VolumeId },
    /// The bytes of a blob from `from` on, then end of stream.
    Blob { sha256: String, from: u64 },
    /// The end of a channel of a guest that comes to this host, as its hypervisor names it.
    Arrival {
        instance: InstanceId,
        generation: u64,
        channel: String,
    },
    /// A [`StreamKind::Dial`] that had this id on the host that its guest was on, or is still on.
    Resume { call: String },
    /// The live serial console, both ways.
    Console { instance: InstanceId },
    /// The end of the kept console log, then end of stream.
    ConsoleLog {
        instance: InstanceId,
        max_bytes: u64,
    },
}

/// Everything that an agent observes. Complete: what isn't in it isn't there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The store's sequence number of the newest wanted instances or volumes that the host knows. What
    /// isn't there was perhaps never made, so a host that was told something new says again what it
    /// has, even where nothing changed.
    pub told: u64,
    /// The version that the host's agent speaks, from the request; filled in there and never sent.
    #[serde(skip)]
    pub protocol: u32,
    pub boot_id: String,
    pub name: String,
    pub capacity: HostCapacity,
    /// Why the host can do nothing new, in words, such as for a full disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unable: Option<String>,
    pub acceleration: Acceleration,
    pub machine: String,
    pub cpu: String,
    pub overhead: Overhead,
    #[serde(default)]
    pub intake: Box<Intake>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay: Option<UnderlayReport>,
    pub guests: Vec<GuestReport>,
    /// Files of volumes that exist, by the name that [`WantedVolume::file`] gives them.
    pub volumes: Vec<VolumeId>,
    /// How far files that are being fetched have got.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arriving: Vec<Arriving>,
    /// How far guests are that leave this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<Leaving>,
    /// What is wrong with the host's networks and instances, in words; empty when nothing is.
    pub troubles: Vec<String>,
    /// Steps taken since the last answered report.
    pub steps: Vec<StepReport>,
}

/// A volume's file on its way to this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arriving {
    pub file: VolumeId,
    pub done_bytes: u64,
    pub of_bytes: u64,
    /// Why the last attempt failed, and how many did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "is_none")]
    pub failures: u32,
}

/// A guest on its way to another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    pub instance: InstanceId,
    /// Bytes of its disks, and then of its memory, that are there, and that there are to send.
    pub done_bytes: u64,
    pub of_bytes: u64,
}

/// A host's end of the network between hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderlayReport {
    /// Public key, in WireGuard's base64.
    pub key: String,
    /// UDP port.
    pub port: u16,
    /// The address that the host speaks to the controller from, by its own account; absent where that
    /// is the loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The address that the controller hears the host from; filled in there and never sent.
    #[serde(skip)]
    pub heard_from: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestReport {
    pub instance: InstanceId,
    pub generation: u64,
    pub state: GuestState,
    /// Hard resets carried out so far, as counted by [`WantedInstance::resets`].
    pub resets: u64,
    /// How often the guest has restarted itself in this generation, as far as it was seen.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reboots: u64,
    pub reachable: Option<bool>,
    /// Nobody here has asked yet whether it can be reached, so what was known of it stands.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unasked: bool,
    /// Why it is paused, where its host knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// The host holds it at its deadline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
    /// Sending it to another host has failed so often that it isn't tried any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<Stuck>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// What it was to get there.
    pub generation: u64,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestState {
    /// Nothing of it is left but, perhaps, its volumes.
    Absent,
    Preparing,
    Running,
    Paused,
    Stopping,
    Exited(Exit),
    /// It comes from another host and isn't all here.
    Incoming,
    /// It has come from another host and was not let go on yet.
    Arrived,
    /// It was sent to the host where it has this generation, and is halted here.
    Departed {
        generation: u64,
    },
}

impl GuestState {
    /// Whether there is a process of it.
    pub fn is_live(&self) -> bool {
        match self {
            Self::Preparing
            | Self::Running
            | Self::Paused
            | Self::Stopping
            | Self::Incoming
            | Self::Arrived
            | Self::Departed { .. } => true,
            Self::Absent | Self::Exited(_) => false,
        }
    }
}

/// One step that the host took for an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    pub instance: InstanceId,
    pub at: Wall,
    pub what: String,
    pub took_ms: u64,
    /// The step failed, with the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
