//! What the engine needs of the machine that it runs on. Two implementations: [`crate::RealHost`]
//! with the drivers, and [`crate::simulated::SimulatedHost`] for benches with hundreds of hosts.

use async_trait::async_trait;
use boira_core::plan::{Fence, Guest, Step};
use boira_core::wanted::Wanted;
use boira_model::wire::{StreamKind, WantedOverlay, WantedVolume, WantedVpc};
use boira_model::{
    Acceleration, HostCapacity, InstanceId, Intake, InterfaceId, Overhead, VolumeId,
};
use std::collections::{BTreeMap, BTreeSet};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::watch;
use tokio_util::io::SyncIoBridge;

/// A byte stream to a guest or its console.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Bytes that a stream passes on at a time.
pub const PIECE: usize = 256 << 10;
/// Bytes of a stream that wait to be sent.
const WAITING: usize = 1 << 20;

/// A stream of what a thread writes.
pub fn written_by(
    write: impl FnOnce(SyncIoBridge<DuplexStream>) -> anyhow::Result<()> + Send + 'static,
) -> impl Stream {
    let (near, far) = tokio::io::duplex(WAITING);
    let writer = SyncIoBridge::new(far);
    tokio::task::spawn_blocking(move || {
        // Whoever receives half of it knows.
        if let Err(error) = write(writer) {
            tracing::warn!("not all was sent: {error:#}");
        }
    });
    near
}

/// Passes on what comes from either of two streams until both have ended. How that is concerns only
/// their two other ends.
pub async fn join(near: &mut (impl Stream + ?Sized), far: &mut (impl Stream + ?Sized)) {
    let _ = tokio::io::copy_bidirectional_with_sizes(near, far, PIECE, PIECE).await;
}

/// A guest that is sent to the host that has it with this generation.
pub struct Departure {
    pub instance: InstanceId,
    pub generation: u64,
    /// Is told how far it has got, in bytes, and of how many.
    pub note: Box<dyn Fn(u64, u64) + Send + Sync>,
    /// Whether it is to stay after all.
    pub called_back: watch::Receiver<bool>,
}

/// What a host is, apart from its guests and disks.
#[derive(Clone, Debug)]
pub struct About {
    pub boot_id: String,
    pub name: String,
    pub capacity: HostCapacity,
    /// Why nothing new can be done there, such as for a full disk.
    pub unable: Option<String>,
    pub acceleration: Acceleration,
    pub machine: String,
    pub cpu: String,
    pub overhead: Overhead,
    pub intake: Intake,
    /// Public key and UDP port of this host's end of the network between hosts, where it has one.
    pub underlay: Option<(String, u16)>,
}

/// What is there now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub guests: BTreeMap<InstanceId, Guest>,
    /// Guests that are there and can't be looked at for now, and why.
    pub unclear: BTreeMap<InstanceId, String>,
    pub volumes: BTreeSet<VolumeId>,
    pub blobs: BTreeSet<String>,
}

#[async_trait]
pub trait Host: Send + Sync + 'static {
    fn about(&self) -> About;

    async fn observe(&self) -> anyhow::Result<Observed>;

    /// Resolves when [`Host::observe`] may have something new to say. For one waiter.
    async fn changed(&self);

    /// Has guests held at a deadline, whatever becomes of this process. Answers what is in force then.
    async fn fence(&self, fence: &Fence) -> anyhow::Result<Fence>;

    /// Carries one step out, but for [`Step::Send`]. Steps are idempotent.
    async fn carry_out(&self, step: &Step, wanted: &Wanted) -> anyhow::Result<()>;

    /// Fetches a volume's file from the host that has it. `note` is told how far it has got, in bytes,
    /// and its size.
    async fn fetch_volume(
        &self,
        volume: &WantedVolume,
        note: Box<dyn FnMut(u64, u64) + Send>,
    ) -> anyhow::Result<()>;

    /// Sends a running guest to another host, unless it is called back in time.
    async fn send_guest(&self, departure: &Departure, wanted: &Wanted) -> anyhow::Result<()>;

    async fn remove_volume(&self, volume: &VolumeId) -> anyhow::Result<()>;

    /// Makes this host a peer of those hosts and of no others; of nobody where it is `None`.
    async fn ensure_underlay(&self, peers: Option<&WantedOverlay>) -> anyhow::Result<()>;

    /// Brings one VPC in force and answers what it lacks, in words. `opened` is called as soon as guests can
    /// be started on its ports: what serves them is there before they ask for it.
    async fn ensure_network(
        &self,
        vpc: &WantedVpc,
        opened: Box<dyn FnOnce() + Send>,
    ) -> anyhow::Result<Vec<String>>;

    /// VPCs that are there, wanted or not.
    async fn networks(&self) -> Vec<String>;

    async fn remove_network(&self, vpc: &str) -> anyhow::Result<()>;

    /// Whether the guest behind this port answers ARP.
    async fn reachable(&self, vpc: &str, port: &InterfaceId) -> anyhow::Result<bool>;

    /// Opens what somebody waits for under this id.
    async fn open(&self, id: &str, kind: &StreamKind) -> anyhow::Result<Box<dyn Stream>>;
}
