//! The services process of one VPC: `boira vpc-services DIR`.
//!
//! It reads what it serves from `DIR/spec.json` and again when the agent says so on the socket
//! `DIR/control`. A change opens and closes the sockets of the ports that came and went; the others
//! go on. It lives in the host's network, where it asks the host's resolvers and reaches the API;
//! one thread of it is inside the VPC's namespace and opens the sockets that guests talk to.
//!
//! Guests talk to this process, so it has nothing to lose: before it reads the first packet it
//! gives up root for a numeric user of its own and keeps no capability. The namespace lets anyone
//! bind low ports, and Linux lets anyone bind a socket to a device since 5.7.

mod connections;
mod datagrams;
mod forward;
mod http;
mod opener;
mod ports;
mod privileges;
mod relay;

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::datagrams::Datagrams;
use self::opener::Opener;
use self::ports::Ports;
use crate::metadata::Tokens;
use crate::namespace::Namespace;
use crate::spec::{PortSpec, VpcSpec};

/// The files of the directory. They belong to root; the services' user may read the first.
pub(crate) const SPEC_FILE: &str = "spec.json";
pub(crate) const CONTROL_SOCKET: &str = "control";
pub(crate) const LOCK_FILE: &str = "services.lock";

/// What [`serve`] says on its standard output once guests are answered.
pub(crate) const READY: &str = "ready\n";

/// How long the agent has to say what it wants.
const CONTROL_DEADLINE: Duration = Duration::from_secs(5);

/// What `spec.json` holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServicesFile {
    pub namespace: String,
    /// The user and the group to become.
    pub uid: u32,
    pub spec: VpcSpec,
}

/// The answer on the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ControlAnswer {
    /// The digest of the file that is in force.
    pub digest: String,
    /// The identity of the namespace that is served: one of the same name may have replaced it.
    pub namespace: u64,
    /// Why the last reload failed, if it did.
    pub error: Option<String>,
}

/// What all tasks of the process look at.
pub(crate) struct State {
    pub spec: VpcSpec,
    /// The port behind each tap, by the tap's index; places in `spec.ports`.
    by_index: HashMap<u32, usize>,
}

impl State {
    fn port_of_device(&self, index: u32) -> Option<&PortSpec> {
        self.spec.ports.get(*self.by_index.get(&index)?)
    }
}

/// The latest [`State`], and what lasts as long as the process.
#[derive(Clone)]
pub(crate) struct Shared {
    state: watch::Receiver<Arc<State>>,
    tokens: Arc<Tokens>,
    forwarder: Arc<forward::Forwarder>,
    api_places: Arc<connections::ApiPlaces>,
}

impl Shared {
    fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }
}

/// Serves one VPC until it is killed. Enters `directory` and gives up its privileges, so it needs a
/// process for itself, and a runtime of one thread is enough.
///
/// # Errors
/// When another process serves the directory, or the namespace or the spec isn't there.
pub async fn serve(directory: &Path) -> io::Result<()> {
    privileges::refuse_new()?;
    // From here on paths are relative: the user that we become may not be allowed to look into the
    // directories above.
    std::env::set_current_dir(directory)?;
    let lock = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(LOCK_FILE)?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|_| io::Error::other("another process serves this VPC"))?;
    let (file, digest) = read_spec()?;
    let opener = Opener::start(&Namespace::named(&file.namespace))?;
    let control = listen_for_agent()?;
    privileges::drop_to(file.uid)?;

    let mut server = Server::start(opener, file.spec, digest).await?;
    announce_ready()?;
    loop {
        let agent = tokio::select! {
            accepted = control.accept() => accepted?.0,
            ended = server.endless.join_next() => {
                return Err(io::Error::other(format!("a service ended: {ended:?}")));
            }
        };
        let talk = tokio::time::timeout(CONTROL_DEADLINE, server.answer_agent(agent)).await;
        if let Ok(Err(error)) = talk {
            tracing::debug!(%error, "the agent went away");
        }
    }
}

