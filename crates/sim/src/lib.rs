//! The simulator: a whole cloud in one thread, with simulated hosts, network, disks and clocks around
//! the shipped decisions, the shipped writer and, in two runs of five, the shipped store; the others keep
//! rows in memory, which is faster.
//!
//! ```text
//!  clients ── calls ──► controller: boira_store::Writer over Sqlite, observe, wanted, reconcile
//!                            ▲ reports, polls       │ parts
//!                            │                      ▼
//!  faults ──────────►  agents: sync::{Outbox, Accepted}, plan::plan, memory ──► simulated PCs
//!                            │
//!                       checks after every event: `check`, `ledger`; at the end: `settle`
//! ```
//! A run is a function of its seed: the fault mix, every delay and every choice come from one stream
//! of random numbers. First faults and calls, then calm until everything has converged.

mod agent;
mod check;
mod client;
mod controller;
mod drive;
mod faults;
mod host;
mod ledger;
mod mix;
mod random;
mod run;
mod settle;
mod soak;
mod store;
mod world;

#[cfg(debug_assertions)]
pub use run::run_planted;
pub use run::{Failure, Summary, Weather, run};
pub use soak::{Totals, seeds, soak};

/// How long a clean stop may take in the simulated cloud.
const STOP_DEADLINE_MS: u64 = 20_000;
