//! A simulated PC: its guests, its disk and what a step of the planner does to them. Survives its
//! agent; the agent survives nothing but what it wrote down.

use crate::agent::Agent;
use boira_core::plan::{Fence, Guest, Step, TOO_LATE};
use boira_model::wire::{GuestState, WantedVpc};
use boira_model::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Why an image can't be fetched.
pub const UNREACHABLE: &str = "the controller can't be reached";

/// A port as it was when its guest started.
#[derive(Clone, Debug)]
pub struct Port {
    pub interface: InterfaceId,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    pub ip: Ipv4Addr,
}

#[derive(Clone, Debug)]
pub struct SimGuest {
    pub generation: u64,
    /// Tells one process of this guest from the next.
    pub process: u64,
    pub state: GuestState,
    pub vcpus: u32,
    /// With the hypervisor's own.
    pub memory_bytes: u64,
    pub disks: Vec<VolumeId>,
    /// Their files.
    pub files: Vec<VolumeId>,
    pub ports: Vec<Port>,
    /// Hard resets that its agent lived to write down.
    pub resets: u64,
    /// The watchdog has stopped its process.
    pub held: bool,
}

impl SimGuest {
    /// Whether its virtual CPUs run, or may at any time.
    pub fn runs(&self) -> bool {
        self.is_live() && !self.held && !self.is_between_hosts()
    }

    /// Whether it is halted because it comes from another host, or has gone to one.
    pub fn is_between_hosts(&self) -> bool {
        matches!(
            self.state,
            GuestState::Incoming | GuestState::Arrived | GuestState::Departed { .. }
        )
    }

    /// Whether its process is there.
    pub fn is_live(&self) -> bool {
        self.state.is_live()
    }
}

/// A step that is being taken.
#[derive(Clone, Debug)]
pub struct Running {
    pub step: Step,
    /// The process that takes it.
    pub agent: u64,
    pub began_ms: u64,
    /// Decided when it began, so that a run can be repeated.
    pub fails: Option<String>,
}

pub struct Host {
    pub id: HostId,
    pub name: String,
    pub capacity: HostCapacity,
    pub overhead: Overhead,
    pub booted_ms: u64,
    /// Counts boots; events of an earlier one are void.
    pub boot: u64,
    pub is_on: bool,
    pub guests: BTreeMap<InstanceId, SimGuest>,
    /// Files of volumes, with the number of what was written last.
    pub volumes: BTreeMap<VolumeId, u64>,
    pub blobs: BTreeSet<String>,
    /// The agent's file of accepted state.
    pub accepted_file: Option<Vec<u8>>,
    pub disk_full: bool,
    /// The PC sleeps: nothing runs on it, and its boot clock goes on.
    pub sleeps_until_ms: Option<u64>,
    /// Nothing gets through to the controller or back.
    pub cut_off: bool,
    /// How far the boot clock gets in a second, in milliseconds.
    pub clock_permille: u64,
    /// What the watchdog knows.
    pub fence: Fence,
    pub running: BTreeMap<u64, Running>,
    pub next_step: u64,
    /// Guests' processes so far.
    pub processes: u64,
    pub agents: u64,
    /// The version that its next agent speaks.
    pub protocol: u32,
    pub agent: Option<Agent>,
}

impl Host {
    /// Its clock is not the controller's.
    pub fn boot_clock(&self, now_ms: u64) -> BootTime {
        BootTime((now_ms - self.booted_ms) * self.clock_permille / 1000)
    }

    /// When its boot clock shows this.
    pub fn when(&self, at: BootTime) -> u64 {
        self.booted_ms + (at.0 * 1000).div_ceil(self.clock_permille)
    }

    /// The agent tells the watchdog.
    pub fn tell(&mut self, fence: &Fence, now_ms: u64) -> Fence {
        self.fence.until = self.fence.until.max(fence.until);
        self.fence.guests = fence.guests.clone();
        self.watch(now_ms);
        self.fence.clone()
    }

    /// The watchdog holds guests, or lets them go on. True where that changed anything.
    pub fn watch(&mut self, now_ms: u64) -> bool {
        let over = self.boot_clock(now_ms) >= self.fence.until;
        let mut changed = false;
        for (id, generation) in &self.fence.guests {
            let Some(guest) = self.guests.get_mut(id) else {
                continue;
            };
            let goes_on = !over && guest.generation == *generation;
            let held = guest.is_live() && (over || (guest.held && !goes_on));
            changed |= guest.held != held;
            guest.held = held;
        }
        changed
    }

    pub fn seen_guests(&self) -> BTreeMap<InstanceId, Guest> {
        self.guests
            .iter()
            .map(|(id, guest)| {
                let state = match guest.held {
                    true => GuestState::Paused,
                    false => guest.state.clone(),
                };
                let seen = Guest {
                    generation: guest.generation,
                    state,
                    detail: None,
                    boots: 1,
                    held: guest.held,
                };
                (id.clone(), seen)
            })
            .collect()
    }

