//! A whole surplus PC: a QEMU machine with one old CPU and 1 GiB of memory, on which a Debian joins a cloud
//! by the invitation's line and runs an instance of the tiny image inside. Once without virtualization,
//! so that what is emulated emulates, and once with AMD's, which QEMU emulates too: there KVM runs guests.

use crate::cloud::free_address;
use crate::debian::{Home, boira, open_ssh};
use crate::pc::{NAME, Pc};
use crate::process::Tied;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

/// What the invitation's line would install there by apt.
const PACKAGES: &str =
    "curl,ca-certificates,qemu-system-x86,qemu-utils,iproute2,nftables,conntrack,slirp4netns";
/// The model of x86-64-v1 ("ABI compatibility levels for CPU models" in QEMU's documentation), and whether
/// KVM works on it.
const CPUS: [(&str, bool); 2] = [("qemu64,-svm", false), ("qemu64", true)];
/// The machine is emulated, and so is what it emulates.
const JOINED: Duration = Duration::from_secs(1200);
const LOGGED_IN: Duration = Duration::from_secs(2400);
/// What an agent may keep in memory.
const RESIDENT_MAX_KIB: u64 = 40 << 10;

/// What the PC does when it has booted: QEMU's user network, the line, and a word about the agent now and
/// then.
const STARTUP: &str = "#!/bin/sh
set -eu
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
sh /root/line
while sleep 10; do
    pid=$(pgrep -fo 'boira.* agent$') || continue
    sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/$pid/status
done >/dev/ttyS1
";
pub fn run() -> Result<()> {
    CPUS.into_iter()
        .try_for_each(|(cpu, kvm)| run_on(cpu, kvm).with_context(|| format!("with the CPU {cpu}")))
}

fn run_on(cpu: &str, kvm: bool) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "guests need root; --only seeds leaves them out"
    );
    let home = Home::make()?;
    let listen = free_address()?.to_string();
    let agents = reachable_address()?.to_string();
    let up = ["up", "--detach", "--listen", &listen, "--agents", &agents];
    boira(home.path(), &up)?;
    boira(home.path(), &["image", "build", "tiny"])?;
    open_ssh(home.path())?;
    println!("installing {NAME}'s Debian");
    let line = invite(home.path())?;
    let pc = Pc::install(&home.path().join(NAME), PACKAGES, STARTUP, |root| {
        Ok(std::fs::write(root.join("root/line"), line)?)
    })?;
    let begun = Instant::now();
    let mut machine = pc.switch_on(&["-cpu", cpu, "-smp", "1"])?;
    println!("waiting until {NAME} has booted with the CPU {cpu} and joined");
    wait(JOINED, &mut machine, || {
        let host = host(home.path())?;
        ensure!(host["state"] == "up", "it is {}", host["state"]);
        ensure!(host["cpus"].as_u64() > Some(0), "it hasn't reported");
        Ok(())
    })
    .with_context(|| pc.said())?;
    println!("{NAME} is a host after {} s", begun.elapsed().as_secs());
    print!("{}", boira(home.path(), &["host", "show", NAME])?);
    let hardware = host(home.path())?["acceleration"]["hardware"].clone();
    ensure!(hardware == kvm, "hardware virtualization is {hardware}");
    boira(home.path(), &["host", "drain", "1"])?;
    let launched = Instant::now();
    boira(home.path(), &["instance", "run", "--name", "inside"])?;
    println!("waiting for SSH of an instance inside {NAME}");
    wait(LOGGED_IN, &mut machine, || {
        boira(home.path(), &["ssh", "inside", "true"]).map(drop)
    })
    .with_context(|| pc.said())?;
    println!("SSH answers after {} s", launched.elapsed().as_secs());
    ensure!(
        host(home.path())?["instances"] == 1,
        "the instance runs elsewhere"
    );
    wait(JOINED, &mut machine, || {
        let resident = resident_kib(&pc)?;
        println!("the agent keeps {resident} KiB");
        ensure!(resident <= RESIDENT_MAX_KIB, "that is too much");
        Ok(())
    })?;
    boira(home.path(), &["instance", "terminate", "inside"])?;
    Ok(())
}

fn invite(home: &Path) -> Result<String> {
    let invited = boira(home, &["--output", "json", "host", "invite"])?;
    let invited: Value = serde_json::from_str(&invited).context("read the invitation")?;
    let line = invited["command"].as_str().context("it has no line")?;
    Ok(line.to_owned())
}

fn host(home: &Path) -> Result<Value> {
    let hosts = boira(home, &["--output", "json", "host", "ls"])?;
    let hosts: Value = serde_json::from_str(&hosts).context("read the hosts")?;
    let mut hosts = hosts.as_array().into_iter().flatten();
    let found = hosts.find(|host| host["name"] == NAME);
    found
        .cloned()
        .with_context(|| format!("{NAME} is no host yet"))
}

/// A free port of this machine's own address, which machines in QEMU's user network reach.
fn reachable_address() -> Result<SocketAddr> {
    // Nothing is sent: the kernel only says where it would be sent from.
    let probe = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 9));
    probe
        .connect(elsewhere)
        .context("find an own address; this machine has no network")?;
    let own: IpAddr = probe.local_addr().context("ask for the address")?.ip();
    let listener = TcpListener::bind((own, 0)).context("find a free port")?;
    listener.local_addr().context("ask for the port")
}

/// Tries until it succeeds, as long as the PC runs.
fn wait(
    limit: Duration,
    machine: &mut Tied,
    mut attempt: impl FnMut() -> Result<()>,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        let Err(error) = attempt() else {
            return Ok(());
        };
        let ended = machine.0.try_wait().context("look at QEMU")?;
        ensure!(ended.is_none(), "{NAME} has ended: {error:#}");
        ensure!(begun.elapsed() < limit, "not in time: {error:#}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The last of what it has said on its second serial port.
fn resident_kib(pc: &Pc) -> Result<u64> {
    let said = pc.reported()?;
    let mut numbers = said.lines().filter_map(|line| line.trim().parse().ok());
    numbers
        .next_back()
        .context("it has not said what its agent keeps")
}
