//! Whatever the core decides, by calling it.

mod between_hosts;
mod common;
mod heal;
mod host;
mod indices;
mod launch;
mod live;
mod moving;
mod observe;
mod plan;
mod power;
mod reboot;
mod zone;
