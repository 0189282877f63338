//! The firewall of a VPC's namespace: a [`VpcSpec`] in, the text for `nft -f` out.
//!
//! A frame's way through the tables, where every chain that decides drops what it doesn't know:
//!
//! ```text
//! tap ─ arp input        sender must be the port's own MAC and address
//!     └ guard            MAC and address must be the port's own; no IPv6, no DHCP answers
//!         ├ to_us        only our services: DHCP, DNS, metadata, the API's relay, ping
//!         └ from_guests  the sender's groups
//!             └ to_guests  the receiver's groups, or outside: not the host's own addresses
//! us  ─ from_us          the receiver's groups, as for any other source
//! ```
//!
//! Rules decide about new connections only; what is established goes on until it ends, as in AWS.
//! The whole table is replaced in one transaction, so no packet ever meets half of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::spec::{GroupSpec, Peer, PortSpec, Protocol, Rule, VpcSpec, tap_name};
use crate::{API_ADDRESS, API_PORT, METADATA_ADDRESS, RESOLVER_ADDRESS};

/// The interface that leads outside.
pub const WAY_OUT_DEVICE: &str = "tap0";

/// What a guest must never reach through the way out: this host under any name (`0.0.0.0/8` means
/// the host itself to `connect`), the connector's own network, and what is no single machine.
const NEVER_OUTSIDE: [&str; 5] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// The `inet` table of a VPC. `host` holds the addresses of this host, which guests must not reach.
pub fn inet_table(spec: &VpcSpec, host: &BTreeSet<Ipv4Addr>) -> String {
    let mut text = String::from("table inet boira\ndelete table inet boira\ntable inet boira {\n");
    sets(&mut text, spec, host);
    group_chains(&mut text, spec);
    port_chains(&mut text, spec);
    base_chains(&mut text, spec);
    text.push_str("}\n");
    text
}

/// The `arp` table: a guest says only its own MAC and its own address (or none, when it probes).
///
/// The permanent neighbours alone keep traffic from being drawn away; the filter also keeps a
/// guest from filling the neighbour table, which all namespaces of a host share.
pub fn arp_table(spec: &VpcSpec) -> String {
    let mut text = String::from("table arp boira\ndelete table arp boira\ntable arp boira {\n");
    let own = spec.ports.iter().flat_map(|port| {
        let tap = tap_name(&port.eni);
        [port.ip, Ipv4Addr::UNSPECIFIED].map(|ip| format!("\"{tap}\" . {} . {ip}", port.mac))
    });
    set(&mut text, "own", "ifname . ether_addr . ipv4_addr", "", own);
    text.push_str(&format!(
        "\tchain input {{\n\
         \t\ttype filter hook input priority 0; policy drop;\n\
         \t\tiifname {{ \"lo\", \"{WAY_OUT_DEVICE}\" }} accept\n\
         \t\tiifname . arp saddr ether . arp saddr ip @own accept\n\
         \t\tcounter\n\t}}\n}}\n"
    ));
    text
}

fn sets(text: &mut String, spec: &VpcSpec, host: &BTreeSet<Ipv4Addr>) {
    let quoted = |port: &PortSpec| format!("\"{}\"", tap_name(&port.eni));
    let checked = spec.ports.iter().filter(|port| port.source_dest_check);
    let unchecked = spec.ports.iter().filter(|port| !port.source_dest_check);
    set(text, "taps", "ifname", "", spec.ports.iter().map(quoted));
    set(
        text,
        "own_address",
        "ifname . ether_addr . ipv4_addr",
        "",
        checked.map(|port| format!("{} . {} . {}", quoted(port), port.mac, port.ip)),
    );
    set(
        text,
        "any_address",
        "ifname . ether_addr",
        "",
        unchecked.map(|port| format!("{} . {}", quoted(port), port.mac)),
    );
    set(
        text,
        "own_mac",
        "ifname . ether_addr",
        "",
        spec.ports
            .iter()
            .map(|port| format!("{} . {}", quoted(port), port.mac)),
    );
    set(
        text,
        "host",
        "ipv4_addr",
        "",
        host.iter().map(ToString::to_string),
    );
    set(
        text,
        "never_outside",
        "ipv4_addr",
        "\t\tflags interval\n",
        NEVER_OUTSIDE.iter().map(ToString::to_string),
    );
    for (group, members) in members(spec) {
        let members = members.iter().map(ToString::to_string);
        set(text, &members_set(group), "ipv4_addr", "", members);
    }
}

