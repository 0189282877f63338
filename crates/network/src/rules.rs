//! The firewall of a VPC's namespace: a [`VpcSpec`] in, tables of nftables out.
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
//! other hosts
//!     └ guard            the address must be at home on the host that the frame comes from
//!         └ to_guests      the receiver's groups; the sender's were asked on its host
//! ```
//!
//! Rules decide about new connections only; what is established goes on until it ends, as in AWS.
//! All changes are made in one transaction, so no packet ever meets half of one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::ruleset::Table;
use crate::spec::{Peer, PortSpec, Protocol, Rule, VpcSpec, tap_name};
use crate::underlay;
use crate::{API_ADDRESS, API_PORT, METADATA_ADDRESS, RESOLVER_ADDRESS};

/// The interface that leads outside.
pub const WAY_OUT_DEVICE: &str = "tap0";
/// The interface that leads to other hosts.
pub const OVERLAY_DEVICE: &str = "vx0";

/// What a guest must never reach through the way out: this host under any name (`0.0.0.0/8` means
/// the host itself to `connect`), the connector's own network, and what is no single machine.
const NEVER_OUTSIDE: [&str; 5] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// How many datagrams a port may send to our services in a second, as in AWS; more are dropped, so
/// that one guest can't keep the services from the others.
const SERVICE_DATAGRAMS_PER_S: u32 = 1024;

/// The `inet` table of a VPC. `host` holds the addresses of this host, which guests must not reach.
pub fn inet_table(spec: &VpcSpec, host: &BTreeSet<Ipv4Addr>) -> Table {
    let mut table = Table::new("inet boira");
    add_sets(&mut table, spec, host);
    add_group_chains(&mut table, spec);
    add_port_chains(&mut table, spec);
    add_guard(&mut table);
    add_forwarding(&mut table, spec);
    add_own_traffic(&mut table, spec);
    table
}

/// The `arp` table: a guest says only its own MAC and its own address (or none, when it probes).
///
/// The permanent neighbours alone keep traffic from being drawn away; the filter also keeps a
/// guest from filling the neighbour table, which all namespaces of a host share.
pub fn arp_table(spec: &VpcSpec) -> Table {
    let mut table = Table::new("arp boira");
    let own = spec.ports.iter().flat_map(|port| {
        [port.ip, Ipv4Addr::UNSPECIFIED]
            .map(|ip| format!("{} . {} . {ip}", quoted_tap(port), port.mac))
    });
    table.set("own", "type ifname . ether_addr . ipv4_addr;", own);
    table.base_chain(
        "from_guests",
        "type filter hook input priority 0; policy drop;",
        &[
            &format!("iifname {{ \"lo\", \"{WAY_OUT_DEVICE}\" }} accept"),
            "iifname . arp saddr ether . arp saddr ip @own accept",
            "counter",
        ],
    );
    table
}

fn quoted_tap(port: &PortSpec) -> String {
    format!("\"{}\"", tap_name(&port.eni))
}

