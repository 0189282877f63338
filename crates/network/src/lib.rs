//! The networks of a host's guests.
//!
//! Every VPC has a network namespace of its own on every host that runs guests of it. The guests'
//! taps end there, so two VPCs may use the same addresses, and nothing of the host's own network
//! is ever touched: no interface, no route, no setting, no rule. In the namespace everything is
//! routed. A guest reaches whatever the firewall lets it reach:
//!
//! ```text
//!            ┌ namespace boira-CLOUD-VPC ────────────────────────────┐
//!  guest ─ tap ┐                                     ┌ tap0 ─ slirp4netns ─ outside
//!  guest ─ tap ┼─ proxy ARP, routes, groups (nft) ───┼ vx0 ─ underlay ─ other hosts
//!  guest ─ tap ┘                                     └ lo: gateways,  │
//!            │                                           .253 DNS     │
//!            │    services process (no privileges) ──────.254 metadata│
//!            │                                           .252 the API │
//!            └────────────────────────────────────────────────────────┘
//! ```
//!
//! A bridge would need bridge-netfilter, which changes every bridge of the user's machine; routed
//! taps need nothing, and a guest sees no frame that isn't for it.
//!
//! - [`Network`] is what the agent uses: [`Network::ensure`] makes a [`VpcSpec`] true, whatever was
//!   there before.
//! - [`underlay`] carries the VPCs from host to host; in each VPC's namespace `vx0` leads there.
//! - [`serve`] is the services process of one VPC: DHCP, DNS, metadata, the relay to the API. Like
//!   the connector to the outside it is a process of its own that outlives the agent.
//! - `rules`, `ruleset`, `links`, `dhcp`, `dns`, `metadata` and `spec` decide and do nothing; the
//!   rest acts.

use std::net::Ipv4Addr;

mod applied;
mod arp;
mod connections;
pub mod dhcp;
pub mod dns;
pub mod doctor;
#[cfg(test)]
mod fixture;
mod host;
pub mod links;
pub mod metadata;
mod metadata_tree;
pub mod namespace;
mod netfilter;
mod network;
mod privileges;
mod process;
mod readiness;
pub mod repair;
pub mod rules;
pub mod ruleset;
mod server_process;
mod services;
mod serving;
mod spec;
mod tap;
pub mod underlay;
mod way_out;

pub use network::{Error, Network, Outcome};
pub use services::serve;
pub use spec::{
    GATEWAY_MAC, GroupSpec, Mac, MetadataSpec, OverlayPeer, OverlaySpec, Peer, PortSpec, Protocol,
    Rule, SpecError, StandbySpec, SubnetSpec, VpcSpec, default_domain, tap_name,
};

/// Where guests find the metadata service, port 80.
pub const METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// A name server's address that is the same in all VPCs; each also has one of its own, see
/// [`VpcSpec::resolver`].
pub const RESOLVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);
/// Where guests find the cloud's API, at [`API_PORT`].
pub const API_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 252);
pub const API_PORT: u16 = 8773;
