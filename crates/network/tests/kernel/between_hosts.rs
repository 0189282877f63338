//! One VPC on two hosts, with real packets over a LAN of the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::support::*;
use boira_network::namespace::Namespace;
use boira_network::underlay::{PeerSpec, Underlay, UnderlaySpec};
use boira_network::{OverlayPeer, OverlaySpec, VpcSpec};

const ECHO: u16 = 7;

/// Who seals what a PC sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sealing {
    Kernel,
    Relay,
}

/// Of the two PCs. Every kernel can run relays; `cargo xtask soak --only wireguard` asks for others where the
/// kernel has WireGuard.
fn sealing() -> [Sealing; 2] {
    let asked = std::env::var("BOIRA_SEAL").unwrap_or_else(|_| "relay relay".into());
    let sealing = asked.split(' ').map(|one| match one {
        "kernel" => Sealing::Kernel,
        "relay" => Sealing::Relay,
        other => panic!("{other} seals nothing"),
    });
    let sealing: Vec<Sealing> = sealing.collect();
    sealing
        .try_into()
        .unwrap_or_else(|_| panic!("two PCs, not {asked:?}"))
}

/// A PC on the test's LAN. The calling thread is on one PC at a time.
struct Pc {
    number: u32,
    place: Namespace,
    sealing: Sealing,
    cloud: Cloud,
    underlay: Underlay,
}

fn open(cloud: &Cloud, sealing: Sealing) -> Underlay {
    let relay = env!("CARGO_BIN_EXE_boira-underlay-relay");
    let relay = [relay.into(), "underlay-relay".into()];
    let underlay = Underlay::open(&cloud.tag, cloud.directory.path(), &relay);
    let underlay = underlay.expect("a key and a port");
    match sealing {
        Sealing::Kernel => underlay,
        Sealing::Relay => underlay.by_relay(),
    }
}

impl Pc {
    /// The first has no wire yet, the second brings it.
    fn new(number: u32, other: Option<&Pc>, sealing: Sealing) -> Self {
        let place = Namespace::named(&unique_name("pc"));
        place.create().expect("a namespace can be made");
        enter(&place);
        sh("ip link set lo up");
        if let Some(other) = other {
            sh(&format!(
                "ip link add lan type veth peer name lan netns {}; \
                 ip addr add 10.99.0.{number}/24 dev lan; ip link set lan up; \
                 ip -n {0} addr add 10.99.0.{1}/24 dev lan; ip -n {0} link set lan up",
                other.place.name(),
                other.number
            ));
        }
        let cloud = Cloud::new();
        let underlay = open(&cloud, sealing);
        Pc {
            number,
            place,
            sealing,
            underlay,
            cloud,
        }
    }

    /// As an agent that was started again.
    fn forget(&mut self) {
        self.here();
        self.underlay = open(&self.cloud, self.sealing);
    }

    fn address(&self) -> SocketAddr {
        let ip = Ipv4Addr::new(10, 99, 0, self.number as u8);
        SocketAddr::from((ip, self.underlay.port()))
    }

    fn here(&self) -> &Self {
        enter(&self.place);
        self
    }

    /// What others are told of it.
    fn as_peer(&self) -> PeerSpec {
        PeerSpec {
            host: self.number,
            key: self.underlay.public_key(),
            endpoint: self.address(),
        }
    }

    fn knows(&self, peers: &[&Pc]) {
        let spec = UnderlaySpec {
            host: self.number,
            peers: peers.iter().map(|peer| peer.as_peer()).collect(),
        };
        let runtime = &self.here().cloud.runtime;
        runtime
            .block_on(self.underlay.ensure(&spec))
            .expect("the underlay comes up");
        let relays = processes_with(self.underlay.directory()).len();
        assert_eq!(relays, usize::from(self.sealing == Sealing::Relay));
    }

