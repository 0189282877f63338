//! An instance: what should be, where, and what was last seen.
//!
//! ```text
//!   who writes     field       moves
//!   controller     desired     Running <-> Stopped, either -> Terminated (final)
//!   controller     placement   None -> Some(host, generation); a start raises the generation
//!   agent only     observed    Unknown -> Preparing -> Running -> Stopping -> Exited -> Absent
//! ```
//! EC2's state name is never stored: [`Instance::state`] derives it in one exhaustive match.

use crate::{
    AccountId, HostId, ImageId, InstanceId, InterfaceId, ReservationId, SubnetId, Tags, VolumeId,
    VpcId, Wall,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopHow {
    /// By the power button, hard after the deadline.
    Clean,
    /// At once.
    Force,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    Running,
    Stopped(StopHow),
    Terminated,
}

/// Where an instance lives. Two placements of one instance never share a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub host: HostId,
    pub generation: u64,
    /// Where it goes to while it moves between hosts; its own host where a cold move is taken back.
    pub moving_to: Option<HostId>,
    /// Its guest goes there running; else it is stopped here, or about to be, and goes on there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
    /// The highest generation that was given out for going from here running.
    #[serde(default)]
    pub given: u64,
    /// Going from here running has failed.
    #[serde(default)]
    pub stuck: bool,
    /// Why its disks could not be brought from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Memory that the hypervisor there needs beside the guest's.
    #[serde(default)]
    pub overhead_there_bytes: u64,
}

/// A guest that goes to another host while it runs. It goes on there from the commit on that places it
/// there, for which both hosts have to have said that they are done; until then it may go on here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// What it gets there.
    pub generation: u64,
    pub since: Wall,
    /// The other host waits for it. From here on its host is to send it.
    pub ready: bool,
    /// Since when its host has sent it whole and it is halted.
    pub departed: Option<Wall>,
    /// The other host has it whole.
    pub arrived: bool,
}

impl Placement {
    pub fn new(host: HostId, generation: u64) -> Self {
        Self {
            host,
            generation,
            moving_to: None,
            live: None,
            given: 0,
            stuck: false,
            kept: None,
            overhead_there_bytes: 0,
        }
    }

    /// What neither this placement nor one that was tried from here has had.
    pub fn next_generation(&self) -> u64 {
        self.generation.max(self.given) + 1
    }
}

/// Why a guest's process or its virtual machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// The guest switched itself off, or followed the power button.
    Poweroff,
    /// The guest's kernel panicked.
    Panic,
    /// The process was killed from outside.
    Killed,
    /// The hypervisor gave the guest up; the text says why.
    Failed(String),
    /// The agent ended it because it was told to.
    Ordered,
    /// It never started; the text says why.
    StartFailed(String),
}

/// What the agent last reported about this instance's current generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observed {
    /// Nothing is known yet about this generation.
    Unknown,
    /// The host surely has no guest of this instance.
    Absent,
    Preparing,
    Running,
    Paused,
    Saving,
    Saved,
    Stopping,
    Exited(Exit),
}

/// Why an instance waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// No host can take it; reasons host by host.
    NoCapacity(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownBehavior {
    Stop,
    Terminate,
}

/// Whether an instance's host is to hold its guest at the host's deadline, and has said that it does.
/// It rises only, as long as the placement lasts: what a silent host has heard last nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fencing {
    #[default]
    No,
    /// The host is told to.
    Asked,
    /// It has said so, or was told so with the placement itself: once the host is out for a whole fence
    /// the guest doesn't run there for certain.
    Held,
}

/// EC2's state names with their codes, as in `InstanceState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StateName {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
}

impl StateName {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    pub fn code(self) -> i64 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopping => 64,
            Self::Stopped => 80,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReason {
    pub code: String,
    pub message: String,
}

/// `InstanceMetadataOptions` of EC2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataOptions {
    pub endpoint_enabled: bool,
    pub tokens_required: bool,
    /// 1 to 64.
    pub hop_limit: u8,
    pub instance_tags: bool,
}

impl Default for MetadataOptions {
    fn default() -> Self {
        Self {
            endpoint_enabled: true,
            tokens_required: false,
            hop_limit: 1,
            instance_tags: false,
        }
    }
}

/// A row of the administrator's table of instance types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceType {
    pub name: String,
    pub vcpus: u32,
    pub memory_mib: u64,
    /// Size of the root disk when neither the image nor the call asks for more.
    pub disk_gib: u64,
    #[serde(default)]
    pub burstable: bool,
    /// Whether a burstable instance may go beyond its CPU credits where nothing else was asked for,
    /// as AWS's T3.
    #[serde(default)]
    pub unlimited: bool,
    /// The level of x86-64 that its instances' CPUs have, 1 to 3; 0 for what their host takes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cpu_level: u8,
    /// What becomes of its instances whose host is lost, where neither they nor their image say so.
    #[serde(default, skip_serializing_if = "Recovery::is_wait")]
    pub recover: Recovery,
}

fn is_zero(level: &u8) -> bool {
    *level == 0
}

/// What becomes of an instance whose host is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    /// It waits for its host, with what is on its disks.
    #[default]
    Wait,
    /// It is started elsewhere, with disks made anew from their image.
    Reimage,
}

impl Recovery {
    /// Of the value of a tag.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "wait" => Some(Self::Wait),
            "reimage" => Some(Self::Reimage),
            _ => None,
        }
    }

    fn is_wait(&self) -> bool {
        *self == Self::Wait
    }
}

impl InstanceType {
    pub fn memory_bytes(&self) -> u64 {
        self.memory_mib << 20
    }

