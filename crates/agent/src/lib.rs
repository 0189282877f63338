//! The agent: one per host. It asks the controller what should be, looks at what is, and takes the
//! steps that `boira_core::plan` names. Nothing that runs depends on it: guests, their networks and
//! their consoles are processes of their own, which the next agent finds and adopts.
//!
//! ```text
//!  controller ◄── client (HTTP/2, mutual TLS) ──► engine ──► core::plan
//!                                                   │ steps
//!                                                   ▼
//!                                          Host: real drivers, or simulated
//! ```

pub mod absence;
mod accepted;
mod calls;
pub mod client;
mod consoles;
mod copy;
mod engine;
mod host;
pub mod identity;
mod images;
pub mod intake;
mod line;
mod networks;
mod peers;
mod reach;
mod real;
pub mod simulated;
mod space;
mod translate;
mod volumes;
pub mod watchdog;
mod way;

pub use client::Controller;
pub use engine::{run, wall_now};
pub use host::{About, Host, Observed};
pub use identity::Identity;
pub use real::{Commands, Place, RealHost};
