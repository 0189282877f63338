//! Hosts that are lost: what they have of fenced guests is given away, after a whole fence of silence or
//! as soon as a command of the administrator's has switched the host off.

use crate::controller::Controller;
use crate::links::Link;
use anyhow::{Context, Result, ensure};
use boira_core::{State, heal};
use boira_model::wire::Endpoint;
use boira_model::{Admission, Host, HostId};
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
    let fence_ms = settings.fence_ms();
    let silence = Duration::from_millis(settings.silence_ms());
    for (host, row) in &snapshot.state.hosts {
        let link = controller.links.of(host);
        let shorter = row.fence_ms > fence_ms
            && link.watch(|watch, now_ms| watch.has_none_longer(now_ms, fence_ms));
        if shorter {
            let host = host.clone();
            let decided = controller.cluster.decide(move |draft| {
                heal::shorten(draft, &host);
                Ok::<_, Infallible>(())
            });
            // What can't be committed is tried again.
            let _ = decided.await;
        }
        // Who was heard of lately has no witnesses against it, so its instances needn't be looked at.
        let is_quiet = link.silence() >= silence;
        let is_due = is_quiet && heal::is_due(&snapshot.state, host);
        let is_out = link.watch(|watch, _| watch.is_out());
        let witnesses = match is_due && !is_out {
            true => witnesses(controller, &snapshot.state, host),
            false => Witnesses::default(),
        };
        if is_out || (witnesses.any && link.watch(|watch, now_ms| watch.put_out(now_ms, fence_ms)))
        {
            give_away(controller, host, &link).await;
        } else if witnesses.remote
            && let Some(command) = settings.power_off.get(&row.name)
        {
            switch_off(controller, host, command);
        }
    }
}

/// Who has been heard of when a host had been silent for long already: without any, it is the
/// controller that is cut off.
#[derive(Default)]
struct Witnesses {
    any: bool,
    /// On another machine than the controller's own, which always hears itself.
    remote: bool,
}

fn witnesses(controller: &Controller, state: &State, lost: &HostId) -> Witnesses {
    let silence_ms = state.settings.silence_ms();
    let watch = controller.links.of(lost).watch(|watch, _| watch.clone());
    let mut found = Witnesses::default();
    for (id, row) in state.hosts.iter().filter(|(id, _)| *id != lost) {
        let other = controller.links.of(id).watch(|watch, _| watch.clone());
        if row.admission != Admission::Revoked && watch.is_witnessed_by(&other, silence_ms) {
            found.any = true;
            found.remote |= is_remote(controller, row);
        }
    }
    found
}

fn is_remote(controller: &Controller, host: &Host) -> bool {
    match host.underlay.as_ref().map(|underlay| underlay.endpoint) {
        Some(Some(Endpoint::At(address))) => address.ip() != controller.options.agents.ip(),
        // Behind address translation.
        Some(None) => true,
        Some(Some(Endpoint::BesideController(_))) | None => false,
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
        link.watch(|watch, _| watch.let_in());
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
        let since_ms = link.watch(|_, now_ms| now_ms);
        tracing::warn!("{host} is not heard of; switching it off");
        match run(&command).await {
            Ok(()) if link.watch(|watch, _| watch.is_off(since_ms)) => {
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
