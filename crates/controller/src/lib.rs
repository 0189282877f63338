//! The controller: the APIs that people call, the endpoint that agents poll, and between them the
//! single writer of `boira-store`.
//!
//! ```text
//!  EC2, STS, Boira's own API ──► http ──► ec2/ sts admin ──► Cluster (writer, snapshots)
//!  S3                        ──► http ──► objects ──► boira-objects (its own writer and files)
//!  agents, mutual TLS        ──► agents ──► links (who waits, which streams) ──┘
//! ```

pub mod admin;
mod agents;
mod calls;
mod collect;
pub mod config;
pub mod controller;
pub mod ec2;
mod elsewhere;
mod hosts;
mod http;
mod identity;
pub mod join;
mod links;
mod listen;
mod lost;
mod moves;
mod objects;
mod patience;
pub mod pki;
mod recovery;
mod sts;
mod zones;

pub use controller::{Controller, Opened, Options, open};
