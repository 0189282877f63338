//! What a guest is, and what is seen of it: plain data, neutral of any hypervisor.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Everything that a driver needs to start a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSpec {
    /// The instance's id, `i-` and hexadecimal digits. Names the guest's directory.
    pub guest: String,
    /// Which start of the instance this is. A guest of another generation is another guest.
    pub generation: u64,
    /// In lower case, beginning with `ec2`; also the DMI serial number, because cloud-init
    /// recognises EC2 by both.
    pub uuid: String,
    /// A versioned machine type, such as `pc-i440fx-7.2`; never a moving alias.
    pub machine: String,
    /// A named CPU model, such as `qemu64`, optionally followed by `,+feature`.
    pub cpu: String,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// The guest's memory.
    pub memory_bytes: u64,
    /// What runs first.
    pub boot: Boot,
    /// In the order in which the guest sees them.
    pub disks: Vec<DiskSpec>,
    /// In the order in which the guest sees them.
    pub interfaces: Vec<InterfaceSpec>,
    /// Weight of the guest's CPU time against its neighbours': 1024 for one ordinary core.
    pub cpu_shares: u32,
    /// The numeric user, and group, that the guest's process runs as. Not 0.
    pub uid: u32,
    /// It must not begin after this time of the boot clock, in milliseconds: a start that takes longer
    /// is [`Error::TooLate`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after_ms: Option<u64>,
    /// It doesn't boot: it waits for what [`crate::Hypervisor::hand_over`] sends from another host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incoming: bool,
}

impl GuestSpec {
    /// Every driver's answer to a start of a guest that is here already, as `self`.
    pub(crate) fn already(&self, has_exited: bool, asked: &GuestSpec) -> Result<()> {
        let guest = asked.guest.clone();
        if self.generation != asked.generation {
            let (present, asked) = (self.generation, asked.generation);
            return Err(Error::OtherGeneration {
                guest,
                present,
                asked,
            });
        }
        if has_exited {
            return Err(Error::Exited(guest));
        }
        Ok(())
    }
}

/// What a guest runs first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// The boot loader on its first disk.
    Firmware,
    /// A kernel from outside its disks.
    Kernel {
        /// The kernel, readable by everyone.
        kernel: PathBuf,
        /// The initial RAM disk, readable by everyone.
        ramdisk: Option<PathBuf>,
        /// The kernel's command line.
        cmdline: String,
    },
}

/// A disk image's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Sectors as they are.
    Raw,
    /// Copy-on-write clusters, version 2 or 3 of the format.
    Qcow2,
}

impl DiskFormat {
    /// The format's usual name.
    pub fn name(self) -> &'static str {
        match self {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        }
    }
}

/// A disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// The volume's id, `vol-…`; the guest reads it, without the hyphen, as the serial number.
    pub id: String,
    /// The file that takes the writes.
    pub path: PathBuf,
    /// That file's format.
    pub format: DiskFormat,
    /// What the file is an overlay of. Only what is named here is opened, whatever a header says.
    pub base: Option<Base>,
    /// Whether the guest is kept from writing.
    pub read_only: bool,
}

/// The image under an overlay, never written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The image's file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
}

/// A network interface of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceSpec {
    /// The interface's id, `eni-…`.
    pub id: String,
    /// Six pairs of hexadecimal digits with colons.
    pub mac: String,
    /// The largest packet, in bytes, announced to the guest.
    pub mtu: u16,
}

/// What is seen of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedGuest {
    /// The instance's id.
    pub guest: String,
    /// The generation it was started with; 0 where that is unknown.
    pub generation: u64,
    /// What it does.
    pub state: GuestState,
    /// Why it is paused, if not by [`crate::Hypervisor::pause`]: the host's disk is full, for example. Why its
    /// state is unknown.
    pub detail: Option<String>,
    /// Since when `state` is known to hold.
    pub since: SystemTime,
    /// The guest's process on this host, while it exists.
    pub pid: Option<u32>,
    /// 1, and one more for each reset, its own or ours, also while nobody watched.
    pub boots: u64,
    /// Its process is stopped ([`crate::GuestProcess`]), so its virtual CPUs don't run and nothing can be
    /// asked of it; it can be killed.
    pub held: bool,
}

/// What a guest does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestState {
    /// There is something of it and it can't be looked at for now: it may well run.
    Unknown,
    /// The process exists and hasn't answered yet.
    Starting,
    /// The virtual CPUs run.
    Running,
    /// The virtual CPUs are halted.
    Paused,
    /// It comes from another host and isn't all here; it can only be killed.
    Incoming,
    /// It has come from another host; [`crate::Hypervisor::resume`] lets it go on here.
    Arrived,
    /// It was sent to another host, where it has this generation, and is halted since; it may go on
    /// here if it doesn't go on there.
    Departed(u64),
    /// The process is gone or about to go; the virtual CPUs won't run again.
    Exited(ExitReason),
}

/// Why a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    /// It powered itself off, of its own will or because the power button was pressed.
    Poweroff,
    /// Its kernel reported a panic.
    Panic,
    /// Its process was ended from outside: by [`crate::Hypervisor::kill`], by the host's
    /// administrator or by the lack of memory.
    Killed,
    /// It never began to run; what the hypervisor said.
    StartFailed(String),
    /// The hypervisor gave up on it while it ran; what the hypervisor said.
    Failed(String),
}

/// What executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, through the kernel's KVM.
    Kvm,
    /// Translation in software; works on every machine.
    Tcg,
}

/// How guests run on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceleration {
    /// What new guests are started with.
    pub accelerator: Accelerator,
    /// How that was found out, as a sentence for the administrator.
    pub verdict: String,
}

/// How far a guest is on its way to another host. Disks come first, and follow what it writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes of disks that are there.
    pub disk_bytes: u64,
    /// What there was to copy of them; grows when the guest writes.
    pub of_disk_bytes: u64,
    /// Bytes of memory that were sent.
    pub memory_bytes: u64,
    /// Bytes of memory that are left; those that the guest changes are sent again.
    pub memory_left_bytes: u64,
}
