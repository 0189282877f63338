//! Guests by QEMU: one process for each, driven over QMP, beside a small recorder for its console.
//!
//! Neither is tied to the agent. Both lead their own session, run as the guest's own user without
//! privileges, see an empty network, and hold descriptors instead of paths; see `launch` for how
//! they get there and `rundir` for what is kept of a guest on disk.

mod command;
mod guest;
mod hold;
mod kernel;
mod landlock;
mod launch;
mod log;
mod machine;
mod migration;
mod probe;
mod process;
mod qmp;
mod recorder;
mod recording;
mod resets;
mod rundir;
mod speed;
mod start;
mod trial;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use crate::cgroup::Cgroups;
use crate::error::Context;
use crate::{
    Acceleration, Accelerator, AsyncReadWrite, Dial, Error, ExitReason, GuestSpec, GuestState,
    Hypervisor, ObservedGuest, Result,
};
use guest::Guest;
use kernel::Kernels;
use process::Process;
use recording::Recording;
use rundir::{Launch, RunDir};

pub use hold::GuestProcess;
pub use landlock::verdict as confinement_verdict;
pub use machine::newest as newest_machine;
pub use probe::{Probe, REMEDY as ACCELERATION_REMEDY, find_acceleration, kept_acceleration};
pub use recorder::main as guest_console;
pub use speed::{Rounds, translated_rounds_s};

/// How the driver is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where each guest has its directory. Made if it is missing; nobody else writes there.
    pub dir: PathBuf,
    /// The program, and its first arguments, that runs [`crate::guest_console`].
    pub console_command: (PathBuf, Vec<OsString>),
    /// The name of the cloud's cgroup, such as `boira-0a1b2c`; none to go without CPU shares.
    pub cgroup: Option<String>,
    /// How guests are executed, as found out before.
    pub acceleration: Acceleration,
}

/// The driver.
pub struct Qemu {
    settings: Settings,
    cgroups: Cgroups,
    host_boot: String,
    guests: Mutex<HashMap<String, Arc<Guest>>>,
    /// Guests that are there and could not be adopted the last time, and why.
    unclear: Mutex<HashMap<String, String>>,
    /// Held while a guest's directory is made, taken up or removed.
    directories: tokio::sync::Mutex<()>,
    changed: Arc<Notify>,
}

/// How long guests that are adopted may take to say what they do, all together.
const ADOPTION: Duration = Duration::from_millis(500);
/// The program that runs guests.
const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";
/// Programs without which no guest runs, and Debian's package of each.
pub const PROGRAMS: [(&str, &str); 2] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
];
/// Where unpacked kernels are kept, among the guests: no guest's name begins with a dot.
const KERNELS: &str = ".kernels";
/// What QEMU and the recorder need beside the guest's memory and the translation cache.
const PROCESS_BYTES: u64 = 48 << 20;
/// How much translated code is kept before QEMU drops all of it and begins again, in MiB, from so many
/// MiB of memory on. A kernel's boot fills 40 MiB; halving that costs nothing measurable, and small
/// guests are for small hosts.
const TRANSLATION_CACHES: [(u64, u32); 3] = [(0, 32), (512, 64), (2048, 128)];
/// What guests launched now get for life; `docs/tcg.md` says why.
const CPU: &str = "qemu64";

impl Qemu {
    /// Opens the driver. Guests that are there are adopted by the first `observe`.
    pub fn open(settings: Settings) -> Result<Qemu> {
        fs::create_dir_all(&settings.dir).context(format!("making {}", settings.dir.display()))?;
        let cgroups = match &settings.cgroup {
            Some(name) => Cgroups::open(name),
            None => Cgroups::none("not asked for"),
        };
        Ok(Qemu {
            cgroups,
            host_boot: process::host_boot().context("reading the host's boot id")?,
            guests: Mutex::default(),
            unclear: Mutex::default(),
            directories: tokio::sync::Mutex::default(),
            changed: Arc::default(),
            settings,
        })
    }

