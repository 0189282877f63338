//! What the agent calls: make a VPC's networks on this host as the spec says, whatever is there.
//!
//! [`Network::ensure`] is the one path for a first start, a change, a retry and an agent that comes
//! back after a crash. It looks at what the kernel has, does the difference, and leaves alone what
//! is right; so it can be called as often as one likes. What runs beside the agent (the services
//! process, the connector to the outside) is found again, not started again.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

use crate::applied::{Applied, apply, remove_taps};
use crate::connections;
use crate::namespace::Namespace;
use crate::process::Process;
use crate::repair::{self, SavedTcp};
use crate::server_process::ServerProcess;
use crate::spec::{SpecError, VpcSpec, check_id, tap_name};
use crate::{arp, host, tap, underlay, way_out};

/// How long [`Network::dial`] waits for an answer. A group that lets nothing through drops, so
/// the guest's silence is all that there is.
const DIAL_DEADLINE: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Something that the host refused; what was to be done, and why it couldn't.
    #[error("{doing}: {why}")]
    Io { doing: String, why: io::Error },
}

/// The addresses that guests have here, or are about to.
fn addresses(spec: &VpcSpec) -> BTreeSet<Ipv4Addr> {
    let ports = spec.ports.iter().map(|port| port.ip);
    ports
        .chain(spec.standby.iter().map(|port| port.ip))
        .collect()
}

/// The address of a port whose guest is still on another host.
fn standby(spec: &VpcSpec, instance: &str, eni: &str) -> Result<Ipv4Addr, Error> {
    let mut ports = spec.standby.iter();
    let port = ports.find(|port| port.eni == eni && port.instance == instance);
    port.map(|port| port.ip).ok_or_else(|| missing(eni))
}

fn missing(eni: &str) -> Error {
    doing("finding the port")(io::Error::new(io::ErrorKind::NotFound, eni.to_owned()))
}

/// What became of an [`Network::ensure`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether anything had to be done.
    pub changed: bool,
    /// What this host can't do, in words for its administrator. The rest works.
    pub lacks: Vec<String>,
}

/// The networks of one cloud on this host.
pub struct Network {
    cloud: String,
    directory: PathBuf,
    services_command: Vec<OsString>,
    vpcs: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Vpc>>>>,
    /// Services or a way out were started.
    started: Notify,
}

/// What is remembered of a VPC to find out cheaply that nothing has to be done.
#[derive(Default)]
struct Vpc {
    applied: Option<Applied>,
    way_out: WayOut,
}

/// What is known of the connector to the outside.
#[derive(Default)]
enum WayOut {
    /// An earlier agent may have started one.
    #[default]
    Unknown,
    Absent,
    Held(Process),
}

/// How long to wait before services that ended are started again.
const REST: Duration = Duration::from_secs(1);