fn add_sets(table: &mut Table, spec: &VpcSpec, host: &BTreeSet<Ipv4Addr>) {
    let ports = || spec.ports.iter();
    let with_mac = |port: &PortSpec| format!("{} . {}", quoted_tap(port), port.mac);
    let checked = ports().filter(|port| port.source_dest_check);
    let unchecked = ports().filter(|port| !port.source_dest_check);
    table.set("taps", "type ifname;", ports().map(quoted_tap));
    table.set(
        "own_mac",
        "type ifname . ether_addr;",
        ports().map(with_mac),
    );
    table.set(
        "own_address",
        "type ifname . ether_addr . ipv4_addr;",
        checked.map(|port| format!("{} . {}", with_mac(port), port.ip)),
    );
    table.set(
        "any_address",
        "type ifname . ether_addr;",
        unchecked.map(with_mac),
    );
    for direction in ["in", "out"] {
        let chains = ports().map(|port| {
            let chain = format!("goto {direction}-{}", port.eni);
            (quoted_tap(port), chain)
        });
        table.map(&format!("{direction}_of"), "type ifname : verdict;", chains);
    }
    let elsewhere = spec.overlay.iter().flat_map(|overlay| &overlay.peers);
    let elsewhere = elsewhere.flat_map(|peer| {
        let mac = underlay::mac_of(peer.host);
        peer.addresses.iter().map(move |ip| format!("{mac} . {ip}"))
    });
    table.set("elsewhere", "type ether_addr . ipv4_addr;", elsewhere);
    let rates = "type ifname; size 65535; flags dynamic;";
    table.set("service_rates", rates, std::iter::empty());
    let host = host.iter().map(ToString::to_string);
    table.set("host", "type ipv4_addr;", host);
    let never = NEVER_OUTSIDE.iter().map(ToString::to_string);
    table.set("never_outside", "type ipv4_addr; flags interval;", never);
    for (group, members) in members(spec) {
        let members = members.iter().map(ToString::to_string);
        table.set(&members_set(group), "type ipv4_addr;", members);
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
fn add_group_chains(table: &mut Table, spec: &VpcSpec) {
    let worn: BTreeSet<&str> = spec
        .ports
        .iter()
        .flat_map(|port| port.groups.iter().map(String::as_str))
        .collect();
    for group in spec.groups.iter().filter(|g| worn.contains(g.id.as_str())) {
        let ingress = group.ingress.iter().map(|rule| rule_text(rule, "saddr"));
        let egress = group.egress.iter().map(|rule| rule_text(rule, "daddr"));
        table.chain(&format!("in-{}", group.id), ingress);
        table.chain(&format!("out-{}", group.id), egress);
    }
}

/// A port lets through what any of its groups lets through.
fn add_port_chains(table: &mut Table, spec: &VpcSpec) {
    for port in &spec.ports {
        for direction in ["in", "out"] {
            let groups = port.groups.iter();
            let jumps = groups.map(|group| format!("jump {direction}-{group}"));
            let end = std::iter::once("counter drop".to_owned());
            table.chain(&format!("{direction}-{}", port.eni), jumps.chain(end));
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
    let kind = kind.map(|kind| format!("icmp type {kind} "));
    let code = code.map(|code| format!("icmp code {code} "));
    format!(
        "meta l4proto icmp {}{}",
        kind.unwrap_or_default(),
        code.unwrap_or_default()
    )
}

/// Who a packet says it is from has to be true, before anything else looks at it.
fn add_guard(table: &mut Table) {
    table.base_chain(
        "guard",
        "type filter hook prerouting priority raw; policy drop;",
        &[
            &format!("iifname {{ \"lo\", \"{WAY_OUT_DEVICE}\" }} accept"),
            "meta nfproto != ipv4 counter drop",
            "udp sport 67 udp dport 68 counter drop",
            &format!("iifname \"{OVERLAY_DEVICE}\" ether saddr . ip saddr @elsewhere accept"),
            "iifname . ether saddr . ip saddr @own_address accept",
            "ip saddr 0.0.0.0 udp sport 68 udp dport 67 iifname . ether saddr @own_mac accept",
            "ip saddr != { 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 } \
             iifname . ether saddr @any_address accept",
            "counter",
        ],
    );
}

/// From guests to guests and to the outside: the sender's groups, then the receiver's.
fn add_forwarding(table: &mut Table, spec: &VpcSpec) {
    table.base_chain(
        "from_guests",
        "type filter hook forward priority -10; policy drop;",
        &[
            "ct state established,related accept",
            "ct state invalid counter drop",
            &format!("iifname \"{OVERLAY_DEVICE}\" accept"),
            "iifname vmap @out_of",
        ],
    );
    table.base_chain(
        "to_guests",
        "type filter hook forward priority 0; policy drop;",
        &[
            "ct state established,related accept",
            &format!("oifname \"{WAY_OUT_DEVICE}\" goto outside"),
            &format!("oifname \"{OVERLAY_DEVICE}\" goto elsewhere"),
            "oifname vmap @in_of",
        ],
    );
    let outside = [
        "ip daddr @never_outside counter drop".to_owned(),
        "ip daddr @host counter drop".to_owned(),
        format!("ip daddr {} counter drop", spec.cidr.trunc()),
        "counter accept".to_owned(),
    ];
    table.chain("outside", outside.into_iter());
    // Not from one host through this one to another.
    let here = "iifname @taps counter accept".to_owned();
    let elsewhere = [here, "counter drop".to_owned()];
    table.chain("elsewhere", elsewhere.into_iter());
    table.base_chain(
        "borrow_address",
        "type nat hook postrouting priority srcnat; policy accept;",
        &[&format!("oifname \"{WAY_OUT_DEVICE}\" masquerade")],
    );
}

/// From guests to our services, and from us to guests.
fn add_own_traffic(table: &mut Table, spec: &VpcSpec) {
    let resolvers = format!("{{ {}, {RESOLVER_ADDRESS} }}", spec.resolver());
    table.base_chain(
        "to_us",
        "type filter hook input priority 0; policy drop;",
        &[
            "iifname \"lo\" accept",
            &format!(
                "iifname @taps meta l4proto != tcp update @service_rates {{ iifname \
                 limit rate over {SERVICE_DATAGRAMS_PER_S}/second \
                 burst {SERVICE_DATAGRAMS_PER_S} packets }} counter drop"
            ),
            "ct state established,related accept",
            "ct state invalid counter drop",
            "iifname != @taps counter drop",
            "udp dport 67 accept",
            &format!("ip daddr {resolvers} meta l4proto {{ tcp, udp }} th dport 53 accept"),
            &format!("ip daddr {METADATA_ADDRESS} tcp dport 80 accept"),
            &format!("ip daddr {API_ADDRESS} tcp dport {API_PORT} accept"),
            &format!(
                "ip daddr {} icmp type echo-request accept",
                spec.cidr.trunc()
            ),
            "counter",
        ],
    );
    table.base_chain(
        "from_us",
        "type filter hook output priority 0; policy drop;",
        &[
            "oifname \"lo\" accept",
            "ct state established,related accept",
            "oifname @taps udp sport 67 udp dport 68 accept",
            "oifname vmap @in_of",
            "counter",
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::spec;

    fn chain_of(table: &Table, name: &str) -> Vec<String> {
        table.chains[name].rules.clone()
    }

    #[test]
    fn the_whole_text_is_as_recorded() {
        let host = BTreeSet::from([Ipv4Addr::new(192, 0, 2, 1)]);
        let text = inet_table(&spec(), &host).replacement() + &arp_table(&spec()).replacement();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rules.golden.nft");
        if std::env::var_os("RECORD").is_some() {
            std::fs::write(path, &text).expect("the recording can be written");
        }
        let recorded = std::fs::read_to_string(path).expect("there is a recording");
        assert_eq!(text, recorded, "RECORD=1 records it anew");
    }

    #[test]
    fn every_kind_of_rule_has_its_text() {
        let table = inet_table(&spec(), &BTreeSet::new());
        assert_eq!(
            chain_of(&table, "in-sg-web"),
            [
                "tcp dport 80 counter accept",
                "ip saddr 10.0.0.0/8 tcp dport 8000-8080 counter accept",
                "ip saddr @members-sg-gone meta l4proto udp counter accept",
                "meta l4proto icmp icmp type 3 icmp code 4 counter accept",
                "ip saddr @members-sg-in meta l4proto icmp counter accept",
                "ip saddr 192.0.2.1/32 meta l4proto 47 counter accept",
            ]
        );
        assert_eq!(chain_of(&table, "out-sg-web"), ["counter accept"]);
    }

    #[test]
    fn a_port_without_groups_lets_nothing_through() {
        let mut spec = spec();
        spec.ports[0].groups.clear();
        let table = inet_table(&spec, &BTreeSet::new());
        let eni = &spec.ports[0].eni;
        assert_eq!(chain_of(&table, &format!("in-{eni}")), ["counter drop"]);
        assert_eq!(chain_of(&table, &format!("out-{eni}")), ["counter drop"]);
    }

    #[test]
    fn a_group_that_nobody_here_wears_has_members_but_no_chains() {
        let mut spec = spec();
        for port in &mut spec.ports {
            port.groups = vec!["sg-in".to_owned()];
        }
        let table = inet_table(&spec, &BTreeSet::new());
        assert!(table.sets.contains_key("members-sg-web"));
        assert!(!table.chains.contains_key("in-sg-web"));
    }

    #[test]
    fn a_port_more_deletes_nothing() {
        let with = spec();
        let mut without = spec();
        without.ports.pop();
        let nobody = BTreeSet::new();
        let (with, without) = (inet_table(&with, &nobody), inet_table(&without, &nobody));
        let text = with.change_from(&without);
        assert!(!text.is_empty());
        assert!(text.lines().all(|line| line.starts_with("add ")), "{text}");
        assert_eq!(with.change_from(&with), "");
    }
}
