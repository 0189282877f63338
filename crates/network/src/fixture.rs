//! A VPC for unit tests.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::spec::{
    GroupSpec, Mac, MetadataSpec, Peer, PortSpec, Protocol, Rule, SubnetSpec, VpcSpec,
};

/// Two instances in 172.31.0.0/20; the second routes for others.
pub fn spec() -> VpcSpec {
    VpcSpec {
        vpc: "vpc-0123456789abcdef0".to_owned(),
        cidr: net("172.31.0.0/16"),
        subnets: vec![SubnetSpec {
            subnet: "subnet-1".to_owned(),
            cidr: net("172.31.0.0/20"),
            gateway: Ipv4Addr::new(172, 31, 0, 1),
        }],
        mtu: 1450,
        domain: "ec2.internal".to_owned(),
        ports: vec![port(1, &["sg-web", "sg-in"]), {
            let mut router = port(2, &["sg-in"]);
            router.source_dest_check = false;
            router
        }],
        standby: Vec::new(),
        groups: vec![web_group(), inner_group()],
        overlay: None,
        api: None,
        way_out: true,
        resolvers: None,
    }
}

fn web_group() -> GroupSpec {
    let anyone = || Peer::Cidr(net("0.0.0.0/0"));
    let ingress = [
        (Protocol::Tcp { from: 80, to: 80 }, anyone()),
        (
            Protocol::Tcp {
                from: 8000,
                to: 8080,
            },
            Peer::Cidr(net("10.1.2.3/8")),
        ),
        (
            Protocol::Udp { from: 0, to: 65535 },
            Peer::Group("sg-gone".to_owned()),
        ),
        (
            Protocol::Icmp {
                kind: Some(3),
                code: Some(4),
            },
            anyone(),
        ),
        (
            Protocol::Icmp {
                kind: None,
                code: None,
            },
            Peer::Group("sg-in".to_owned()),
        ),
        (Protocol::Number(47), Peer::Cidr(net("192.0.2.1/32"))),
    ];
    GroupSpec {
        id: "sg-web".to_owned(),
        members: vec![Ipv4Addr::new(172, 31, 0, 11)],
        ingress: ingress
            .map(|(protocol, peer)| Rule { protocol, peer })
            .to_vec(),
        egress: vec![Rule {
            protocol: Protocol::All,
            peer: anyone(),
        }],
    }
}

fn inner_group() -> GroupSpec {
    GroupSpec {
        id: "sg-in".to_owned(),
        members: vec![
            Ipv4Addr::new(172, 31, 0, 11),
            Ipv4Addr::new(172, 31, 0, 12),
            // On another host.
            Ipv4Addr::new(172, 31, 7, 7),
        ],
        ingress: vec![Rule {
            protocol: Protocol::All,
            peer: Peer::Group("sg-in".to_owned()),
        }],
        egress: Vec::new(),
    }
}

pub fn port(number: u8, groups: &[&str]) -> PortSpec {
    PortSpec {
        eni: format!("eni-{number:017x}"),
        instance: format!("i-{number:017x}"),
        device_index: 0,
        mac: Mac([2, 0, 0, 0, 0, number]),
        ip: Ipv4Addr::new(172, 31, 0, 10 + number),
        public_ip: None,
        subnet: "subnet-1".to_owned(),
        hostname: format!("ip-172-31-0-{}", 10 + number),
        groups: groups.iter().map(ToString::to_string).collect(),
        source_dest_check: true,
        metadata: metadata(),
    }
}

fn metadata() -> MetadataSpec {
    MetadataSpec {
        ami_id: "ami-1".to_owned(),
        ami_launch_index: 3,
        instance_type: "m1.small".to_owned(),
        reservation_id: "r-1".to_owned(),
        account: "123456789012".to_owned(),
        region: "us-east-1".to_owned(),
        availability_zone: "us-east-1a".to_owned(),
        availability_zone_id: "use1-az1".to_owned(),
        launch_time: "2026-01-01T00:00:00Z".to_owned(),
        architecture: "x86_64".to_owned(),
        public_keys: vec![("my key".to_owned(), "ssh-ed25519 AAAA me".to_owned())],
        user_data: Some(b"#!/bin/sh\n\0\xff".to_vec()),
        security_groups: vec!["web".to_owned(), "inner".to_owned()],
        tags: Some(BTreeMap::from([("Name".to_owned(), "one".to_owned())])),
        block_devices: BTreeMap::from([
            ("ami".to_owned(), "/dev/vda".to_owned()),
            ("root".to_owned(), "/dev/vda".to_owned()),
        ]),
        endpoint_enabled: true,
        tokens_required: false,
        hop_limit: 2,
        monitoring: true,
        identity_document: "{\"region\" : \"us-east-1\"}".to_owned(),
        identity_signature: "c2ln".to_owned(),
        identity_pkcs7: Some("cGtjczc=".to_owned()),
        identity_rsa2048: Some("cnNh".to_owned()),
    }
}

fn net(text: &str) -> ipnet::Ipv4Net {
    text.parse().expect("a network")
}
