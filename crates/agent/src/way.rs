//! The way of a guest to another host: its hypervisor's channels, and beside them what the kernel knows
//! of its connections and the calls that this host has into it.

use crate::calls::{CALLS_MAX, Calls, Guest, Migration, SavedCall};
use crate::client::Controller;
use crate::host::{Departure, Stream};
use anyhow::{Context, Result};
use async_trait::async_trait;
use boira_hypervisor::{AsyncReadWrite, Dial, Passed};
use boira_model::InstanceId;
use boira_model::wire::WantedVpc;
use boira_network::Network;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// The channels that carry something of a port, whose VPC and id follow, and the most that is taken.
const CONNECTIONS: &str = "connections.";
const CONNECTIONS_BYTES: u64 = 4 << 20;
const CALLS: &str = "calls.";
const CALLS_BYTES: u64 = 64 << 20;

/// An interface of a guest that goes.
pub struct Port {
    eni: String,
    guest: Guest,
}

impl Port {
    pub fn all_of(instance: &InstanceId, vpcs: &[WantedVpc]) -> Vec<Self> {
        let ports = vpcs.iter().flat_map(|vpc| {
            let own = vpc.ports.iter().filter(|port| port.instance == *instance);
            own.map(|port| Self {
                eni: port.interface.to_string(),
                guest: (vpc.vpc.to_string(), port.ip),
            })
        });
        ports.collect()
    }
}

/// From this host to another one, by streams that the controller arranges.
pub struct Way<'a> {
    pub controller: &'a Controller,
    pub network: &'a Network,
    pub calls: &'a Calls,
    pub departure: &'a Departure,
    pub ports: Vec<Port>,
}

impl Way<'_> {
    async fn send_connections(&self, port: &Port) -> Result<()> {
        let saved = self.network.connections(&port.guest.0, &port.eni).await?;
        self.tell(CONNECTIONS, port, saved.as_bytes()).await
    }

    /// After the connections: without them the groups may not know a call.
    async fn send_calls(&self, port: &Port) -> Result<()> {
        let migration = Migration {
            instance: self.departure.instance.clone(),
            generation: self.departure.generation,
        };
        let held = self.calls.hold(&port.guest, &migration).await;
        if held.is_empty() {
            return Ok(());
        }
        let told = serde_json::to_vec(&held).context("write the calls")?;
        self.tell(CALLS, port, &told).await
    }

    async fn tell(&self, what: &str, port: &Port, told: &[u8]) -> Result<()> {
        let channel = format!("{what}{}.{}", port.guest.0, port.eni);
        let mut there = self.dial(&channel).await?;
        there.write_all(told).await?;
        there.shutdown().await?;
        // The other side closes when it is in force.
        there.read_to_end(&mut Vec::new()).await?;
        Ok(())
    }
}

#[async_trait]
impl Dial for Way<'_> {
    async fn dial(&self, channel: &str) -> std::io::Result<Box<dyn AsyncReadWrite>> {
        let Departure {
            instance,
            generation,
            ..
        } = self.departure;
        let opened = self.controller.channel(instance, *generation, channel);
        match opened.await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(std::io::Error::other(format!("{error:#}"))),
        }
    }

    async fn halted(&self) {
        let id = &self.departure.instance;
        for port in &self.ports {
            // Those that others have begun are known again with their next packet, so most live on without.
            if let Err(error) = self.send_connections(port).await {
                tracing::warn!("the connections of {id} don't move with it: {error:#}");
            }
            if let Err(error) = self.send_calls(port).await {
                tracing::warn!("who is logged in to {id} has to do so again: {error:#}");
            }
        }
    }

    fn passed(&self, passed: Passed) {
        let of_memory_bytes = passed.memory_bytes + passed.memory_left_bytes;
        match of_memory_bytes {
            0 => (self.departure.note)(passed.disk_bytes, passed.of_disk_bytes),
            _ => (self.departure.note)(passed.memory_bytes, of_memory_bytes),
        }
    }

    async fn called_back(&self) {
        let mut called_back = self.departure.called_back.clone();
        if called_back.wait_for(|called| *called).await.is_err() {
            // Nobody is left to call.
            std::future::pending().await
        }
    }
}

/// Where a guest comes in.
pub struct WayIn {
    pub network: Arc<Network>,
    pub calls: Calls,
    pub migration: Migration,
}

impl WayIn {
    /// Where something of a guest's port is written, before the guest comes; closes when that is in force.
    /// `None` for a channel that is the hypervisor's.
    pub fn channel(self, channel: &str) -> Option<Result<Box<dyn Stream>>> {
        let (is_calls, port) = match channel.strip_prefix(CONNECTIONS) {
            Some(port) => (false, port),
            None => (true, channel.strip_prefix(CALLS)?),
        };
        let Some((vpc, eni)) = port.split_once('.') else {
            return Some(Err(anyhow::anyhow!("{channel} names no port")));
        };
        let (vpc, eni) = (vpc.to_owned(), eni.to_owned());
        let (near, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(async move {
            let taken = match is_calls {
                true => self.take_calls(&vpc, &eni, far).await,
                false => self.take_connections(&vpc, &eni, far).await,
            };
            if let Err(error) = taken {
                tracing::warn!("some of a guest's connections don't come with it: {error:#}");
            }
        });
        Some(Ok(Box::new(near)))
    }

    async fn take_connections(&self, vpc: &str, eni: &str, mut far: DuplexStream) -> Result<()> {
        let mut saved = String::new();
        let mut coming = (&mut far).take(CONNECTIONS_BYTES);
        let read = coming.read_to_string(&mut saved).await;
        read.context("read them")?;
        let port = (self.migration.instance.as_str(), eni);
        Ok(self.network.adopt_connections(vpc, port, &saved).await?)
    }

    async fn take_calls(&self, vpc: &str, eni: &str, mut far: DuplexStream) -> Result<()> {
        let mut told = Vec::new();
        let mut coming = (&mut far).take(CALLS_BYTES);
        coming.read_to_end(&mut told).await.context("read them")?;
        let calls: Vec<SavedCall> = serde_json::from_slice(&told).context("parse them")?;
        for call in calls.into_iter().take(CALLS_MAX) {
            if let Err(error) = self.take_call(vpc, eni, call).await {
                tracing::warn!(
                    "somebody who is logged in to a guest has to do so again: {error:#}"
                );
            }
        }
        Ok(())
    }

    async fn take_call(&self, vpc: &str, eni: &str, call: SavedCall) -> Result<()> {
        let port = (self.migration.instance.as_str(), eni);
        let stream = self.network.adopt_dialled(vpc, port, &call.tcp).await?;
        let guest = (vpc.to_owned(), *call.tcp.remote.ip());
        self.calls.take_in(guest, &self.migration, call, stream)
    }
}
