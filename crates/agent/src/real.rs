//! The real host: drivers for guests, disks, blobs and networks behind [`Host`].
//!
//! ```text
//!  <home>/guests/I-…      the hypervisor's directory of a guest
//!  <home>/volumes/VOL-…   disks of the local driver
//!  <home>/blobs/          verified images
//!  <home>/networks/VPC-…  specs and sockets of the networks
//! ```

use crate::calls::{self, Calls};
use crate::client::Controller;
use crate::consoles::{self, Consoles};
use crate::host::{About, Departure, Host, Observed, Stream, written_by};
use crate::images;
use crate::space::Space;
use crate::translate;
use crate::watchdog::Watchdog;
use crate::way::{Port, Way, WayIn};
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use boira_chunks::Blobs;
use boira_core::plan::{Fence, Guest, Step, TOO_LATE};
use boira_core::wanted::Wanted;
use boira_hypervisor::{
    Acceleration, Accelerator, Base, DiskFormat, DiskSpec, GuestSpec, Hypervisor, InterfaceSpec,
    ObservedGuest, disk,
};
use boira_model::wire::{
    Passage, StreamKind, WantedInstance, WantedOverlay, WantedVolume, WantedVpc,
};
use boira_model::{
    Boot, BootTime, HostCapacity, InstanceId, InterfaceId, Overhead, VolumeId, VolumeSource,
};
use boira_network::Network;
use boira_network::underlay::Underlay;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// What a guest's interface may send in one frame, so that it gets to another host in one piece.
const MTU: u16 = boira_network::underlay::GUEST_MTU;
/// Guests run as user ids from here on, one each; no login or service has them.
const FIRST_UID: u32 = 700_000_000;
const UIDS: u64 = 100_000_000;
/// How long one attempt to connect to a guest may take, and all of them.
const DIAL_ATTEMPT: Duration = Duration::from_millis(500);
const DIAL: Duration = Duration::from_secs(6);

/// How long a guest that another host sends may not be here yet.
const EXPECTED: Duration = Duration::from_secs(8);

/// How this program starts the processes that outlive it.
#[derive(Clone, Debug)]
pub struct Commands {
    pub console: (PathBuf, Vec<OsString>),
    pub services: Vec<OsString>,
    pub relay: Vec<OsString>,
    pub watchdog: Vec<OsString>,
}

pub struct RealHost {
    about: About,
    space: Arc<Space>,
    cloud: String,
    api: Option<SocketAddr>,
    guests: Arc<dyn Hypervisor>,
    network: Arc<Network>,
    underlay: Arc<Underlay>,
    blobs: Arc<Blobs>,
    volumes: PathBuf,
    consoles: Consoles,
    controller: Arc<Controller>,
    watchdog: Watchdog,
    calls: Calls,
}

/// Where things are and how this host is called.
pub struct Place<'a> {
    pub home: &'a Path,
    pub name: String,
    /// A short word that names this cloud's namespaces and control groups on the machine.
    pub cloud: String,
    /// Where the API listens, to be relayed to guests.
    pub api: Option<SocketAddr>,
}

impl RealHost {
    pub fn open(
        place: &Place<'_>,
        commands: Commands,
        acceleration: Acceleration,
        controller: Arc<Controller>,
    ) -> Result<Self> {
        let volumes = place.home.join("volumes");
        std::fs::create_dir_all(&volumes).context("create the folder of volumes")?;
        crate::copy::remove_partial(&volumes).context("remove halves of disks")?;
        let space = Arc::new(Space::look(place.home.join("blobs"), volumes.clone())?);
        let looking = space.clone();
        tokio::spawn(async move { looking.keep_looking().await });
        let guests = boira_hypervisor::open(boira_hypervisor::Settings {
            dir: place.home.join("guests"),
            console_command: commands.console,
            cgroup: Some(format!("boira-{}", place.cloud)),
            acceleration,
        })
        .context("open the hypervisor")?;
        let network = Network::new(
            &place.cloud,
            &place.home.join("networks"),
            commands.services,
        );
        let network = Arc::new(network);
        tokio::spawn(guard_host_addresses(network.clone()));
        let keeping = network.clone();
        tokio::spawn(async move { keeping.keep_services().await });
        let underlay = Underlay::open(&place.cloud, &place.home.join("networks"), &commands.relay);
        let underlay = Arc::new(underlay.context("open the network between hosts")?);
        let keeping = underlay.clone();
        tokio::spawn(async move { keeping.keep_running().await });
        let verdict = guests.acceleration();
        Ok(Self {
            about: About {
                boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                    .context("read the boot id")?
                    .trim()
                    .to_owned(),
                name: place.name.clone(),
                capacity: capacity(space.volume_bytes())?,
                unable: None,
                acceleration: boira_model::Acceleration {
                    hardware: verdict.accelerator == Accelerator::Kvm,
                    verdict: verdict.verdict,
                },
                machine: guests.machine().map_err(anyhow::Error::msg)?,
                cpu: guests.cpu().into(),
                overhead: Overhead(guests.overhead()),
                intake: crate::intake::look(place.home),
                underlay: Some((underlay.public_key().to_string(), underlay.port())),
            },
            cloud: place.cloud.clone(),
            api: place.api,
            network,
            underlay,
            blobs: Arc::new(open_cache(
                &place.home.join("blobs"),
                &volumes,
                space.cache_bytes(),
            )?),
            space,
            guests,
            volumes,
            consoles: Consoles::open(&place.home.join("consoles"))
                .context("open the folder of consoles")?,
            controller,
            watchdog: Watchdog::new(place.home, commands.watchdog),
            calls: Calls::default(),
        })
    }

