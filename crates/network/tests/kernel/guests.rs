//! What guests of one VPC get and what they don't, with real packets.

use std::fs;
use std::net::{SocketAddrV4, UdpSocket};

use crate::support::*;
use boira_network::{Peer, Protocol, Rule, VpcSpec};

/// Two ports: the first may be reached at 80 by anyone, the second by nobody.
fn two_ports() -> VpcSpec {
    vpc(
        vec![
            open_out("sg-web", vec![tcp_from(80, "0.0.0.0/0")]),
            open_out("sg-none", vec![]),
        ],
        &[&["sg-web"], &["sg-none"]],
    )
}

#[test]
fn a_guest_configures_itself_by_dhcp() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = two_ports();
        cloud.ensure(&spec);
        let guest = cloud.guest(&spec.vpc, &spec.ports[0]);
        let script = cloud.directory.path().join("udhcpc.sh");
        let seen = cloud.directory.path().join("seen");
        fs::write(
            &script,
            format!(
                "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nenv > {}\n\
                 ip addr add $ip/$mask dev $interface\nip link set $interface mtu $mtu\n\
                 ip route add default via $router\n",
                seen.display()
            ),
        )
        .expect("a script");
        guest.sh(&format!(
            "chmod +x {0}; busybox udhcpc -i eth0 -f -n -q -t 5 -T 1 -O mtu -s {0}",
            script.display()
        ));
        let seen = fs::read_to_string(seen).expect("the lease was seen");
        for wanted in [
            "ip=10.0.0.11",
            "mask=20",
            "router=10.0.0.1",
            "dns=10.0.0.2",
            "domain=ec2.internal",
            "hostname=ip-10-0-0-11",
            "mtu=1450",
            "lease=3600",
            "serverid=10.0.0.1",
        ] {
            assert!(seen.lines().any(|line| line == wanted), "{wanted}: {seen}");
        }
        assert_eq!(guest.get("/latest/meta-data/local-ipv4"), "10.0.0.11");
    });
}

#[test]
fn an_allowed_port_answers_and_the_others_do_not() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = two_ports();
        cloud.ensure(&spec);
        let web = cloud.configured_guest(&spec, &eni(0));
        let other = cloud.configured_guest(&spec, &eni(1));
        for guest in [&web, &other] {
            guest.greet(80, "hello");
            guest.greet(81, "hello");
        }
        let greeting = other.greeting_of(web.ip, 80, SOON);
        assert_eq!(greeting.expect("80 is allowed"), "hello");
        assert!(other.greeting_of(web.ip, 81, NEVER).is_err());
        assert!(web.greeting_of(other.ip, 80, NEVER).is_err());
        let greeting = cloud.dial(&spec.vpc, web.ip, 80, SOON);
        assert_eq!(greeting.expect("80 is allowed"), "hello");
        assert!(cloud.dial(&spec.vpc, web.ip, 81, NEVER).is_err());
        assert!(cloud.dial(&spec.vpc, other.ip, 80, NEVER).is_err());
    });
}

#[test]
fn a_revoked_rule_stops_new_connections_and_lets_old_ones_end() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let mut spec = two_ports();
        cloud.ensure(&spec);
        let web = cloud.configured_guest(&spec, &eni(0));
        let client = cloud.configured_guest(&spec, &eni(1));
        web.echo(80);
        let mut old = client.connect(web.ip, 80).expect("80 is allowed");
        assert_eq!(say(&mut old, "before"), "before");

        spec.groups[0].ingress.clear();
        assert!(cloud.ensure(&spec).changed);

        assert!(client.greeting_of(web.ip, 80, NEVER).is_err());
        assert_eq!(say(&mut old, "after"), "after");

        spec.groups[0].ingress.push(tcp_from(80, "10.0.0.0/16"));
        cloud.ensure(&spec);
        assert!(client.connect(web.ip, 80).is_ok());
    });
}

#[test]
fn a_group_reference_lets_in_its_members_and_nobody_else() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let mut spec = vpc(
            vec![
                open_out("sg-db", vec![all_from_group("sg-app")]),
                open_out("sg-app", vec![]),
                open_out("sg-other", vec![]),
            ],
            &[&["sg-db"], &["sg-app"], &["sg-other"]],
        );
        cloud.ensure(&spec);
        let database = cloud.configured_guest(&spec, &eni(0));
        let app = cloud.configured_guest(&spec, &eni(1));
        let other = cloud.configured_guest(&spec, &eni(2));
        database.greet(5432, "hello");
        assert!(app.greeting_of(database.ip, 5432, SOON).is_ok());
        assert!(other.greeting_of(database.ip, 5432, NEVER).is_err());

        // Membership counts, not the rules' text: here somebody joins.
        spec.ports[2].groups.push("sg-app".to_owned());
        fill_members(&mut spec);
        cloud.ensure(&spec);
        assert!(other.greeting_of(database.ip, 5432, SOON).is_ok());
    });
}

#[test]
fn egress_rules_hold_the_sender() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = vpc(
            vec![
                open_out("sg-all", vec![all_from("0.0.0.0/0")]),
                group(
                    "sg-tight",
                    vec![all_from("0.0.0.0/0")],
                    vec![tcp_from(80, "10.0.0.11/32")],
                ),
            ],
            &[&["sg-all"], &["sg-tight"]],
        );
        cloud.ensure(&spec);
        let server = cloud.configured_guest(&spec, &eni(0));
        let tight = cloud.configured_guest(&spec, &eni(1));
        server.greet(80, "hello");
        server.greet(81, "hello");
        tight.greet(22, "hello");
        assert!(tight.greeting_of(server.ip, 80, SOON).is_ok());
        assert!(tight.greeting_of(server.ip, 81, NEVER).is_err());
        // What it answers is not what it starts.
        assert!(server.greeting_of(tight.ip, 22, SOON).is_ok());
    });
}

