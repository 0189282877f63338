//! A room of PCs on one machine: each has its own network, processes, mounts and name, so that agents
//! of one cloud run side by side as they would on machines of their own. All of it is gone when the
//! processes are, and those end with the test.
//!
//! ```text
//!  lan (a bridge) ── veth ── pc0: controller and a host, 10.99.0.1
//!                 ├─ veth ── pc1, 10.99.0.2
//!                 └─ …
//! ```

use super::cloud::{folder_with_binary, tiny};
use super::run::{Run, run};
use super::{BOOT, wait};
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const QUICK: Duration = Duration::from_secs(60);

/// The first process of a PC: takes in the orphans, as an init does.
const INIT: &str = "
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
print('up', flush=True)
while True:
    signal.sigwait([signal.SIGCHLD])
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
";

/// What a systemd would do with a service, as far as the agent's needs it.
const SYSTEMCTL: &str = r#"#!/bin/sh
set -eu
case "$*" in
daemon-reload | "enable --quiet boira-agent") ;;
"restart boira-agent")
    pkill -f ' agent$' || :
    line=$(sed -n 's/^ExecStart=//p' /etc/systemd/system/boira-agent.service)
    setsid sh -c "exec $line" </dev/null >>/run/systemd/journal 2>&1 &
    ;;
*) echo "unexpected: systemctl $*" >&2; exit 1 ;;
esac
"#;

const OPEN_SSH: &str = "Action=AuthorizeSecurityGroupIngress&GroupName=default\
    &IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=22&IpPermissions.1.ToPort=22\
    &IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0";

pub struct Room {
    folder: tempfile::TempDir,
    binary: PathBuf,
    lan: Pc,
    pcs: Vec<Pc>,
}

/// One machine, as far as its processes can tell.
pub struct Pc {
    pub name: String,
    holder: Child,
    /// Its first process, as the test sees it.
    init: u32,
}

impl Room {
    /// A cloud on the first of so many PCs, which was measured before, with the tiny image; the others
    /// are bare.
    pub fn start(pcs: usize) -> Self {
        let room = Self::bare(pcs);
        room.measured_before(0);
        room.begin();
        room
    }

    /// So many PCs and no cloud yet.
    pub fn bare(pcs: usize) -> Self {
        let (folder, binary) = folder_with_binary("boira-room-");
        let lan = Pc::start("lan");
        lan.sh("ip link set lo up; ip link add br0 type bridge; ip link set br0 up")
            .ok();
        let pcs = (0..pcs)
            .map(|number| Pc::plugged_in(number, &lan))
            .collect();
        Self {
            folder,
            binary,
            lan,
            pcs,
        }
    }

    /// A cloud on the first PC, with the tiny image.
    pub fn begin(&self) {
        let agents = format!("{}:8774", self.address(0));
        self.boira(&["up", "--detach", "--agents", &agents]).ok();
        let built = tiny().display().to_string();
        self.boira(&["image", "build", "tiny", "--from", &built])
            .ok();
        self.ask(OPEN_SSH);
    }

    /// Spares a PC its ten seconds of measurement.
    pub fn measured_before(&self, pc: usize) {
        let agent = self.home(pc).join("agent");
        std::fs::create_dir_all(&agent).expect("the PC has room");
        let speed = r#"{"integer_mib_s": 1000, "memory_mib_s": 9000, "disk_syncs_s": 1000, "disk_mib_s": 500, "own_rounds_s": 1000, "guest_rounds_s": 300, "at": 0}"#;
        std::fs::write(agent.join("speed.json"), speed).expect("the PC has room");
    }

