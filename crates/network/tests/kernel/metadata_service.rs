//! The metadata service as guests see it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::support::*;
use boira_network::{METADATA_ADDRESS, VpcSpec};

fn two_ports() -> VpcSpec {
    vpc(
        vec![open_out("sg-none", vec![])],
        &[&["sg-none"], &["sg-none"]],
    )
}

#[test]
fn each_guest_is_told_about_itself_whatever_address_it_takes() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let mut spec = two_ports();
        // It may send from any address, the other's included.
        spec.ports[0].source_dest_check = false;
        spec.ports[0].metadata.user_data = Some(vec![0, 255, b'\n', 0]);
        spec.ports[1].metadata.tags = Some(BTreeMap::from([("Name".to_owned(), "db".to_owned())]));
        cloud.ensure(&spec);
        let one = cloud.configured_guest(&spec, &eni(0));
        let other = cloud.configured_guest(&spec, &eni(1));
        let path = "/latest/meta-data/instance-id";
        assert_eq!(one.get(path), spec.ports[0].instance);
        assert_eq!(other.get(path), spec.ports[1].instance);
        assert_eq!(
            one.http("GET", "/latest/user-data", &[]).body,
            [0, 255, b'\n', 0]
        );
        assert_eq!(other.http("GET", "/latest/user-data", &[]).status, 404);
        assert_eq!(other.get("/latest/meta-data/tags/instance/Name"), "db");

        one.sh(
            "ip addr del 10.0.0.11/20 dev eth0; ip addr add 10.0.0.12/20 dev eth0; \
                ip route add default via 10.0.0.1",
        );
        let asked = one.inside(|| {
            TcpStream::connect_timeout(&SocketAddr::from((METADATA_ADDRESS, 80)), NEVER)
        });
        assert!(
            asked.is_err(),
            "an answer to the other's address goes nowhere"
        );
        assert_eq!(other.get(path), spec.ports[1].instance);
    });
}

#[test]
fn tokens_are_of_one_instance_and_do_not_travel() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let mut spec = two_ports();
        spec.ports[0].metadata.tokens_required = true;
        cloud.ensure(&spec);
        let one = cloud.configured_guest(&spec, &eni(0));
        let other = cloud.configured_guest(&spec, &eni(1));
        let path = "/latest/meta-data/instance-id";
        let ttl = ("X-aws-ec2-metadata-token-ttl-seconds", "60");
        let token_of = |guest: &Guest| {
            let put = guest.http("PUT", "/latest/api/token", &[ttl]);
            assert_eq!(put.status, 200);
            assert_eq!(put.headers["x-aws-ec2-metadata-token-ttl-seconds"], "60");
            String::from_utf8(put.body).expect("tokens are text")
        };
        let with = |guest: &Guest, token: &str| {
            guest
                .http("GET", path, &[("X-aws-ec2-metadata-token", token)])
                .status
        };
        assert_eq!(one.http("GET", path, &[]).status, 401);
        let token = token_of(&one);
        assert_eq!(with(&one, &token), 200);
        assert_eq!(with(&other, &token), 401);
        assert_eq!(with(&other, "nonsense"), 401);
        assert_eq!(with(&other, &token_of(&other)), 200);
        let proxied = one.http(
            "PUT",
            "/latest/api/token",
            &[ttl, ("X-Forwarded-For", "1.2.3.4")],
        );
        assert_eq!(proxied.status, 403);

        // Only the answer with the token is kept from travelling.
        let packets = one.inside(raw_tcp);
        token_of(&one);
        assert_eq!(hops_of_answers(&packets), [1]);
        assert_eq!(with(&one, &token), 200);
        assert_eq!(hops_of_answers(&packets), [64]);

        spec.ports[0].metadata.endpoint_enabled = false;
        cloud.ensure(&spec);
        assert_eq!(one.http("GET", path, &[]).status, 403);
        assert_eq!(with(&one, &token), 403);
    });
}