    fn guests(&self) -> MutexGuard<'_, HashMap<String, Arc<Guest>>> {
        self.guests
            .lock()
            .expect("nobody panics while holding the guests")
    }

    fn unclear(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.unclear
            .lock()
            .expect("nobody panics while holding the unclear guests")
    }

    /// A guest by name, adopted if it wasn't known.
    async fn guest(&self, name: &str) -> Result<Arc<Guest>> {
        if let Some(guest) = self.guests().get(name) {
            return Ok(Arc::clone(guest));
        }
        self.adopt().await?;
        if let Some(guest) = self.guests().get(name) {
            return Ok(Arc::clone(guest));
        }
        Err(match self.unclear().get(name) {
            Some(why) => Error::Unclear(name.to_owned(), why.clone()),
            None => Error::Unknown(name.to_owned()),
        })
    }

    /// Takes up every guest of the directory that isn't known yet.
    async fn adopt(&self) -> Result<()> {
        let _turn = self.directories.lock().await;
        let mut unclear = HashMap::new();
        let mut adopted = Vec::new();
        let entries = fs::read_dir(&self.settings.dir).context("listing the guests")?;
        for entry in entries {
            let Ok(name) = entry
                .context("listing the guests")?
                .file_name()
                .into_string()
            else {
                continue;
            };
            if !command::is_guest_name(&name) || self.guests().contains_key(&name) {
                continue;
            }
            let found = Found {
                path: self.settings.dir.join(&name),
                name: name.clone(),
                host_boot: self.host_boot.clone(),
                console_command: self.settings.console_command.clone(),
                changed: Arc::clone(&self.changed),
            };
            let taken_up = tokio::task::spawn_blocking(move || found.take_up()).await;
            match taken_up
                .map_err(io::Error::other)
                .and_then(|taken_up| taken_up)
            {
                Ok(Some(guest)) => {
                    adopted.push(Arc::clone(&guest));
                    self.guests().insert(name, guest);
                }
                Ok(None) => {}
                Err(error) => drop(unclear.insert(name, error.to_string())),
            }
        }
        let deadline = Instant::now() + ADOPTION;
        for guest in adopted {
            // One that doesn't answer is shown as what it was started as.
            let _ = tokio::time::timeout_at(deadline, guest.looked_at()).await;
        }
        let mut before = self.unclear();
        for (guest, error) in &unclear {
            if before.get(guest) != Some(error) {
                tracing::error!(guest, error, "can't adopt a guest");
            }
        }
        *before = unclear;
        Ok(())
    }

    /// A guest without its CPU shares is better than none.
    fn add_cgroup(&self, spec: &GuestSpec) -> Option<File> {
        self.cgroups
            .add(&spec.guest, spec.cpu_shares)
            .unwrap_or_else(|error| {
                tracing::warn!(guest = spec.guest, %error, "no CPU shares");
                None
            })
    }

    /// A cgroup that stays is an empty directory, which the guest's next start takes up again.
    fn remove_cgroup(&self, guest: &str) {
        if let Err(error) = self.cgroups.remove(guest) {
            tracing::warn!(guest, %error, "can't remove a guest's cgroup");
        }
    }

    async fn command(&self, guest: &str, command: &'static str) -> Result<()> {
        let guest = self.guest(guest).await?;
        guest.command(command).await?;
        guest.refresh().await;
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        for guest in self.guests().values() {
            guest.abandon();
        }
        // What stays is in use, or was made unreadable: no matter for a driver that goes.
        let _ = self.cgroups.remove_all();
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn start(&self, spec: &GuestSpec, taps: Vec<OwnedFd>) -> Result<()> {
        command::validate(spec).map_err(Error::InvalidSpec)?;
        if taps.len() != spec.interfaces.len() {
            return Err(Error::InvalidSpec(
                "the number of taps is not that of interfaces".to_owned(),
            ));
        }
        match self.guest(&spec.guest).await {
            Ok(present) => return present.launch.spec.already(present.has_exited(), spec),
            Err(Error::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
        let _turn = self.directories.lock().await;
        if let Some(present) = self.guests().get(&spec.guest) {
            return present.launch.spec.already(present.has_exited(), spec);
        }
        let plan = start::Plan {
            program: PROGRAM.into(),
            dir: self.settings.dir.join(&spec.guest),
            launch: Launch {
                spec: spec.clone(),
                host_boot: self.host_boot.clone(),
                at: std::time::SystemTime::now(),
            },
            tuning: command::Tuning {
                accelerator: self.settings.acceleration.accelerator,
                translation_cache_mib: translation_cache_mib(spec.memory_bytes),
            },
            kernels: Kernels::new(self.settings.dir.join(KERNELS)),
            recording: Recording {
                command: self.settings.console_command.clone(),
                guest: spec.guest.clone(),
                uid: spec.uid,
            },
            cgroup: self.add_cgroup(spec),
        };
        let changed = Arc::clone(&self.changed);
        let guest = tokio::task::spawn_blocking(move || start::start(plan, taps, changed))
            .await
            .map_err(io::Error::other)
            .and_then(|started| started)
            .inspect_err(|_| self.remove_cgroup(&spec.guest));
        let guest = match guest {
            Err(error) if error.raw_os_error() == Some(launch::TOO_LATE) => {
                return Err(Error::TooLate(spec.guest.clone()));
            }
            guest => guest.context(format!("starting guest {}", spec.guest))?,
        };
        self.guests().insert(spec.guest.clone(), guest);
        self.changed.notify_one();
        Ok(())
    }

    async fn power_button(&self, guest: &str) -> Result<()> {
        self.command(guest, "system_powerdown").await
    }

    async fn reset(&self, guest: &str) -> Result<()> {
        self.command(guest, "system_reset").await
    }

    async fn kill(&self, guest: &str) -> Result<()> {
        self.guest(guest).await?.end(ExitReason::Killed).await
    }

    async fn pause(&self, guest: &str) -> Result<()> {
        self.command(guest, "stop").await
    }

    async fn resume(&self, guest: &str) -> Result<()> {
        let guest = self.guest(guest).await?;
        if guest.observe().state == GuestState::Arrived {
            migration::take_over(&guest).await?;
            guest.refresh().await;
            return Ok(());
        }
        let had_departed = matches!(guest.observe().state, GuestState::Departed(_));
        migration::stay(&guest).await?;
        guest.refresh().await;
        // Meanwhile it has gone, and whoever is asked next knows that.
        if matches!(guest.observe().state, GuestState::Departed(_)) && !had_departed {
            return Ok(());
        }
        guest.command("cont").await?;
        guest.refresh().await;
        Ok(())
    }

    async fn hand_over(&self, guest: &str, generation: u64, way: &dyn Dial) -> Result<()> {
        let guest = self.guest(guest).await?;
        migration::hand_over(&guest, generation, way).await
    }

    async fn receive(&self, guest: &str, channel: &str) -> Result<Box<dyn AsyncReadWrite>> {
        migration::receive(&*self.guest(guest).await?, channel).await
    }

    async fn observe(&self) -> Result<Vec<ObservedGuest>> {
        self.adopt().await?;
        let mut guests: Vec<ObservedGuest> = self
            .guests()
            .values()
            .map(|guest| guest.observe())
            .collect();
        guests.extend(self.unclear().iter().map(|(guest, why)| ObservedGuest {
            guest: guest.clone(),
            generation: 0,
            state: GuestState::Unknown,
            detail: Some(why.clone()),
            since: std::time::SystemTime::now(),
            pid: None,
            boots: 0,
            held: false,
        }));
        guests.sort_by(|one, other| one.guest.cmp(&other.guest));
        Ok(guests)
    }

    async fn forget(&self, guest: &str) -> Result<()> {
        let present = match self.guest(guest).await {
            Err(Error::Unknown(_)) => {
                self.remove_cgroup(guest);
                return Ok(());
            }
            present => present?,
        };
        if !present.has_exited() {
            return Err(Error::StillRunning(guest.to_owned()));
        }
        let _turn = self.directories.lock().await;
        present
            .dir
            .remove()
            .context(format!("removing what is kept of {guest}"))?;
        self.guests().remove(guest);
        self.remove_cgroup(guest);
        Ok(())
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn console(&self, guest: &str) -> Result<Box<dyn AsyncReadWrite>> {
        let present = self.guest(guest).await?;
        if present.has_exited() {
            return Err(Error::Exited(guest.to_owned()));
        }
        let socket = present.dir.at(rundir::CONSOLE_SOCKET);
        let stream = tokio::net::UnixStream::connect(socket).await;
        Ok(Box::new(
            stream.context(format!("opening the console of {guest}"))?,
        ))
    }

    async fn console_log(&self, guest: &str, max_bytes: usize) -> Result<Vec<u8>> {
        let present = self.guest(guest).await?;
        File::open(present.dir.at(rundir::CONSOLE_LOG))
            .and_then(|file| log::tail(&file, max_bytes))
            .context(format!("reading the console log of {guest}"))
    }

    fn overhead(&self) -> Vec<(u64, u64)> {
        match self.settings.acceleration.accelerator {
            Accelerator::Kvm => vec![(0, PROCESS_BYTES)],
            Accelerator::Tcg => TRANSLATION_CACHES
                .map(|(memory_mib, cache_mib)| {
                    (
                        memory_mib << 20,
                        PROCESS_BYTES + (u64::from(cache_mib) << 20),
                    )
                })
                .to_vec(),
        }
    }

    fn machine(&self) -> std::result::Result<String, String> {
        machine::newest()
    }

    fn cpu(&self) -> &'static str {
        CPU
    }

    fn acceleration(&self) -> Acceleration {
        self.settings.acceleration.clone()
    }
}

fn translation_cache_mib(memory_bytes: u64) -> u32 {
    let mut steps = TRANSLATION_CACHES.iter().rev();
    let step = steps.find(|(memory_mib, _)| memory_bytes >> 20 >= *memory_mib);
    step.map_or(TRANSLATION_CACHES[0].1, |(_, cache_mib)| *cache_mib)
}

/// A guest's directory that this driver didn't make.
struct Found {
    path: PathBuf,
    name: String,
    host_boot: String,
    console_command: (PathBuf, Vec<OsString>),
    changed: Arc<Notify>,
}

impl Found {
    /// Reads the directory: a process that runs, the reason why none does, or nothing at all if it
    /// never came to a process. May block, as [`Process::find`].
    fn take_up(self) -> io::Result<Option<Arc<Guest>>> {
        let dir = RunDir::open(&self.path)?;
        let launch: Option<Launch> = match dir.read_json(rundir::LAUNCH) {
            // Written whole or not at all, unless the power went, and with it every process.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            other => other?,
        };
        let stat = dir
            .read_text(rundir::PROCESS, 4096)?
            .filter(|stat| !stat.is_empty());
        let marker = process::marker(&self.name);
        let (Some(launch), Some(stat)) = (launch, &stat) else {
            if let Some(process) = stat
                .and_then(|stat| Process::find(&stat, &marker).transpose())
                .transpose()?
            {
                let reason = format!(
                    "its process {} runs, but what it is can't be read",
                    process.pid()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            dir.remove()?;
            return Ok(None);
        };
        let process = match launch.host_boot == self.host_boot {
            true => Process::find(stat, &marker)?,
            false => None,
        };
        let Some(process) = process else {
            return Ok(Some(Guest::ended(launch, dir, self.changed)));
        };
        let recording = Recording {
            command: self.console_command,
            guest: self.name,
            uid: launch.spec.uid,
        };
        let recorder = recording.find(&dir)?;
        Ok(Some(Guest::follow(
            launch,
            dir,
            process,
            (recording, recorder),
            self.changed,
        )))
    }
}