#[test]
fn pings_follow_their_type() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let echo = Protocol::Icmp {
            kind: Some(8),
            code: None,
        };
        let everyone = Peer::Cidr("0.0.0.0/0".parse().expect("a network"));
        let rule = Rule {
            protocol: echo,
            peer: everyone,
        };
        let spec = vpc(
            vec![open_out("sg-ping", vec![rule]), open_out("sg-none", vec![])],
            &[&["sg-ping"], &["sg-none"]],
        );
        cloud.ensure(&spec);
        let one = cloud.configured_guest(&spec, &eni(0));
        let other = cloud.configured_guest(&spec, &eni(1));
        assert!(other.output("ping -c1 -W3 10.0.0.11").status.success());
        assert!(!one.output("ping -c1 -W1 10.0.0.12").status.success());
        assert!(one.output("ping -c1 -W3 10.0.0.1").status.success());
        // Nobody has the address: it is said at once.
        let absent = one.output("ping -c1 -W3 10.0.200.99");
        let said = String::from_utf8_lossy(&absent.stdout).into_owned();
        assert!(said.contains("Unreachable"), "{said}");
    });
}

#[test]
fn names_are_answered_and_the_rest_is_asked_outside() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let mut spec = two_ports();
        // A resolver of the host that knows one answer.
        let resolver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        spec.resolvers = Some(vec![resolver.local_addr().expect("it is bound")]);
        spec.ports[1].hostname = "db".to_owned();
        cloud.ensure(&spec);
        let guest = cloud.configured_guest(&spec, &eni(0));
        std::thread::spawn(move || answer_everything_with(&resolver, [192, 0, 2, 80]));
        let ask = |question: &str, server: &str| {
            let asked = guest.output(&format!("busybox nslookup {question} {server}"));
            String::from_utf8_lossy(&asked.stdout).into_owned()
        };
        let known = ask("-type=a ip-10-0-0-12.ec2.internal", "10.0.0.2");
        assert!(known.contains("Address: 10.0.0.12"), "{known}");
        let named = ask("-type=a db.ec2.internal", "169.254.169.253");
        assert!(named.contains("Address: 10.0.0.12"), "{named}");
        let reverse = ask("-type=ptr 12.0.0.10.in-addr.arpa", "10.0.0.2");
        assert!(reverse.contains("ip-10-0-0-12.ec2.internal"), "{reverse}");
        let absent = ask("-type=a nobody.ec2.internal", "10.0.0.2");
        assert!(absent.contains("NXDOMAIN"), "{absent}");
        let outside = ask("-type=a example.org", "10.0.0.2");
        assert!(outside.contains("Address: 192.0.2.80"), "{outside}");

        spec.resolvers = Some(Vec::new());
        cloud.ensure(&spec);
        let nobody = ask("-type=a example.org", "10.0.0.2");
        assert!(nobody.contains("SERVFAIL"), "{nobody}");
    });
}

/// Answers every question with one address, as a resolver with a single answer would.
fn answer_everything_with(socket: &UdpSocket, address: [u8; 4]) {
    let mut packet = [0; 512];
    while let Ok((length, peer)) = socket.recv_from(&mut packet) {
        let mut answer = packet[..length].to_vec();
        answer[2] |= 0x80;
        answer[6..8].copy_from_slice(&[0, 1]);
        // The name of the question, A, IN, 60 s, four bytes.
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend_from_slice(&address);
        let _ = socket.send_to(&answer, peer);
    }
}

#[test]
fn the_guest_answers_the_status_check_only_when_it_is_up() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = two_ports();
        cloud.ensure(&spec);
        let answers = || {
            let asking = cloud.network.answers_arp(&spec.vpc, &spec.ports[1].eni);
            cloud.runtime.block_on(asking).expect("the port exists")
        };
        assert!(!answers());
        let guest = cloud.configured_guest(&spec, &eni(1));
        assert!(answers());
        guest.sh("ip link set eth0 down");
        assert!(!answers());
    });
}

#[test]
fn a_flood_of_questions_leaves_the_others_served() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = two_ports();
        cloud.ensure(&spec);
        let flooding = cloud.configured_guest(&spec, &eni(0));
        let other = cloud.configured_guest(&spec, &eni(1));
        let resolver = SocketAddrV4::new(spec.resolver(), 53);
        let held_back = || {
            let listing = cloud
                .namespace(&spec.vpc)
                .run_blocking(|| Ok(sh("nft list chain inet boira to_us")))
                .expect("the chain is there");
            let limit = listing.lines().find(|line| line.contains("@service_rates"));
            !limit.expect("there is a limit").contains("packets 0 ")
        };
        // On a busy machine much of it is lost before it gets to the limit.
        let held_back = (0..50).any(|_| {
            flooding.inside(move || {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                for _ in 0..5000 {
                    let _ = socket.send_to(b"no question at all", resolver);
                }
            });
            let asked = other.sh("busybox nslookup -type=a ip-10-0-0-11.ec2.internal 10.0.0.2");
            assert!(asked.contains("Address: 10.0.0.11"), "{asked}");
            held_back()
        });
        assert!(held_back, "it held nothing back");
    });
}
