//! Who this host is in its cloud, and how the certificate that proves it is kept valid.

use crate::client::Controller;
use anyhow::{Context, Result};
use boira_model::{CloudId, HostId, Wall};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Who this host is, as the controller enrolled it. Kept in `identity.json`, mode 0600.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    pub host: HostId,
    pub cloud: CloudId,
    /// In PEM, like the rest.
    pub certificate: String,
    /// From when on another certificate is asked for.
    #[serde(default = "at_once")]
    pub renew_after: Wall,
    pub key: String,
    /// PKCS#10: has the key signed again.
    #[serde(default)]
    pub request: String,
    pub authority: String,
    /// Where the cloud serves agents; absent where whoever starts the agent says it.
    #[serde(default)]
    pub controller: Option<SocketAddr>,
    /// Where it serves its API, to be relayed to guests.
    #[serde(default)]
    pub api: Option<SocketAddr>,
}

fn at_once() -> Wall {
    Wall(0)
}

impl Identity {
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read {}: has this host joined a cloud?", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// On return it is on the disk.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).context("write this host's identity")?;
        boira_files::replace(path, &bytes, 0o600)
            .with_context(|| format!("write {}", path.display()))
    }
}

/// How often it is looked whether another certificate is due, also after a clock was set.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// Where the controller is away there are months left to ask again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Asks for another certificate whenever one is due. Runs as long as the agent.
pub async fn keep_valid(mut identity: Identity, controller: Arc<Controller>, path: &Path) {
    loop {
        let due = identity.renew_after <= now() && !identity.request.is_empty();
        let wait = match due {
            false => LOOK_AGAIN,
            true => match renew(&mut identity, &controller, path).await {
                Ok(()) => {
                    tracing::info!("this host's certificate was renewed");
                    LOOK_AGAIN
                }
                Err(error) => {
                    tracing::warn!("this host's certificate is not renewed: {error:#}");
                    ASK_AGAIN
                }
            },
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew(identity: &mut Identity, controller: &Controller, path: &Path) -> Result<()> {
    let new = controller.renew(identity).await?;
    let next = Identity {
        certificate: new.certificate,
        renew_after: new.renew_after,
        ..identity.clone()
    };
    controller.show(&next)?;
    next.write(path)?;
    *identity = next;
    Ok(())
}

pub fn now() -> Wall {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Wall(since.map_or(0, |since| since.as_millis() as i64))
}
