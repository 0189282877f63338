//! A driver in a temporary directory, and the certainty that none of its guests outlives the test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use boira_hypervisor::{
    Acceleration, Accelerator, Boot, DiskFormat, DiskSpec, GuestSpec, GuestState, Hypervisor,
    ObservedGuest, Settings,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than anything here takes on a machine that compiles beside.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const UID: u32 = 734_501;

/// A driver's directory. Dropping it kills every process that a guest's directory names, whether
/// or not the test succeeded.
pub struct Host {
    pub home: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Host {
        let home = tempfile::Builder::new()
            .prefix("boira-hypervisor-")
            .tempdir()
            .unwrap();
        Host { home }
    }

    pub fn guests(&self) -> PathBuf {
        self.home.path().join("guests")
    }

    /// A driver; a second one plays the agent after a restart.
    pub fn driver(&self) -> Arc<dyn Hypervisor> {
        self.driver_in(None)
    }

    /// A driver that gives its guests CPU shares.
    pub fn driver_in(&self, cgroup: Option<&str>) -> Arc<dyn Hypervisor> {
        let settings = Settings {
            dir: self.guests(),
            console_command: (env!("CARGO_BIN_EXE_guest-console").into(), Vec::new()),
            cgroup: cgroup.map(str::to_owned),
            acceleration: Acceleration {
                accelerator: Accelerator::Tcg,
                verdict: "tests".to_owned(),
            },
        };
        boira_hypervisor::open(settings).unwrap()
    }

    /// A guest that boots the payload from a raw disk of its own.
    pub fn spec(&self, guest: &str) -> GuestSpec {
        let path = self.home.path().join(format!("{guest}.raw"));
        if !path.exists() {
            fs::write(&path, crate::payload::disk("unwritten")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        spec(guest, &path)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Ok(guests) = fs::read_dir(self.guests()) else {
            return;
        };
        for guest in guests.flatten() {
            for record in ["process", "recorder"] {
                kill_recorded(&guest.path().join(record));
            }
        }
    }
}

/// Kills the process that wrote its stat into `record`, if it is still that one.
fn kill_recorded(record: &Path) {
    let Ok(stat) = fs::read_to_string(record) else {
        return;
    };
    let Some(pid) = stat
        .split(' ')
        .next()
        .and_then(|pid| pid.parse::<i32>().ok())
    else {
        return;
    };
    let start = |stat: &str| {
        stat.rsplit(')')
            .next()
            .and_then(|rest| rest.split(' ').nth(20).map(str::to_owned))
    };
    let Ok(now) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return;
    };
    if start(&now) == start(&stat) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
}

/// A line of `/proc/PID/status`.
pub fn status(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}:")))
        .unwrap();
    line.trim().to_owned()
}

/// The process that a guest's directory records under `record`.
pub fn recorded(host: &Host, guest: &str, record: &str) -> u32 {
    let stat = fs::read_to_string(host.guests().join(guest).join(record)).unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// Kills a process that a guest's directory names, as an administrator would, and waits for its end.
pub async fn kill_9(pid: u32) {
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let gone = async {
        // A test reaps nothing itself: dead is enough.
        while fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

pub fn spec(guest: &str, disk: &Path) -> GuestSpec {
    let digits = guest.bytes().fold(7_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    GuestSpec {
        guest: guest.to_owned(),
        generation: 1,
        uuid: format!(
            "ec2{:05x}-0000-4000-8000-{:012x}",
            digits & 0xfffff,
            digits & 0xffff_ffff_ffff
        ),
        machine: "pc-i440fx-7.2".to_owned(),
        cpu: "qemu64".to_owned(),
        vcpus: 1,
        memory_bytes: 16 << 20,
        boot: Boot::Firmware,
        disks: vec![DiskSpec {
            id: "vol-0123456789abcdef0".to_owned(),
            path: disk.to_owned(),
            format: DiskFormat::Raw,
            base: None,
            read_only: false,
        }],
        interfaces: Vec::new(),
        cpu_shares: 512,
        uid: UID,
        not_after_ms: None,
        incoming: false,
    }
}

/// The guest as observed, once `wanted` holds. Nobody polls: the driver says when to look again.
pub async fn until(
    driver: &Arc<dyn Hypervisor>,
    guest: &str,
    wanted: impl Fn(&ObservedGuest) -> bool,
) -> ObservedGuest {
    let looking = async {
        loop {
            let guests = driver.observe().await.unwrap();
            if let Some(found) = guests
                .into_iter()
                .find(|seen| seen.guest == guest && wanted(seen))
            {
                return found;
            }
            driver.changed().await;
        }
    };
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(found) => found,
        Err(_) => panic!("not observed in time: {:?}", driver.observe().await),
    }
}

pub fn is_running(guest: &ObservedGuest) -> bool {
    guest.state == GuestState::Running
}

pub fn has_exited(guest: &ObservedGuest) -> bool {
    matches!(guest.state, GuestState::Exited(_))
}

/// A console, read up to what the test waits for.
pub struct Console {
    stream: Box<dyn boira_hypervisor::AsyncReadWrite>,
    pub heard: Vec<u8>,
}

impl Console {
    pub async fn open(driver: &Arc<dyn Hypervisor>, guest: &str) -> Console {
        Console {
            stream: driver.console(guest).await.unwrap(),
            heard: Vec::new(),
        }
    }

    pub async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until `text` has come, and forgets everything up to it.
    pub async fn hear(&mut self, text: &str) {
        self.hear_up_to(text).await;
    }

    /// Like [`Console::hear`], and what came.
    pub async fn hear_up_to(&mut self, text: &str) -> String {
        let reading = async {
            loop {
                if let Some(at) = self
                    .heard
                    .windows(text.len())
                    .position(|part| part == text.as_bytes())
                {
                    let heard: Vec<u8> = self.heard.drain(..at + text.len()).collect();
                    return String::from_utf8_lossy(&heard).into_owned();
                }
                let mut chunk = [0; 4096];
                let length = self.stream.read(&mut chunk).await.unwrap();
                assert!(
                    length > 0,
                    "the console ended before {text:?}: {:?}",
                    self.text()
                );
                self.heard.extend_from_slice(&chunk[..length]);
            }
        };
        match tokio::time::timeout(PATIENCE, reading).await {
            Ok(heard) => heard,
            Err(_) => panic!("{text:?} never came: {:?}", self.text()),
        }
    }

    /// Reads to the end of the stream.
    pub async fn hear_the_end(&mut self) {
        let reading = self.stream.read_to_end(&mut self.heard);
        tokio::time::timeout(PATIENCE, reading)
            .await
            .expect("the console ends with its guest")
            .unwrap();
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.heard).into_owned()
    }
}
