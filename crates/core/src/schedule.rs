//! Where an instance goes: of the live hosts with room the one that the zone's packing prefers, or the
//! reasons, host by host, why none has.

use crate::State;
use crate::state::{Contact, Usage};
use boira_model::*;

/// What an instance asks of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub zone: Option<String>,
    /// Its disks are there and nowhere else.
    pub host: Option<HostId>,
    /// It is to go somewhere else than here.
    pub leaving: Option<HostId>,
    /// Machine type and CPU model that its guest has for life; absent before it was placed once.
    pub guest: Option<(String, String)>,
    /// The level of x86-64 that its CPU is to have; 0 for what the host takes.
    pub cpu_level: u8,
}

impl Need {
    /// What an instance asks that was launched before: its own host where its disks are.
    pub fn of(state: &State, row: &Instance) -> Self {
        Self {
            vcpus: row.vcpus,
            memory_bytes: row.memory_bytes,
            disk_bytes: 0,
            zone: Some(row.zone.clone()),
            host: row
                .disks
                .iter()
                .find_map(|id| state.volumes.get(id)?.host.clone()),
            leaving: None,
            guest: guest_of(row),
            cpu_level: 0,
        }
    }
}

/// What an instance's guest has for life; absent before it was placed once.
pub fn guest_of(row: &Instance) -> Option<(String, String)> {
    (!row.machine.is_empty()).then(|| (row.machine.clone(), row.cpu.clone()))
}

/// Whether one host can take an instance: the memory that it would have left, or why not.
pub type Verdict = Result<u64, String>;

/// The host to use, or one line per host that was considered.
pub fn place(state: &State, need: &Need) -> Result<HostId, Vec<String>> {
    place_where(state, need, |_| Ok(()))
}

/// [`place`] among the hosts that `fits` has nothing against.
pub fn place_where(
    state: &State,
    need: &Need,
    fits: impl Fn(&Host) -> Result<(), String>,
) -> Result<HostId, Vec<String>> {
    Places::among(state, need.clone(), fits).best()
}

/// Every host judged for one need, so that many alike are placed without judging all hosts each time.
pub struct Places {
    need: Need,
    pace: Pace,
    /// In the order of the ids.
    judged: Vec<(HostId, Place)>,
}

/// How good a host is, the larger the better, or a line that says why it can't be used.
type Place = Result<u64, String>;

impl Places {
    pub fn of(state: &State, need: Need) -> Self {
        Self::among(state, need, |_| Ok(()))
    }

    fn among(state: &State, need: Need, fits: impl Fn(&Host) -> Result<(), String>) -> Self {
        let mut places = Self {
            pace: Pace::of(state),
            judged: Vec::new(),
            need,
        };
        for (id, host) in &state.hosts {
            if belongs(host, &places.need).is_ok() {
                let place = fits(host)
                    .map_err(|reason| format!("{}: {reason}", host.name))
                    .and_then(|()| places.judge(state, host));
                places.judged.push((id.clone(), place));
            }
        }
        places
    }

    /// The host to use, or one line per host that was considered.
    pub fn best(&self) -> Result<HostId, Vec<String>> {
        let mut best: Option<(u64, &HostId)> = None;
        for (id, place) in &self.judged {
            // Equal hosts by id, so that the choice is stable.
            if let Ok(score) = place
                && best.is_none_or(|(most, _)| *score > most)
            {
                best = Some((*score, id));
            }
        }
        match best {
            Some((_, id)) => Ok(id.clone()),
            None => Err(self.reasons()),
        }
    }

    /// A host has got one of those that are placed.
    pub fn judge_again(&mut self, state: &State, host: &Host) {
        let own = self.judged.binary_search_by(|(id, _)| id.cmp(&host.id));
        if let Ok(index) = own {
            self.judged[index].1 = self.judge(state, host);
        }
    }

    fn judge(&self, state: &State, host: &Host) -> Place {
        match room(state, host, &self.need) {
            Ok(left) => Ok(score(state, host, left, self.pace)),
            Err(reason) => Err(format!("{}: {reason}", host.name)),
        }
    }

    fn reasons(&self) -> Vec<String> {
        let reasons = self
            .judged
            .iter()
            .filter_map(|(_, place)| place.clone().err());
        let reasons: Vec<_> = reasons.collect();
        if !reasons.is_empty() {
            return reasons;
        }
        let host = match self.need.leaving {
            Some(_) => "no other host",
            None => "no host",
        };
        vec![match &self.need.zone {
            Some(zone) => format!("{host} has joined zone {zone}"),
            None => format!("{host} has joined the cloud"),
        }]
    }
}

