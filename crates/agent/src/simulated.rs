//! A host without anything behind it: guests "run" after a delay. Benches use hundreds of them in one
//! process; each speaks the real protocol over TLS with the real engine.

use crate::host::{About, Departure, Host, Observed, Stream};
use anyhow::{Result, bail};
use async_trait::async_trait;
use boira_core::plan::{Fence, Guest, Step};
use boira_core::wanted::Wanted;
use boira_model::wire::{GuestState, Passage, StreamKind, WantedOverlay, WantedVolume, WantedVpc};
use boira_model::{Acceleration, Exit, HostCapacity, InterfaceId, Overhead, VolumeId};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

pub struct SimulatedHost {
    about: About,
    /// How long a guest takes from its start until it runs.
    boot: Duration,
    observed: Mutex<Observed>,
    changed: Notify,
}

impl SimulatedHost {
    pub fn new(name: &str, capacity: HostCapacity, boot: Duration) -> Self {
        Self {
            about: About {
                boot_id: "simulated".into(),
                name: name.into(),
                capacity,
                unable: None,
                acceleration: Acceleration {
                    hardware: false,
                    verdict: "simulated".into(),
                },
                machine: "simulated-1".into(),
                cpu: "simulated".into(),
                overhead: Overhead::default(),
                intake: Default::default(),
                // A key as long as a real one, so that what hosts are told of each other has its size.
                underlay: Some((format!("{name:=<44}"), 8775)),
            },
            boot,
            observed: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().expect("no holder of this lock panics")
    }
}

#[async_trait]
impl Host for SimulatedHost {
    fn about(&self) -> About {
        self.about.clone()
    }

    async fn observe(&self) -> Result<Observed> {
        Ok(self.observed().clone())
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn fence(&self, fence: &Fence) -> Result<Fence> {
        Ok(fence.clone())
    }

    async fn carry_out(&self, step: &Step, _wanted: &Wanted) -> Result<()> {
        if let Step::Start { .. } = step {
            tokio::time::sleep(self.boot).await;
        }
        let mut observed = self.observed();
        match step {
            Step::Fetch { sha256, .. } => {
                observed.blobs.insert(sha256.clone());
            }
            Step::MakeVolume { volume, .. } => {
                observed.volumes.insert(volume.file());
            }
            Step::Start { instance, .. } => {
                let guest = Guest {
                    generation: instance.generation,
                    state: match instance.passage {
                        Some(Passage::Arriving) => GuestState::Incoming,
                        _ => GuestState::Running,
                    },
                    detail: None,
                    boots: 1,
                    held: false,
                };
                observed.guests.insert(instance.id.clone(), guest);
            }
            Step::Reset { .. } | Step::Resume { .. } | Step::Send { .. } => {}
            Step::PowerButton { instance } | Step::Kill { instance } => {
                if let Some(guest) = observed.guests.get_mut(instance) {
                    guest.state = GuestState::Exited(Exit::Poweroff);
                }
            }
            Step::Forget { instance, .. } => {
                observed.guests.remove(instance);
            }
        }
        Ok(())
    }

    async fn fetch_volume(
        &self,
        volume: &WantedVolume,
        _note: Box<dyn FnMut(u64, u64) + Send>,
    ) -> Result<()> {
        self.observed().volumes.insert(volume.file());
        Ok(())
    }

    async fn send_guest(&self, _departure: &Departure, _wanted: &Wanted) -> Result<()> {
        bail!("simulated guests have no memory to send")
    }

    async fn remove_volume(&self, volume: &VolumeId) -> Result<()> {
        self.observed().volumes.remove(volume);
        Ok(())
    }

    async fn ensure_underlay(&self, _peers: Option<&WantedOverlay>) -> Result<()> {
        Ok(())
    }

    async fn ensure_network(
        &self,
        _vpc: &WantedVpc,
        _opened: Box<dyn FnOnce() + Send>,
    ) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn networks(&self) -> Vec<String> {
        Vec::new()
    }

    async fn remove_network(&self, _vpc: &str) -> Result<()> {
        Ok(())
    }

    async fn reachable(&self, _vpc: &str, _port: &InterfaceId) -> Result<bool> {
        Ok(true)
    }

    async fn open(&self, _id: &str, _kind: &StreamKind) -> Result<Box<dyn Stream>> {
        bail!("simulated guests have neither consoles nor ports")
    }
}