    fn volume_path(&self, file: &VolumeId) -> PathBuf {
        self.volumes.join(file.as_str())
    }

    async fn make_volume(&self, volume: &WantedVolume) -> Result<()> {
        let outcome = self.try_make_volume(volume).await;
        self.release_unless_there(&volume.file(), outcome)
    }

    /// A file that could not be made keeps no image.
    fn release_unless_there(&self, file: &VolumeId, outcome: Result<()>) -> Result<()> {
        if outcome.is_err() && !self.volume_path(file).exists() {
            self.release_image(file)?;
        }
        outcome
    }

    async fn try_fetch_volume(
        &self,
        volume: &WantedVolume,
        note: Box<dyn FnMut(u64, u64) + Send>,
    ) -> Result<()> {
        if let VolumeSource::Image { blob, .. } = &volume.source {
            let digest = blob.parse().context("name the blob")?;
            if self.blobs.get(&digest).is_none() {
                images::fetch(&self.blobs, &self.controller, blob)
                    .await
                    .context("fetch its image")?;
            }
            self.blobs
                .pin(&digest, volume.file().as_str())
                .context("keep the image")?
                .context("its image was given up meanwhile")?;
        }
        let path = self.volume_path(&volume.file());
        let stream = self.controller.volume(&volume.file()).await?;
        let stream = tokio_util::io::SyncIoBridge::new(stream);
        let most = crate::copy::most_bytes(volume.size_bytes);
        tokio::task::spawn_blocking(move || crate::copy::receive(stream, &path, most, note))
            .await
            .context("fetch a disk")?
    }

    async fn try_make_volume(&self, volume: &WantedVolume) -> Result<()> {
        let path = self.volume_path(&volume.file());
        let size_bytes = volume.size_bytes;
        let base = match &volume.source {
            VolumeSource::Image { blob, format, .. } => {
                let digest = blob.parse().context("name the blob")?;
                self.blobs
                    .pin(&digest, volume.file().as_str())
                    .context("keep the image")?;
                Some(self.base(blob, format)?)
            }
            VolumeSource::Empty => None,
        };
        tokio::task::spawn_blocking(move || match base {
            Some(base) => disk::ensure_overlay(&path, &base, size_bytes),
            None => disk::ensure_empty(&path, size_bytes),
        })
        .await
        .context("make a disk")?
        .context("make a disk")
    }

    /// A disk that isn't there keeps no image in the cache.
    fn release_image(&self, volume: &VolumeId) -> Result<()> {
        for (digest, holder) in self.blobs.pins() {
            if holder == volume.as_str() {
                self.blobs
                    .unpin(&digest, &holder)
                    .context("release the image")?;
            }
        }
        Ok(())
    }

    fn base(&self, blob: &str, format: &str) -> Result<Base> {
        Ok(Base {
            path: self.blob_path(blob)?,
            format: disk_format(format)?,
        })
    }

    fn blob_path(&self, sha256: &str) -> Result<PathBuf> {
        let digest = sha256.parse().context("name the blob")?;
        self.blobs
            .get(&digest)
            .with_context(|| format!("blob {sha256} is not in the cache"))
    }