/// The members of every group that exists or that a rule refers to. A group that is referred to
/// but gone has none.
fn members(spec: &VpcSpec) -> BTreeMap<&str, BTreeSet<Ipv4Addr>> {
    let mut members = BTreeMap::<&str, BTreeSet<Ipv4Addr>>::new();
    for group in &spec.groups {
        members.entry(&group.id).or_default().extend(&group.members);
        for rule in group.ingress.iter().chain(&group.egress) {
            if let Peer::Group(peer) = &rule.peer {
                members.entry(peer).or_default();
            }
        }
    }
    members
}

fn members_set(group: &str) -> String {
    format!("members-{group}")
}

/// Only groups that a port of this host wears need chains.
fn group_chains(text: &mut String, spec: &VpcSpec) {
    let worn: BTreeSet<&str> = spec
        .ports
        .iter()
        .flat_map(|port| port.groups.iter().map(String::as_str))
        .collect();
    for group in spec.groups.iter().filter(|g| worn.contains(g.id.as_str())) {
        let GroupSpec {
            id,
            ingress,
            egress,
            ..
        } = group;
        chain(
            text,
            &format!("in-{id}"),
            ingress.iter().map(|rule| rule_text(rule, "saddr")),
        );
        chain(
            text,
            &format!("out-{id}"),
            egress.iter().map(|rule| rule_text(rule, "daddr")),
        );
    }
}

/// A port lets through what any of its groups lets through.
fn port_chains(text: &mut String, spec: &VpcSpec) {
    for port in &spec.ports {
        for direction in ["in", "out"] {
            let jumps = port
                .groups
                .iter()
                .map(|group| format!("jump {direction}-{group}"));
            let end = std::iter::once("counter drop".to_owned());
            chain(text, &format!("{direction}-{}", port.eni), jumps.chain(end));
        }
    }
}

fn rule_text(rule: &Rule, side: &str) -> String {
    let peer = match &rule.peer {
        Peer::Cidr(cidr) if cidr.prefix_len() == 0 => String::new(),
        Peer::Cidr(cidr) => format!("ip {side} {} ", cidr.trunc()),
        Peer::Group(group) => format!("ip {side} @{} ", members_set(group)),
    };
    let protocol = match rule.protocol {
        Protocol::All => String::new(),
        Protocol::Tcp { from, to } => ports_text("tcp", from, to),
        Protocol::Udp { from, to } => ports_text("udp", from, to),
        Protocol::Icmp { kind, code } => icmp_text(kind, code),
        Protocol::Number(number) => format!("meta l4proto {number} "),
    };
    format!("{peer}{protocol}counter accept")
}

fn ports_text(protocol: &str, from: u16, to: u16) -> String {
    match (from, to) {
        (0, u16::MAX) => format!("meta l4proto {protocol} "),
        _ if from == to => format!("{protocol} dport {from} "),
        _ => format!("{protocol} dport {from}-{to} "),
    }
}

fn icmp_text(kind: Option<u8>, code: Option<u8>) -> String {
    let mut text = String::from("meta l4proto icmp ");
    if let Some(kind) = kind {
        let _ = write!(text, "icmp type {kind} ");
    }
    if let Some(code) = code {
        let _ = write!(text, "icmp code {code} ");
    }
    text
}

fn base_chains(text: &mut String, spec: &VpcSpec) {
    let to = |direction: &str| {
        spec.ports
            .iter()
            .map(|port| {
                format!(
                    "\"{}\" : goto {direction}-{}",
                    tap_name(&port.eni),
                    port.eni
                )
            })
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (ingress, egress) = (to("in"), to("out"));
    let verdict = |field: &str, map: &str| match map {
        "" => String::new(),
        map => format!("\t\t{field} vmap {{ {map} }}\n"),
    };
    let resolver = spec.resolver();
    let _ = write!(
        text,
        "\tchain guard {{
\t\ttype filter hook prerouting priority raw; policy drop;
\t\tiifname {{ \"lo\", \"{WAY_OUT_DEVICE}\" }} accept
\t\tmeta nfproto != ipv4 counter drop
\t\tudp sport 67 udp dport 68 counter drop
\t\tiifname . ether saddr . ip saddr @own_address accept
\t\tip saddr 0.0.0.0 udp sport 68 udp dport 67 iifname . ether saddr @own_mac accept
\t\tip saddr != {{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }} iifname . ether saddr @any_address accept
\t\tcounter
\t}}
\tchain from_guests {{
\t\ttype filter hook forward priority -10; policy drop;
\t\tct state established,related accept
\t\tct state invalid counter drop
{}\t}}
\tchain to_guests {{
\t\ttype filter hook forward priority 0; policy drop;
\t\tct state established,related accept
\t\toifname \"{WAY_OUT_DEVICE}\" goto outside
{}\t}}
\tchain outside {{
\t\tip daddr @never_outside counter drop
\t\tip daddr @host counter drop
\t\tip daddr {} counter drop
\t\tcounter accept
\t}}
\tchain to_us {{
\t\ttype filter hook input priority 0; policy drop;
\t\tiifname \"lo\" accept
\t\tct state established,related accept
\t\tct state invalid counter drop
\t\tiifname != @taps counter drop
\t\tudp dport 67 accept
\t\tip daddr {{ {resolver}, {RESOLVER_ADDRESS} }} meta l4proto {{ tcp, udp }} th dport 53 accept
\t\tip daddr {METADATA_ADDRESS} tcp dport 80 accept
\t\tip daddr {API_ADDRESS} tcp dport {API_PORT} accept
\t\tip daddr {} icmp type echo-request accept
\t\tcounter
\t}}
\tchain from_us {{
\t\ttype filter hook output priority 0; policy drop;
\t\toifname \"lo\" accept
\t\tct state established,related accept
\t\toifname @taps udp sport 67 udp dport 68 accept
{}\t\tcounter
\t}}
\tchain borrow_address {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\toifname \"{WAY_OUT_DEVICE}\" masquerade
\t}}
",
        verdict("iifname", &egress),
        verdict("oifname", &ingress),
        spec.cidr.trunc(),
        spec.cidr.trunc(),
        verdict("oifname", &ingress),
    );
}

