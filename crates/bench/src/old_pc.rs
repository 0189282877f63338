//! A whole surplus PC: a QEMU machine with one old CPU and 1 GiB of memory, on which a Debian joins a cloud
//! by the invitation's line and runs an instance of the tiny image inside. Once without virtualization,
//! so that what is emulated emulates, and once with AMD's, which QEMU emulates too: there KVM runs guests.

use crate::cloud::free_address;
use crate::debian::{Home, boira, open_ssh};
use crate::process::Tied;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const NAME: &str = "old-pc";
const SUITE: &str = "bookworm";
/// What the invitation's line would install there by apt, and a system around it.
const PACKAGES: &str = "linux-image-cloud-amd64,systemd-sysv,udev,kmod,procps,curl,ca-certificates,\
    qemu-system-x86,qemu-utils,iproute2,nftables,conntrack,slirp4netns";
const DISK: &str = "4G";
/// The model of x86-64-v1 ("ABI compatibility levels for CPU models" in QEMU's documentation), and whether
/// KVM works on it.
const CPUS: [(&str, bool); 2] = [("qemu64,-svm", false), ("qemu64", true)];
const MEMORY_MIB: &str = "1024";
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
const UNIT: &str = "[Unit]
Description=Joins the cloud
[Service]
ExecStart=/root/startup
[Install]
WantedBy=multi-user.target
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
    let pc = OldPc::install(&home.path().join(NAME), &line)?;
    let begun = Instant::now();
    let mut machine = pc.switch_on(cpu)?;
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
        let resident = pc.resident_kib()?;
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

struct OldPc(PathBuf);

impl OldPc {
    fn install(folder: &Path, line: &str) -> Result<Self> {
        let root = folder.join("root");
        fs::create_dir_all(folder).context("make a folder")?;
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap
            .args(["--quiet", "--variant=minbase", "--format=directory"])
            .arg(format!("--include={PACKAGES}"))
            .args([SUITE.as_ref(), root.as_os_str()]);
        checked(&mut mmdebstrap)?;
        let system = root.join("etc/systemd/system");
        fs::create_dir_all(system.join("multi-user.target.wants")).context("make a folder")?;
        for (name, text) in [
            ("etc/hostname", NAME),
            ("etc/fstab", ""),
            ("root/line", line),
            ("root/startup", STARTUP),
            ("etc/systemd/system/join.service", UNIT),
        ] {
            fs::write(root.join(name), text).with_context(|| format!("write {name}"))?;
        }
        checked(
            Command::new("chmod")
                .arg("755")
                .arg(root.join("root/startup")),
        )?;
        let wanted = system.join("multi-user.target.wants/join.service");
        std::os::unix::fs::symlink("../join.service", wanted).context("enable the unit")?;
        for (file, name) in [("vmlinuz", "kernel"), ("initrd.img", "ramdisk")] {
            fs::copy(root.join(file), folder.join(name))
                .with_context(|| format!("keep its {name}"))?;
        }
        checked(
            Command::new("mke2fs")
                .args(["-q", "-t", "ext4", "-d"])
                .arg(&root)
                .arg(folder.join("disk"))
                .arg(DISK),
        )?;
        fs::remove_dir_all(&root).context("remove the folder")?;
        Ok(Self(folder.to_owned()))
    }

    fn switch_on(&self, cpu: &str) -> Result<Tied> {
        let at = |name: &str| self.0.join(name).display().to_string();
        Tied::spawn(
            Command::new("qemu-system-x86_64")
                .args(["-machine", "pc,accel=tcg", "-display", "none"])
                .args(["-cpu", cpu, "-smp", "1", "-m", MEMORY_MIB])
                .args(["-kernel", &at("kernel"), "-initrd", &at("ramdisk")])
                .args(["-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0"])
                .arg("-drive")
                .arg(format!(
                    "file={},format=raw,if=virtio,cache=unsafe",
                    at("disk")
                ))
                .args(["-nic", "user,model=virtio-net-pci"])
                .args(["-serial", &format!("file:{}", at("console"))])
                .args(["-serial", &format!("file:{}", at("resident"))])
                .stdin(Stdio::null()),
        )
    }

    /// The end of what its console has said.
    fn said(&self) -> String {
        let said = fs::read(self.0.join("console")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The last of what it has said on its second serial port.
    fn resident_kib(&self) -> Result<u64> {
        let said = fs::read_to_string(self.0.join("resident")).context("read its second port")?;
        let mut numbers = said.lines().filter_map(|line| line.trim().parse().ok());
        numbers
            .next_back()
            .context("it has not said what its agent keeps")
    }
}

fn checked(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("run {name}"))?;
    ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}
