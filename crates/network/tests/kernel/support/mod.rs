//! A host for a test: a network namespace of its own, in which everything runs, with guests that
//! are namespaces too.
//!
//! A guest's kernel sees an interface with its port's MAC address: a tap, whose frames a thread
//! carries to and from the tap that a hypervisor would hold. Packets are real; none leaves.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use boira_network::namespace::Namespace;
use boira_network::{
    GroupSpec, Mac, MetadataSpec, Network, Outcome, Peer, PortSpec, Protocol, Rule, SubnetSpec,
    VpcSpec,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A name that no other test has.
pub fn unique_name(prefix: &str) -> String {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{}x{number}", std::process::id())
}

/// Long enough for a busy machine, short enough for a test that waits for nothing to come.
pub const SOON: Duration = Duration::from_secs(5);
pub const NEVER: Duration = Duration::from_millis(700);

/// Runs a test on a host of its own: a thread in a new network namespace.
pub fn on_a_host(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests run as root");
        sh("ip link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a shell command in the calling thread's namespace.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output();
    let output = output.expect("there is a shell");
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("tools speak UTF-8")
}

/// One cloud on the host of the test; all that it made goes when it is dropped.
pub struct Cloud {
    pub tag: String,
    pub directory: TempDir,
    pub network: Network,
    pub runtime: Runtime,
}

impl Cloud {
    pub fn new() -> Self {
        let tag = unique_name("t");
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let network = network(&tag, directory.path());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts");
        Cloud {
            tag,
            directory,
            network,
            runtime,
        }
    }

    /// As an agent that was started again.
    pub fn forget(&mut self) {
        self.network = self.another();
    }

    /// What another process has of the same networks.
    pub fn another(&self) -> Network {
        network(&self.tag, self.directory.path())
    }

    pub fn ensure(&self, spec: &VpcSpec) -> Outcome {
        let outcome = self.runtime.block_on(self.network.ensure(spec));
        outcome.unwrap_or_else(|error| panic!("ensure: {error}"))
    }

    pub fn namespace(&self, vpc: &str) -> Namespace {
        Namespace::named(&format!("boira-{}-{vpc}", self.tag))
    }

    pub fn dial(&self, vpc: &str, ip: Ipv4Addr, port: u16, wait: Duration) -> io::Result<String> {
        self.runtime.block_on(async {
            let connecting = self.network.dial(vpc, ip, port);
            let stream = tokio::time::timeout(wait, connecting).await??;
            let mut stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(wait))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    /// Starts a guest on a port: its interface is up and has no address.
    pub fn guest(&self, vpc: &str, port: &PortSpec) -> Guest {
        let tap = self.network.open_tap(vpc, &port.eni);
        Guest::new(tap.expect("the port has a tap"), port)
    }

    /// Starts a guest that configures itself as the spec says.
    pub fn configured_guest(&self, spec: &VpcSpec, eni: &str) -> Guest {
        let port = spec.port(eni).expect("the spec has the port");
        let subnet = spec.subnet_of(port).expect("the port has a subnet");
        let guest = self.guest(&spec.vpc, port);
        guest.sh(&format!(
            "ip addr add {}/{} dev eth0; ip route add default via {}",
            port.ip,
            subnet.cidr.prefix_len(),
            subnet.gateway
        ));
        guest
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.runtime.block_on(async {
            for vpc in self.network.present().await {
                if let Err(error) = self.network.remove(&vpc).await {
                    eprintln!("removing {vpc}: {error}");
                }
            }
        });
    }
}

fn network(tag: &str, directory: &Path) -> Network {
    let services = env!("CARGO_BIN_EXE_boira-vpc-services");
    Network::new(
        tag,
        &directory.join("network"),
        vec![services.into(), "vpc-services".into()],
    )
}

/// The process that serves a VPC.
pub fn services_pid(cloud: &Cloud, vpc: &str) -> u32 {
    let found = processes_with(&cloud.directory.path().join("network").join(vpc));
    assert_eq!(found.len(), 1, "one process serves {vpc}");
    found[0]
}

/// The processes whose last argument is `last`.
pub fn processes_with(last: &Path) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").expect("there is /proc");
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.rsplit(|byte| *byte == 0).skip(1);
        words.next() == Some(last.as_os_str().as_encoded_bytes())
    })
    .collect()
}

/// Says something to an echo and returns what comes back.
pub fn say(stream: &mut TcpStream, text: &str) -> String {
    stream
        .write_all(text.as_bytes())
        .expect("the connection stands");
    let mut answer = vec![0; text.len()];
    stream
        .read_exact(&mut answer)
        .expect("the connection stands");
    String::from_utf8(answer).expect("an echo says what was said")
}

/// A namespace with an interface that is the other end of a port's tap.
pub struct Guest {
    pub namespace: Namespace,
    pub ip: Ipv4Addr,
    /// Closing it ends the wire.
    stop: Option<OwnedFd>,
    wire: Option<JoinHandle<()>>,
}

impl Guest {
    fn new(hypervisor_end: OwnedFd, port: &PortSpec) -> Self {
        let namespace = Namespace::named(&unique_name("bg"));
        namespace.create().expect("a namespace can be made");
        let guest_end = namespace.run_blocking(|| Ok(tap("eth0"))).expect("a tap");
        let (stopped, stop) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("a pipe");
        let wire = std::thread::spawn(move || carry(&hypervisor_end, &guest_end, &stopped));
        let guest = Guest {
            namespace,
            ip: port.ip,
            stop: Some(stop),
            wire: Some(wire),
        };
        guest.sh(&format!(
            "ip link set lo up; ip link set eth0 address {} up",
            port.mac
        ));
        guest
    }

    /// Runs a shell command inside.
    pub fn sh(&self, command: &str) -> String {
        let command = command.to_owned();
        self.inside(move || sh(&command))
    }

    pub fn output(&self, command: &str) -> Output {
        let command = command.to_owned();
        self.inside(move || {
            Command::new("sh")
                .args(["-c", &command])
                .output()
                .expect("there is a shell")
        })
    }

    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let result = self.namespace.run_blocking(|| Ok(work()));
        result.expect("the guest's namespace can be entered")
    }

    /// Listens on a port and greets everyone with `text` until the guest is dropped.
    pub fn greet(&self, port: u16, text: &str) {
        let text = text.to_owned();
        self.inside(move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a listener");
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let mut stream = stream;
                    let _ = stream.write_all(text.as_bytes());
                }
            });
        });
    }

    /// Repeats whatever connections to a port say, until the guest is dropped.
    pub fn echo(&self, port: u16) {
        self.inside(move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a listener");
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || {
                        let mut to = stream.try_clone().expect("a second handle");
                        let _ = io::copy(&mut &stream, &mut to);
                    });
                }
            });
        });
    }

    pub fn connect(&self, ip: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
        self.inside(move || {
            let stream = TcpStream::connect_timeout(&SocketAddr::from((ip, port)), SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            Ok(stream)
        })
    }

    /// What a greeter says to a connection from here.
    pub fn greeting_of(&self, ip: Ipv4Addr, port: u16, wait: Duration) -> io::Result<String> {
        self.inside(move || {
            let to = SocketAddr::from((ip, port));
            let mut stream = TcpStream::connect_timeout(&to, wait)?;
            stream.set_read_timeout(Some(wait))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    /// Sends one HTTP request to the metadata service. Returns status, headers and body.
    pub fn http(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Http {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let to = SocketAddr::from((boira_network::METADATA_ADDRESS, 80));
        let answer = self.inside(move || -> io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(&to, SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        });
        Http::parse(&answer.expect("the metadata service answers"))
    }

    /// Waits until the metadata service takes connections: its process is there before it listens.
    pub fn wait_for_metadata(&self, limit: Duration) {
        let to = SocketAddr::from((boira_network::METADATA_ADDRESS, 80));
        self.inside(move || {
            let begun = std::time::Instant::now();
            while let Err(error) = TcpStream::connect_timeout(&to, SOON) {
                assert!(begun.elapsed() < limit, "nobody listens: {error}");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
    }

    pub fn get(&self, path: &str) -> String {
        let http = self.http("GET", path, &[]);
        assert_eq!(http.status, 200, "{path}");
        String::from_utf8(http.body).expect("metadata are text")
    }

    /// Sends one datagram from the given address of the guest.
    pub fn send_udp(&self, from: Ipv4Addr, to: SocketAddrV4, text: &str) {
        let text = text.to_owned();
        self.inside(move || {
            let socket = UdpSocket::bind((from, 0)).expect("the guest has the address");
            let _ = socket.send_to(text.as_bytes(), to);
        });
    }

    /// A socket of the guest that hears datagrams.
    pub fn udp(&self, port: u16) -> UdpSocket {
        self.inside(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a socket");
            socket.set_read_timeout(Some(SOON)).expect("a timeout");
            socket
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(wire) = self.wire.take() {
            let _ = wire.join();
        }
        let _ = self.namespace.remove();
    }
}

pub struct Http {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Http {
    fn parse(answer: &[u8]) -> Self {
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.expect("an answer has a head");
        let head = String::from_utf8(answer[..end].to_vec()).expect("heads are text");
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        Http {
            status: status.expect("an answer has a status"),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: answer[end + 4..].to_vec(),
        }
    }
}

/// A tap of the calling thread's namespace, with the same framing as a port's.
fn tap(name: &str) -> OwnedFd {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .expect("there is /dev/net/tun");
    // SAFETY: `ifreq` is plain data for which all zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    device.into()
}

/// Copies frames both ways until `stopped` is closed.
fn carry(one: &OwnedFd, other: &OwnedFd, stopped: &OwnedFd) {
    let mut frame = vec![0_u8; 70_000];
    loop {
        let mut polls = [one, other, stopped].map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: three `pollfd`s are passed, with their count, and outlive the call.
        unsafe { libc::poll(polls.as_mut_ptr(), 3, -1) };
        if polls[2].revents != 0 {
            return;
        }
        for (poll, from, to) in [(polls[0], one, other), (polls[1], other, one)] {
            if poll.revents & libc::POLLIN != 0
                && let Ok(length) = nix::unistd::read(from, &mut frame)
            {
                let _ = nix::unistd::write(to, &frame[..length]);
            }
        }
    }
}

/// A VPC 10.0.0.0/16 with one subnet and the ports 10.0.0.11, 12, … that wear `groups[i]`.
pub fn vpc(groups: Vec<GroupSpec>, ports: &[&[&str]]) -> VpcSpec {
    let mut spec = VpcSpec {
        vpc: "vpc-0000000000000000a".to_owned(),
        cidr: "10.0.0.0/16".parse().expect("a network"),
        subnets: vec![SubnetSpec {
            subnet: "subnet-00000000000000001".to_owned(),
            cidr: "10.0.0.0/20".parse().expect("a network"),
            gateway: Ipv4Addr::new(10, 0, 0, 1),
        }],
        mtu: 1450,
        domain: "ec2.internal".to_owned(),
        ports: ports
            .iter()
            .enumerate()
            .map(|(index, worn)| port(u8::try_from(index).expect("few ports"), worn))
            .collect(),
        standby: Vec::new(),
        groups,
        overlay: None,
        api: None,
        way_out: false,
        resolvers: Some(Vec::new()),
    };
    fill_members(&mut spec);
    spec
}

/// Makes the groups' members those that wear them.
pub fn fill_members(spec: &mut VpcSpec) {
    for group in &mut spec.groups {
        let wearers = spec.ports.iter().filter(|p| p.groups.contains(&group.id));
        group.members = wearers.map(|port| port.ip).collect();
    }
}

pub fn port(index: u8, groups: &[&str]) -> PortSpec {
    let ip = Ipv4Addr::new(10, 0, 0, 11 + index);
    PortSpec {
        eni: eni(index),
        instance: format!("i-{index:017x}"),
        device_index: 0,
        mac: Mac([2, 0, 0, 0, 0, 11 + index]),
        ip,
        public_ip: None,
        subnet: "subnet-00000000000000001".to_owned(),
        hostname: format!("ip-10-0-0-{}.ec2.internal", 11 + index),
        groups: groups.iter().map(ToString::to_string).collect(),
        source_dest_check: true,
        metadata: metadata(index),
    }
}

pub fn eni(index: u8) -> String {
    format!("eni-{index:017x}")
}

pub fn metadata(index: u8) -> MetadataSpec {
    MetadataSpec {
        ami_id: "ami-00000000000000001".to_owned(),
        ami_launch_index: u32::from(index),
        instance_type: "m1.small".to_owned(),
        reservation_id: "r-00000000000000001".to_owned(),
        account: "123456789012".to_owned(),
        region: "us-east-1".to_owned(),
        availability_zone: "us-east-1a".to_owned(),
        availability_zone_id: "use1-az1".to_owned(),
        launch_time: "2026-01-01T00:00:00Z".to_owned(),
        architecture: "x86_64".to_owned(),
        public_keys: vec![("my-key".to_owned(), "ssh-ed25519 AAAA me".to_owned())],
        user_data: None,
        security_groups: vec!["default".to_owned()],
        tags: None,
        block_devices: BTreeMap::from([("ami".to_owned(), "/dev/vda".to_owned())]),
        endpoint_enabled: true,
        tokens_required: false,
        hop_limit: 1,
        monitoring: true,
        identity_document: "{}".to_owned(),
        identity_signature: "c2ln".to_owned(),
        identity_pkcs7: None,
        identity_rsa2048: None,
    }
}

pub fn group(id: &str, ingress: Vec<Rule>, egress: Vec<Rule>) -> GroupSpec {
    GroupSpec {
        id: id.to_owned(),
        members: Vec::new(),
        ingress,
        egress,
    }
}

/// A group with AWS's default egress.
pub fn open_out(id: &str, ingress: Vec<Rule>) -> GroupSpec {
    group(id, ingress, vec![all_from("0.0.0.0/0")])
}

pub fn all_from(cidr: &str) -> Rule {
    Rule {
        protocol: Protocol::All,
        peer: Peer::Cidr(cidr.parse().expect("a network")),
    }
}

pub fn tcp_from(port: u16, cidr: &str) -> Rule {
    Rule {
        protocol: Protocol::Tcp {
            from: port,
            to: port,
        },
        peer: Peer::Cidr(cidr.parse().expect("a network")),
    }
}

pub fn all_from_group(group: &str) -> Rule {
    Rule {
        protocol: Protocol::All,
        peer: Peer::Group(group.to_owned()),
    }
}
