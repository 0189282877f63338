//! What a guest finds under which path: directories and values, by the version that it asks for.
//!
//! A key appears in the version that AWS introduced it with and in all later ones. Listings have
//! one name a line, without a newline at the end, directories with a slash; the version's own
//! listing has no slashes, because AWS's has none.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::dns::address_name;
use crate::spec::{PortSpec, VpcSpec};

/// AWS's versions, oldest first; `latest` follows them.
const VERSIONS: [&str; 29] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-08-24",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "2021-07-15",
    "2022-09-24",
    "2024-04-11",
];
const LATEST: &str = "latest";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Text(Bytes),
    Binary(Bytes),
}

/// What is at `path`, a directory's listing or a value.
pub fn find(spec: &VpcSpec, port: &PortSpec, path: &str) -> Option<Found> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let Some(version) = parts.next() else {
        return Some(text(versions().collect::<Vec<_>>().join("\n")));
    };
    let version = versions().find(|known| *known == version)?;
    let rest: Vec<&str> = parts.collect();
    match rest.split_first() {
        None => Some(text(version_listing(port))),
        Some((&"user-data", [])) => {
            let bytes = port.metadata.user_data.clone()?;
            Some(Found::Binary(Bytes::from(bytes)))
        }
        Some((&"meta-data", rest)) => meta_data(spec, port).at(version, rest),
        Some((&"dynamic", rest)) => dynamic(port).at(version, rest),
        Some(_) => None,
    }
}

fn versions() -> impl Iterator<Item = &'static str> {
    VERSIONS.into_iter().chain([LATEST])
}

fn version_listing(port: &PortSpec) -> String {
    let mut names = vec!["dynamic", "meta-data"];
    if port.metadata.user_data.is_some() {
        names.push("user-data");
    }
    names.join("\n")
}

fn text(text: impl Into<String>) -> Found {
    Found::Text(Bytes::from(text.into()))
}

enum Node {
    Directory(Vec<Entry>),
    /// The list of keys shows more than the names of its directories.
    Keys(Vec<(String, Node)>),
    Value(String),
}

struct Entry {
    name: String,
    /// The first version that has it.
    since: &'static str,
    node: Node,
}

impl Node {
    fn at(&self, version: &str, path: &[&str]) -> Option<Found> {
        let Some((first, rest)) = path.split_first() else {
            return Some(text(self.show(version)));
        };
        match self {
            Node::Value(_) => None,
            Node::Directory(entries) => entries
                .iter()
                .find(|entry| entry.name == *first && entry.is_in(version))?
                .node
                .at(version, rest),
            Node::Keys(keys) => keys.get(first.parse::<usize>().ok()?)?.1.at(version, rest),
        }
    }

    fn show(&self, version: &str) -> String {
        match self {
            Node::Value(value) => value.clone(),
            Node::Keys(keys) => {
                let lines = keys.iter().enumerate();
                let lines = lines.map(|(index, (name, _))| format!("{index}={name}"));
                lines.collect::<Vec<_>>().join("\n")
            }
            Node::Directory(entries) => {
                let names = entries.iter().filter(|entry| entry.is_in(version));
                let names: BTreeSet<String> = names.map(Entry::listed).collect();
                names.into_iter().collect::<Vec<_>>().join("\n")
            }
        }
    }
}

impl Entry {
    /// Versions are dates, so they sort; `1.0` is before and `latest` after all of them.
    fn is_in(&self, version: &str) -> bool {
        self.since <= version
    }

    fn listed(&self) -> String {
        match &self.node {
            Node::Directory(_) | Node::Keys(_) => format!("{}/", self.name),
            Node::Value(_) => self.name.clone(),
        }
    }
}

/// A value that every version has, or every one that has its directory.
fn value(name: &str, value: impl ToString) -> Entry {
    value_since("1.0", name, value)
}

fn value_since(version: &'static str, name: &str, value: impl ToString) -> Entry {
    since(version, name, Node::Value(value.to_string()))
}

fn directory(name: &str, entries: Vec<Entry>) -> Entry {
    since("1.0", name, Node::Directory(entries))
}

fn since(version: &'static str, name: &str, node: Node) -> Entry {
    Entry {
        name: name.to_owned(),
        since: version,
        node,
    }
}