    async fn start(
        &self,
        instance: &WantedInstance,
        not_after: Option<BootTime>,
        wanted: &Wanted,
    ) -> Result<()> {
        let spec = GuestSpec {
            not_after_ms: not_after.map(|at| at.0),
            ..self.guest_spec(instance, wanted)?
        };
        let taps = instance
            .interfaces
            .iter()
            .map(|port| self.network.open_tap(port.vpc.as_str(), port.id.as_str()))
            .collect::<Result<Vec<_>, _>>()
            .context("open the guest's network interface")?;
        match self.guests.start(&spec, taps).await {
            Err(boira_hypervisor::Error::TooLate(_)) => bail!(TOO_LATE),
            outcome => outcome.context("start the guest"),
        }
    }

    /// Also one whose process was stopped by a watchdog that no longer knows it.
    async fn resume(&self, instance: &InstanceId, wanted: &Wanted) -> Result<()> {
        let rows = wanted.instances.iter();
        let row = rows.into_iter().find(|row| row.id == *instance);
        if let Some(row) = row.filter(|row| !row.fenced) {
            self.watchdog
                .let_go(instance, row.generation)
                .context("let the guest's process go on")?;
        }
        let resumed = self.guests.resume(instance.as_str()).await;
        resumed.context("let the guest go on")?;
        self.calls.settle(instance, true);
        Ok(())
    }

    /// Connects to a guest that may still be booting: a guest without an address loses the first
    /// packet, and the kernel's next one comes a second later, so the attempts are short.
    async fn dial(&self, vpc: &str, ip: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
        let begun = tokio::time::Instant::now();
        loop {
            let attempt = self.network.dial(vpc, ip, port);
            match tokio::time::timeout(DIAL_ATTEMPT, attempt).await {
                Ok(outcome) => {
                    let stream = outcome?;
                    keep_alive(&stream)?;
                    return Ok(stream);
                }
                Err(_) if begun.elapsed() < DIAL => {}
                Err(_) => {
                    return Err(std::io::Error::new(
                        std::io::ErrorKind::TimedOut,
                        format!(
                            "{ip} does not answer on port {port}: it is not up yet, or no security group lets this in"
                        ),
                    ));
                }
            }
        }
    }

    /// A volume's file as a stream, written by a thread of its own.
    fn send_volume(&self, file: &VolumeId) -> Result<impl Stream + use<>> {
        if !is_volume(file.as_str()) {
            bail!("{file} is no volume");
        }
        let path = self.volume_path(file);
        if !path.exists() {
            bail!("{file} is not on this host");
        }
        Ok(written_by(move |writer| {
            crate::copy::send(&path, std::io::BufWriter::new(writer)).context("send a disk")
        }))
    }

    /// Before the guest's remains go.
    async fn keep_console(&self, instance: &InstanceId) -> Result<()> {
        let log = self.guests.console_log(instance.as_str(), consoles::BYTES);
        let log = log.await.context("read the log")?;
        let kept = self.consoles.keep(instance.as_str(), &log);
        kept.context("write the log")
    }

    /// Returns once the guest is here that another host sends with this generation. After an attempt that
    /// failed it is started again.
    async fn expects(&self, instance: &InstanceId, generation: u64) -> Result<()> {
        let begun = tokio::time::Instant::now();
        let is_it = |guest: &ObservedGuest| {
            guest.guest == instance.as_str()
                && guest.generation == generation
                && guest.state == boira_hypervisor::GuestState::Incoming
        };
        loop {
            let guests = self.guests.observe().await.context("look at the guests")?;
            if guests.iter().any(is_it) {
                return Ok(());
            }
            if begun.elapsed() > EXPECTED {
                bail!("{instance} isn't expected here with generation {generation}");
            }
            tokio::time::sleep(EXPECTED / 50).await;
        }
    }

