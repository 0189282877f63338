//! What the networks of guests need of a host, for `boira doctor`.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::namespace::find_tool;
use crate::{tap, underlay};

/// One thing that a host has or lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub what: &'static str,
    pub present: bool,
    /// Whether guests can run without it.
    pub optional: bool,
    /// What the administrator can do, in a sentence.
    pub remedy: &'static str,
}

/// Looks for the tools and devices, and as root asks the kernel; changes nothing.
pub fn requirements() -> Vec<Requirement> {
    let tool = |what, optional, remedy| Requirement {
        what,
        present: find_tool(what).is_ok(),
        optional,
        remedy,
    };
    let mut requirements = vec![
        tool("ip", false, "install the package iproute2"),
        tool("nft", false, "install the package nftables"),
        tool(
            "slirp4netns",
            true,
            "install the package slirp4netns, without which guests don't reach the outside",
        ),
        tool(
            "conntrack",
            true,
            "install the package conntrack, without which some connections end when a guest goes to another host",
        ),
        Requirement {
            what: tap::TUN,
            present: Path::new(tap::TUN).exists(),
            optional: false,
            remedy: "load the kernel module tun",
        },
    ];
    requirements.push(Requirement {
        what: "ping_group_range",
        present: lets_ping(),
        optional: true,
        remedy: "sysctl -w net.ipv4.ping_group_range='0 2147483647', without which guests can't ping the outside",
    });
    if nix::unistd::geteuid().is_root() {
        requirements.push(Requirement {
            what: "nf_tables",
            present: filters_packets(),
            optional: false,
            remedy: "load the kernel module nf_tables",
        });
        requirements.push(Requirement {
            what: "wireguard",
            present: underlay::kernel_seals(),
            optional: true,
            remedy: "load the kernel module wireguard, without which a process of Boira's seals what goes \
                     between hosts, more slowly",
        });
    }
    requirements
}

/// Whether the connector to the outside, which is root without its rights, may send echo requests; see
/// icmp(7). systemd lets everybody, the kernel's own default is nobody.
fn lets_ping() -> bool {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ping_group_range");
    range.is_ok_and(|range| range.split_ascii_whitespace().next() == Some("0"))
}

/// Whether the kernel would take a table of rules; it is only asked.
fn filters_packets() -> bool {
    let asked = |nft| {
        Command::new(nft)
            .args(["--check", "add table inet boira"])
            .stdin(Stdio::null())
            .output()
    };
    find_tool("nft")
        .and_then(asked)
        .is_ok_and(|output| output.status.success())
}
