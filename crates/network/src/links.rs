//! Devices, addresses, routes and neighbours of a VPC's namespace: what is there, and the lines
//! for `ip -batch` that make of it what should be.
//!
//! A guest sends everything to us: a tap has no bridge behind it but a route to its one guest,
//! and proxy ARP answers for all addresses that another tap leads to. `unreachable` for the VPC's
//! network keeps what belongs to nobody from leaving by the way out. What is on another host is routed
//! to that host's end of the VXLAN, whose address, MAC and place are all derived from its number.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::namespace::run_tool;
use crate::rules::{OVERLAY_DEVICE, WAY_OUT_DEVICE};
use crate::spec::{GATEWAY_MAC, Mac, OverlaySpec, TAP_PREFIX, VpcSpec, tap_name};
use crate::{API_ADDRESS, METADATA_ADDRESS, RESOLVER_ADDRESS, tap, underlay};

/// What the kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    pub loopback_up: bool,
    /// Addresses of the loopback device, its own excepted.
    pub addresses: BTreeSet<Ipv4Addr>,
    pub unreachable: BTreeSet<Ipv4Net>,
    pub taps: BTreeMap<String, Tap>,
    /// Whether the connector to the outside has its device here.
    pub way_out: bool,
    pub overlay: Option<Overlay>,
}

/// The device that leads to other hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlay {
    pub up: bool,
    pub mac: Option<Mac>,
    pub mtu: u32,
    /// Addresses on other hosts, each with the host's own in the underlay.
    pub routes: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// The hosts' own addresses. Each was made together with an entry of the forwarding table, that
    /// one first.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tap {
    pub up: bool,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub routes: BTreeSet<Ipv4Addr>,
    /// Permanent ones.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
}

impl Observed {
    /// Looks at the namespace of the calling thread.
    pub fn look() -> io::Result<Self> {
        let mut observed = Observed::default();
        for device in tap::devices()? {
            if device.name == "lo" {
                observed.loopback_up = device.up;
            } else if device.name == WAY_OUT_DEVICE {
                observed.way_out = true;
            } else if device.name == OVERLAY_DEVICE {
                observed.overlay = Some(Overlay {
                    up: device.up,
                    mac: device.mac.map(Mac),
                    mtu: tap::mtu(&device.name)?,
                    ..Overlay::default()
                });
            } else if device.name.starts_with(TAP_PREFIX) {
                let tap = Tap {
                    up: device.up,
                    mac: device.mac.map(Mac),
                    mtu: tap::mtu(&device.name)?,
                    ..Tap::default()
                };
                observed.taps.insert(device.name, tap);
            }
        }
        observed.addresses = tap::addresses("lo")?;
        observed.read_routes(&fs::read_to_string("/proc/thread-self/net/route")?);
        observed.read_neighbours(&fs::read_to_string("/proc/thread-self/net/arp")?);
        Ok(observed)
    }

    /// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, addresses as hexadecimal words
    /// in the host's byte order; the interface of a route that refuses is `*`.
    fn read_routes(&mut self, table: &str) {
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let word = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
            let (Some(destination), Some(gateway), Some(mask)) = (word(1), word(2), word(7)) else {
                continue;
            };
            let [destination, gateway] = [destination, gateway].map(|word| {
                // The kernel writes the bytes of the address as its own number.
                Ipv4Addr::from(word.to_ne_bytes())
            });
            let prefix = mask.count_ones() as u8;
            if fields[0] == "*" {
                self.unreachable
                    .extend(Ipv4Net::new(destination, prefix).ok());
            } else if fields[0] == OVERLAY_DEVICE {
                if let Some(overlay) = &mut self.overlay {
                    overlay.routes.insert(destination, gateway);
                }
            } else if let Some(tap) = self.taps.get_mut(fields[0])
                && prefix == 32
            {
                tap.routes.insert(destination);
            }
        }
    }

    /// `IP-address HW-type Flags HW-address Mask Device`; the flag 4 is `ATF_PERM`.
    fn read_neighbours(&mut self, table: &str) {
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [ip, _, flags, mac, _, device] = fields[..] else {
                continue;
            };
            let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
            let (Ok(ip), Ok(mac)) = (ip.parse(), mac.parse()) else {
                continue;
            };
            if flags & 4 == 0 {
                continue;
            }
            if let Some(tap) = self.taps.get_mut(device) {
                tap.neighbours.insert(ip, mac);
            } else if let Some(overlay) = self.overlay.as_mut().filter(|_| device == OVERLAY_DEVICE)
            {
                overlay.neighbours.insert(ip, mac);
            }
        }
    }
}