    /// The credit option of an instance that names none; only burstable types have credits.
    pub fn default_credits(&self) -> Option<String> {
        match (self.burstable, self.unlimited) {
            (false, _) => None,
            (true, false) => Some("standard".into()),
            (true, true) => Some("unlimited".into()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub number: u64,
    pub owner: AccountId,
    pub reservation: ReservationId,
    pub launch_index: u32,
    pub image: ImageId,
    pub instance_type: String,
    pub vcpus: u32,
    pub memory_bytes: u64,
    /// Memory that its host's hypervisor needs beside the guest's.
    pub overhead_bytes: u64,
    /// Versioned machine type and named CPU model, kept for life; empty until first placed.
    pub machine: String,
    pub cpu: String,
    pub boot: crate::Boot,
    pub architecture: String,
    pub zone: String,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    pub key_name: Option<String>,
    /// The key's OpenSSH line at the launch: what happens to the key pair later doesn't change it.
    #[serde(default)]
    pub public_key: Option<String>,
    /// Base64 with padding and without line breaks.
    pub user_data: Option<String>,
    pub root_device: String,
    pub disks: Vec<VolumeId>,
    pub interfaces: Vec<InterfaceId>,
    pub shutdown_behavior: ShutdownBehavior,
    pub termination_protection: bool,
    pub stop_protection: bool,
    pub monitoring: bool,
    /// `standard` or `unlimited`, only recorded.
    pub cpu_credits: Option<String>,
    /// As its owner asked; only recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ebs_optimized: bool,
    pub auto_recovery: bool,
    pub metadata: MetadataOptions,
    pub client_token: Option<String>,
    pub launched: Wall,
    pub tags: Tags,

    pub desired: Desired,
    pub placement: Option<Placement>,
    /// Where it was last, once it is terminated: its console's log is there for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_host: Option<HostId>,
    pub observed: Observed,
    /// Hard resets that were asked for; the agent carries out those it has not seen yet.
    pub resets: u64,
    /// Whether the guest answered ARP when the agent last looked; `None` before the first answer.
    pub reachable: Option<bool>,
    pub reachable_since: Wall,
    pub held: Option<Held>,
    #[serde(default)]
    pub fencing: Fencing,
    /// How often its disks were made anew on another host.
    #[serde(default)]
    pub reimaged: u32,
    /// How often in a row it was started again because its guest had ended by itself.
    #[serde(default)]
    pub restarts: u32,
    /// How often its guest has restarted itself, and in which generation.
    #[serde(default)]
    pub reboots: Reboots,
    pub state_reason: Option<StateReason>,
    /// EC2's `StateTransitionReason`, with the time of the request in it.
    pub transition_reason: String,
    /// When the derived state last changed.
    pub since: Wall,
}

/// A count that begins anew with each generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reboots {
    pub generation: u64,
    pub count: u64,
}

impl Instance {
    /// EC2's name for desired and observed together.
    pub fn state(&self) -> StateName {
        use Observed::*;
        match (&self.desired, &self.observed) {
            (Desired::Running, Running | Paused | Saving) => StateName::Running,
            (Desired::Running, Unknown | Absent | Preparing | Saved | Stopping | Exited(_)) => {
                StateName::Pending
            }
            (Desired::Stopped(_), Absent | Saved | Exited(_)) => StateName::Stopped,
            (Desired::Stopped(_), Unknown | Preparing | Running | Paused | Saving | Stopping) => {
                if self.placement.is_some() {
                    StateName::Stopping
                } else {
                    StateName::Stopped
                }
            }
            (Desired::Terminated, Absent) => StateName::Terminated,
            (
                Desired::Terminated,
                Unknown | Preparing | Running | Paused | Saving | Saved | Stopping | Exited(_),
            ) => {
                if self.placement.is_some() {
                    StateName::ShuttingDown
                } else {
                    StateName::Terminated
                }
            }
        }
    }

    /// Whether it holds capacity of the host where it is placed: it is to run, or its guest may not
    /// have ended yet. Terminating a stopped instance takes no capacity back.
    pub fn occupies(&self) -> bool {
        self.placement.is_some() && (self.desired == Desired::Running || !self.has_ended())
    }

    /// Whether its host has said that its guest doesn't run.
    pub fn has_ended(&self) -> bool {
        matches!(
            self.observed,
            Observed::Absent | Observed::Saved | Observed::Exited(_)
        )
    }

    /// Where it is going to, if it is moving.
    pub fn moving_to(&self) -> Option<&HostId> {
        self.placement.as_ref()?.moving_to.as_ref()
    }

    /// How far its guest is that goes to another host running.
    pub fn live(&self) -> Option<&Live> {
        self.placement.as_ref()?.live.as_ref()
    }

    /// The host where its interfaces are on the network, if they are.
    pub fn connected_at(&self) -> Option<&HostId> {
        let placement = self.placement.as_ref()?;
        (self.state() != StateName::Stopped).then_some(&placement.host)
    }

    /// Whether its host is to hold it at the host's deadline.
    pub fn is_fenced(&self) -> bool {
        self.fencing != Fencing::No
    }

    pub fn generation(&self) -> u64 {
        self.placement.as_ref().map_or(0, |p| p.generation)
    }

    /// The generation of its next placement.
    pub fn next_generation(&self) -> u64 {
        self.placement
            .as_ref()
            .map_or(1, Placement::next_generation)
    }
}

/// One line of an instance's own history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub instance: InstanceId,
    pub at: Wall,
    /// Who or what caused it: `api`, `host`, `guest`, `cloud`.
    pub cause: String,
    pub what: String,
    /// How long the step took, where it was one.
    pub took_ms: Option<u64>,
}