    fn ensure(&self, spec: &VpcSpec) {
        let outcome = self.here().cloud.ensure(spec);
        assert_eq!(outcome.lacks, Vec::<String>::new());
    }
}

impl Drop for Pc {
    fn drop(&mut self) {
        enter(&self.place);
        let removing = self.cloud.runtime.block_on(self.underlay.remove());
        if let Err(error) = removing {
            eprintln!("removing the underlay: {error}");
        }
        let _ = self.place.remove();
    }
}

fn enter(place: &Namespace) {
    let file = std::fs::File::open(place.path()).expect("the PC is there");
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("tests run as root");
}

/// The VPC as the host at this place of two sees it: the port with the host's index is here, the
/// other one on the other.
fn part_of(whole: &VpcSpec, place: usize) -> VpcSpec {
    let mut spec = whole.clone();
    let here = spec.ports.swap_remove(place);
    let there = spec.ports.pop().expect("two ports");
    spec.ports = vec![here];
    spec.mtu = boira_network::underlay::GUEST_MTU;
    spec.overlay = Some(OverlaySpec {
        vni: 42,
        host: place as u32 + 1,
        peers: vec![OverlayPeer {
            host: 2 - place as u32,
            addresses: [there.ip].into(),
        }],
    });
    spec
}

/// The first port is reached at the echo by members of its group only; the second by anyone of it.
fn two_ports() -> VpcSpec {
    let mut inner = all_from_group("sg-in");
    inner.protocol = boira_network::Protocol::Tcp {
        from: ECHO,
        to: ECHO,
    };
    let in_group = open_out("sg-in", vec![inner]);
    let locked_in = group("sg-mute", vec![all_from("0.0.0.0/0")], vec![]);
    vpc(vec![in_group, locked_in], &[&["sg-in"], &["sg-in"]])
}

struct Room {
    spec: VpcSpec,
    guests: [Guest; 2],
    pcs: [Pc; 2],
}

impl Room {
    fn new(sealing: [Sealing; 2]) -> Self {
        let one = Pc::new(1, None, sealing[0]);
        let two = Pc::new(2, Some(&one), sealing[1]);
        one.knows(&[&two]);
        two.knows(&[&one]);
        let pcs = [one, two];
        let spec = two_ports();
        let guests = [0, 1].map(|place| {
            let part = part_of(&spec, place);
            pcs[place].ensure(&part);
            pcs[place]
                .here()
                .cloud
                .configured_guest(&part, &part.ports[0].eni)
        });
        for guest in &guests {
            let mtu = boira_network::underlay::GUEST_MTU;
            guest.sh(&format!("ip link set eth0 mtu {mtu}"));
            guest.echo(ECHO);
            guest.echo(8);
        }
        Room { spec, guests, pcs }
    }

    fn tell(&self, place: usize, spec: &VpcSpec) {
        self.pcs[place].ensure(&part_of(spec, place));
    }

    /// Whether a new connection from the guest at this place to the other gets an answer.
    fn answers(&self, from: usize, port: u16, wait: Duration) -> bool {
        let to = self.guests[1 - from].ip;
        let stream = self.guests[from].inside(move || {
            let stream = std::net::TcpStream::connect_timeout(&(to, port).into(), wait)?;
            stream.set_read_timeout(Some(SOON))?;
            Ok::<_, std::io::Error>(stream)
        });
        stream.is_ok_and(|mut stream| say(&mut stream, "hello") == "hello")
    }
}

