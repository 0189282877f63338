//! What is to become of an instance when something happens to it: tags of the instance, else of its
//! image, and for a lost host its type's word.
//!
//! | tag | values | where nothing is said |
//! |---|---|---|
//! | `boira:recover`: its host is lost | `wait`, `reimage` | its type's `recover` |
//! | `boira:on-poweroff`: it switched itself off | `preserve`, `restart`, `destroy` | EC2's InstanceInitiatedShutdownBehavior |
//! | `boira:on-crash`: its kernel panicked | the same | `preserve` |
//! | `boira:on-reboot`: it restarted itself | the same | `restart`, which is what a guest does |
//!
//! Of an image `boira:cpu-level` says which level of x86-64 its programs need, 1 to 3.
//!
//! The words are those of Xen's domain files (xl.cfg(5): `on_poweroff`, `on_crash`, `on_reboot`):
//! `preserve` keeps it, stopped; `destroy` terminates it.

use crate::State;
use boira_model::*;

pub const RECOVER: &str = "boira:recover";
pub const ON_POWEROFF: &str = "boira:on-poweroff";
pub const ON_CRASH: &str = "boira:on-crash";
pub const ON_REBOOT: &str = "boira:on-reboot";

pub const CPU_LEVEL: &str = "boira:cpu-level";

const PREFIX: &str = "boira:";
/// Tags of Boira's that say something else.
const OTHERS: [&str; 2] = ["boira:default", "boira:user"];

/// What follows when a guest has ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Preserve,
    Restart,
    Destroy,
}

impl Then {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "preserve" => Some(Self::Preserve),
            "restart" => Some(Self::Restart),
            "destroy" => Some(Self::Destroy),
            _ => None,
        }
    }
}

/// Whether a tag may be set; why not.
pub fn check(key: &str, value: &str) -> Result<(), String> {
    let may_be = |values: &str, fits: bool| match fits {
        true => Ok(()),
        false => Err(format!("The tag {key} is one of {values}, not '{value}'")),
    };
    match key {
        RECOVER => may_be("wait, reimage", Recovery::parse(value).is_some()),
        ON_POWEROFF | ON_CRASH | ON_REBOOT => {
            may_be("preserve, restart, destroy", Then::parse(value).is_some())
        }
        CPU_LEVEL => may_be("1, 2, 3", parse_level(value).is_some()),
        _ if key.starts_with(PREFIX) && !OTHERS.contains(&key) => Err(format!(
            "There is no tag {key}; tags starting with '{PREFIX}' are {RECOVER}, {ON_POWEROFF}, \
             {ON_CRASH}, {ON_REBOOT}, {CPU_LEVEL}, {}",
            OTHERS.join(", ")
        )),
        _ => Ok(()),
    }
}

fn parse_level(text: &str) -> Option<u8> {
    text.parse().ok().filter(|level| (1..=3).contains(level))
}

/// The level of x86-64 that an instance's CPU must have, whichever of the two asks for more; 0 where
/// neither asks.
pub fn cpu_level(image: &Image, kind: &InstanceType) -> u8 {
    let image = image
        .tags
        .get(CPU_LEVEL)
        .and_then(|value| parse_level(value));
    image.unwrap_or(0).max(kind.cpu_level)
}

fn tagged<'a>(state: &'a State, row: &'a Instance, key: &str) -> Option<&'a str> {
    let own = row.tags.get(key);
    let value = own.or_else(|| state.images.get(&row.image)?.tags.get(key));
    value.map(String::as_str)
}

/// What becomes of it when its host is lost.
pub fn recovery(state: &State, row: &Instance) -> Recovery {
    let said = tagged(state, row, RECOVER).and_then(Recovery::parse);
    said.unwrap_or_else(|| {
        let kind = state.types.get(&row.instance_type);
        kind.map_or(Recovery::Wait, |kind| kind.recover)
    })
}

/// What follows a poweroff from inside.
pub fn on_poweroff(state: &State, row: &Instance) -> Then {
    let said = tagged(state, row, ON_POWEROFF).and_then(Then::parse);
    said.unwrap_or(match row.shutdown_behavior {
        ShutdownBehavior::Stop => Then::Preserve,
        ShutdownBehavior::Terminate => Then::Destroy,
    })
}

/// What follows a reboot from inside.
pub fn on_reboot(state: &State, row: &Instance) -> Then {
    let said = tagged(state, row, ON_REBOOT).and_then(Then::parse);
    said.unwrap_or(Then::Restart)
}

/// What follows a crash of the guest's kernel.
pub fn on_crash(state: &State, row: &Instance) -> Then {
    let said = tagged(state, row, ON_CRASH).and_then(Then::parse);
    said.unwrap_or(Then::Preserve)
}
