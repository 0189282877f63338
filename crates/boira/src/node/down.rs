//! Going down: guests are switched off by their power buttons, their networks removed, and what they
//! should be is kept for the next start.

use super::claim::Claim;
use super::{Log, cloud_tag, commands, is_up, lock_soon, require_root, supervisor};
use crate::commands::up::program;
use crate::home::Home;
use anyhow::{Context, Result, bail};
use boira_agent::watchdog::Watchdog;
use boira_agent::{Identity, absence, wall_now};
use boira_hypervisor::cgroup::Cgroups;
use boira_hypervisor::{GuestState, Hypervisor};
use boira_model::Wall;
use boira_model::wire::StepReport;
use boira_network::Network;
use boira_network::underlay::Underlay;
use nix::sys::signal::{Signal, kill};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long guests may take to switch themselves off when the cloud goes down.
const DOWN_DEADLINE: Duration = Duration::from_secs(60);
/// How long a guest that is adopted may take to say what it does.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);
/// How long a supervisor may take to say who it is.
const BEGINNING: Duration = Duration::from_secs(5);
const PRESS_AGAIN: Duration = Duration::from_secs(1);
const SWITCHING_OFF: &str = "switching guests off";

/// Ends a cloud: its supervisor if there is one, else what it left. Whether there was anything to end.
pub async fn down(home: &Home, note: impl Fn(String)) -> Result<bool> {
    require_root("`boira down`")?;
    if !home.run("lock").exists() {
        return leave(home, &note).await;
    }
    if !is_up(home)? {
        let _lock = lock_soon(home).await?;
        return switch_off(home, &note).await;
    }
    let log = Log::now(home);
    let begun = Instant::now();
    let mut told = false;
    while is_up(home)? {
        // One that has just begun hasn't said yet who it is, and one that ends may be gone.
        if !told {
            match tell_to_end(home) {
                Ok(()) => told = true,
                Err(error) if begun.elapsed() > BEGINNING => return Err(error),
                Err(_) => {}
            }
        }
        note(SWITCHING_OFF.into());
        if begun.elapsed() > DOWN_DEADLINE + Duration::from_secs(30) {
            bail!(
                "the cloud did not go down; see {}",
                home.run("supervisor.log").display()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if closing_marker(home).exists() {
        bail!(
            "the cloud went down with something left; `sudo {}{} down` tries again:\n{}",
            program(),
            home.option(),
            log.since(home)
        );
    }
    Ok(true)
}

fn tell_to_end(home: &Home) -> Result<()> {
    kill(supervisor(home)?, Signal::SIGTERM).context("tell the supervisor to end")
}

/// Ends what the agent of a host that joined has left: its guests go on without it.
async fn leave(home: &Home, note: &dyn Fn(String)) -> Result<bool> {
    let Ok(identity) = Identity::read(&home.agent().join("identity.json")) else {
        return Ok(false);
    };
    let _claim = Claim::take(&cloud_tag(&identity.cloud)).context(
        "end the agent first, `systemctl disable --now boira-agent`, or as it was started",
    )?;
    switch_off(home, note).await
}

/// Exists while guests are being switched off because the cloud goes down, and names them, one a
/// line, so that they aren't taken for guests that switched themselves off.
pub fn closing_marker(home: &Home) -> PathBuf {
    home.agent().join("closing")
}

/// Presses every guest's power button, waits, ends what remains, and removes the networks. What the
/// guests should be stays as it is, so the next `up` starts them again; a guest that had ended by
/// itself before is left for the next agent to report. Whether there was anything to switch off.
pub async fn switch_off(home: &Home, note: &dyn Fn(String)) -> Result<bool> {
    let directory = home.agent();
    let Ok(identity) = Identity::read(&directory.join("identity.json")) else {
        return Ok(false);
    };
    let commands = commands()?;
    let cloud = cloud_tag(&identity.cloud);
    let group = format!("boira-{cloud}");
    let guests = boira_hypervisor::open(boira_hypervisor::Settings {
        dir: directory.join("guests"),
        console_command: commands.console,
        cgroup: Some(group.clone()),
        acceleration: crate::commands::doctor::without_probe(),
    })
    .context("open the hypervisor")?;
    all_have_answered(&*guests).await?;
    let closing = note_closing(home, running(&*guests).await?)?;
    let (begun, ended) = (wall_now(), press_and_wait(&*guests, note).await?);
    let steps: Vec<StepReport> = ended
        .into_iter()
        .map(|(guest, end)| switched_off(guest, begun, end))
        .collect();
    absence::note(&directory, &steps)?;
    for guest in &closing {
        guests
            .forget(guest)
            .await
            .with_context(|| format!("remove {guest}"))?;
    }
    let network = Network::new(&cloud, &directory.join("networks"), commands.services);
    let networks = network.present().await;
    for vpc in &networks {
        network
            .remove(vpc)
            .await
            .with_context(|| format!("remove the network {vpc}"))?;
    }
    let underlay = Underlay::open(&cloud, &directory.join("networks"), &commands.relay)
        .context("open the network between hosts")?;
    underlay
        .remove()
        .await
        .context("remove the network between hosts")?;
    Watchdog::new(&directory, commands.watchdog)
        .end()
        .await
        .context("end the watchdog")?;
    if let Err(error) = Cgroups::open(&group).remove_all() {
        tracing::warn!("the control group {group} stays: {error}");
    }
    std::fs::remove_file(closing_marker(home)).context("note that the cloud is down")?;
    Ok(!closing.is_empty() || !networks.is_empty())
}

/// Writes down who runs now, beside those that an interrupted going down has written.
fn note_closing(home: &Home, running: Vec<String>) -> Result<BTreeSet<String>> {
    let marker = closing_marker(home);
    let before = std::fs::read_to_string(&marker).unwrap_or_default();
    let mut closing: BTreeSet<String> = before.lines().map(str::to_owned).collect();
    closing.extend(running);
    let text: String = closing.iter().map(|guest| format!("{guest}\n")).collect();
    boira_controller::config::replace(&marker, text.as_bytes(), 0o600)
        .context("note that the cloud is going down")?;
    Ok(closing)
}

/// How a guest ended that was to switch itself off.
struct End {
    took: Duration,
    by_itself: bool,
}

/// For the instance's history.
fn switched_off(guest: String, begun: Wall, end: End) -> StepReport {
    let late = format!(
        "it didn't switch itself off in {} s, and was ended",
        DOWN_DEADLINE.as_secs()
    );
    StepReport {
        instance: guest.as_str().into(),
        at: begun,
        what: "switched off, as the cloud goes down".into(),
        took_ms: end.took.as_millis() as u64,
        error: (!end.by_itself).then_some(late),
    }
}

/// Answers how those ended that ran.
async fn press_and_wait(
    guests: &dyn Hypervisor,
    note: &dyn Fn(String),
) -> Result<BTreeMap<String, End>> {
    let begun = Instant::now();
    let mut ended = BTreeMap::new();
    let mut before: Vec<String> = Vec::new();
    loop {
        let left = running(guests).await?;
        let gone = before.into_iter().filter(|guest| !left.contains(guest));
        let end = |by_itself| End {
            took: begun.elapsed(),
            by_itself,
        };
        ended.extend(gone.map(|guest| (guest, end(true))));
        if left.is_empty() {
            return Ok(ended);
        }
        note(SWITCHING_OFF.into());
        if begun.elapsed() > DOWN_DEADLINE {
            for guest in left {
                tracing::warn!("{guest} did not switch itself off in time; switching it off");
                guests
                    .kill(&guest)
                    .await
                    .with_context(|| format!("end {guest}"))?;
                ended.insert(guest, end(false));
            }
            return Ok(ended);
        }
        for guest in &left {
            if let Err(error) = guests.power_button(guest).await {
                tracing::debug!("{guest}: its power button: {error}");
            }
        }
        before = left;
        // A guest that is still booting doesn't listen yet, so the button is pressed again.
        let _ = tokio::time::timeout(PRESS_AGAIN, guests.changed()).await;
    }
}

/// Who ended while nobody looked says so in its first answer, and is not to be taken for one that runs.
async fn all_have_answered(guests: &dyn Hypervisor) -> Result<()> {
    let begun = Instant::now();
    loop {
        let observed = guests.observe().await.context("look at the guests")?;
        let waiting = observed
            .iter()
            .any(|guest| guest.state == GuestState::Starting);
        if !waiting || begun.elapsed() > ANSWER_DEADLINE {
            return Ok(());
        }
        let _ = tokio::time::timeout(ANSWER_DEADLINE, guests.changed()).await;
    }
}

async fn running(guests: &dyn Hypervisor) -> Result<Vec<String>> {
    let observed = guests.observe().await.context("look at the guests")?;
    Ok(observed
        .into_iter()
        .filter(|guest| !matches!(guest.state, GuestState::Exited(_)))
        .map(|guest| guest.guest)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a supervisor that was told to end before it had noted who it is.
    #[tokio::test]
    async fn a_beginning_that_ends_by_itself_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::find(Some(folder.path()));
        home.create().expect("a home");
        let held = super::super::lock(&home)
            .expect("a lock")
            .expect("it is free");
        let other = std::process::id().to_string();
        std::fs::write(home.run("supervisor.pid"), other).expect("a stale number");
        let seen = std::cell::Cell::new(0);
        let held = std::cell::Cell::new(Some(held));
        let outcome = down(&home, |_| {
            seen.set(seen.get() + 1);
            if seen.get() == 3 {
                held.take();
            }
        });
        assert!(outcome.await.expect("there was something to end"));
        assert_eq!(seen.get(), 3);
    }

    #[test]
    fn whom_an_interrupted_going_down_named_stays_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::find(Some(folder.path()));
        std::fs::create_dir(home.agent()).expect("a folder");
        note_closing(&home, vec!["i-1".into(), "i-2".into()]).expect("it is written");
        let closing = note_closing(&home, vec!["i-2".into()]).expect("it is written");
        assert_eq!(closing.into_iter().collect::<Vec<_>>(), ["i-1", "i-2"]);
        let text = std::fs::read_to_string(closing_marker(&home)).expect("it is there");
        assert_eq!(text, "i-1\ni-2\n");
    }
}
