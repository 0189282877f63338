//! Hosts that are lost: what they have of fenced guests is given away, after a whole fence of silence or
//! as soon as a command of the administrator's has switched the host off.

use crate::controller::Controller;
use crate::hosts;
use crate::links::Link;
use anyhow::{Context, Result, ensure};
use boira_core::fence::Watch;
use boira_core::{State, heal};
use boira_model::{Host, HostId};
use std::collections::HashMap;
use std::convert::Infallible;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How long a command may take that switches a host off.
const POWER_OFF: Duration = Duration::from_secs(60);

/// Hosts that are being switched off, or were and haven't been heard of since.
#[derive(Default)]
pub struct SwitchingOff(Mutex<HashMap<HostId, Switch>>);

#[derive(Clone, Copy)]
enum Switch {
    Running,
    /// Its command has ended well, after it was begun at this time of the links' clock.
    Off {
        since_ms: u64,
    },
}

impl SwitchingOff {
    fn hosts(&self) -> MutexGuard<'_, HashMap<HostId, Switch>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// Starts elsewhere what hosts have that are out.
pub async fn tick(controller: &Arc<Controller>) {
    let snapshot = controller.cluster.snapshot();
    let state = &snapshot.state;
    for (host, row) in &state.hosts {
        let link = controller.links.of(host);
        let others = || watches_but(controller, state, host);
        let judged = link.watch(|watch, now_ms| heal::judge(state, row, watch, &others, now_ms));
        if judged.shorten {
            let host = host.clone();
            let decided = controller.cluster.decide(move |draft| {
                heal::shorten(draft, &host);
                Ok::<_, Infallible>(())
            });
            // What can't be committed is tried again.
            let _ = decided.await;
        }
        if judged.lost {
            give_away(controller, host, &link).await;
            continue;
        }
        let mut witnesses = judged.witnesses.iter();
        let is_remote = |id| {
            state
                .hosts
                .get(id)
                .is_some_and(|host| is_remote(controller, host))
        };
        if let Some(command) = command_of(state, row)
            && witnesses.any(is_remote)
        {
            switch_off(controller, host, command).await;
        }
    }
}

/// What switches a host off, by its id or by its name. Several hosts may have one name, and another one's
/// command says nothing about this one.
fn command_of<'a>(state: &'a State, host: &Host) -> Option<&'a str> {
    let commands = &state.settings.power_off;
    let namesakes = || state.hosts.values().filter(|row| row.name == host.name);
    let by_name = || {
        commands
            .get(&host.name)
            .filter(|_| namesakes().count() == 1)
    };
    let command = commands.get(host.id.as_str()).or_else(by_name);
    command.map(String::as_str)
}

/// Those of the other hosts: this one's is being looked at.
fn watches_but(controller: &Controller, state: &State, host: &HostId) -> Vec<(HostId, Watch)> {
    let others = state.hosts.keys().filter(|other| *other != host);
    let watch = |id: &HostId| controller.links.of(id).watch(|watch, _| watch.clone());
    others.map(|id| (id.clone(), watch(id))).collect()
}

/// Whether it is on another machine than the controller's own, which always hears itself.
fn is_remote(controller: &Controller, host: &Host) -> bool {
    host.underlay.is_some() && !hosts::is_beside(controller, host)
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

/// The command runs beside the clockwork, one at a time for each host.
async fn switch_off(controller: &Arc<Controller>, host: &HostId, command: &str) {
    let link = controller.links.of(host);
    let before = controller.switching_off.hosts().get(host).copied();
    match before {
        Some(Switch::Running) => return,
        // Somebody may be switching it on again just now, so that isn't done again; but there may be room
        // elsewhere by now.
        Some(Switch::Off { since_ms }) if !link.watch(|watch, _| watch.heard_since(since_ms)) => {
            if link.watch(|watch, _| watch.is_off(since_ms)) {
                give_away(controller, host, &link).await;
            }
            return;
        }
        Some(Switch::Off { .. }) | None => {}
    }
    controller
        .switching_off
        .hosts()
        .insert(host.clone(), Switch::Running);
    let (controller, host, command) = (controller.clone(), host.clone(), command.to_owned());
    tokio::spawn(async move {
        let since_ms = link.watch(|_, now_ms| now_ms);
        tracing::warn!("{host} is not heard of; switching it off");
        match run(&command).await {
            Ok(()) if link.watch(|watch, _| watch.is_off(since_ms)) => {
                tracing::warn!("{host} is off");
                give_away(&controller, &host, &link).await;
                let off = Switch::Off { since_ms };
                controller.switching_off.hosts().insert(host, off);
                return;
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
