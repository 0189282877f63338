//! The way out and what it must not lead to. The outside is another namespace; no packet leaves.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use crate::support::*;
use boira_network::namespace::Namespace;
use boira_network::{API_ADDRESS, API_PORT, VpcSpec};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// A world with one machine, which greets at port 80 and repeats what it hears at UDP 7.
struct Outside {
    namespace: Namespace,
}

impl Outside {
    fn new() -> Self {
        let name = unique_name("bo");
        let namespace = Namespace::named(&name);
        namespace.create().expect("a namespace can be made");
        sh(&format!(
            "ip link add up0 type veth peer name down0 netns {name}
             ip addr add {HOST}/24 dev up0; ip link set up0 up
             ip route add default via {OUTSIDE}
             ip -n {name} addr add {OUTSIDE}/24 dev down0; ip -n {name} link set down0 up
             ip -n {name} link set lo up"
        ));
        let listening = namespace.run_blocking(|| {
            let udp = UdpSocket::bind("0.0.0.0:7")?;
            std::thread::spawn(move || {
                let mut packet = [0; 64];
                while let Ok((length, peer)) = udp.recv_from(&mut packet) {
                    let _ = udp.send_to(&packet[..length], peer);
                }
            });
            greet(TcpListener::bind("0.0.0.0:80")?, "outside");
            Ok(())
        });
        listening.expect("the outside listens");
        Outside { namespace }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.namespace.remove();
    }
}

fn greet(listener: TcpListener, text: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let from = stream.peer_addr().expect("a peer").ip();
            let _ = stream.write_all(format!("{text} to {from}").as_bytes());
        }
    });
}

fn one_port() -> VpcSpec {
    let mut spec = vpc(vec![open_out("sg-all", vec![])], &[&["sg-all"]]);
    spec.way_out = true;
    spec
}

#[test]
fn guests_reach_the_outside_and_not_the_host() {
    on_a_host(|| {
        let _outside = Outside::new();
        let cloud = Cloud::new();
        let mut spec = one_port();
        // A service of the host, on all its addresses.
        greet(TcpListener::bind("0.0.0.0:80").expect("a listener"), "host");
        let outcome = cloud.ensure(&spec);
        assert_eq!(outcome.lacks, Vec::<String>::new());
        let guest = cloud.configured_guest(&spec, &eni(0));

        let greeting = guest.greeting_of(OUTSIDE, 80, SOON);
        assert_eq!(
            greeting.expect("the outside answers"),
            format!("outside to {HOST}")
        );
        let echo = guest.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(SOON))?;
            socket.send_to(b"hello", (OUTSIDE, 7))?;
            let mut packet = [0; 64];
            let length = socket.recv(&mut packet)?;
            std::io::Result::Ok(packet[..length].to_vec())
        });
        assert_eq!(echo.expect("the outside answers"), b"hello");

        for own in [
            "203.0.113.2",
            "127.0.0.1",
            "0.0.0.0",
            "169.254.168.2",
            "169.254.168.3",
        ] {
            let own: Ipv4Addr = own.parse().expect("an address");
            // The guest itself knows some of them; it is made to send them to the gateway.
            guest.output(&format!(
                "ip route add {own}/32 via 10.0.0.1; ip route del local {own} table local; \
                 sysctl -w net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1"
            ));
            let greeting = guest.greeting_of(own, 80, NEVER);
            assert!(greeting.is_err(), "{own}: {greeting:?}");
        }

        // The way out closes when it is to.
        spec.way_out = false;
        assert!(cloud.ensure(&spec).changed);
        assert!(guest.greeting_of(OUTSIDE, 80, NEVER).is_err());
        spec.way_out = true;
        cloud.ensure(&spec);
        assert!(guest.greeting_of(OUTSIDE, 80, SOON).is_ok());
    });
}

#[test]
fn an_address_that_the_host_gets_later_is_out_of_reach_too() {
    on_a_host(|| {
        let _outside = Outside::new();
        let cloud = Cloud::new();
        let spec = one_port();
        greet(TcpListener::bind("0.0.0.0:80").expect("a listener"), "host");
        cloud.ensure(&spec);
        let guest = cloud.configured_guest(&spec, &eni(0));
        sh(&format!("ip addr add {SECOND}/32 dev up0"));
        assert!(cloud.ensure(&spec).changed);
        assert!(guest.greeting_of(SECOND, 80, NEVER).is_err());

        // And without anybody asking, while the agent watches.
        let third = Ipv4Addr::new(198, 51, 100, 3);
        cloud.runtime.block_on(async {
            let adding = async {
                // The watch listens from its first poll on, which comes before this.
                sh(&format!("ip addr add {third}/32 dev up0"));
                let deadline = std::time::Instant::now() + SOON;
                while !rules_of(&cloud, &spec).contains("198.51.100.3") {
                    assert!(
                        std::time::Instant::now() < deadline,
                        "the rules don't follow"
                    );
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                biased;
                end = cloud.network.watch_host_addresses() => panic!("{end:?}"),
                () = adding => {}
            }
        });
        assert!(guest.greeting_of(third, 80, NEVER).is_err());
        assert!(guest.greeting_of(OUTSIDE, 80, SOON).is_ok());
    });
}

fn rules_of(cloud: &Cloud, spec: &VpcSpec) -> String {
    let namespace = cloud.namespace(&spec.vpc);
    let rules = namespace.run_blocking(|| Ok(sh("nft list ruleset")));
    rules.expect("the namespace is there")
}

#[test]
fn the_api_is_reached_at_its_own_address() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let mut spec = one_port();
        spec.way_out = false;
        cloud.ensure(&spec);
        let guest = cloud.configured_guest(&spec, &eni(0));
        assert!(
            guest.connect(API_ADDRESS, API_PORT).is_err(),
            "there is no API yet"
        );

        let api = TcpListener::bind("127.0.0.1:0").expect("a listener");
        spec.api = Some(api.local_addr().expect("it is bound"));
        cloud.ensure(&spec);
        std::thread::spawn(move || {
            for stream in api.incoming().flatten() {
                let mut stream = stream;
                let mut question = [0; 4];
                let _ = stream.read_exact(&mut question);
                let _ = stream.write_all(b"answer to ");
                let _ = stream.write_all(&question);
            }
        });
        let answer = guest.inside(|| {
            let to = SocketAddr::from((API_ADDRESS, API_PORT));
            let mut stream = TcpStream::connect_timeout(&to, SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            stream.write_all(b"call")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            std::io::Result::Ok(answer)
        });
        assert_eq!(answer.expect("the API answers"), "answer to call");
    });
}

#[test]
fn without_a_connector_everything_else_works() {
    on_a_host(|| {
        // Here the program isn't installed.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("tests run as root");
        sh("mount --make-rprivate /; mount --bind /dev/null $(command -v slirp4netns)");
        let cloud = Cloud::new();
        let spec = one_port();
        let outcome = cloud.ensure(&spec);
        assert_eq!(outcome.lacks, ["no way out: slirp4netns is not installed"]);
        let guest = cloud.configured_guest(&spec, &eni(0));
        assert_eq!(guest.get("/latest/meta-data/local-ipv4"), "10.0.0.11");
        assert!(!cloud.ensure(&spec).changed);
    });
}