fn read_spec() -> io::Result<(ServicesFile, String)> {
    let bytes = std::fs::read(SPEC_FILE)?;
    let file = serde_json::from_slice(&bytes)?;
    Ok((file, digest(&bytes)))
}

/// What tells one `spec.json` from another.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The lock says that nobody listens on a socket that is still there.
fn listen_for_agent() -> io::Result<UnixListener> {
    match std::fs::remove_file(CONTROL_SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(CONTROL_SOCKET)
}

/// Tells the agent, and lets go of the pipe by which it was told.
fn announce_ready() -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(READY.as_bytes())?;
    stdout.flush()?;
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null.as_fd())?;
    Ok(())
}

struct Server {
    opener: Opener,
    state: watch::Sender<Arc<State>>,
    ports: Ports,
    /// What must not end. Half a service is worse than none, which the agent notices.
    endless: JoinSet<()>,
    digest: String,
}

impl Server {
    async fn start(opener: Opener, spec: VpcSpec, digest: String) -> io::Result<Self> {
        let devices = opener.devices().await?;
        let (state, watching) = watch::channel(Arc::new(State::new(spec, &devices)));
        let shared = Shared {
            state: watching,
            tokens: Arc::new(Tokens::new(rand::random())),
            forwarder: Arc::default(),
            api_places: Arc::default(),
        };
        let dhcp = Datagrams::new(opener.udp(67).await?)?;
        let dns = Datagrams::new(opener.udp(53).await?)?;
        let mut endless = JoinSet::new();
        endless.spawn(datagrams::serve_dhcp(dhcp, shared.clone()));
        endless.spawn(datagrams::serve_dns(dns, shared.clone()));
        let mut server = Server {
            opener,
            state,
            ports: Ports::new(shared),
            endless,
            digest,
        };
        server.open_ports(devices).await?;
        Ok(server)
    }

    /// One request a connection: `state` or `reload`.
    async fn answer_agent(&mut self, agent: UnixStream) -> io::Result<()> {
        let mut agent = BufReader::new(agent);
        let mut request = String::new();
        (&mut agent).take(64).read_line(&mut request).await?;
        let error = match request.as_str() {
            "reload\n" => self.reload().await.err(),
            _ => None,
        };
        let answer = ControlAnswer {
            digest: self.digest.clone(),
            namespace: self.opener.namespace(),
            error: error.map(|error| error.to_string()),
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        agent.get_mut().write_all(&line).await
    }

    async fn reload(&mut self) -> io::Result<()> {
        let (file, digest) = read_spec()?;
        let devices = self.opener.devices().await?;
        self.state
            .send_replace(Arc::new(State::new(file.spec, &devices)));
        self.open_ports(devices).await?;
        self.digest = digest;
        Ok(())
    }

    async fn open_ports(&mut self, devices: HashMap<String, u32>) -> io::Result<()> {
        let state = self.state.borrow().clone();
        self.ports.update(&state, &devices, &self.opener).await
    }
}

impl State {
    fn new(spec: VpcSpec, devices: &HashMap<String, u32>) -> Self {
        let by_index = spec.ports.iter().enumerate();
        let by_index = by_index
            .filter_map(|(place, port)| {
                let tap = crate::spec::tap_name(&port.eni);
                Some((*devices.get(&tap)?, place))
            })
            .collect();
        State { spec, by_index }
    }
}

/// Seconds of a clock that never goes back and counts suspended time.
fn boot_time_s() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map(|time| u64::try_from(time.tv_sec()).unwrap_or(0))
        .unwrap_or(0)
}

/// The hop limit of what is sent on a connection from now on.
fn set_hop_limit(socket: &impl std::os::fd::AsFd, hops: u8) -> io::Result<()> {
    let fd: RawFd = socket.as_fd().as_raw_fd();
    let hops = libc::c_int::from(hops);
    // SAFETY: the pointer and the length are those of `hops`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_IP,
            libc::IP_TTL,
            (&raw const hops).cast(),
            size_of_val(&hops) as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
