//! `boira join`: makes this machine a host of a cloud. The line that `boira host invite` prints runs it.

use crate::home::Home;
use crate::node;
use crate::output::{self, Format, line_out};
use crate::terminal::Progress;
use anyhow::{Context, Result, bail};
use boira_agent::Identity;
use boira_controller::pki;
use boira_model::{CloudId, HostId, Wall};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Args)]
pub struct Join {
    /// Where the cloud serves agents
    #[arg(value_name = "ADDRESS:PORT")]
    controller: SocketAddr,
    /// The cloud's CA, as the invitation's script has it
    #[arg(long, value_name = "FILE")]
    authority: PathBuf,
    /// What the invitation gave
    #[arg(long)]
    token: String,
    /// The cloud's id, as the invitation's script has it
    #[arg(long)]
    cloud: Option<CloudId>,
}

/// The key and its request, kept until the answer is: a join whose answer was lost is repeated.
#[derive(Serialize, Deserialize)]
struct Pending {
    key: String,
    request: String,
}

#[derive(Deserialize)]
struct Answer {
    host: HostId,
    cloud: CloudId,
    certificate: String,
    renew_after: Wall,
    authority: String,
    api: Option<SocketAddr>,
}

pub async fn join(home: &Home, format: Format, ask: Join) -> Result<()> {
    node::require_root("`boira join`")?;
    let path = home.agent().join("identity.json");
    // One that was cut off may come back as what it was.
    let was = match path.exists() {
        true => Some(Identity::read(&path)?),
        false => None,
    };
    if let Some(cloud) = ask.cloud.as_ref().filter(|_| was.is_none()) {
        node::is_free_for(cloud)?;
    }
    let lacking = super::doctor::lacking();
    if !lacking.is_empty() {
        bail!("no guest would run here:\n{}", lacking.join("\n"));
    }
    home.create()?;
    let authority = std::fs::read_to_string(&ask.authority)
        .with_context(|| format!("read {}", ask.authority.display()))?;
    let pending = pending(home)?;
    let question = json!({
        "token": ask.token,
        "name": node::host_name(),
        "request": pending.request,
        "was": was.as_ref().map(|was| &was.host),
        "cloud": was.as_ref().map(|was| &was.cloud),
    });
    let answer = boira_agent::client::join(ask.controller, &authority, &question).await?;
    let answer: Answer =
        serde_json::from_slice(&answer).context("parse the controller's answer")?;
    // Once the cloud takes this machine, and before its agent says that it is there, so that no guest
    // disturbs it. Who is interrupted asks again with the same key.
    let progress = Arc::new(Progress::new(format == Format::Json));
    measure(home, &progress).await?;
    drop(progress);
    let identity = Identity {
        host: answer.host,
        cloud: answer.cloud,
        certificate: answer.certificate,
        renew_after: answer.renew_after,
        key: pending.key,
        request: pending.request,
        authority: answer.authority,
        controller: Some(ask.controller),
        api: answer.api,
    };
    identity.write(&path)?;
    let _ = std::fs::remove_file(pending_path(home));
    match format {
        Format::Json => output::json(&json!({ "host": identity.host, "cloud": identity.cloud })),
        Format::Table => line_out(&format!(
            "this machine is {} of the cloud {}",
            identity.host, identity.cloud
        )),
    }
    Ok(())
}

/// Measures this machine, unless that was done before.
pub(super) async fn measure(home: &Home, progress: &Arc<Progress>) -> Result<()> {
    let speed = boira_agent::intake::look(&home.agent()).speed;
    // Who was measured before guests were, is measured anew.
    if speed.is_some_and(|speed| speed.guest_rounds_s > 0) {
        return Ok(());
    }
    let progress = progress.clone();
    let note = move |what: &str| progress.step(format!("measuring this machine: {what}"));
    let measured = boira_agent::intake::measure(&home.agent(), note).await;
    measured.map(drop)
}

fn pending_path(home: &Home) -> PathBuf {
    home.agent().join("joining.json")
}

fn pending(home: &Home) -> Result<Pending> {
    let path = pending_path(home);
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Ok(pending) = serde_json::from_str(&text)
    {
        return Ok(pending);
    }
    let (key, request) = pki::host_request()?;
    let pending = Pending { key, request };
    let text = serde_json::to_vec(&pending).context("write this host's key")?;
    boira_controller::config::replace(&path, &text, 0o600)?;
    Ok(pending)
}
