//! What the network between hosts costs: TCP between two namespaces that play hosts, over a plain
//! wire, over bare VXLAN, and over VXLAN that is sealed by relays and, where it can, by the kernel.

use super::Extent;
use crate::figure::{Figure, Series, Target};
use crate::process::program;
use anyhow::{Context, Result, anyhow};
use boira_network::namespace::Namespace;
use boira_network::underlay::{GUEST_MTU, PeerSpec, Underlay, UnderlaySpec, kernel_seals};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

pub fn take(extent: Extent) -> Result<Vec<Figure>> {
    let scene = Scene::new()?;
    let mut pairs = vec![scene.plain()?, scene.bare()?, scene.sealed("r", by_relay)?];
    if kernel_seals() {
        pairs.push(scene.sealed("k", by_kernel)?);
    }
    let mut rates: [Series; 4] = Default::default();
    let mut trips: [Series; 4] = Default::default();
    let seconds = Duration::from_millis(extent.size(3000, 200).into());
    for _ in 0..extent.rounds {
        for (place, pair) in pairs.iter().enumerate() {
            rates[place].0.push(pair.throughput(seconds)?);
            trips[place].0.push(pair.round_trip(extent.size(2000, 50))?);
        }
    }
    let [plain_rate, bare_rate, relay_rate, kernel_rate] = rates;
    let [plain_trip, bare_trip, relay_trip, kernel_trip] = trips;
    let by_the_kernel = |series: Series, unit| match series.0.is_empty() {
        true => "this machine's kernel has no WireGuard".to_owned(),
        false => format!("the kernel's own WireGuard: {:.0} {unit}", series.median()),
    };
    let figure = |title: &str, unit, series, reference| {
        let mut figure = Figure::new(title, unit, Target::None);
        figure.series = series;
        figure.reference = Some(("bare VXLAN".into(), reference));
        figure
    };
    let mut rate = figure(
        "One TCP connection across hosts",
        "MB/s",
        relay_rate,
        bare_rate,
    );
    rate.note(format!(
        "Over the wire alone, a veth pair, it is {:.0} MB/s. Both relays and both ends share this machine's cores; between two PCs each relay has its own. In place of the relays, {}.",
        plain_rate.median(),
        by_the_kernel(kernel_rate, "MB/s")
    ));
    let mut trip = figure(
        "A byte there and back across hosts",
        "µs",
        relay_trip,
        bare_trip,
    );
    trip.note(format!(
        "Over the wire alone it is {:.0} µs. In place of the relays, {}.",
        plain_trip.median(),
        by_the_kernel(kernel_trip, "µs")
    ));
    Ok(vec![rate, trip])
}

/// Two namespaces that talk, and where the second one is.
struct Pair {
    near: Namespace,
    far: Namespace,
    address: Ipv4Addr,
}

impl Pair {
    fn connect(&self) -> Result<(TcpStream, TcpStream)> {
        let at = SocketAddr::from((self.address, 0));
        let listener = self.far.run_blocking(move || TcpListener::bind(at))?;
        let to = listener.local_addr()?;
        let near = self.near.run_blocking(move || TcpStream::connect(to))?;
        let (far, _) = listener.accept()?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        Ok((near, far))
    }

    /// MB/s that arrive.
    fn throughput(&self, time: Duration) -> Result<f64> {
        let (mut near, mut far) = self.connect()?;
        let reading = std::thread::spawn(move || {
            let (mut buffer, mut bytes) = (vec![0; 1 << 18], 0_u64);
            let begun = Instant::now();
            while let Ok(length @ 1..) = far.read(&mut buffer) {
                bytes += length as u64;
            }
            bytes as f64 / 1e6 / begun.elapsed().as_secs_f64()
        });
        let (piece, begun) = (vec![7; 1 << 18], Instant::now());
        while begun.elapsed() < time {
            near.write_all(&piece)?;
        }
        drop(near);
        reading.join().map_err(|_| anyhow!("the reader panicked"))
    }

