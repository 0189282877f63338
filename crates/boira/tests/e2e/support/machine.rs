//! A network namespace that plays the machine, with a neighbour that plays the outside. What happens
//! in it is seen by no other test, and none of its packets leaves.
//!
//! ```text
//!  machine (10.77.0.1, rules and routes of its own) ──veth── outside (10.77.0.2)
//! ```

use super::run::run;
use super::watcher::Watcher;
use serde_json::Value;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub const MACHINE: &str = "10.77.0.1";
pub const OUTSIDE: &str = "10.77.0.2";
/// Where both sides serve their own name.
pub const PORT: u16 = 8088;

pub struct Machine {
    names: [String; 2],
    watcher: Watcher,
}

/// What a cloud must not touch.
#[derive(Debug, PartialEq)]
pub struct Setup {
    /// With the links that have no address.
    addresses: Value,
    /// Routes and rules of IPv4 and IPv6.
    routing: [Value; 4],
    firewall: Value,
    forwarding: String,
}

impl Machine {
    pub fn new() -> Self {
        let names = ["machine", "outside"].map(|side| format!("e2e-{}-{side}", std::process::id()));
        let machine = Self {
            // A cloud that is still being ended needs its namespace.
            watcher: Watcher::start(
                "until [ -z \"$(ip netns pids \"$0\")\" ]; do sleep 1; done; ip netns del \"$0\"; ip netns del \"$1\"",
                &[Path::new(&names[0]), Path::new(&names[1])],
            ),
            names,
        };
        machine.set_up();
        machine.serve(0, "machine");
        machine.serve(1, "outside");
        machine
    }

    fn set_up(&self) {
        let [machine, outside] = &self.names;
        let (near, far) = ("uplink", "far");
        for words in [
            format!("netns add {machine}"),
            format!("netns add {outside}"),
            format!("-n {machine} link add {near} type veth peer name {far} netns {outside}"),
            // IPv6 would give itself an address after a while.
            format!("-n {machine} link set {near} addrgenmode none"),
            format!("-n {machine} addr add fd77::1/64 dev {near} nodad"),
            format!("-n {machine} addr add {MACHINE}/24 dev {near}"),
            format!("-n {outside} addr add {OUTSIDE}/24 dev {far}"),
            format!("-n {machine} link set lo up"),
            format!("-n {machine} link set {near} up"),
            format!("-n {outside} link set lo up"),
            format!("-n {outside} link set {far} up"),
            format!("-n {machine} route add default via {OUTSIDE}"),
        ] {
            run(Command::new("ip").args(words.split(' ')), QUICK).ok();
        }
        let rules = "add table inet mine; add chain inet mine input { type filter hook input priority 0; policy accept; }; add rule inet mine input ip saddr 192.0.2.1 drop";
        run(self.command("nft").arg(rules), QUICK).ok();
    }

    /// The file that names the machine's namespace.
    pub fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.names[0])
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace().display()))
            .arg("--")
            .arg(program);
        command
    }

    fn json(&self, program: &str, words: &str) -> Value {
        run(self.command(program).args(words.split(' ')), QUICK).json()
    }

    /// Its interfaces, routes and firewall now.
    pub fn setup(&self) -> Setup {
        let mut addresses = self.json("ip", "-j addr");
        for link in addresses.as_array_mut().expect("a list of interfaces") {
            link.as_object_mut()
                .expect("an interface")
                .remove("operstate");
        }
        Setup {
            addresses,
            routing: [
                "-4 -j route show table all",
                "-6 -j route show table all",
                "-4 -j rule",
                "-6 -j rule",
            ]
            .map(|words| self.json("ip", words)),
            firewall: self.json("nft", "-j list ruleset"),
            forwarding: run(
                self.command("cat").args([
                    "/proc/sys/net/ipv4/ip_forward",
                    "/proc/sys/net/ipv6/conf/all/forwarding",
                ]),
                QUICK,
            )
            .ok(),
        }
    }

    /// Says `word` to whoever connects to one of the sides, as long as the test runs.
    fn serve(&self, side: usize, word: &'static str) {
        let path = Path::new("/run/netns").join(&self.names[side]);
        let namespace = std::fs::File::open(path).expect("the namespace is there");
        let (listening, ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("root may enter a namespace");
            let listener = TcpListener::bind(("0.0.0.0", PORT)).expect("a free port");
            listening.send(()).expect("the test waits");
            for mut stream in listener.incoming().flatten() {
                // Whoever went away doesn't want to know.
                let _ = writeln!(stream, "{word}");
            }
        });
        ready.recv().expect("the server listens");
    }
}

const QUICK: Duration = Duration::from_secs(20);

impl Drop for Machine {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        self.watcher.end();
    }
}