fn meta_data(spec: &VpcSpec, asking: &PortSpec) -> Node {
    let interfaces = interfaces(spec, asking);
    // What describes the instance comes from its primary interface, whichever one it asks by.
    let port = interfaces.first().copied().unwrap_or(asking);
    let facts = &port.metadata;
    let hostname = full_name(spec, port);
    let mut entries = vec![
        value("ami-id", &facts.ami_id),
        value("ami-launch-index", facts.ami_launch_index),
        value("ami-manifest-path", "(unknown)"),
        value("hostname", &hostname),
        value_since("2008-09-01", "instance-action", "none"),
        value("instance-id", &port.instance),
        value_since("2019-10-01", "instance-life-cycle", "on-demand"),
        value_since("2007-08-29", "instance-type", &facts.instance_type),
        value_since("2007-01-19", "local-hostname", &hostname),
        value("local-ipv4", port.ip),
        value_since("2011-01-01", "mac", port.mac),
        value_since("2007-12-15", "profile", "default-hvm"),
        value("reservation-id", &facts.reservation_id),
        value("security-groups", facts.security_groups.join("\n")),
        block_devices(port),
        placement(port),
        // As DescribeInstances says it.
        value_since("2022-09-24", "system", "xen"),
        services(),
        events(),
        since(
            "2011-01-01",
            "network",
            Node::Directory(vec![directory(
                "interfaces",
                vec![directory(
                    "macs",
                    interfaces
                        .iter()
                        .map(|port| directory(&port.mac.to_string(), interface(spec, port)))
                        .collect(),
                )],
            )]),
        ),
    ];
    if let Some(public) = port.public_ip {
        // It repeats the private one, and so does its name.
        let name = address_name(public, &spec.domain);
        entries.push(value_since("2007-01-19", "public-ipv4", public));
        entries.push(value_since("2007-01-19", "public-hostname", name));
    }
    if !facts.public_keys.is_empty() {
        entries.push(public_keys(port));
    }
    if let Some(tags) = &facts.tags {
        let tags = tags.iter().map(|(name, tag)| value(name, tag)).collect();
        entries.push(since(
            "2021-03-23",
            "tags",
            Node::Directory(vec![directory("instance", tags)]),
        ));
    }
    Node::Directory(entries)
}

/// All interfaces of the instance, the primary one first.
fn interfaces<'a>(spec: &'a VpcSpec, port: &PortSpec) -> Vec<&'a PortSpec> {
    let mut ports: Vec<&PortSpec> = spec
        .ports
        .iter()
        .filter(|other| other.instance == port.instance)
        .collect();
    ports.sort_by_key(|port| port.device_index);
    ports
}

fn full_name(spec: &VpcSpec, port: &PortSpec) -> String {
    if port.hostname.contains('.') {
        port.hostname.clone()
    } else {
        format!("{}.{}", port.hostname, spec.domain)
    }
}

fn public_keys(port: &PortSpec) -> Entry {
    let keys = port.metadata.public_keys.iter();
    let keys = keys.map(|(name, line)| {
        let key = Node::Directory(vec![value("openssh-key", line)]);
        (name.clone(), key)
    });
    since("1.0", "public-keys", Node::Keys(keys.collect()))
}

fn block_devices(port: &PortSpec) -> Entry {
    let devices = port.metadata.block_devices.iter();
    let devices = devices.map(|(name, device)| value(name, device)).collect();
    since(
        "2007-12-15",
        "block-device-mapping",
        Node::Directory(devices),
    )
}

fn placement(port: &PortSpec) -> Entry {
    let facts = &port.metadata;
    directory(
        "placement",
        vec![
            value_since("2008-02-01", "availability-zone", &facts.availability_zone),
            value_since(
                "2019-10-01",
                "availability-zone-id",
                &facts.availability_zone_id,
            ),
            value_since("2020-08-24", "region", &facts.region),
        ],
    )
}

/// The partition's names are AWS's: what clients derive from them, the endpoint overrides.
fn services() -> Entry {
    since(
        "2014-02-25",
        "services",
        Node::Directory(vec![
            value("domain", "amazonaws.com"),
            value_since("2015-10-20", "partition", "aws"),
        ]),
    )
}

fn events() -> Entry {
    since(
        "2018-08-17",
        "events",
        Node::Directory(vec![directory(
            "maintenance",
            vec![value("history", "[]"), value("scheduled", "[]")],
        )]),
    )
}

fn interface(spec: &VpcSpec, port: &PortSpec) -> Vec<Entry> {
    let facts = &port.metadata;
    let mut entries = vec![
        value("device-number", port.device_index),
        value("interface-id", &port.eni),
        value("local-hostname", full_name(spec, port)),
        value("local-ipv4s", port.ip),
        value("mac", port.mac),
        value("owner-id", &facts.account),
        value("security-groups", facts.security_groups.join("\n")),
        value("security-group-ids", port.groups.join("\n")),
        value("subnet-id", &port.subnet),
        value("vpc-id", &spec.vpc),
        value("vpc-ipv4-cidr-block", spec.cidr),
        value("vpc-ipv4-cidr-blocks", spec.cidr),
    ];
    if let Some(subnet) = spec.subnet_of(port) {
        entries.push(value("subnet-ipv4-cidr-block", subnet.cidr));
    }
    if let Some(public) = port.public_ip {
        entries.push(value("public-ipv4s", public));
        entries.push(value("public-hostname", address_name(public, &spec.domain)));
        entries.push(directory(
            "ipv4-associations",
            vec![value(&public.to_string(), port.ip)],
        ));
    }
    entries
}

fn dynamic(port: &PortSpec) -> Node {
    let facts = &port.metadata;
    let mut documents = vec![value("document", &facts.identity_document)];
    // Signatures come a moment later; until then they are missing and not empty.
    if !facts.identity_signature.is_empty() {
        documents.push(value("signature", &facts.identity_signature));
    }
    if let Some(pkcs7) = &facts.identity_pkcs7 {
        documents.push(value("pkcs7", pkcs7));
    }
    if let Some(rsa2048) = &facts.identity_rsa2048 {
        documents.push(value("rsa2048", rsa2048));
    }
    let monitoring = match facts.monitoring {
        true => "enabled",
        false => "disabled",
    };
    Node::Directory(vec![
        since(
            "2009-04-04",
            "fws",
            Node::Directory(vec![value("instance-monitoring", monitoring)]),
        ),
        directory("instance-identity", documents),
    ])
}