    /// The median of so many times for a byte there and back, in µs.
    fn round_trip(&self, times: u32) -> Result<f64> {
        let (mut near, mut far) = self.connect()?;
        let answering = std::thread::spawn(move || {
            let mut byte = [0];
            while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
        });
        let mut series = Series::default();
        for _ in 0..times {
            let begun = Instant::now();
            near.write_all(&[1])?;
            near.read_exact(&mut [0])?;
            series.0.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        drop(near);
        answering
            .join()
            .map_err(|_| anyhow!("the far end panicked"))?;
        Ok(series.median())
    }
}

/// Everything that is made, and goes again.
struct Scene {
    tag: String,
    folder: tempfile::TempDir,
    underlays: std::cell::RefCell<Vec<(Namespace, Underlay)>>,
}

fn sh(words: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", words]).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(anyhow!(
            "{words}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

impl Scene {
    fn new() -> Result<Self> {
        Ok(Self {
            tag: format!("bench{}", std::process::id()),
            folder: tempfile::tempdir().context("make a folder")?,
            underlays: Default::default(),
        })
    }

    fn namespace(&self, name: &str) -> Result<Namespace> {
        let namespace = Namespace::named(&format!("{}-{name}", self.tag));
        namespace.create().context("make a namespace")?;
        sh(&format!("ip -n {} link set lo up", namespace.name()))?;
        Ok(namespace)
    }

    /// Two namespaces with a wire between them.
    fn wired(&self, name: &str) -> Result<[Namespace; 2]> {
        let [one, two] = [1, 2].map(|number| self.namespace(&format!("{name}{number}")));
        let (one, two) = (one?, two?);
        let (a, b) = (one.name(), two.name());
        sh(&format!(
            "ip -n {a} link add wire type veth peer name wire netns {b}
             ip -n {a} addr add 10.98.0.1/24 dev wire; ip -n {a} link set wire up
             ip -n {b} addr add 10.98.0.2/24 dev wire; ip -n {b} link set wire up"
        ))?;
        Ok([one, two])
    }

    fn plain(&self) -> Result<Pair> {
        let [near, far] = self.wired("w")?;
        let address = Ipv4Addr::new(10, 98, 0, 2);
        Ok(Pair { near, far, address })
    }

    fn bare(&self) -> Result<Pair> {
        let below = self.wired("v")?;
        let ends = [0, 1].map(|place| {
            let below = below[place].name();
            self.vxlan("b", place, below, "10.98.0", "wire", "")
        });
        pair(ends)
    }

    fn sealed(&self, name: &str, choose: fn(Underlay) -> Underlay) -> Result<Pair> {
        let hosts = self.wired(name)?;
        let tag = |place: usize| format!("{}{name}{place}", self.tag);
        let mut underlays = Vec::new();
        for (place, host) in hosts.iter().enumerate() {
            let tag = tag(place);
            let folder = self.folder.path().join(&tag);
            let relay = [program("boira")?.into(), "underlay-relay".into()];
            let underlay = Underlay::open(&tag, &folder, &relay).context("make a key")?;
            underlays.push((host.clone(), choose(underlay)));
        }
        for place in [0, 1] {
            let (there, peer) = (1 - place, &underlays[1 - place].1);
            let spec = UnderlaySpec {
                host: place as u32 + 1,
                peers: vec![PeerSpec {
                    host: there as u32 + 1,
                    key: peer.public_key(),
                    endpoint: format!("10.98.0.{}:{}", there + 1, peer.port()).parse()?,
                }],
            };
            inside(&underlays[place].0, underlays[place].1.ensure(&spec))?;
        }
        let ends = [0, 1].map(|place| {
            let below = format!("boira-{}-underlay", tag(place));
            self.vxlan(
                &format!("s{name}"),
                place,
                &below,
                "100.64.0",
                "wg0",
                "noudpcsum",
            )
        });
        self.underlays.borrow_mut().extend(underlays);
        pair(ends)
    }

    /// One end of a VXLAN, in a namespace of its own.
    fn vxlan(
        &self,
        name: &str,
        place: usize,
        below: &str,
        network: &str,
        device: &str,
        more: &str,
    ) -> Result<Namespace> {
        let end = self.namespace(&format!("{name}{}", place + 1))?;
        let (number, there) = (place + 1, 2 - place);
        sh(&format!(
            "ip -n {below} link add name vx0 netns {0} address 02:fe:00:00:00:0{number} type vxlan \
               id 7 local {network}.{number} remote {network}.{there} dev {device} dstport 4789 {more}
             ip -n {0} addr add 10.97.0.{number}/24 dev vx0
             ip -n {0} link set vx0 mtu {GUEST_MTU} up",
            end.name()
        ))?;
        Ok(end)
    }
}

fn by_relay(underlay: Underlay) -> Underlay {
    underlay.by_relay()
}

fn by_kernel(underlay: Underlay) -> Underlay {
    underlay
}

fn pair(ends: [Result<Namespace>; 2]) -> Result<Pair> {
    let [near, far] = ends;
    Ok(Pair {
        near: near?,
        far: far?,
        address: Ipv4Addr::new(10, 97, 0, 2),
    })
}

/// Runs `work` where processes that it starts are on that host.
fn inside<T: Send>(
    host: &Namespace,
    work: impl Future<Output = std::io::Result<T>> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let working = scope.spawn(move || -> Result<T> {
            let file = std::fs::File::open(host.path())?;
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(work)?)
        });
        working.join().map_err(|_| anyhow!("a host panicked"))?
    })
}

impl Drop for Scene {
    fn drop(&mut self) {
        for (host, underlay) in self.underlays.borrow().iter() {
            if let Err(error) = inside(host, underlay.remove()) {
                eprintln!("removing an underlay: {error:#}");
            }
        }
        for name in Namespace::list(&format!("{}-", self.tag)) {
            let _ = Namespace::named(&name).remove();
        }
    }
}