#[test]
fn guests_on_two_hosts_are_in_one_network_and_their_groups_hold() {
    on_a_host(|| {
        let room = Room::new(sealing());
        assert!(room.answers(0, ECHO, SOON) && room.answers(1, ECHO, SOON));
        assert!(!room.answers(0, 8, NEVER), "no group lets this in");
        // A whole frame each way, and nothing of it in pieces.
        let size = boira_network::underlay::GUEST_MTU - 28;
        let mut open = room.spec.clone();
        open.groups[0].ingress = vec![all_from_group("sg-in")];
        (0..2).for_each(|place| room.tell(place, &open));
        room.guests[0].sh(&format!(
            "ping -c 2 -i 0.2 -W 2 -M do -s {size} {}",
            room.guests[1].ip
        ));
        assert!(room.answers(0, 8, SOON), "now one does");
        // The sender's groups are asked on its own host.
        let mut mute = open.clone();
        mute.ports[0].groups = vec!["sg-mute".to_owned()];
        fill_members(&mut mute);
        (0..2).for_each(|place| room.tell(place, &mute));
        assert!(!room.answers(0, ECHO, NEVER));
    });
}

#[test]
fn connections_outlive_the_relay_which_is_started_again() {
    on_a_host(|| {
        let room = Room::new([Sealing::Relay; 2]);
        let mut stream = room.guests[0]
            .connect(room.guests[1].ip, ECHO)
            .expect("a connection");
        assert_eq!(say(&mut stream, "before"), "before");
        let pc = &room.pcs[0];
        let relays = processes_with(pc.underlay.directory());
        assert_eq!(relays.len(), 1, "one relay serves the host");
        let pid = nix::unistd::Pid::from_raw(relays[0] as i32);
        pc.here().cloud.runtime.block_on(async {
            let talking = tokio::task::spawn_blocking(move || {
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
                say(&mut stream, "after")
            });
            tokio::select! {
                () = pc.underlay.keep_running() => unreachable!("it runs for ever"),
                heard = talking => assert_eq!(heard.expect("the guest answers"), "after"),
            }
        });
        assert_ne!(processes_with(pc.underlay.directory()), relays);
    });
}

#[test]
fn connections_outlive_the_agent_and_a_host_that_goes_leaves_nothing() {
    on_a_host(|| {
        let mut room = Room::new(sealing());
        let mut stream = room.guests[0]
            .connect(room.guests[1].ip, ECHO)
            .expect("a connection");
        assert_eq!(say(&mut stream, "before"), "before");
        let addresses = room.pcs.each_ref().map(Pc::address);
        room.pcs.iter_mut().for_each(Pc::forget);
        assert_eq!(room.pcs.each_ref().map(Pc::address), addresses);
        let [one, two] = &room.pcs;
        one.knows(&[two]);
        two.knows(&[one]);
        assert_eq!(say(&mut stream, "after"), "after");
        let gone = one.here().cloud.runtime.block_on(one.underlay.remove());
        gone.expect("it goes");
        assert!(!one.underlay.is_present());
        assert_eq!(sh("ss -Hlun"), "", "its port is free");
    });
}

#[test]
fn nothing_comes_from_a_host_that_is_no_peer_or_where_the_address_is_not_at_home() {
    on_a_host(|| {
        let room = Room::new(sealing());
        let mut open = room.spec.clone();
        open.groups[0].ingress = vec![all_from_group("sg-in")];
        (0..2).for_each(|place| room.tell(place, &open));
        let heard = room.guests[1].udp(9);
        heard.set_read_timeout(Some(NEVER)).expect("a timeout");
        let arrives = || {
            let [from, to] = [0, 1].map(|place| room.guests[place].ip);
            room.guests[0].send_udp(from, std::net::SocketAddrV4::new(to, 9), "hello");
            heard.recv(&mut [0; 16]).is_ok()
        };
        assert!(arrives());
        // The second host is told that the first one's guest has moved to a third.
        let mut moved = part_of(&open, 1);
        let overlay = moved.overlay.as_mut().expect("an overlay");
        overlay.peers[0].host = 3;
        room.pcs[1].ensure(&moved);
        assert!(!arrives(), "from a stale placement");
        // The first host says that it is the third.
        let vpc = room.pcs[0].cloud.namespace(&room.spec.vpc);
        vpc.run_blocking(|| {
            // The kernel forgets a device's neighbours with its address.
            Ok(sh("ip link set vx0 address 02:fe:00:00:00:03; \
                 ip neigh replace 100.64.0.2 lladdr 02:fe:00:00:00:02 dev vx0 nud permanent"))
        })
        .expect("a VPC");
        assert!(!arrives(), "from a host that poses as another");
        (0..2).for_each(|place| room.tell(place, &open));
        assert!(arrives());
        room.pcs[1].knows(&[]);
        assert!(!arrives(), "from a host that was cut off");
    });
}

