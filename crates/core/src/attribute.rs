//! What owners change about their instances. Some of it needs a stopped instance, because the guest
//! has already seen it; nothing of a terminated one changes.

use crate::refusal::Thing;
use crate::{Draft, Refusal, launch, policy, schedule, tag};
use boira_model::*;

/// A new value of one attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    AutoRecovery(bool),
    /// `standard` or `unlimited`, for burstable types.
    CpuCredits(String),
    EbsOptimized(bool),
    InstanceType(String),
    Metadata(MetadataOptions),
    Monitoring(bool),
    ShutdownBehavior(ShutdownBehavior),
    StopProtection(bool),
    TerminationProtection(bool),
    /// Base64.
    UserData(Option<String>),
}

impl Setting {
    fn needs_stop(&self) -> bool {
        match self {
            Self::EbsOptimized(_) | Self::InstanceType(_) | Self::UserData(_) => true,
            Self::AutoRecovery(_)
            | Self::CpuCredits(_)
            | Self::Metadata(_)
            | Self::Monitoring(_)
            | Self::ShutdownBehavior(_)
            | Self::StopProtection(_)
            | Self::TerminationProtection(_) => false,
        }
    }
}

/// Sets an attribute; a value that it has already writes nothing.
pub fn set(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    setting: Setting,
) -> Result<(), Refusal> {
    let old = changeable(draft, owner, id, setting.needs_stop())?;
    let mut row = old.clone();
    let what = match setting {
        Setting::AutoRecovery(on) => {
            row.auto_recovery = on;
            format!("automatic recovery {}", words(on))
        }
        Setting::CpuCredits(option) => {
            if !draft
                .state
                .types
                .get(&row.instance_type)
                .is_some_and(|kind| kind.burstable)
            {
                return Err(Refusal::NotBurstable(row.instance_type));
            }
            let what = format!("CPU credits {option}");
            row.cpu_credits = Some(option);
            what
        }
        Setting::EbsOptimized(on) => {
            row.ebs_optimized = on;
            format!("EBS optimization {}", words(on))
        }
        Setting::InstanceType(name) => {
            let what = format!("type {name} in place of {}", row.instance_type);
            set_type(draft, &mut row, name)?;
            what
        }
        Setting::Metadata(options) => {
            tag::check_metadata(&options, &row.tags)?;
            row.metadata = options;
            "metadata options changed".to_owned()
        }
        Setting::Monitoring(on) => {
            row.monitoring = on;
            format!("detailed monitoring {}", words(on))
        }
        Setting::ShutdownBehavior(behavior) => {
            row.shutdown_behavior = behavior;
            match behavior {
                ShutdownBehavior::Stop => "stops when its guest shuts down".to_owned(),
                ShutdownBehavior::Terminate => "terminates when its guest shuts down".to_owned(),
            }
        }
        Setting::StopProtection(on) => {
            row.stop_protection = on;
            format!("stop protection {}", words(on))
        }
        Setting::TerminationProtection(on) => {
            row.termination_protection = on;
            format!("termination protection {}", words(on))
        }
        Setting::UserData(data) => {
            row.user_data = data;
            "user data changed".to_owned()
        }
    };
    if row != old {
        let id = row.id.clone();
        draft.put(row);
        draft.log(&id, "api", what);
    }
    Ok(())
}

/// The type's figures count at once, so that a stopped instance shows what it will start with.
fn set_type(draft: &Draft, row: &mut Instance, name: String) -> Result<(), Refusal> {
    let kind = draft
        .state
        .types
        .get(&name)
        .ok_or_else(|| Refusal::NoSuchType(name.clone()))?;
    // The image may be gone; then nobody knows any more what it needs.
    let image = draft.state.images.get(&row.image);
    if let Some(image) = image {
        launch::check_fits(image, kind)?;
    }
    let asked = image.map_or(kind.cpu_level, |image| policy::cpu_level(image, kind));
    let cpu = schedule::raised(row.cpu.clone(), asked);
    let disks = row
        .disks
        .iter()
        .filter_map(|id| draft.state.volumes.get(id));
    for host in disks.filter_map(|disk| disk.host.as_ref()) {
        let host = draft.state.hosts.get(host).filter(|_| cpu != row.cpu);
        if let Some(host) = host
            && let Err(why) = schedule::can_run(host, &row.machine, &cpu)
        {
            // It would never start again, whatever its type is afterwards.
            return Err(Refusal::Conflict(format!(
                "Instance type {name} can't be had where the disk of {} is, on {}: {why}.",
                row.id, host.name
            )));
        }
    }
    row.cpu = cpu;
    row.vcpus = kind.vcpus;
    row.memory_bytes = kind.memory_bytes();
    row.cpu_credits = match kind.burstable {
        true => row.cpu_credits.take().or_else(|| kind.default_credits()),
        false => None,
    };
    row.instance_type = name;
    Ok(())
}

/// Whether an attached volume goes with its instance. `Ok(false)`: nothing is attached there.
pub fn delete_volume_on_termination(
    draft: &mut Draft,
    owner: &AccountId,
    id: &str,
    device: &str,
    delete: bool,
) -> Result<bool, Refusal> {
    let row = changeable(draft, owner, id, false)?;
    let volume = row
        .disks
        .iter()
        .filter_map(|id| draft.state.volumes.get(id))
        .find(|volume| {
            volume
                .attachment
                .as_ref()
                .is_some_and(|attachment| attachment.device == device)
        });
    let Some(volume) = volume.map(|volume| Volume::clone(volume)) else {
        return Ok(false);
    };
    let mut changed = volume.clone();
    if let Some(attachment) = &mut changed.attachment {
        attachment.delete_on_termination = delete;
    }
    if changed != volume {
        draft.put(changed);
        draft.log(
            &row.id,
            "api",
            format!("{device} goes with the instance: {delete}"),
        );
    }
    Ok(true)
}

/// The instance, if it is one that may still change.
pub fn changeable(
    draft: &Draft,
    owner: &AccountId,
    id: &str,
    stopped_only: bool,
) -> Result<Instance, Refusal> {
    let row = draft.state.instance(owner, id);
    let row = row.ok_or_else(|| Refusal::NotFound(Thing::Instance, id.to_owned()))?;
    let allowed = match row.state() {
        StateName::Stopped => true,
        StateName::Pending | StateName::Running | StateName::Stopping => !stopped_only,
        StateName::ShuttingDown | StateName::Terminated => false,
    };
    match allowed {
        true => Ok(Instance::clone(row)),
        false => Err(Refusal::WrongState {
            id: id.to_owned(),
            verb: "modified",
            state: row.state(),
        }),
    }
}

fn words(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
