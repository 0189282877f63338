//! What guests of one VPC get and what they don't, with real packets.

mod support;

use std::fs;

use boira_network::VpcSpec;
use support::*;

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