    pub fn live(&self) -> impl Iterator<Item = (&InstanceId, &SimGuest)> {
        let awake = self.sleeps_until_ms.is_none();
        self.guests
            .iter()
            .filter(move |(_, guest)| awake && guest.runs())
    }

    /// What a step does to the PC. A power button and a reset act on the guest alone, so they are
    /// the caller's.
    pub fn carry_out(
        &mut self,
        step: &Step,
        networks: &BTreeMap<VpcId, WantedVpc>,
        files: &BTreeMap<VolumeId, VolumeId>,
        now_ms: u64,
    ) -> Result<(), String> {
        match step {
            Step::Fetch { sha256, .. } => {
                if self.cut_off {
                    return Err(UNREACHABLE.into());
                }
                self.blobs.insert(sha256.clone());
                Ok(())
            }
            Step::MakeVolume { volume, .. } => {
                if self.disk_full && !self.volumes.contains_key(&volume.file()) {
                    return Err("no space left on device".into());
                }
                self.volumes.entry(volume.file()).or_insert(0);
                Ok(())
            }
            Step::Start {
                instance,
                not_after,
            } => match not_after {
                Some(at) if self.boot_clock(now_ms) >= *at => Err(TOO_LATE.into()),
                _ => self.start(instance, networks, files),
            },
            Step::PowerButton { .. } => Ok(()),
            Step::Reset {
                instance,
                generation,
                ..
            } => match self.guests.get(instance) {
                Some(guest) if guest.generation == *generation && guest.is_live() => Ok(()),
                _ => Err("there is no such guest".into()),
            },
            Step::Resume { instance } => {
                let full = self.disk_full;
                let known = self.fence.guests.get(instance).copied();
                match self.guests.get_mut(instance) {
                    // Meanwhile the deadline was over: only the watchdog lets it go on.
                    Some(guest) if guest.held && known == Some(guest.generation) => {
                        Err("its process is stopped".into())
                    }
                    Some(guest) if guest.held => {
                        guest.held = false;
                        Ok(())
                    }
                    Some(guest)
                        if guest.is_between_hosts() && guest.state != GuestState::Incoming =>
                    {
                        guest.state = GuestState::Running;
                        Ok(())
                    }
                    // It goes on, and stops at the same write.
                    Some(guest) if guest.state == GuestState::Paused => {
                        guest.state = match full {
                            true => GuestState::Paused,
                            false => GuestState::Running,
                        };
                        Ok(())
                    }
                    _ => Err("there is no paused guest".into()),
                }
            }
            // It takes two hosts, so it is the world's.
            Step::Send { .. } => Ok(()),
            Step::Kill { instance } => {
                if let Some(guest) = self.guests.get_mut(instance)
                    && guest.is_live()
                {
                    guest.state = GuestState::Exited(Exit::Ordered);
                    guest.held = false;
                }
                Ok(())
            }
            Step::Forget { instance, .. } => match self.guests.get(instance) {
                Some(guest) if guest.is_live() => Err("the guest still runs".into()),
                _ => {
                    self.guests.remove(instance);
                    Ok(())
                }
            },
        }
    }

    fn start(
        &mut self,
        wanted: &wire::WantedInstance,
        networks: &BTreeMap<VpcId, WantedVpc>,
        files: &BTreeMap<VolumeId, VolumeId>,
    ) -> Result<(), String> {
        match self.guests.get(&wanted.id) {
            Some(guest) if guest.is_live() && guest.generation == wanted.generation => {
                return Ok(());
            }
            Some(_) => return Err("another guest of this instance is there".into()),
            None => {}
        }
        let disks = wanted.disks.iter();
        let files: Vec<_> = disks.filter_map(|id| files.get(id).cloned()).collect();
        let there = |file: &VolumeId| self.volumes.contains_key(file);
        if files.len() < wanted.disks.len() || !files.iter().all(there) {
            return Err(format!("of {:?} not all is there", wanted.disks));
        }
        let ports: Vec<Port> = networks
            .values()
            .flat_map(|network| network.ports.iter().map(move |port| (network, port)))
            .filter(|(_, port)| wanted.interfaces.iter().any(|i| i.id == port.interface))
            .map(|(network, port)| Port {
                interface: port.interface.clone(),
                vpc: network.vpc.clone(),
                subnet: port.subnet.clone(),
                ip: port.ip,
            })
            .collect();
        // They come with the guest.
        let incoming = wanted.passage == Some(wire::Passage::Arriving);
        if ports.len() < wanted.interfaces.len() && !incoming {
            return Err("a port is not there".into());
        }
        self.processes += 1;
        let guest = SimGuest {
            generation: wanted.generation,
            process: self.processes,
            state: match incoming {
                true => GuestState::Incoming,
                false => GuestState::Running,
            },
            vcpus: wanted.vcpus,
            memory_bytes: wanted.memory_bytes + self.overhead.of(wanted.memory_bytes),
            disks: wanted.disks.clone(),
            files,
            ports,
            resets: 0,
            held: false,
        };
        self.guests.insert(wanted.id.clone(), guest);
        Ok(())
    }
}