#[test]
fn a_change_reaches_open_connections_and_ends_none() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let mut spec = two_ports();
        cloud.ensure(&spec);
        let guest = cloud.configured_guest(&spec, &eni(0));
        let mut stream = guest.connect(METADATA_ADDRESS, 80).expect("it listens");
        let mut get = |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("it stands");
            let mut answer = Vec::new();
            let mut byte = [0];
            while !answer.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).expect("it stands");
                answer.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&answer).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .expect("a length");
            let mut body = vec![0; length.parse().expect("a number")];
            stream.read_exact(&mut body).expect("it stands");
            String::from_utf8(body).expect("text")
        };
        assert_eq!(get("/latest/meta-data/instance-type"), "m1.small");
        spec.ports[0].metadata.instance_type = "m1.large".to_owned();
        // A port more and one less change nothing for the one that stays.
        spec.ports[1] = port(2, &["sg-none"]);
        cloud.ensure(&spec);
        assert_eq!(get("/latest/meta-data/instance-type"), "m1.large");
    });
}

#[test]
fn a_flood_of_one_guest_leaves_the_others_served() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = two_ports();
        cloud.ensure(&spec);
        let flooding = cloud.configured_guest(&spec, &eni(0));
        let other = cloud.configured_guest(&spec, &eni(1));
        let held: Vec<TcpStream> = flooding.inside(|| {
            let to = SocketAddr::from((METADATA_ADDRESS, 80));
            (0..300)
                .map_while(|_| TcpStream::connect_timeout(&to, NEVER).ok())
                .collect()
        });
        assert!(held.len() >= 64, "they were accepted: {}", held.len());
        assert_eq!(
            other.get("/latest/meta-data/instance-id"),
            spec.ports[1].instance
        );
        let pid = services_pid(&cloud, &spec.vpc);
        let files = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("it runs")
            .count();
        assert!(files < 300, "{files} files are open");
    });
}

#[test]
fn clients_that_are_slow_or_talk_too_much_are_cut_off() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = two_ports();
        cloud.ensure(&spec);
        let guest = cloud.configured_guest(&spec, &eni(0));
        let closed_after = |said: Vec<u8>| {
            let mut stream = guest.connect(METADATA_ADDRESS, 80).expect("it listens");
            stream.set_read_timeout(Some(SOON * 3)).expect("a timeout");
            let _ = stream.write_all(&said);
            let mut answer = Vec::new();
            // The end may come as a reset, with what was said unread.
            let ended = stream.read_to_end(&mut answer);
            let timed_out = ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
            assert!(!timed_out, "the connection stands");
            answer
        };
        closed_after(b"GET /latest/meta-data/ HTTP/1.1\r\nHost:".to_vec());
        closed_after(Vec::new());
        let mut long = b"GET / HTTP/1.1\r\nX: ".to_vec();
        long.resize(100_000, b'x');
        let answer = closed_after(long);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
        assert_eq!(
            closed_after(b"\0\xff nonsense\r\n\r\n".to_vec())[..12],
            *b"HTTP/1.1 400"
        );
    });
}

#[test]
fn what_talks_to_guests_may_do_nothing() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = two_ports();
        cloud.ensure(&spec);
        let pid = services_pid(&cloud, &spec.vpc);
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs") {
            let path = thread.expect("it runs").path().join("status");
            let status = std::fs::read_to_string(path).expect("it runs");
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name));
                let line = line.expect("the kernel says so");
                line[name.len()..]
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert!(
                field("Uid:")
                    .iter()
                    .all(|uid| uid.parse::<u32>().is_ok_and(|u| u > 1_000_000))
            );
            assert!(
                field("Gid:")
                    .iter()
                    .all(|gid| gid.parse::<u32>().is_ok_and(|g| g > 1_000_000))
            );
            assert_eq!(field("Groups:"), Vec::<String>::new());
            for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
                assert_eq!(field(set), ["0000000000000000"], "{set}");
            }
            assert_eq!(field("NoNewPrivs:"), ["1"]);
        }
    });
}

/// A socket that hears all TCP packets of the calling thread's namespace, headers included.
fn raw_tcp() -> std::os::fd::OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let (kind, flags) = (SockType::Raw, SockFlag::SOCK_NONBLOCK);
    socket(AddressFamily::Inet, kind, flags, SockProtocol::Tcp).expect("tests run as root")
}

/// The hops that the packets with an HTTP answer had left.
fn hops_of_answers(packets: &std::os::fd::OwnedFd) -> Vec<u8> {
    let mut hops = Vec::new();
    let mut packet = [0; 2048];
    while let Ok(length) = nix::unistd::read(packets, &mut packet) {
        let text = String::from_utf8_lossy(&packet[..length]);
        if text.contains("HTTP/1.1 200") {
            hops.push(packet[8]);
        }
    }
    hops
}
