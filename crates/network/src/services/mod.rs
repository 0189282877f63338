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
mod relay;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use self::datagrams::Datagrams;
use self::opener::Opener;
use self::ports::Ports;
use crate::metadata::Tokens;
use crate::namespace::Namespace;
use crate::privileges;
use crate::serving::{Serving, announce_ready};
use crate::spec::{PortSpec, VpcSpec};

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
    let (mut serving, file) = Serving::enter(directory)?;
    let opener = Opener::start(&Namespace::named(&file.namespace))?;
    privileges::drop_to(file.uid)?;

    let mut server = Server::start(opener, file.spec).await?;
    announce_ready()?;
    loop {
        let agent = tokio::select! {
            accepted = serving.accept() => accepted?,
            ended = server.endless.join_next() => {
                return Err(io::Error::other(format!("a service ended: {ended:?}")));
            }
        };
        let namespace = server.opener.namespace();
        let reload = async |spec| server.reload(spec).await;
        serving.answer(agent, namespace, reload).await;
    }
}

struct Server {
    opener: Opener,
    state: watch::Sender<Arc<State>>,
    ports: Ports,
    /// What must not end. Half a service is worse than none, which the agent notices.
    endless: JoinSet<()>,
}

impl Server {
    async fn start(opener: Opener, spec: VpcSpec) -> io::Result<Self> {
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
        };
        server.open_ports(devices).await?;
        Ok(server)
    }

    async fn reload(&mut self, spec: VpcSpec) -> io::Result<()> {
        let devices = self.opener.devices().await?;
        self.state
            .send_replace(Arc::new(State::new(spec, &devices)));
        self.open_ports(devices).await
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