/// The taps that have to be made before [`plan`]'s lines can work.
pub fn missing_taps(spec: &VpcSpec, observed: &Observed) -> Vec<String> {
    taps(spec)
        .filter(|tap| !observed.taps.contains_key(tap))
        .collect()
}

fn taps(spec: &VpcSpec) -> impl Iterator<Item = String> {
    let ports = spec.ports.iter().map(|port| &port.eni);
    let standby = spec.standby.iter().map(|port| &port.eni);
    ports.chain(standby).map(|eni| tap_name(eni))
}

/// Whether the device to other hosts is there as it is made for this VPC and host.
pub fn has_overlay(spec: &VpcSpec, observed: &Observed) -> bool {
    let wanted = spec.overlay.as_ref();
    let wanted = wanted.map(|overlay| underlay::mac_of(overlay.host));
    let observed = observed.overlay.as_ref();
    wanted.is_some() && observed.and_then(|overlay| overlay.mac) == wanted
}

/// The difference, as lines for the tools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// For `bridge -batch`, before the others: a neighbour is known as what has its entry.
    pub reached: Vec<String>,
    /// For `ip -batch`.
    pub lines: Vec<String>,
    /// For `bridge -batch`, after the others.
    pub left: Vec<String>,
}

impl Plan {
    /// All is as it should be.
    pub fn is_empty(&self) -> bool {
        self.reached.is_empty() && self.lines.is_empty() && self.left.is_empty()
    }
}

/// What makes of `observed` what `spec` wants, once [`missing_taps`] and the device to other hosts are
/// made. An address that moves to or from another host loses its old route first: `replace` takes one
/// of any device for the same.
pub fn plan(spec: &VpcSpec, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    plan_loopback(&mut plan.lines, spec, observed);
    plan_leaving(&mut plan, spec, observed);
    let wanted: BTreeSet<String> = taps(spec).collect();
    for tap in observed.taps.keys().filter(|tap| !wanted.contains(*tap)) {
        plan.lines.push(format!("link del dev {tap}"));
    }
    plan_taps(&mut plan.lines, spec, observed);
    plan_reaching(&mut plan, spec, observed);
    plan
}

/// Addresses on other hosts, and those hosts.
fn elsewhere(spec: &VpcSpec) -> (BTreeMap<Ipv4Addr, Ipv4Addr>, BTreeMap<Ipv4Addr, Mac>) {
    let (mut routes, mut hosts) = (BTreeMap::new(), BTreeMap::new());
    for peer in spec.overlay.iter().flat_map(|overlay| &overlay.peers) {
        let host = underlay::address_of(peer.host);
        hosts.insert(host, underlay::mac_of(peer.host));
        routes.extend(peer.addresses.iter().map(|ip| (*ip, host)));
    }
    (routes, hosts)
}