/// What is on the wire of a LAN, from now on.
fn listen_to_the_lan(pc: &Pc) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    pc.here();
    socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::EthAll,
    )
    .expect("a packet socket")
}

#[test]
fn nobody_on_the_lan_can_read_or_inject() {
    on_a_host(|| {
        let room = Room::new(sealing());
        let mut open = room.spec.clone();
        open.groups[0].ingress = vec![all_from_group("sg-in")];
        (0..2).for_each(|place| room.tell(place, &open));
        let heard = room.guests[1].udp(9);
        heard.set_read_timeout(Some(NEVER)).expect("a timeout");
        let wire = listen_to_the_lan(&room.pcs[1]);
        let mut stream = room.guests[0]
            .connect(room.guests[1].ip, ECHO)
            .expect("a connection");
        let secret = "a secret of the first guest";
        assert_eq!(say(&mut stream, secret), secret);
        let [from, to] = [0, 1].map(|place| room.guests[place].ip);
        room.guests[0].send_udp(from, std::net::SocketAddrV4::new(to, 9), secret);
        let hears = || heard.recv(&mut [0; 64]).is_ok();
        assert!(hears(), "it is let in");
        let mut frames: Vec<Vec<u8>> = Vec::new();
        let mut frame = vec![0; 1 << 16];
        while let Ok(length) = nix::unistd::read(&wire, &mut frame) {
            frames.push(frame[..length].to_vec());
        }
        assert!(frames.len() > 6, "{} frames", frames.len());
        let readable = |frame: &Vec<u8>| {
            frame
                .windows(secret.len())
                .any(|part| part == secret.as_bytes())
        };
        assert!(!frames.iter().any(readable));
        // The same datagrams again, from the LAN; and what is in them, not sealed.
        room.pcs[0].here();
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let udp = 14 + 20 + 8;
        let replays = frames.iter().filter_map(|frame| frame.get(udp..));
        let plain = in_vxlan(42, &frame_of_udp([1, 2], (from, to), secret));
        for datagram in replays.chain([&plain[..]]) {
            socket
                .send_to(datagram, room.pcs[1].address())
                .expect("the LAN is up");
        }
        assert!(!hears(), "what was on the LAN was let in");
        assert_eq!(say(&mut stream, "still"), "still");
        // Nobody listens at VXLAN's own port.
        room.pcs[1].here();
        assert_eq!(sh(&format!("ss -Hlun '( sport = :{} )'", 4789)), "");
    });
}

/// RFC 7348's header before a frame.
fn in_vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let header = [0x08_u32 << 24, vni << 8].map(u32::to_be_bytes);
    [&header.concat()[..], frame].concat()
}

/// A datagram to port 9 as one host of the VPC would hand it to the other, without a UDP checksum.
fn frame_of_udp([here, there]: [u8; 2], (from, to): (Ipv4Addr, Ipv4Addr), text: &str) -> Vec<u8> {
    let mac = |host: u8| [0x02, 0xfe, 0, 0, 0, host];
    let length = (8 + text.len()) as u16;
    let udp = [9_u16, 9, length, 0].map(u16::to_be_bytes).concat();
    let mut ip = vec![0x45, 0];
    ip.extend((20 + length).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    let sum: u32 = ip
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [
        &mac(there)[..],
        &mac(here),
        &[0x08, 0],
        &ip,
        &udp,
        text.as_bytes(),
    ]
    .concat()
}
