//! The firewall of the underlay's namespace: VXLAN and nothing else, and each host speaks for itself.

use std::collections::BTreeSet;

use super::{DEVICE, UnderlaySpec, VXLAN_PORT, address_of, mac_of};
use crate::ruleset::Table;

/// A stolen key harms one host: who is behind an address is WireGuard's word, and the frame inside
/// must come from that host's MAC. It follows UDP's and VXLAN's headers, 8 bytes each, and begins
/// with the receiver's MAC.
const SENDERS_MAC: &str = "@th,176,48";

pub fn table(spec: &UnderlaySpec) -> Table {
    let mut table = Table::new("inet boira");
    let mut senders = BTreeSet::new();
    for peer in &spec.peers {
        let mac = mac_of(peer.host).0;
        let mac = mac
            .iter()
            .fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        table.chain(
            &format!("from-{}", peer.host),
            [
                format!("{SENDERS_MAC} {mac:#014x} accept"),
                "counter drop".to_owned(),
            ]
            .into_iter(),
        );
        senders.insert((
            address_of(peer.host).to_string(),
            format!("goto from-{}", peer.host),
        ));
    }
    let senders = senders.into_iter();
    table.map("senders", "type ipv4_addr : verdict;", senders);
    table.base_chain(
        "arriving",
        "type filter hook input priority 0; policy drop;",
        &[
            &format!("iifname \"{DEVICE}\" udp dport {VXLAN_PORT} ip saddr vmap @senders"),
            "counter",
        ],
    );
    table.base_chain(
        "leaving",
        "type filter hook output priority 0; policy drop;",
        &[
            &format!("oifname \"{DEVICE}\" udp dport {VXLAN_PORT} accept"),
            "counter",
        ],
    );
    table.base_chain(
        "passing",
        "type filter hook forward priority 0; policy drop;",
        &["counter"],
    );
    table
}