    fn guest_spec(&self, instance: &WantedInstance, wanted: &Wanted) -> Result<GuestSpec> {
        let disks = instance
            .disks
            .iter()
            .map(|id| {
                let volume = wanted
                    .volumes
                    .iter()
                    .find(|volume| volume.id == *id)
                    .with_context(|| format!("{id} is not on this host"))?;
                let (format, base) = match &volume.source {
                    VolumeSource::Image { blob, format, .. } => {
                        (DiskFormat::Qcow2, Some(self.base(blob, format)?))
                    }
                    VolumeSource::Empty => (DiskFormat::Raw, None),
                };
                Ok(DiskSpec {
                    id: id.to_string(),
                    path: self.volume_path(&volume.file()),
                    format,
                    base,
                    read_only: false,
                })
            })
            .collect::<Result<_>>()?;
        Ok(GuestSpec {
            guest: instance.id.to_string(),
            generation: instance.generation,
            uuid: translate::uuid(&instance.id),
            machine: instance.machine.clone(),
            cpu: instance.cpu.clone(),
            vcpus: instance.vcpus,
            memory_bytes: instance.memory_bytes,
            boot: match &instance.boot {
                Boot::Firmware => boira_hypervisor::Boot::Firmware,
                Boot::Kernel {
                    kernel,
                    ramdisk,
                    cmdline,
                } => boira_hypervisor::Boot::Kernel {
                    kernel: self.blob_path(kernel)?,
                    ramdisk: ramdisk
                        .as_ref()
                        .map(|blob| self.blob_path(blob))
                        .transpose()?,
                    cmdline: cmdline.clone(),
                },
            },
            disks,
            interfaces: instance
                .interfaces
                .iter()
                .map(|port| InterfaceSpec {
                    id: port.id.to_string(),
                    mac: port.mac.to_string(),
                    mtu: MTU,
                })
                .collect(),
            cpu_shares: 1024 * instance.vcpus,
            uid: uid(&self.cloud, instance.number),
            not_after_ms: None,
            incoming: instance.passage == Some(Passage::Arriving),
        })
    }
}

#[async_trait]
impl Host for RealHost {
    fn about(&self) -> About {
        let mut about = self.about.clone();
        about.capacity.disk_bytes = self.space.volume_bytes();
        about.unable = self.space.unable();
        about
    }

    async fn observe(&self) -> Result<Observed> {
        let mut guests = BTreeMap::new();
        let mut unclear = BTreeMap::new();
        for seen in self.guests.observe().await.context("look at the guests")? {
            let id = InstanceId::from(seen.guest.as_str());
            match translate::guest_state(&seen.state) {
                Some(state) => drop(guests.insert(
                    id,
                    Guest {
                        generation: seen.generation,
                        state,
                        detail: seen.detail,
                        boots: seen.boots,
                        held: seen.held,
                    },
                )),
                None => drop(unclear.insert(id, seen.detail.unwrap_or_default())),
            }
        }
        Ok(Observed {
            guests,
            unclear,
            volumes: list(&self.volumes)?
                .iter()
                .map(|name| VolumeId::from(name.as_str()))
                .collect(),
            blobs: self
                .blobs
                .digests()
                .iter()
                .map(ToString::to_string)
                .collect(),
        })
    }

    async fn changed(&self) {
        tokio::select! {
            () = self.guests.changed() => {}
            () = self.space.changed() => {}
        }
    }

    async fn fence(&self, fence: &Fence) -> Result<Fence> {
        let told = self.watchdog.tell(fence).await;
        if told.is_err() {
            // The controller relies on it that somebody holds them; the next watchdog lets them go on.
            self.watchdog.hold_now(fence);
        }
        told
    }

    async fn carry_out(&self, step: &Step, wanted: &Wanted) -> Result<()> {
        match step {
            Step::Fetch { sha256, .. } => {
                images::fetch(&self.blobs, &self.controller, sha256).await
            }
            Step::MakeVolume { volume, .. } => self.make_volume(volume).await,
            Step::Start {
                instance,
                not_after,
            } => self.start(instance, *not_after, wanted).await,
            Step::PowerButton { instance } => self
                .guests
                .power_button(instance.as_str())
                .await
                .context("press the power button"),
            Step::Reset { instance, .. } => self
                .guests
                .reset(instance.as_str())
                .await
                .context("reset the guest"),
            Step::Resume { instance } => self.resume(instance, wanted).await,
            Step::Send { .. } => bail!("a guest is sent by a call of its own"),
            Step::Kill { instance } => {
                let killed = self.guests.kill(instance.as_str()).await;
                killed.context("switch the guest off")?;
                self.calls.settle(instance, false);
                Ok(())
            }
            Step::Forget { instance, .. } => {
                if let Err(error) = self.keep_console(instance).await {
                    tracing::warn!("the console of {instance} is lost: {error:#}");
                }
                let forgotten = self.guests.forget(instance.as_str()).await;
                forgotten.context("remove the guest")
            }
        }
    }