fn plan_leaving(plan: &mut Plan, spec: &VpcSpec, observed: &Observed) {
    let Some(overlay) = &observed.overlay else {
        return;
    };
    if spec.overlay.is_none() {
        plan.lines.push(format!("link del dev {OVERLAY_DEVICE}"));
        return;
    }
    let (routes, hosts) = elsewhere(spec);
    for address in overlay.routes.keys().filter(|ip| !routes.contains_key(ip)) {
        plan.lines
            .push(format!("route del {address}/32 dev {OVERLAY_DEVICE}"));
    }
    for (host, mac) in overlay.neighbours.iter() {
        if hosts.get(host) != Some(mac) {
            plan.lines
                .push(format!("neigh del {host} dev {OVERLAY_DEVICE}"));
            plan.left.push(format!(
                "fdb del {mac} dev {OVERLAY_DEVICE} dst {host} self"
            ));
        }
    }
}

fn plan_reaching(plan: &mut Plan, spec: &VpcSpec, observed: &Observed) {
    if spec.overlay.is_none() {
        return;
    }
    let absent = Overlay::default();
    let overlay = observed.overlay.as_ref().unwrap_or(&absent);
    let (routes, hosts) = elsewhere(spec);
    if !overlay.up || overlay.mtu != u32::from(spec.mtu) {
        let mtu = spec.mtu;
        plan.lines
            .push(format!("link set dev {OVERLAY_DEVICE} mtu {mtu} up"));
    }
    for (host, mac) in &hosts {
        if overlay.neighbours.get(host) != Some(mac) {
            plan.reached.push(format!(
                "fdb replace {mac} dev {OVERLAY_DEVICE} dst {host} self permanent"
            ));
            plan.lines.push(format!(
                "neigh replace {host} lladdr {mac} dev {OVERLAY_DEVICE} nud permanent"
            ));
        }
    }
    for (address, host) in &routes {
        if overlay.routes.get(address) != Some(host) {
            plan.lines.push(format!(
                "route replace {address}/32 via {host} dev {OVERLAY_DEVICE} onlink"
            ));
        }
    }
}

fn plan_loopback(lines: &mut Vec<String>, spec: &VpcSpec, observed: &Observed) {
    if !observed.loopback_up {
        lines.push("link set dev lo up".to_owned());
    }
    let wanted: BTreeSet<Ipv4Addr> = spec
        .subnets
        .iter()
        .map(|subnet| subnet.gateway)
        .chain([
            spec.resolver(),
            METADATA_ADDRESS,
            RESOLVER_ADDRESS,
            API_ADDRESS,
        ])
        .collect();
    for address in observed.addresses.difference(&wanted) {
        lines.push(format!("addr del {address}/32 dev lo"));
    }
    for address in wanted.difference(&observed.addresses) {
        lines.push(format!("addr add {address}/32 dev lo"));
    }
    let cidr = spec.cidr.trunc();
    for other in observed.unreachable.iter().filter(|net| **net != cidr) {
        lines.push(format!("route del unreachable {other}"));
    }
    if !observed.unreachable.contains(&cidr) {
        lines.push(format!("route add unreachable {cidr}"));
    }
}

fn plan_taps(lines: &mut Vec<String>, spec: &VpcSpec, observed: &Observed) {
    let absent = Tap::default();
    for port in &spec.ports {
        let name = tap_name(&port.eni);
        let tap = observed.taps.get(&name).unwrap_or(&absent);
        let Some(subnet) = spec.subnet_of(port) else {
            continue;
        };
        if tap.mac != Some(GATEWAY_MAC) || tap.mtu != u32::from(spec.mtu) || !tap.up {
            lines.push(format!(
                "link set dev {name} address {GATEWAY_MAC} mtu {} alias {} up",
                spec.mtu, port.eni
            ));
        }
        for other in tap.routes.iter().filter(|ip| **ip != port.ip) {
            lines.push(format!("route del {other}/32 dev {name}"));
        }
        for other in tap.neighbours.keys().filter(|ip| **ip != port.ip) {
            lines.push(format!("neigh del {other} dev {name}"));
        }
        if !tap.routes.contains(&port.ip) {
            lines.push(format!(
                "route replace {}/32 dev {name} src {}",
                port.ip, subnet.gateway
            ));
        }
        if tap.neighbours.get(&port.ip) != Some(&port.mac) {
            lines.push(format!(
                "neigh replace {} lladdr {} dev {name} nud permanent",
                port.ip, port.mac
            ));
        }
    }
}

