//! Hosts that are lost: what they have of fenced guests is given away, after a whole fence of silence or
//! as soon as a command of the administrator's has switched the host off.

use crate::controller::Controller;
use crate::links::Link;
use anyhow::{Context, Result, ensure};
use boira_core::heal;
use boira_model::HostId;
use std::collections::HashSet;
use std::convert::Infallible;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How long a command may take that switches a host off.
const POWER_OFF: Duration = Duration::from_secs(60);

/// Hosts that are being switched off.
#[derive(Default)]
pub struct SwitchingOff(Mutex<HashSet<HostId>>);

impl SwitchingOff {
    fn hosts(&self) -> MutexGuard<'_, HashSet<HostId>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// Starts elsewhere what hosts have that are out.
pub async fn tick(controller: &Arc<Controller>) {
    let snapshot = controller.cluster.snapshot();
    let settings = &snapshot.state.settings;
    let fence_ms = settings.fence_s.saturating_mul(1000);
    for (host, row) in &snapshot.state.hosts {
        let link = controller.links.of(host);
        let is_due = heal::is_due(&snapshot.state, host);
        if (is_due && link.put_out(fence_ms)) || link.is_out() {
            give_away(controller, host, &link).await;
        } else if is_due
            && snapshot.state.silent.contains(host)
            && let Some(command) = settings.power_off.get(&row.name)
        {
            switch_off(controller, host, command);
        }
    }
}

async fn give_away(controller: &Controller, host: &HostId, link: &Link) {
    let lost = host.clone();
    let decided = controller.cluster.decide(move |draft| {
        heal::lost(draft, &lost);
        Ok::<_, Infallible>(())
    });
    // Of a commit that failed nobody knows whether it counts until another one has succeeded.
    if decided.await.is_ok() {
        link.let_in();
    }
}

/// Beside the clockwork, one command at a time for each host.
fn switch_off(controller: &Arc<Controller>, host: &HostId, command: &str) {
    if !controller.switching_off.hosts().insert(host.clone()) {
        return;
    }
    let (controller, host, command) = (controller.clone(), host.clone(), command.to_owned());
    tokio::spawn(async move {
        let link = controller.links.of(&host);
        let since_ms = Link::now_ms();
        tracing::warn!("{host} is not heard of; switching it off");
        match run(&command).await {
            Ok(()) if link.is_off(since_ms) => {
                tracing::warn!("{host} is off");
                give_away(&controller, &host, &link).await;
            }
            Ok(()) => tracing::warn!("{host} was heard of while it was switched off"),
            Err(error) => {
                tracing::error!("{host} can't be switched off: {error:#}");
                // It is tried again as long as the host is silent, but not all the time.
                tokio::time::sleep(POWER_OFF / 2).await;
            }
        }
        controller.switching_off.hosts().remove(&host);
    });
}

async fn run(command: &str) -> Result<()> {
    let running = tokio::process::Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(POWER_OFF, running)
        .await
        .with_context(|| format!("it took more than {} s", POWER_OFF.as_secs()))?
        .context("run its command")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "its command ended with {}: {}",
        output.status,
        said.trim()
    );
    Ok(())
}