    /// Asks EC2 for something, as the administrator, by a form's fields.
    #[track_caller]
    pub fn ask(&self, form: &str) -> String {
        let access = std::fs::read(self.home(0).join("admin.json")).expect("the cloud is up");
        let access: Value = serde_json::from_slice(&access).expect("it is JSON");
        let part = |name: &str| access[name].as_str().expect("a word").to_owned();
        let (key, secret) = (part("access_key_id"), part("secret_access_key"));
        self.pcs[0]
            .sh(&format!(
                "curl -fsS --aws-sigv4 aws:amz:us-east-1:ec2 --user {key}:{secret} -d 'Version=2016-11-15&{form}' {}/",
                part("endpoint")
            ))
            .ok()
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn address(&self, pc: usize) -> String {
        format!("10.99.0.{}", pc + 1)
    }

    pub fn pc(&self, number: usize) -> &Pc {
        &self.pcs[number]
    }

    /// The home of a PC: of the cloud on the first, of the host alone on the others.
    pub fn home(&self, pc: usize) -> PathBuf {
        self.folder.path().join(format!("pc{pc}"))
    }

    /// `boira ARGUMENTS` at the controller.
    pub fn boira(&self, arguments: &[&str]) -> Run {
        let mut command = self.pcs[0].command(&self.binary);
        command.arg("--home").arg(self.home(0)).args(arguments);
        run(&mut command, QUICK.max(BOOT))
    }

    /// What a command says on an instance, by `boira ssh`.
    pub fn inside(&self, instance: &str, words: &str) -> Result<String, String> {
        let run = self.boira(&["ssh", instance, words]);
        match run.code {
            Some(0) => Ok(run.stdout.trim().to_owned()),
            _ => Err(run.stderr),
        }
    }

    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.boira(&[&["--output", "json"], arguments].concat())
            .json()
    }

    /// What `boira host ls` says of a PC.
    #[track_caller]
    pub fn host(&self, name: &str) -> Value {
        let hosts = self.json(&["host", "ls"]);
        let mut hosts = hosts.as_array().expect("a list").iter();
        let found = hosts.find(|host| host["name"] == name);
        found.cloned().unwrap_or(Value::Null)
    }

    /// Runs the line of a new invitation on a PC; what it prints.
    #[track_caller]
    pub fn join(&self, pc: usize, options: &[&str]) -> String {
        let invited = self.json(&[&["host", "invite"], options].concat());
        let line = invited["command"].as_str().expect("a line").to_owned();
        self.pcs[pc]
            .sh(&format!("{line} --home {}", self.home(pc).display()))
            .ok()
    }

    /// A PC joins that was measured before, and its agent runs, as its name says. The command of the agent.
    #[track_caller]
    pub fn host_on(&self, pc: usize, options: &[&str]) -> String {
        self.measured_before(pc);
        let said = self.join(pc, options);
        let agent = said.lines().last().expect("the agent's command").trim();
        self.pcs[pc].spawn(agent);
        self.is(&self.pcs[pc].name, "up");
        agent.to_owned()
    }

    #[track_caller]
    pub fn is(&self, name: &str, state: &str) {
        wait(&format!("{name} is {state}"), QUICK, || {
            let host = self.host(name);
            match host["state"] == state && host["cpus"].as_u64() > Some(0) {
                true => Ok(()),
                false => Err(host.to_string()),
            }
        });
    }

    /// Pulls a PC's network cable; it runs on.
    pub fn unplug(&self, pc: usize) {
        self.lan.sh(&format!("ip link set pc{pc} down")).ok();
    }

    pub fn plug_in(&self, pc: usize) {
        self.lan.sh(&format!("ip link set pc{pc} up")).ok();
    }

    /// Bytes that a PC has received and sent on the LAN.
    pub fn traffic(&self, pc: usize) -> [u64; 2] {
        // Not /sys, which shows the interfaces of where it was mounted.
        let read = self.pcs[pc].sh("cat /proc/net/dev").ok();
        let mut lines = read.lines().map(str::trim);
        let line = lines.find_map(|line| line.strip_prefix("eth0:"));
        let columns = line.expect("it is plugged in").split_whitespace();
        let columns: Vec<_> = columns
            .map(|word| word.parse().expect("a number"))
            .collect();
        [columns[0], columns[8]]
    }

    /// What comes to a PC comes no faster than this, as tc writes it.
    pub fn slow_down(&self, pc: usize, rate: &str) {
        let limit = shaped(&format!("pc{pc}"), rate, "64kb");
        self.lan.sh(&limit).ok();
    }

    /// What a PC sends goes no faster than this.
    pub fn slow_up(&self, pc: usize, rate: &str) {
        self.pcs[pc].sh(&shaped("eth0", rate, "2kb")).ok();
    }