/// Makes the device to other hosts in the calling thread's namespace, which is called `namespace`. Its
/// datagrams come and go in the underlay's.
pub fn create_overlay(overlay: &OverlaySpec, namespace: &str, below: &str) -> io::Result<()> {
    tap::remove(OVERLAY_DEVICE)?;
    let vni = overlay.vni.to_string();
    let local = underlay::address_of(overlay.host).to_string();
    let mac = underlay::mac_of(overlay.host).to_string();
    let port = underlay::VXLAN_PORT.to_string();
    let words = [
        "-n",
        below,
        "link",
        "add",
        "name",
        OVERLAY_DEVICE,
        "netns",
        namespace,
        "address",
        &mac,
        "type",
        "vxlan",
        "id",
        &vni,
        "local",
        &local,
        "dev",
        underlay::DEVICE,
        "dstport",
        &port,
        "nolearning",
        "noudpcsum",
    ];
    run_tool("ip", &words, "")?;
    // Who isn't routed there doesn't come from there.
    set(&format!("net/ipv4/conf/{OVERLAY_DEVICE}/rp_filter"), "1")?;
    set(&format!("net/ipv4/conf/{OVERLAY_DEVICE}/proxy_arp"), "0")
}

/// The taps, and whether the kernel checks what they send by its routes.
pub fn tap_settings(spec: &VpcSpec) -> Vec<(String, bool)> {
    spec.ports
        .iter()
        .map(|port| (tap_name(&port.eni), port.source_dest_check))
        .collect()
}