    async fn fetch_volume(
        &self,
        volume: &WantedVolume,
        note: Box<dyn FnMut(u64, u64) + Send>,
    ) -> Result<()> {
        let outcome = self.try_fetch_volume(volume, note).await;
        self.release_unless_there(&volume.file(), outcome)
    }

    async fn send_guest(&self, departure: &Departure, wanted: &Wanted) -> Result<()> {
        let id = &departure.instance;
        let way = Way {
            controller: &self.controller,
            network: &self.network,
            calls: &self.calls,
            departure,
            ports: Port::all_of(id, &wanted.network),
        };
        let sent = self
            .guests
            .hand_over(id.as_str(), departure.generation, &way)
            .await;
        if sent.is_err() {
            self.calls.settle(id, true);
        }
        sent.context("send the guest to another host")
    }

    async fn remove_volume(&self, volume: &VolumeId) -> Result<()> {
        let path = self.volume_path(volume);
        tokio::task::spawn_blocking(move || disk::remove(&path))
            .await
            .context("remove a disk")?
            .context("remove a disk")?;
        self.release_image(volume)
    }

    async fn ensure_underlay(&self, peers: Option<&WantedOverlay>) -> Result<()> {
        match peers {
            Some(peers) => {
                let spec = translate::underlay(peers, self.controller.address().ip())?;
                let ensured = self.underlay.ensure(&spec).await;
                ensured.context("reach the other hosts")
            }
            None if self.underlay.is_present() => {
                let removed = self.underlay.remove().await;
                removed.context("remove the way to other hosts")
            }
            None => Ok(()),
        }
    }

    async fn ensure_network(
        &self,
        vpc: &WantedVpc,
        opened: Box<dyn FnOnce() + Send>,
    ) -> Result<Vec<String>> {
        let spec = translate::vpc(vpc, MTU, self.api)?;
        let ensured = self.network.ensure_and_say(&spec, opened).await;
        Ok(ensured.context("bring the network up")?.lacks)
    }

    async fn networks(&self) -> Vec<String> {
        self.network.present().await
    }

    async fn remove_network(&self, vpc: &str) -> Result<()> {
        self.network.remove(vpc).await.context("remove the network")
    }

    async fn reachable(&self, vpc: &str, port: &InterfaceId) -> Result<bool> {
        self.network
            .answers_arp(vpc, port.as_str())
            .await
            .context("ask by ARP")
    }

    async fn open(&self, id: &str, kind: &StreamKind) -> Result<Box<dyn Stream>> {
        Ok(match kind {
            StreamKind::Dial { vpc, ip, port } => {
                let dialled = self.dial(vpc.as_str(), *ip, *port).await;
                let guest = (vpc.to_string(), *ip);
                Box::new(self.calls.carry(id, guest, dialled.context("connect")?))
            }
            StreamKind::Resume { call } => Box::new(self.calls.resume(call)?),
            StreamKind::Volume { file } => Box::new(self.send_volume(file)?),
            StreamKind::Blob { sha256, from } => {
                Box::new(images::send(&self.blob_path(sha256)?, *from)?)
            }
            StreamKind::Arrival {
                instance,
                generation,
                channel,
            } => {
                let way = WayIn {
                    network: self.network.clone(),
                    calls: self.calls.clone(),
                    migration: calls::Migration {
                        instance: instance.clone(),
                        generation: *generation,
                    },
                };
                self.calls.begin_anew(&way.migration);
                if let Some(words) = way.channel(channel) {
                    return words;
                }
                self.expects(instance, *generation).await?;
                let end = self.guests.receive(instance.as_str(), channel).await;
                Box::new(end.context("take in a guest")?)
            }
            StreamKind::Console { instance } => {
                let console = self.guests.console(instance.as_str()).await;
                Box::new(console.context("open the console")?)
            }
            StreamKind::ConsoleLog {
                instance,
                max_bytes,
            } => {
                let max_bytes = *max_bytes as usize;
                let log = match self.guests.console_log(instance.as_str(), max_bytes).await {
                    // Not started yet, removed, or its remains went with the last `down`.
                    Err(boira_hypervisor::Error::Unknown(_)) => self
                        .consoles
                        .read(instance.as_str())
                        .context("read what a console said last")?,
                    log => log.context("read the console's log")?,
                };
                Box::new(translate::read_only(log))
            }
        })
    }
}