/// Returns with the first of these; never where there is none.
async fn first_of<F: Future + Unpin>(mut all: Vec<F>) {
    std::future::poll_fn(|context| {
        let is_ready = |one: &mut F| std::pin::Pin::new(one).poll(context).is_ready();
        match all.iter_mut().any(is_ready) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}

impl Network {
    /// `cloud` tells this cloud's namespaces from those of other clouds on the host, `directory`
    /// keeps what has to survive the agent, and `services_command` starts [`crate::serve`] in a
    /// process of its own when the directory to serve is appended.
    pub fn new(cloud: &str, directory: &Path, services_command: Vec<OsString>) -> Self {
        Network {
            cloud: cloud.to_owned(),
            directory: directory.to_owned(),
            services_command,
            vpcs: Mutex::default(),
            started: Notify::new(),
        }
    }

    /// Makes the networks of a VPC what `spec` says.
    ///
    /// # Errors
    /// A spec that contradicts itself changes nothing. After any other error the call can be
    /// repeated; what was done stays.
    pub async fn ensure(&self, spec: &VpcSpec) -> Result<Outcome, Error> {
        self.ensure_and_say(spec, || ()).await
    }

    /// [`Network::ensure`], which calls `opened` as soon as its taps can be opened: rules and links are in
    /// force, what serves guests is being started.
    pub async fn ensure_and_say(
        &self,
        spec: &VpcSpec,
        opened: impl FnOnce(),
    ) -> Result<Outcome, Error> {
        spec.check()?;
        let vpc = self.vpc(&spec.vpc);
        self.ensure_locked(&mut *vpc.lock().await, spec, opened)
            .await
    }

    /// Keeps the host's own addresses out of the guests' reach when they change. Runs until it
    /// fails, beside everything else; without it a change counts from the next
    /// [`Network::ensure`] on.
    ///
    /// # Errors
    /// When the kernel doesn't tell of changes.
    pub async fn watch_host_addresses(&self) -> Result<Infallible, Error> {
        let watching = doing("watching the host's addresses");
        let mut changes = host::AddressChanges::listen().map_err(watching)?;
        loop {
            let watching = doing("watching the host's addresses");
            changes.next().await.map_err(watching)?;
            for vpc in self.present().await {
                let entry = self.vpc(&vpc);
                let mut entry = entry.lock().await;
                // Read under the lock: what the agent wants meanwhile must not be undone.
                let Ok(spec) = self.services(&vpc).read_spec::<VpcSpec>() else {
                    continue;
                };
                if let Err(error) = self.ensure_locked(&mut entry, &spec, || ()).await {
                    tracing::warn!(vpc, %error, "the host's new addresses can't be kept from guests");
                }
            }
        }
    }

    /// Starts services and ways out again that end by themselves. Runs for ever, beside everything else; without it
    /// they are missed until the next [`Network::ensure`].
    pub async fn keep_services(&self) {
        let mut failures = 0;
        loop {
            let present = self.present().await;
            // Held before anybody asks who has ended: who ends in between is missed by neither.
            let running = present.iter().flat_map(|vpc| {
                let way_out = way_out::find(&self.namespace(vpc));
                self.services(vpc).running().into_iter().chain(way_out)
            });
            let ends: Vec<_> = running.map(|process| Box::pin(process.ended())).collect();
            // Also those that ended while nobody looked.
            failures = match self.start_ended(&present).await {
                true => 0,
                false => failures + 1,
            };
            tokio::select! {
                () = first_of(ends) => {}
                () = self.started.notified() => continue,
                () = tokio::time::sleep(REST * 2_u32.pow(failures.min(6))), if failures > 0 => continue,
            }
            // One that can't run mustn't keep the machine busy.
            tokio::time::sleep(REST).await;
        }
    }

    /// Answers whether all is there now.
    async fn start_ended(&self, present: &[String]) -> bool {
        let mut complete = true;
        for vpc in present {
            let entry = self.vpc(vpc);
            let mut entry = entry.lock().await;
            let services = self.services(vpc);
            let namespace = self.namespace(vpc);
            let Ok(spec) = services.read_spec::<VpcSpec>() else {
                continue;
            };
            let ended = match services.running().is_empty() {
                true => "services",
                false if spec.way_out && way_out::find(&namespace).is_empty() => "way out",
                false => continue,
            };
            if namespace.identity().is_none() {
                continue;
            }
            tracing::warn!(vpc, "the VPC's {ended} ended; starting what is missing");
            match self.ensure_locked(&mut entry, &spec, || ()).await {
                Ok(outcome) => {
                    complete &= outcome.lacks.is_empty();
                    let lacks = outcome.lacks.into_iter();
                    lacks.for_each(|lack| tracing::warn!(vpc, "{lack}"));
                }
                Err(error) => {
                    complete = false;
                    tracing::error!(vpc, %error, "the VPC's {ended} can't be started");
                }
            }
        }
        complete
    }

    async fn ensure_locked(
        &self,
        vpc: &mut Vpc,
        spec: &VpcSpec,
        opened: impl FnOnce(),
    ) -> Result<Outcome, Error> {
        let namespace = self.namespace(&spec.vpc);
        let directory = self.directory_of(&spec.vpc);
        let services = self.services(&spec.vpc);

        let made = namespace.identity().is_none();
        if made {
            // What an earlier namespace had says nothing of this one, even if the kernel gives it
            // the same identity after a reboot.
            Applied::forget(&directory).map_err(doing("forgetting the old namespace"))?;
            let namespace = namespace.clone();
            off_thread(move || namespace.create())
                .await
                .map_err(doing("making the namespace"))?;
            vpc.applied = None;
        } else if vpc.applied.is_none() {
            vpc.applied = Applied::read(&directory);
        }
        services
            .prepare_directory()
            .map_err(doing("preparing the VPC's directory"))?;

        let left = match self.spec_of(&spec.vpc) {
            Ok(old) => addresses(&old)
                .difference(&addresses(spec))
                .copied()
                .collect(),
            // It is new.
            Err(_) => Vec::new(),
        };
        let before = vpc.applied.clone();
        let below = underlay::namespace(&self.cloud);
        let mut outcome = Outcome::default();
        let alone = VpcSpec {
            overlay: None,
            ..spec.clone()
        };
        let reaches_others = spec.overlay.is_none() || below.identity().is_some();
        if !reaches_others {
            let lack = "guests on other hosts can't be reached: this host's end of the network \
                between hosts isn't up";
            outcome.lacks.push(lack.to_owned());
        }
        let applying = if reaches_others { spec } else { &alone };
        let (applied, seen) = apply(&namespace, &below, applying, before.clone())
            .await
            .map_err(doing("configuring the namespace"))?;
        let rules_changed = before.as_ref() != Some(&applied);
        if rules_changed {
            applied
                .write(&directory)
                .map_err(doing("noting what was applied"))?;
        }
        if !left.is_empty() {
            let forgetting = namespace.run(move || {
                left.into_iter().for_each(connections::forget);
                Ok(())
            });
            forgetting.await.map_err(doing("forgetting connections"))?;
        }
        outcome.lacks.extend(applied.arp_filter.clone());
        let identity = applied.namespace;
        vpc.applied = Some(applied);
        opened();
        let (services, way_out) = tokio::join!(
            services.ensure(spec, identity, seen.links_changed),
            ensure_way_out(&mut vpc.way_out, seen.way_out, &namespace, spec, &directory),
        );
        let services_changed = services.map_err(doing("starting the VPC's services"))?;
        let way_out_changed = match way_out {
            Ok(changed) => changed,
            Err(error) => {
                outcome.lacks.push(format!("no way out: {error}"));
                false
            }
        };
        if services_changed || way_out_changed {
            self.started.notify_one();
        }
        outcome.changed =
            made || seen.links_changed || rules_changed || services_changed || way_out_changed;
        Ok(outcome)
    }

    /// Removes all that this host has of a VPC: processes, taps, namespace, files. A VPC that isn't
    /// here is removed already.
    pub async fn remove(&self, vpc: &str) -> Result<(), Error> {
        check_id(vpc, "vpc")?;
        let entry = self.vpc(vpc);
        let mut entry = entry.lock().await;
        *entry = Vpc::default();
        let namespace = self.namespace(vpc);
        self.services(vpc)
            .stop()
            .await
            .map_err(doing("stopping the VPC's services"))?;
        way_out::stop(&namespace)
            .await
            .map_err(doing("stopping the way out"))?;
        // A hypervisor that still holds a tap would keep it, and with it the namespace.
        match namespace.run(remove_taps).await {
            Err(error) if namespace.identity().is_some() => {
                return Err(doing("removing the taps")(error));
            }
            Ok(()) | Err(_) => {}
        }
        let directory = self.directory_of(vpc);
        off_thread(move || {
            namespace.remove()?;
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            }
        })
        .await
        .map_err(doing("removing the namespace"))?;
        // The entry stays: whoever waits for its lock must wait for the same one as the next.
        Ok(())
    }

    /// The VPCs that this host has something of, also after a crash half-way, sorted.
    pub async fn present(&self) -> Vec<String> {
        let prefix = format!("boira-{}-", self.cloud);
        let named = Namespace::list(&prefix)
            .into_iter()
            .filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned));
        let kept = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        // Another cloud's tag may start with ours; then the rest is no id.
        let mut vpcs: Vec<String> = named
            .chain(kept)
            .filter(|vpc| check_id(vpc, "vpc").is_ok())
            .collect();
        vpcs.sort();
        vpcs.dedup();
        vpcs
    }

    /// The hypervisor's end of a port's tap (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`). The tap stays
    /// when it is closed.
    ///
    /// # Errors
    /// `NotFound` before [`Network::ensure`] made the port, `ResourceBusy` while another process
    /// holds it.
    pub fn open_tap(&self, vpc: &str, eni: &str) -> Result<OwnedFd, Error> {
        check_id(vpc, "vpc")?;
        check_id(eni, "eni")?;
        let name = tap_name(eni);
        self.namespace(vpc)
            .run_blocking(move || tap::open(&name))
            .map_err(doing("opening the tap"))
    }

    /// What was wanted last of a VPC that is here.
    fn spec_of(&self, vpc: &str) -> Result<VpcSpec, Error> {
        let spec = self.services(vpc).read_spec();
        spec.map_err(doing("reading what is wanted of the VPC"))
    }

    /// What the kernel knows of a guest's connections, for [`Network::adopt_connections`] on the host that
    /// the guest goes to.
    pub async fn connections(&self, vpc: &str, eni: &str) -> Result<String, Error> {
        check_id(vpc, "vpc")?;
        let spec = self.spec_of(vpc)?;
        let port = spec.port(eni).ok_or_else(|| missing(eni))?;
        let ip = port.ip;
        self.namespace(vpc)
            .run(move || connections::save(ip))
            .await
            .map_err(doing("reading a guest's connections"))
    }

    /// Takes over the connections of a guest that comes here, so that those which it has begun itself are
    /// known as its own. Its port is on standby.
    pub async fn adopt_connections(
        &self,
        vpc: &str,
        (instance, eni): (&str, &str),
        saved: &str,
    ) -> Result<(), Error> {
        check_id(vpc, "vpc")?;
        let spec = self.spec_of(vpc)?;
        let ip = standby(&spec, instance, eni)?;
        let saved = saved.to_owned();
        self.namespace(vpc)
            .run(move || connections::load(&saved, ip))
            .await
            .map_err(doing("taking over a guest's connections"))
    }

    /// The way in: connects to a guest from inside the namespace. The connection comes from the
    /// gateway of the guest's subnet, and the guest's groups decide about it as about any other.
    ///
    /// # Errors
    /// `TimedOut` after 15 s where the groups or the guest let nothing through, `HostUnreachable`
    /// for an address that no guest here has.
    pub async fn dial(&self, vpc: &str, ip: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
        check_id(vpc, "vpc").map_err(io::Error::other)?;
        let socket = self
            .namespace(vpc)
            .run(|| {
                use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                Ok(socket(AddressFamily::Inet, SockType::Stream, flags, None)?)
            })
            .await?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        let stream = tokio::time::timeout(DIAL_DEADLINE, socket.connect((ip, port).into()))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Takes over a connection that another host has dialled to a guest that comes here. It is in repair,
    /// and the guest's port on standby.
    ///
    /// # Errors
    /// `NotFound` where no such guest is expected or the connection is none to it.
    pub async fn adopt_dialled(
        &self,
        vpc: &str,
        (instance, eni): (&str, &str),
        saved: &SavedTcp,
    ) -> Result<TcpStream, Error> {
        check_id(vpc, "vpc")?;
        let spec = self.spec_of(vpc)?;
        let ip = standby(&spec, instance, eni)?;
        if saved.remote.ip() != &ip || Self::dial_source(&spec, ip) != Some(*saved.local.ip()) {
            return Err(missing(eni));
        }
        let saved = saved.clone();
        let namespace = self.namespace(vpc);
        let restored = namespace.run(move || repair::restore(&saved)).await;
        let stream = restored.and_then(TcpStream::from_std);
        stream.map_err(doing("taking over a connection to a guest"))
    }

    /// The address that [`Network::dial`] comes from when it connects to `ip`: the gateway of its
    /// subnet. A group that lets in `GATEWAY/32` lets in the host and nobody else.
    pub fn dial_source(spec: &VpcSpec, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        let subnet = spec.subnets.iter().find(|s| s.cidr.contains(&ip))?;
        Some(subnet.gateway)
    }

    /// Whether the guest answers ARP within 1.5 s: the kernel of a guest does as soon as its
    /// interface is configured, whatever its groups say.
    pub async fn answers_arp(&self, vpc: &str, eni: &str) -> Result<bool, Error> {
        check_id(vpc, "vpc")?;
        check_id(eni, "eni")?;
        let spec: VpcSpec = self
            .services(vpc)
            .read_spec()
            .map_err(doing("reading the VPC's spec"))?;
        let found = spec.port(eni).and_then(|p| Some((p, spec.subnet_of(p)?)));
        let Some((port, subnet)) = found else {
            return Err(SpecError(format!("{vpc} has no port {eni} here")).into());
        };
        let tap = tap_name(eni);
        let packets = self
            .namespace(vpc)
            .run(move || arp::listen(&tap))
            .await
            .map_err(doing("listening to the tap"))?;
        arp::answers(packets, subnet.gateway, port.mac, port.ip)
            .await
            .map_err(doing("asking the guest"))
    }

    fn vpcs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<Vpc>>>> {
        self.vpcs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vpc(&self, vpc: &str) -> Arc<tokio::sync::Mutex<Vpc>> {
        self.vpcs().entry(vpc.to_owned()).or_default().clone()
    }

    fn namespace(&self, vpc: &str) -> Namespace {
        Namespace::named(&format!("boira-{}-{vpc}", self.cloud))
    }

    fn directory_of(&self, vpc: &str) -> PathBuf {
        self.directory.join(vpc)
    }

    fn services(&self, vpc: &str) -> ServerProcess {
        ServerProcess::new(
            self.namespace(vpc).name(),
            &self.directory_of(vpc),
            &self.services_command,
        )
    }
}

/// Whether the connector had to be started or stopped. `seen` says whether it has its device: one
/// that lives without is that of an earlier namespace of this name.
async fn ensure_way_out(
    known: &mut WayOut,
    seen: bool,
    namespace: &Namespace,
    spec: &VpcSpec,
    directory: &Path,
) -> io::Result<bool> {
    match known {
        WayOut::Held(process) if spec.way_out && seen && process.is_alive() => return Ok(false),
        WayOut::Absent if !spec.way_out => return Ok(false),
        WayOut::Held(_) | WayOut::Absent | WayOut::Unknown => *known = WayOut::Unknown,
    }
    let mut stopped = false;
    if !(spec.way_out && seen) {
        stopped = way_out::stop(namespace).await?;
        *known = WayOut::Absent;
    }
    if !spec.way_out {
        return Ok(stopped);
    }
    let (process, started) = way_out::ensure(namespace, spec.mtu, directory).await?;
    *known = WayOut::Held(process);
    Ok(started)
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

fn doing(what: &str) -> impl FnOnce(io::Error) -> Error + use<'_> {
    move |why| Error::Io {
        doing: what.to_owned(),
        why,
    }
}