/// Settings of the whole namespace. A new one inherits some of the host's, so all that matter are
/// set. `ip_forward` comes first, because the kernel resets the others with it.
const NAMESPACE_SETTINGS: [(&str, &str); 19] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/all/proxy_arp", "0"),
    ("net/ipv4/conf/all/arp_ignore", "0"),
    ("net/ipv4/conf/all/arp_filter", "0"),
    ("net/ipv4/conf/all/accept_local", "0"),
    ("net/ipv4/conf/all/route_localnet", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_source_route", "0"),
    ("net/ipv4/conf/default/route_localnet", "0"),
    ("net/ipv4/conf/default/arp_ignore", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    // The services need no privilege for the ports 53, 67 and 80.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/icmp_errors_use_inbound_ifaddr", "0"),
];

/// Sets what holds for the namespace of the calling thread.
pub fn set_namespace() -> io::Result<()> {
    for (name, value) in NAMESPACE_SETTINGS {
        set(name, value)?;
    }
    Ok(())
}

/// Sets what holds for one tap, in the namespace of the calling thread.
pub fn set_tap(tap: &str, source_check: bool) -> io::Result<()> {
    let strict = if source_check { "1" } else { "0" };
    set(&format!("net/ipv4/conf/{tap}/rp_filter"), strict)?;
    set(&format!("net/ipv4/conf/{tap}/proxy_arp"), "1")?;
    set(&format!("net/ipv4/neigh/{tap}/proxy_delay"), "0")?;
    set(&format!("net/ipv6/conf/{tap}/disable_ipv6"), "1")
}

/// A kernel without IPv6 lacks its settings, and needs none.
fn set(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    match fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && name.starts_with("net/ipv6") => {
            Ok(())
        }
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{}: {error}", path.display()),
        )),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::spec;
    use crate::spec::OverlayPeer;

    /// What the kernel has once everything is as `spec` wants it.
    fn as_wanted(spec: &VpcSpec) -> Observed {
        Observed {
            loopback_up: true,
            addresses: [
                spec.subnets[0].gateway,
                spec.resolver(),
                METADATA_ADDRESS,
                RESOLVER_ADDRESS,
                API_ADDRESS,
            ]
            .into(),
            unreachable: [spec.cidr].into(),
            taps: spec
                .ports
                .iter()
                .map(|port| {
                    let tap = Tap {
                        up: true,
                        mac: Some(GATEWAY_MAC),
                        mtu: u32::from(spec.mtu),
                        routes: [port.ip].into(),
                        neighbours: [(port.ip, port.mac)].into(),
                    };
                    (tap_name(&port.eni), tap)
                })
                .collect(),
            way_out: true,
            overlay: None,
        }
    }

    /// As if the VPC had guests on the hosts 2 and 3; this one is 1.
    fn across_hosts() -> VpcSpec {
        let peer = |host, addresses: &[u8]| OverlayPeer {
            host,
            addresses: addresses
                .iter()
                .map(|last| Ipv4Addr::new(172, 31, 7, *last))
                .collect(),
        };
        VpcSpec {
            overlay: Some(OverlaySpec {
                vni: 7,
                host: 1,
                peers: vec![peer(2, &[1, 2]), peer(3, &[3])],
            }),
            ..spec()
        }
    }

    fn overlay_as_wanted() -> Overlay {
        let (routes, neighbours) = elsewhere(&across_hosts());
        Overlay {
            up: true,
            mac: Some(underlay::mac_of(1)),
            mtu: 1450,
            routes,
            neighbours,
        }
    }

    #[test]
    fn other_hosts_are_reached_and_left() {
        let (alone, spec) = (spec(), across_hosts());
        let mut observed = as_wanted(&alone);
        assert!(!has_overlay(&spec, &observed));
        let first = plan(&spec, &observed);
        assert_eq!(
            first.reached,
            [
                "fdb replace 02:fe:00:00:00:02 dev vx0 dst 100.64.0.2 self permanent",
                "fdb replace 02:fe:00:00:00:03 dev vx0 dst 100.64.0.3 self permanent",
            ]
        );
        assert_eq!(
            first.lines,
            [
                "link set dev vx0 mtu 1450 up",
                "neigh replace 100.64.0.2 lladdr 02:fe:00:00:00:02 dev vx0 nud permanent",
                "neigh replace 100.64.0.3 lladdr 02:fe:00:00:00:03 dev vx0 nud permanent",
                "route replace 172.31.7.1/32 via 100.64.0.2 dev vx0 onlink",
                "route replace 172.31.7.2/32 via 100.64.0.2 dev vx0 onlink",
                "route replace 172.31.7.3/32 via 100.64.0.3 dev vx0 onlink",
            ]
        );
        observed.overlay = Some(overlay_as_wanted());
        assert!(has_overlay(&spec, &observed));
        assert!(plan(&spec, &observed).is_empty());
        assert_eq!(plan(&alone, &observed).lines, ["link del dev vx0"]);
    }

    #[test]
    fn an_address_that_moved_is_routed_anew() {
        let mut spec = across_hosts();
        let mut observed = as_wanted(&spec);
        observed.overlay = Some(overlay_as_wanted());
        let peers = &mut spec.overlay.as_mut().expect("an overlay").peers;
        let moved = peers.pop().expect("a peer").addresses;
        peers[0].addresses.extend(moved);
        let moving = plan(&spec, &observed);
        assert_eq!(
            moving.lines,
            [
                "neigh del 100.64.0.3 dev vx0",
                "route replace 172.31.7.3/32 via 100.64.0.2 dev vx0 onlink",
            ]
        );
        let gone = "fdb del 02:fe:00:00:00:03 dev vx0 dst 100.64.0.3 self";
        assert_eq!(
            (moving.reached, moving.left),
            (Vec::new(), vec![gone.into()])
        );
    }

    #[test]
    fn nothing_is_done_where_all_is_right() {
        let spec = spec();
        assert!(plan(&spec, &as_wanted(&spec)).is_empty());
        assert_eq!(missing_taps(&spec, &as_wanted(&spec)), Vec::<String>::new());
    }

    #[test]
    fn a_new_namespace_gets_everything() {
        let mut spec = spec();
        spec.ports.truncate(1);
        let lines = plan(&spec, &Observed::default()).lines;
        assert_eq!(
            lines,
            [
                "link set dev lo up",
                "addr add 169.254.169.252/32 dev lo",
                "addr add 169.254.169.253/32 dev lo",
                "addr add 169.254.169.254/32 dev lo",
                "addr add 172.31.0.1/32 dev lo",
                "addr add 172.31.0.2/32 dev lo",
                "route add unreachable 172.31.0.0/16",
                "link set dev eni000000000001 address 0a:b0:1a:00:00:01 mtu 1450 \
                 alias eni-00000000000000001 up",
                "route replace 172.31.0.11/32 dev eni000000000001 src 172.31.0.1",
                "neigh replace 172.31.0.11 lladdr 02:00:00:00:00:01 dev eni000000000001 \
                 nud permanent",
            ]
        );
        assert_eq!(
            missing_taps(&spec, &Observed::default()),
            ["eni000000000001"]
        );
    }

    #[test]
    fn what_is_wrong_is_replaced_and_what_is_foreign_goes() {
        let spec = spec();
        let mut observed = as_wanted(&spec);
        let foreign = Ipv4Addr::new(172, 31, 9, 9);
        observed.addresses.insert(foreign);
        observed.taps.insert("eni99".to_owned(), Tap::default());
        let tap = observed.taps.get_mut("eni000000000001").expect("a tap");
        tap.routes = [foreign].into();
        tap.neighbours = [(foreign, GATEWAY_MAC)].into();
        tap.mtu = 1500;
        assert_eq!(
            plan(&spec, &observed).lines,
            [
                "addr del 172.31.9.9/32 dev lo",
                "link del dev eni99",
                "link set dev eni000000000001 address 0a:b0:1a:00:00:01 mtu 1450 \
                 alias eni-00000000000000001 up",
                "route del 172.31.9.9/32 dev eni000000000001",
                "neigh del 172.31.9.9 dev eni000000000001",
                "route replace 172.31.0.11/32 dev eni000000000001 src 172.31.0.1",
                "neigh replace 172.31.0.11 lladdr 02:00:00:00:00:01 dev eni000000000001 \
                 nud permanent",
            ]
        );
    }

    #[test]
    fn the_kernel_s_tables_are_read() {
        let mut observed = Observed::default();
        observed.taps.insert("eni1".to_owned(), Tap::default());
        observed.overlay = Some(Overlay::default());
        observed.read_routes(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
             *\t00001FAC\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
             eni1\t0B001FAC\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n\
             vx0\t07071FAC\t02004064\t0007\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n",
        );
        observed.read_neighbours(
            "IP address       HW type     Flags       HW address            Mask     Device\n\
             172.31.0.11      0x1         0x6         02:00:00:00:00:01     *        eni1\n\
             172.31.0.12      0x1         0x2         02:00:00:00:00:02     *        eni1\n\
             100.64.0.2       0x1         0x6         02:fe:00:00:00:02     *        vx0\n",
        );
        let ip = Ipv4Addr::new(172, 31, 0, 11);
        let tap = &observed.taps["eni1"];
        assert_eq!(observed.unreachable, [spec().cidr].into());
        assert_eq!(tap.routes, [ip].into());
        assert_eq!(tap.neighbours, [(ip, Mac([2, 0, 0, 0, 0, 1]))].into());
        let overlay = observed.overlay.expect("an overlay");
        let host = underlay::address_of(2);
        assert_eq!(
            overlay.routes,
            [(Ipv4Addr::new(172, 31, 7, 7), host)].into()
        );
        assert_eq!(overlay.neighbours, [(host, underlay::mac_of(2))].into());
    }
}
