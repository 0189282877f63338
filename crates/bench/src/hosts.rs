//! Hundreds of simulated hosts in one process. Each has the real engine, its own TLS connection and
//! its own folder; only guests and disks behind it are simulated.

use crate::process::Tied;
use anyhow::{Context, Result};
use boira_agent::simulated::SimulatedHost;
use boira_agent::{Controller, Identity};
use boira_model::HostCapacity;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

#[derive(Serialize, Deserialize)]
pub struct Order {
    pub agents: SocketAddr,
    pub identities: Vec<Identity>,
    pub capacity: HostCapacity,
    /// Each host's folder lies in it. Give it memory for a disk: a thousand hosts have a thousand
    /// disks, and the one of this machine would stand for none of them.
    pub folder: PathBuf,
}

/// The bench's handle on the process.
pub struct Hosts {
    _input: ChildStdin,
    process: Tied,
    _folder: tempfile::TempDir,
}

impl Hosts {
    pub fn start(
        agents: SocketAddr,
        identities: Vec<Identity>,
        capacity: HostCapacity,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("boira-bench-{}-", std::process::id()))
            .tempdir_in(memory())
            .context("make a folder for the hosts")?;
        let own = std::env::current_exe().context("find this program's own file")?;
        let mut process = Tied::spawn(Command::new(own).arg("hosts").stdin(Stdio::piped()))?;
        let mut input = process.0.stdin.take().context("the hosts have no input")?;
        let order = Order {
            agents,
            identities,
            capacity,
            folder: folder.path().to_owned(),
        };
        let mut line = serde_json::to_vec(&order).context("write the hosts' order")?;
        line.push(b'\n');
        input
            .write_all(&line)
            .context("hand the order to the hosts")?;
        Ok(Self {
            _input: input,
            process,
            _folder: folder,
        })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// A file system in memory, where there is one.
pub fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        shared.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// The process: runs until its input is closed.
pub fn serve() -> Result<()> {
    let mut line = String::new();
    let mut input = std::io::stdin().lock();
    input.read_line(&mut line).context("read the order")?;
    let order: Order = serde_json::from_str(&line).context("parse the order")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start a runtime")?;
    for (index, identity) in order.identities.iter().enumerate() {
        let home = order.folder.join(index.to_string());
        std::fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
        let controller = Arc::new(Controller::new(identity, order.agents)?);
        let name = format!("simulated-{index}");
        let host = Arc::new(SimulatedHost::new(&name, order.capacity, Duration::ZERO));
        runtime.spawn(async move {
            if let Err(error) = boira_agent::run(host, controller, &home).await {
                eprintln!("a simulated host ended: {error:#}");
            }
        });
    }
    let mut rest = Vec::new();
    input.read_to_end(&mut rest).context("wait for the end")?;
    runtime.shutdown_background();
    Ok(())
}