/// Keeps new addresses of the host out of the guests' reach.
async fn guard_host_addresses(network: Arc<Network>) {
    loop {
        let Err(error) = network.watch_host_addresses().await;
        tracing::warn!("new addresses of this host are kept from guests late: {error}");
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// A guest that was reset knows nothing of its connections and has nothing to say; asked, it refuses
/// them. Without being asked, whoever waits for its words (an SSH handshake) waits for ever.
pub fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(stream, sockopt::TcpKeepIdle, &10)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &5)?;
    setsockopt(stream, sockopt::TcpKeepCount, &12)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    // Probes aren't sent while data waits for a guest that crashed or was stopped.
    setsockopt(stream, sockopt::TcpUserTimeout, &70_000)?;
    Ok(())
}

fn disk_format(name: &str) -> Result<DiskFormat> {
    match name {
        "qcow2" => Ok(DiskFormat::Qcow2),
        "raw" => Ok(DiskFormat::Raw),
        other => bail!("{other} is no disk format"),
    }
}

/// The cache of images, without the pins of disks that were never finished or whose end was cut off.
fn open_cache(directory: &Path, volumes: &Path, bytes: u64) -> Result<Blobs> {
    std::fs::create_dir_all(directory).context("create the folder of images")?;
    let blobs = Blobs::open(directory, bytes).context("open the image cache")?;
    let disks = list(volumes)?;
    for (digest, holder) in blobs.pins() {
        if !disks.contains(&holder) {
            blobs.unpin(&digest, &holder).context("release an image")?;
        }
    }
    Ok(blobs)
}

/// The user of an instance's guest. Numbers begin at 1 in every cloud, and clouds may share a machine.
fn uid(cloud: &str, number: u64) -> u32 {
    let hash = cloud.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    FIRST_UID + ((hash % UIDS + number % UIDS) % UIDS) as u32
}

/// What may be promised: all CPUs, the memory but for what the system itself needs, a disk of so many
/// bytes.
fn capacity(disk_bytes: u64) -> Result<HostCapacity> {
    let cpus = std::thread::available_parallelism()
        .context("count the CPUs")?
        .get() as u32;
    let text = std::fs::read_to_string("/proc/meminfo").context("read the memory's size")?;
    let total_kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .context("/proc/meminfo has no MemTotal")?;
    let total = total_kib << 10;
    let reserve = (total / 10).clamp(256 << 20, 2 << 30);
    Ok(HostCapacity {
        cpus,
        memory_bytes: total.saturating_sub(reserve),
        disk_bytes,
    })
}

fn list(directory: &Path) -> Result<BTreeSet<String>> {
    std::fs::read_dir(directory)
        .with_context(|| format!("list {}", directory.display()))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        // Files in the making have other names.
        .filter(|name| name.as_ref().map_or(true, |name: &String| is_volume(name)))
        .collect()
}

/// `vol-0123…`, or `vol-0123….2` for a copy.
fn is_volume(name: &str) -> bool {
    let (id, copy) = name.split_once('.').unwrap_or((name, "0"));
    let is_number = !copy.is_empty() && copy.bytes().all(|b| b.is_ascii_digit());
    is_number
        && id
            .strip_prefix("vol-")
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_of_two_clouds_on_one_machine_are_different_users() {
        let users = |cloud| (1..1000).map(move |number| uid(cloud, number));
        let ours: BTreeSet<_> = users("0a1b2c").collect();
        assert_eq!(ours.len(), 999);
        assert!(users("0a1b2d").all(|user| !ours.contains(&user)));
        assert!(ours.iter().all(|user| *user >= FIRST_UID));
    }

    #[test]
    fn images_are_kept_only_for_disks_that_are_there() {
        let home = std::env::temp_dir().join(format!("boira-cache-{}", std::process::id()));
        let (cache, volumes) = (home.join("blobs"), home.join("volumes"));
        std::fs::create_dir_all(&volumes).unwrap();
        std::fs::write(volumes.join("vol-1"), "").unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
            .parse()
            .unwrap();
        let blobs = open_cache(&cache, &volumes, 1 << 20).unwrap();
        blobs.put(std::io::empty(), empty).unwrap();
        for holder in ["vol-1", "vol-2"] {
            blobs.pin(&empty, holder).unwrap();
        }
        drop(blobs);
        let blobs = open_cache(&cache, &volumes, 1 << 20).unwrap();
        assert_eq!(blobs.pins(), [(empty, "vol-1".to_owned())]);
        std::fs::remove_dir_all(&home).unwrap();
    }
}