/// [`place`] for one host, with every reason that could keep an instance away from it.
pub fn verdict(state: &State, host: &Host, need: &Need) -> Verdict {
    belongs(host, need)?;
    room(state, host, need)
}

/// Whether a host is among those that are asked for.
fn belongs(host: &Host, need: &Need) -> Result<(), String> {
    if need.host.as_ref().is_some_and(|only| *only != host.id) {
        return Err("the disks are on another host".into());
    }
    if need.leaving.as_ref() == Some(&host.id) {
        return Err("it is there already".into());
    }
    match &need.zone {
        Some(zone) if *zone != host.zone => Err(format!("is in zone {}", host.zone)),
        Some(_) | None => Ok(()),
    }
}

/// The larger the better; `left` is the memory that the host would have left. Room on a PC that is half
/// as fast as the fastest counts half, so that slow ones get less to do.
fn score(state: &State, host: &Host, left: u64, pace: Pace) -> u64 {
    let packing = state.zones.get(&host.zone).map(|zone| zone.packing);
    match packing.unwrap_or_default() {
        Packing::Striping => match pace.speed(host) {
            0 => left,
            own => (u128::from(left) * u128::from(own) / u128::from(pace.fastest)) as u64,
        },
        Packing::Packing => u64::MAX - left,
    }
}

/// How fast hosts' guests are beside each other, as measured at joining on one core.
#[derive(Clone, Copy)]
struct Pace {
    /// Whether guests were measured on every host that was measured at all. Else all are compared by the
    /// host's own figure, which every one of them has.
    by_guests: bool,
    fastest: u64,
}

impl Pace {
    fn of(state: &State) -> Self {
        let hosts = || state.hosts.values();
        let mut speeds = hosts().filter_map(|host| host.intake.speed);
        let mut pace = Self {
            by_guests: speeds.all(|speed| speed.own_rounds_s > 0 && speed.guest_rounds_s > 0),
            fastest: 0,
        };
        pace.fastest = hosts().map(|host| pace.speed(host)).max().unwrap_or(0);
        pace
    }

    /// 0 where it wasn't measured, which counts as fast as the fastest.
    fn speed(&self, host: &Host) -> u64 {
        let figure = |speed: Speed| match (self.by_guests, host.acceleration.hardware) {
            (false, _) => speed.integer_mib_s,
            (true, true) => speed.own_rounds_s,
            (true, false) => speed.guest_rounds_s,
        };
        host.intake.speed.map_or(0, figure)
    }
}

/// What may be promised on a host in all: CPUs and bytes of memory.
pub fn limits(state: &State, host: &Host) -> (u64, u64) {
    let vcpus = (f64::from(host.capacity.cpus) * state.settings.cpu_overcommit) as u64;
    let memory = (host.capacity.memory_bytes as f64 * state.settings.memory_overcommit) as u64;
    (vcpus, memory)
}

/// Whether a host has what a guest was made for, or why not.
pub fn can_run(host: &Host, machine: &str, cpu: &str) -> Result<(), String> {
    if !is_as_new(&host.machine, machine) {
        return Err(format!(
            "its hypervisor is too old for the machine type {machine}, it has {}",
            host.machine
        ));
    }
    match level(cpu) {
        Some(level) if level <= reaches(host) => Ok(()),
        None if host.cpu == cpu => Ok(()),
        _ => Err(format!(
            "its CPU lacks instructions that the model {cpu} has"
        )),
    }
}

/// The level of x86-64 that guests of a host get to.
fn reaches(host: &Host) -> u8 {
    // Translated guests get instructions that the CPU itself lacks.
    match host.acceleration.hardware {
        true => host.intake.cpu_level,
        false => TRANSLATED_LEVEL,
    }
}

/// The CPU model of a guest that is launched on a host with such a level, kept for its life.
pub fn model(host: &Host, cpu_level: u8) -> String {
    match cpu_level {
        0 => host.cpu.clone(),
        level => model_of(level).into(),
    }
}

fn model_of(level: u8) -> &'static str {
    match level {
        0 | 1 => "qemu64-v1",
        2 => "Nehalem-v1",
        // Without transactional memory, which translation lacks.
        _ => "Haswell-v2",
    }
}

/// The CPU model of a guest that has had `cpu` so far, where it gets a type that asks for a level.
pub fn raised(cpu: String, cpu_level: u8) -> String {
    match level(&cpu) {
        Some(level) if level < cpu_level => model_of(cpu_level).into(),
        _ => cpu,
    }
}

/// The level of x86-64 that QEMU's translation reaches.
const TRANSLATED_LEVEL: u8 = 3;

