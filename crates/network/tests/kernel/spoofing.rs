//! A guest that poses as somebody else, with real packets: none arrives.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use crate::support::*;
use boira_network::VpcSpec;

/// Two ports that let each other do anything.
fn friends() -> VpcSpec {
    vpc(
        vec![open_out("sg-all", vec![all_from("0.0.0.0/0")])],
        &[&["sg-all"], &["sg-all"]],
    )
}

/// What the socket hears next, or nothing.
fn heard(socket: &UdpSocket) -> Option<(String, Ipv4Addr)> {
    let mut packet = [0; 64];
    socket.set_read_timeout(Some(NEVER)).expect("a timeout");
    match socket.recv_from(&mut packet) {
        Ok((length, std::net::SocketAddr::V4(from))) => {
            let text = String::from_utf8_lossy(&packet[..length]).into_owned();
            Some((text, *from.ip()))
        }
        Ok(_) => None,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            None
        }
    }
}

#[test]
fn a_foreign_source_address_gets_nowhere() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let mut spec = friends();
        cloud.ensure(&spec);
        let liar = cloud.configured_guest(&spec, &eni(0));
        let victim = cloud.configured_guest(&spec, &eni(1));
        let socket = victim.udp(9000);
        let to = SocketAddrV4::new(victim.ip, 9000);
        liar.sh("ip addr add 10.0.5.5/32 dev eth0; ip addr add 198.51.100.7/32 dev eth0");
        liar.send_udp(liar.ip, to, "true");
        assert_eq!(heard(&socket), Some(("true".to_owned(), liar.ip)));
        for lie in [Ipv4Addr::new(10, 0, 5, 5), Ipv4Addr::new(198, 51, 100, 7)] {
            liar.send_udp(lie, to, "lie");
            assert_eq!(heard(&socket), None);
        }

        // An instance that routes for others may.
        spec.ports[0].source_dest_check = false;
        cloud.ensure(&spec);
        liar.send_udp(Ipv4Addr::new(198, 51, 100, 7), to, "routed");
        let from = Ipv4Addr::new(198, 51, 100, 7);
        assert_eq!(heard(&socket), Some(("routed".to_owned(), from)));

        spec.ports[0].source_dest_check = true;
        cloud.ensure(&spec);
        liar.send_udp(Ipv4Addr::new(198, 51, 100, 7), to, "lie");
        assert_eq!(heard(&socket), None);
    });
}

#[test]
fn a_foreign_mac_address_gets_nowhere() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = friends();
        cloud.ensure(&spec);
        let liar = cloud.configured_guest(&spec, &eni(0));
        let victim = cloud.configured_guest(&spec, &eni(1));
        let socket = victim.udp(9000);
        let to = SocketAddrV4::new(victim.ip, 9000);
        // Its own neighbour table stays right, so only the source of its frames is wrong.
        liar.sh("ip neigh replace 10.0.0.12 lladdr 0a:b0:1a:00:00:01 dev eth0 nud permanent");
        liar.send_udp(liar.ip, to, "true");
        assert!(heard(&socket).is_some());
        liar.sh("ip link set eth0 address 02:00:00:00:00:99");
        liar.sh(
            "ip neigh replace 10.0.0.12 lladdr 0a:b0:1a:00:00:01 dev eth0 nud permanent; \
             ip route replace default via 10.0.0.1",
        );
        liar.send_udp(liar.ip, to, "lie");
        assert_eq!(heard(&socket), None);
    });
}

#[test]
fn arp_lies_change_nothing_and_fill_nothing() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = friends();
        let outcome = cloud.ensure(&spec);
        assert_eq!(outcome.lacks, Vec::<String>::new());
        let liar = cloud.configured_guest(&spec, &eni(0));
        let victim = cloud.configured_guest(&spec, &eni(1));
        let neighbours = || {
            let namespace = cloud.namespace(&spec.vpc);
            let seen = namespace.run_blocking(|| Ok(sh("ip neigh show nud all")));
            seen.expect("the namespace is there")
        };
        // It claims the other's address and the gateway's, by request and by reply.
        for claimed in ["10.0.0.12", "10.0.0.1", "10.0.7.7"] {
            liar.sh(&format!("ip addr add {claimed}/32 dev eth0"));
            for lie in [
                format!("-c2 -w1 -U -I eth0 -s {claimed} {claimed}"),
                format!("-c2 -w1 -A -I eth0 -s {claimed} {claimed}"),
                format!("-c1 -w1 -I eth0 -s {claimed} 10.0.0.1"),
            ] {
                // Its exit code says whether somebody answered, which is not asked here.
                let said = liar.output(&format!("arping {lie}"));
                let said = String::from_utf8_lossy(&said.stdout).into_owned();
                assert!(
                    said.contains("Sent ") && !said.contains("Sent 0 "),
                    "arping {lie}: {said}"
                );
            }
            liar.sh(&format!("ip addr del {claimed}/32 dev eth0"));
        }
        let seen = neighbours();
        let taps: Vec<&str> = seen.lines().filter(|line| line.contains(" eni")).collect();
        assert_eq!(taps.len(), 2, "only the two permanent ones: {seen}");
        assert!(taps.iter().all(|line| line.contains("PERMANENT")), "{seen}");
        // The other is still reached, and by the right one.
        victim.greet(80, "victim");
        liar.sh("ip neigh flush dev eth0");
        let greeting = liar
            .greeting_of(victim.ip, 80, SOON)
            .expect("they are friends");
        assert_eq!(greeting, "victim");
    });
}

#[test]
fn a_guest_is_no_dhcp_server_and_no_ipv6_router() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = friends();
        cloud.ensure(&spec);
        let liar = cloud.configured_guest(&spec, &eni(0));
        let victim = cloud.configured_guest(&spec, &eni(1));
        let socket = victim.udp(68);
        let to = SocketAddrV4::new(victim.ip, 68);
        liar.inside(move || {
            let server = UdpSocket::bind("0.0.0.0:67").expect("a socket");
            let _ = server.send_to(b"offer", to);
        });
        assert_eq!(heard(&socket), None);
        liar.send_udp(liar.ip, to, "from another port");
        assert!(heard(&socket).is_some());

        let six = victim.inside(|| UdpSocket::bind("[::]:9000").expect("a socket"));
        liar.inside(|| {
            let index = nix::net::if_::if_nametoindex("eth0").expect("it has eth0");
            let socket = UdpSocket::bind("[::]:0").expect("a socket");
            let all =
                std::net::SocketAddrV6::new("ff02::1".parse().expect("an address"), 9000, 0, index);
            let _ = socket.send_to(b"router", all);
        });
        assert_eq!(heard(&six), None);
        // Nothing of the VPC speaks it, so no router can be learned or answered either.
        let addresses = cloud
            .namespace(&spec.vpc)
            .run_blocking(|| Ok(sh("ip -6 addr show; ip -6 route show")))
            .expect("the namespace is there");
        assert_eq!(addresses, "");
    });
}