    /// Everything on a PC ends at once.
    pub fn switch_off(&mut self, pc: usize) {
        self.pcs[pc].end();
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for log in ["supervisor", "controller", "agent"] {
            let path = self.home(0).join("run").join(format!("{log}.log"));
            let said = std::fs::read_to_string(path).unwrap_or_default();
            text.push_str(&format!("--- pc0 {log}\n{said}"));
        }
        for pc in &self.pcs[1..] {
            let said = pc.sh("cat /run/systemd/journal 2>/dev/null; :").stdout;
            text.push_str(&format!("--- {}\n{said}", pc.name));
        }
        text
    }
}

/// tc's words: `burst` passes at once.
fn shaped(device: &str, rate: &str, burst: &str) -> String {
    format!("tc qdisc add dev {device} root tbf rate {rate} burst {burst} limit 256kb")
}

impl Drop for Room {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for pc in &mut self.pcs[1..] {
            pc.end();
        }
        // With the other PCs gone it clears up the control groups of all.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.boira(&["down"])));
        self.pcs[0].end();
        self.lan.end();
    }
}

impl Pc {
    fn start(name: &str) -> Self {
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "--uts",
                "--net",
            ])
            .args(["--kill-child", "python3", "-c", INIT])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // SAFETY: prctl is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(Some(nix::sys::signal::Signal::SIGKILL))
                    .map_err(Into::into)
            });
        }
        let mut holder = command.spawn().expect("unshare can be started");
        let mut said = String::new();
        let out = holder.stdout.take().expect("it is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut said)
            .expect("it says something");
        assert_eq!(said, "up\n");
        let id = holder.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))
            .expect("the kernel tells of children");
        let init = children.trim().parse().expect("one child");
        let pc = Self {
            name: name.to_owned(),
            holder,
            init,
        };
        // Of what PCs would have each for themselves.
        pc.sh(&format!(
            "hostname {name}; mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns"
        ))
        .ok();
        pc
    }

    fn plugged_in(number: usize, lan: &Pc) -> Self {
        let pc = Self::start(&format!("pc{number}"));
        // Not among the LAN's processes: there the PC's first has no number.
        let words = format!(
            "ip link add pc{number} type veth peer name eth0 netns {}; ip link set pc{number} master br0 up",
            pc.init
        );
        let mut plug = Command::new("nsenter");
        plug.arg(format!("--target={}", lan.init))
            .args(["--net", "--", "/bin/sh", "-ec", &words]);
        run(&mut plug, QUICK).ok();
        pc.sh(&format!(
            "ip link set lo up; ip addr add 10.99.0.{}/24 dev eth0; ip link set eth0 up",
            number + 1
        ))
        .ok();
        pc
    }

    /// Gives it a systemd, as far as an agent can tell.
    pub fn with_systemd(&self) -> &Self {
        let path = "/run/systemd/bin/systemctl";
        self.sh(&format!(
            "mkdir -p /run/systemd /etc/systemd/system; mount -t tmpfs tmpfs /run/systemd; \
             mkdir -p /run/systemd/system /run/systemd/bin \
             && mount -t tmpfs tmpfs /etc/systemd/system && cat >{path} <<'EOF' && chmod 755 {path}\n{SYSTEMCTL}EOF\n"
        ))
        .ok();
        self
    }

    /// A program on this PC.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.init))
            .args(["--mount", "--pid", "--uts", "--net", "--"])
            .arg(program.as_ref())
            .env_remove("BOIRA_HOME")
            .env_remove("AWS_ENDPOINT_URL");
        command
    }

    /// A shell's words on this PC. A systemctl of the test's comes first.
    pub fn sh(&self, words: &str) -> Run {
        let mut command = self.command("/bin/sh");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("/run/systemd/bin:{path}"))
            .args(["-ec", words]);
        run(&mut command, QUICK)
    }

    /// Starts a program that stays.
    pub fn spawn(&self, words: &str) {
        self.sh(&format!("setsid {words} </dev/null >/dev/null 2>&1 &"))
            .ok();
    }

    /// Pulls its plug: every process of it ends at once.
    pub fn end(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let init = PathBuf::from(format!("/proc/{}", self.init));
        let gone = || !init.exists();
        for _ in 0..500 {
            if gone() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