/// The level of x86-64 of a CPU model of QEMU, as far as Boira uses it ("ABI compatibility levels for
/// CPU models" in QEMU's documentation).
fn level(cpu: &str) -> Option<u8> {
    let name = cpu.split([',', '+']).next().unwrap_or(cpu);
    let name = match name.rsplit_once("-v") {
        Some((name, version)) if version.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => name,
    };
    match name {
        "qemu64" | "kvm64" => Some(1),
        "Nehalem" | "Westmere" | "SandyBridge" | "IvyBridge" => Some(2),
        "Haswell" | "Broadwell" | "EPYC" | "Skylake-Client" => Some(3),
        _ => None,
    }
}

/// Whether a host whose newest machine type is `has` also has `wanted`: `pc-i440fx-7.2` comes after
/// `pc-i440fx-6.0`.
fn is_as_new(has: &str, wanted: &str) -> bool {
    let version = |machine: &str| -> Option<(String, u32, u32)> {
        let (family, version) = machine.rsplit_once('-')?;
        let (major, minor) = version.split_once('.')?;
        Some((family.into(), major.parse().ok()?, minor.parse().ok()?))
    };
    match (version(has), version(wanted)) {
        (Some(has), Some(wanted)) => has.0 == wanted.0 && (has.1, has.2) >= (wanted.1, wanted.2),
        _ => has == wanted,
    }
}

/// How many instances of a type fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Now.
    pub free: u64,
    /// If the host were empty.
    pub max: u64,
}

/// How many more instances of a type with its own disk a host has room for; none while it is
/// silent or drained, or can do nothing new.
pub fn slots(state: &State, host: &Host, kind: &InstanceType) -> Slots {
    let closed = state.contact(&host.id) == Contact::Silent
        || !host.is_open()
        || state.unable.contains_key(&host.id);
    if closed || kind.cpu_level > reaches(host) {
        return Slots::default();
    }
    let used = state.usage.get(&host.id).copied().unwrap_or_default();
    let (vcpus, memory) = limits(state, host);
    let memory_need = kind.memory_bytes() + host.overhead.of(kind.memory_bytes());
    let fit = |used: Usage| {
        let by_cpu = vcpus.saturating_sub(used.vcpus) / u64::from(kind.vcpus);
        let by_memory = memory.saturating_sub(used.memory_bytes) / memory_need;
        let disk_left = host.capacity.disk_bytes.saturating_sub(used.disk_bytes);
        by_cpu.min(by_memory).min(disk_left / (kind.disk_gib << 30))
    };
    Slots {
        free: fit(used),
        max: fit(Usage::default()),
    }
}

/// Bytes of memory that would be left, or why there is no room.
fn room(state: &State, host: &Host, need: &Need) -> Verdict {
    match host.admission {
        Admission::Revoked => return Err("is revoked".into()),
        // What has its disks here can be nowhere else.
        Admission::Draining if need.host.is_none() => {
            return Err(match host.note.as_str() {
                "" => "is being drained".into(),
                note => format!("is being drained: {note}"),
            });
        }
        Admission::Draining | Admission::Open => {}
    }
    if let Some(why) = host.quarantine.as_ref().filter(|_| need.host.is_none()) {
        return Err(format!("is in quarantine: {why}"));
    }
    if state.silent.contains(&host.id) {
        return Err("has not been heard of lately".into());
    }
    if let Some(why) = state.unable.get(&host.id) {
        return Err(why.clone());
    }
    if let Some((machine, cpu)) = &need.guest {
        can_run(host, machine, cpu)?;
    }
    if need.cpu_level > reaches(host) {
        return Err(format!(
            "its CPU has level {} of x86-64, and {} is needed",
            reaches(host),
            need.cpu_level
        ));
    }
    let used = state
        .usage
        .get(&host.id)
        .copied()
        .unwrap_or(Usage::default());
    let (vcpus, memory) = limits(state, host);
    let short =
        |what: &str, needs: u64, has: u64| Err(format!("{what}: needs {needs}, has {has} left"));
    let vcpus_left = vcpus.saturating_sub(used.vcpus);
    if u64::from(need.vcpus) > vcpus_left {
        return short("vCPUs", need.vcpus.into(), vcpus_left);
    }
    let memory_left = memory.saturating_sub(used.memory_bytes);
    let memory_need = need.memory_bytes + host.overhead.of(need.memory_bytes);
    if memory_need > memory_left {
        return short("MiB of memory", memory_need >> 20, memory_left >> 20);
    }
    let disk_left = host.capacity.disk_bytes.saturating_sub(used.disk_bytes);
    if need.disk_bytes > disk_left {
        return short("GiB of disk", need.disk_bytes >> 30, disk_left >> 30);
    }
    Ok(memory_left - memory_need)
}