fn set(
    text: &mut String,
    name: &str,
    kind: &str,
    flags: &str,
    elements: impl Iterator<Item = String>,
) {
    let elements: Vec<String> = elements.collect();
    let _ = write!(text, "\tset {name} {{\n\t\ttype {kind}\n{flags}");
    if !elements.is_empty() {
        let _ = writeln!(text, "\t\telements = {{ {} }}", elements.join(", "));
    }
    text.push_str("\t}\n");
}

fn chain(text: &mut String, name: &str, rules: impl Iterator<Item = String>) {
    let _ = writeln!(text, "\tchain {name} {{");
    for rule in rules {
        let _ = writeln!(text, "\t\t{rule}");
    }
    text.push_str("\t}\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::spec;

    /// The text between `chain NAME {` and its end, without indentation.
    fn chain_of<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let start = format!("chain {name} {{");
        let lines = text.lines().map(str::trim);
        let lines = lines.skip_while(|line| *line != start).skip(1);
        lines.take_while(|line| *line != "}").collect()
    }

    #[test]
    fn the_whole_text_is_as_recorded() {
        let host = BTreeSet::from([Ipv4Addr::new(192, 0, 2, 1)]);
        let text = inet_table(&spec(), &host) + &arp_table(&spec());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rules.golden.nft");
        if std::env::var_os("RECORD").is_some() {
            std::fs::write(path, &text).expect("the recording can be written");
        }
        let recorded = std::fs::read_to_string(path).expect("there is a recording");
        assert_eq!(text, recorded, "RECORD=1 records it anew");
    }

    #[test]
    fn every_kind_of_rule_has_its_text() {
        let text = inet_table(&spec(), &BTreeSet::new());
        assert_eq!(
            chain_of(&text, "in-sg-web"),
            [
                "tcp dport 80 counter accept",
                "ip saddr 10.0.0.0/8 tcp dport 8000-8080 counter accept",
                "ip saddr @members-sg-gone meta l4proto udp counter accept",
                "meta l4proto icmp icmp type 3 icmp code 4 counter accept",
                "ip saddr @members-sg-in meta l4proto icmp counter accept",
                "ip saddr 192.0.2.1/32 meta l4proto 47 counter accept",
            ]
        );
        assert_eq!(chain_of(&text, "out-sg-web"), ["counter accept"]);
    }

    #[test]
    fn a_port_without_groups_lets_nothing_through() {
        let mut spec = spec();
        spec.ports[0].groups.clear();
        let text = inet_table(&spec, &BTreeSet::new());
        let eni = &spec.ports[0].eni;
        assert_eq!(chain_of(&text, &format!("in-{eni}")), ["counter drop"]);
        assert_eq!(chain_of(&text, &format!("out-{eni}")), ["counter drop"]);
    }

    #[test]
    fn a_group_that_nobody_here_wears_has_members_but_no_chains() {
        let mut spec = spec();
        for port in &mut spec.ports {
            port.groups = vec!["sg-in".to_owned()];
        }
        let text = inet_table(&spec, &BTreeSet::new());
        assert!(text.contains("set members-sg-web {"));
        assert_eq!(chain_of(&text, "in-sg-web"), Vec::<&str>::new());
    }
}
