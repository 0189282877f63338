//! A change of rules leaves in the kernel exactly what a replacement leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::support::*;
use boira_network::ruleset::Table;
use boira_network::{Peer, Protocol, Rule, VpcSpec, rules};
use serde_json::Value;

/// Runs nft in the calling thread's namespace.
fn nft(text: &str) {
    let file = tempfile::NamedTempFile::new().expect("there is room for a file");
    std::fs::write(file.path(), text).expect("there is room for a file");
    sh(&format!("nft -f {}", file.path().display()));
}

/// What the kernel has, without what depends on the order in which it got it.
fn in_force() -> BTreeMap<String, String> {
    let listed: Value = serde_json::from_str(&sh("nft -j list ruleset")).expect("nft speaks JSON");
    let mut found = BTreeMap::new();
    let mut rules_of_chain = BTreeMap::<String, u32>::new();
    for entry in listed["nftables"].as_array().expect("a list") {
        let (kind, object) = entry
            .as_object()
            .and_then(|o| o.iter().next())
            .expect("an object");
        if kind == "metainfo" {
            continue;
        }
        let mut object = object.clone();
        let fields = object.as_object_mut().expect("an object");
        fields.remove("handle");
        if let Some(Value::Array(elements)) = fields.get_mut("elem") {
            elements.sort_by_key(ToString::to_string);
        }
        let mut name = format!("{kind} {} {}", object["family"], object["name"]);
        if kind == "rule" {
            let chain = format!("{} {}", object["family"], object["chain"]);
            let number = rules_of_chain.entry(chain.clone()).or_default();
            *number += 1;
            name = format!("rule {chain} {number}");
        }
        found.insert(name, object.to_string());
    }
    found
}

fn tables(spec: &VpcSpec, host: &BTreeSet<Ipv4Addr>) -> [Table; 2] {
    [rules::inet_table(spec, host), rules::arp_table(spec)]
}

/// The specs that follow one another, each a change of another kind.
fn history() -> Vec<(VpcSpec, BTreeSet<Ipv4Addr>)> {
    let web = open_out("sg-web", vec![tcp_from(80, "0.0.0.0/0")]);
    let inner = open_out(
        "sg-in",
        vec![all_from_group("sg-in"), all_from_group("sg-gone")],
    );
    let mut spec = vpc(vec![web, inner], &[&["sg-web", "sg-in"]]);
    let mut host = BTreeSet::from([Ipv4Addr::new(203, 0, 113, 2)]);
    let mut history = Vec::new();
    let mut note = |spec: &VpcSpec, host: &BTreeSet<Ipv4Addr>| {
        history.push((spec.clone(), host.clone()));
    };
    note(&spec, &host);
    spec.ports.push(port(1, &["sg-in"]));
    fill_members(&mut spec);
    note(&spec, &host);
    spec.ports[1].source_dest_check = false;
    spec.ports[0].groups = vec!["sg-in".to_owned()];
    note(&spec, &host);
    spec.groups[1].ingress[1] = Rule {
        protocol: Protocol::Icmp {
            kind: Some(8),
            code: None,
        },
        peer: Peer::Group("sg-web".to_owned()),
    };
    note(&spec, &host);
    host = BTreeSet::from([Ipv4Addr::new(198, 51, 100, 1)]);
    spec.ports.remove(0);
    spec.groups.remove(0);
    note(&spec, &host);
    spec.ports.clear();
    spec.groups.clear();
    host.clear();
    note(&spec, &host);
    history
}

#[test]
fn changing_comes_to_the_same_as_replacing() {
    on_a_host(|| {
        let history = history();
        let (first, host) = &history[0];
        for table in tables(first, host) {
            nft(&table.replacement());
        }
        // Forth and back, so that everything is also undone.
        let forth = history.windows(2).map(|pair| (&pair[0], &pair[1]));
        let back = history.windows(2).rev().map(|pair| (&pair[1], &pair[0]));
        for (before, after) in forth.chain(back) {
            let (was, is) = (tables(&before.0, &before.1), tables(&after.0, &after.1));
            let changes: Vec<String> = (0..2).map(|n| is[n].change_from(&was[n])).collect();
            nft(&changes.concat());
            let changed = in_force();
            nft(&(is[0].replacement() + &is[1].replacement()));
            assert_eq!(changed, in_force());
            assert!(changed.len() > 20, "{} things are there", changed.len());
        }
    });
}
