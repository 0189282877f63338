//! One guest as its driver sees it: a process, a monitor, and what they said last.
//!
//! A task follows each guest. Events only make it ask: what it reports always comes from
//! `query-status`, so that a guest that was found and one that was watched read alike. QEMU keeps
//! the reason of a poweroff or a panic (`-no-shutdown`, `panic=pause`); the task writes it down
//! and only then ends the process, so that the reason is never lost and told once.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::log;
use super::process::{Ending, Process};
use super::qmp::{Client, Event, QmpError};
use super::recording::Recording;
use super::rundir::{self, Exit, Launch, RunDir};
use crate::{Error, ExitReason, GuestState, ObservedGuest, Result};

/// How long QEMU may take to greet. It may be starting on a busy host.
const GREETING: Duration = Duration::from_secs(20);
/// How long any command may take.
pub const COMMAND: Duration = Duration::from_secs(10);
/// How long QEMU may take to begin to quit before it is killed.
const QUIT: Duration = Duration::from_millis(1500);
/// How long to leave QEMU alone when its monitor has failed and it still runs.
const RECONNECT: Duration = Duration::from_secs(1);
/// How long the recorder may take to count a reset.
const RECOUNT: Duration = Duration::from_millis(100);
/// How long to wait for what QEMU said last.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a killed process may take to vanish.
const VANISH: Duration = Duration::from_secs(30);
/// How much of QEMU's stderr goes into a reason.
const REASON_BYTES_MAX: u64 = 2000;

/// A guest that exists, running or exited.
pub struct Guest {
    pub launch: Launch,
    pub dir: Arc<RunDir>,
    /// Nothing once it is known to have ended.
    process: Option<Process>,
    follower: OnceLock<AbortHandle>,
    seen: watch::Sender<Seen>,
    monitor: watch::Sender<Option<Client>>,
    console_log: Option<File>,
    changed: Arc<Notify>,
    /// It is being sent to another host from here.
    departing: AtomicBool,
    taking_over: AtomicBool,
    disk_error: Mutex<Option<String>>,
}

/// As long as this lives a guest is being sent to another host, or let go on at this one.
pub struct UnderWay<'a>(&'a AtomicBool);

impl<'a> UnderWay<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    state: GuestState,
    detail: Option<String>,
    since: SystemTime,
}

impl Guest {
    /// A guest whose process runs, and a task that follows it, and keeps it recorded, to its end.
    pub fn follow(
        launch: Launch,
        dir: RunDir,
        process: Process,
        (recording, recorder): (Recording, Option<Process>),
        changed: Arc<Notify>,
    ) -> Arc<Guest> {
        let guest = Arc::new(Guest::new(
            launch,
            dir,
            Some(process),
            GuestState::Starting,
            changed,
        ));
        let followed = Arc::clone(&guest);
        let follower =
            tokio::spawn(async move { followed.until_its_end(recording, recorder).await });
        // Empty until now: nobody else has seen this guest yet.
        let _ = guest.follower.set(follower.abort_handle());
        guest
    }

    /// Leaves the guest alone from now on, so that another driver may take it up.
    pub fn abandon(&self) {
        if let Some(follower) = self.follower.get() {
            follower.abort();
        }
    }

    /// A guest whose process is gone; the reason is written down if it wasn't.
    pub fn ended(launch: Launch, dir: RunDir, changed: Arc<Notify>) -> Arc<Guest> {
        let exit = conclude(&dir, Ending::Unknown);
        let guest = Guest::new(launch, dir, None, GuestState::Exited(exit.reason), changed);
        guest.seen.send_modify(|seen| seen.since = exit.at);
        Arc::new(guest)
    }

    fn new(
        launch: Launch,
        dir: RunDir,
        process: Option<Process>,
        state: GuestState,
        changed: Arc<Notify>,
    ) -> Guest {
        let console_log = File::open(dir.at(rundir::CONSOLE_LOG)).ok();
        let seen = Seen {
            state,
            detail: None,
            since: launch.at,
        };
        Guest {
            launch,
            dir: Arc::new(dir),
            process,
            follower: OnceLock::new(),
            seen: watch::Sender::new(seen),
            monitor: watch::Sender::new(None),
            console_log,
            changed,
            departing: AtomicBool::new(false),
            taking_over: AtomicBool::new(false),
            disk_error: Mutex::default(),
        }
    }

    pub fn departs(&self) -> UnderWay<'_> {
        UnderWay::begin(&self.departing)
    }

    pub fn takes_over(&self) -> UnderWay<'_> {
        UnderWay::begin(&self.taking_over)
    }

    /// What is known now.
    pub fn observe(&self) -> ObservedGuest {
        let Seen {
            state,
            detail,
            since,
        } = self.seen.borrow().clone();
        let counts = self
            .console_log
            .as_ref()
            .and_then(|log| log::counts(log).ok());
        let resets = counts.map_or(0, |counts| counts.resets);
        let exited = matches!(state, GuestState::Exited(_));
        let process = self.process.as_ref().filter(|_| !exited);
        let held = process.is_some_and(Process::is_stopped);
        let (state, detail) = match held {
            true => (
                GuestState::Paused,
                Some("its process is stopped".to_owned()),
            ),
            false => (state, detail),
        };
        ObservedGuest {
            guest: self.launch.spec.guest.clone(),
            generation: self.launch.spec.generation,
            state,
            detail,
            since,
            pid: process.map(Process::pid),
            boots: 1 + resets,
            held,
        }
    }

    /// Whether its process is gone.
    pub fn has_exited(&self) -> bool {
        matches!(self.seen.borrow().state, GuestState::Exited(_))
    }

    /// Runs a monitor command, once the monitor answers.
    pub async fn command(&self, command: &'static str) -> Result<Value> {
        let client = self.client().await?;
        let result = client.execute(command, json!({}), COMMAND).await;
        result.map_err(|error| self.error(error))
    }

    /// The monitor, once it answers.
    pub async fn client(&self) -> Result<Client> {
        let client = self.monitor(COMMAND).await?;
        client.ok_or_else(|| self.error(QmpError::Timeout))
    }

    /// What a failed command means for the caller.
    pub fn error(&self, error: QmpError) -> Error {
        let name = &self.launch.spec.guest;
        match error {
            QmpError::Refused(reason) => Error::Refused {
                guest: name.clone(),
                reason,
            },
            QmpError::Closed if self.has_exited() => Error::Exited(name.clone()),
            QmpError::Timeout | QmpError::Closed => Error::Unresponsive(name.clone()),
            QmpError::Io(why) => Error::Io {
                context: format!("monitor of {name}"),
                why,
            },
        }
    }

    /// Waits for the first look at it.
    pub async fn looked_at(&self) {
        let mut seen = self.seen.subscribe();
        // It lives as long as the guest.
        let _ = seen
            .wait_for(|seen| seen.state != GuestState::Starting)
            .await;
    }

    /// Asks anew for the state, so that what a command did is reported after it.
    pub async fn refresh(&self) {
        let client = self.monitor.borrow().clone();
        if let Some(client) = client {
            self.look(&client).await;
        }
    }

    /// Ends the process for `reason`, unless a reason is known already, and waits until it is gone.
    pub async fn end(&self, reason: ExitReason) -> Result<()> {
        self.finish(reason).await.map_err(|why| Error::Io {
            context: format!("ending guest {}", self.launch.spec.guest),
            why,
        })?;
        let mut seen = self.seen.subscribe();
        let gone = seen.wait_for(|seen| matches!(seen.state, GuestState::Exited(_)));
        match tokio::time::timeout(VANISH, gone).await {
            Ok(_) => Ok(()),
            // A process that waits for a dead disk can't even be killed.
            Err(_) => Err(Error::Unresponsive(self.launch.spec.guest.clone())),
        }
    }

    /// The monitor, as soon as it answers; nothing if it doesn't in time.
    async fn monitor(&self, deadline: Duration) -> Result<Option<Client>> {
        let (mut monitor, mut seen) = (self.monitor.subscribe(), self.seen.subscribe());
        let client = async {
            tokio::select! {
                client = monitor.wait_for(Option::is_some) => client.ok().and_then(|client| client.clone()),
                _ = seen.wait_for(|seen| matches!(seen.state, GuestState::Exited(_))) => None,
            }
        };
        let client = tokio::time::timeout(deadline, client).await.ok().flatten();
        match self.has_exited() {
            true => Err(Error::Exited(self.launch.spec.guest.clone())),
            false => Ok(client),
        }
    }

    async fn until_its_end(&self, recording: Recording, mut recorder: Option<Process>) {
        let Some(process) = &self.process else { return };
        let ending = tokio::select! {
            ending = process.ended() => ending,
            never = self.converse() => match never {},
            never = self.keep_recorded(recording, &mut recorder) => match never {},
        };
        if let Some(recorder) = recorder {
            // It has what QEMU said last. One that is held up by slow readers is reaped later.
            if tokio::time::timeout(LAST_WORDS, recorder.ended())
                .await
                .is_err()
            {
                tokio::spawn(async move { recorder.ended().await });
            }
        }
        let (dir, ending) = (Arc::clone(&self.dir), ending.unwrap_or(Ending::Unknown));
        let exit = tokio::task::spawn_blocking(move || conclude(&dir, ending))
            .await
            .expect("reading a guest's end doesn't panic");
        self.monitor.send_replace(None);
        self.set(GuestState::Exited(exit.reason), None);
    }

    /// Starts another recorder whenever there is none.
    async fn keep_recorded(
        &self,
        recording: Recording,
        recorder: &mut Option<Process>,
    ) -> Infallible {
        loop {
            if let Some(present) = recorder {
                let ending = present.ended().await;
                *recorder = None;
                // Usually it ends because the guest does, which interrupts this.
                tokio::time::sleep(RECONNECT).await;
                tracing::warn!(
                    guest = recording.guest,
                    ?ending,
                    "the console's recorder was lost"
                );
            }
            let (recording, dir) = (recording.clone(), Arc::clone(&self.dir));
            let started = tokio::task::spawn_blocking(move || recording.restart(&dir)).await;
            match started
                .map_err(io::Error::other)
                .and_then(|started| started)
            {
                Ok(started) => *recorder = Some(started),
                Err(error) => {
                    tracing::error!(guest = self.launch.spec.guest, %error, "can't record the console");
                    tokio::time::sleep(RECONNECT).await;
                }
            }
        }
    }

    async fn converse(&self) -> Infallible {
        loop {
            match Client::connect(&self.dir.at(rundir::QMP_SOCKET), GREETING).await {
                Ok(client) => {
                    let events = client.subscribe();
                    if let Err(error) = self.dir.append(rundir::ANSWERED) {
                        tracing::warn!(guest = self.launch.spec.guest, %error, "can't note the start");
                    }
                    self.monitor.send_replace(Some(client.clone()));
                    self.listen(&client, events).await;
                    self.monitor.send_replace(None);
                }
                Err(error) => {
                    tracing::debug!(guest = self.launch.spec.guest, %error, "no monitor");
                }
            }
            // A QEMU that ends interrupts this.
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn listen(&self, client: &Client, mut events: broadcast::Receiver<Event>) {
        let mut recount_at: Option<Instant> = None;
        loop {
            if !self.look(client).await {
                // QEMU is slow to answer, or its end can't be written down: the disk is full. No event says
                // when that is over.
                tokio::time::sleep(RECONNECT).await;
                continue;
            }
            // An event may have changed what `query-status` answers, or how often the guest has
            // reset, which the recorder counts: it hears of it now, too, and a moment later it has.
            let recount = async {
                match recount_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) if event.name == "BLOCK_IO_ERROR" => {
                        // Others are told to the guest, which goes on.
                        if event.data["action"] == "stop" {
                            self.note_disk_error(event.data["reason"].as_str());
                        }
                    }
                    Ok(event) if event.name == "RESUME" => self.note_disk_error(None),
                    Ok(event) if event.name == "RESET" => {
                        recount_at = Some(Instant::now() + RECOUNT);
                        self.changed.notify_one();
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = recount => {
                    recount_at = None;
                    self.changed.notify_one();
                }
            }
        }
    }

    /// Asks QEMU for the guest's state and acts on its end. False where that has to be tried again.
    async fn look(&self, client: &Client) -> bool {
        let answer = match client.execute("query-status", json!({}), COMMAND).await {
            Ok(answer) => answer,
            // The event that led here comes only once.
            Err(QmpError::Timeout) => return false,
            Err(_) => return true,
        };
        let status = answer["status"].as_str().unwrap_or_default().to_owned();
        let ended = match meaning(&status) {
            Meaning::State(state, mut detail) => {
                if status == "io-error"
                    && let Some(said) = &mut detail
                    && let Some(why) = self.disk_error()
                {
                    *said += &format!(": {why}");
                }
                self.set(self.on_the_way(&status).unwrap_or(state), detail);
                return true;
            }
            Meaning::Ended(reason) => reason,
        };
        let outcome = self.finish(ended).await;
        if let Err(error) = &outcome {
            tracing::error!(guest = self.launch.spec.guest, %error, "can't end an exited guest");
        }
        outcome.is_ok()
    }

    /// What went wrong with a disk, in the words of the host's system; what the guest is paused for is said
    /// afterwards. After this process was started anew nobody knows it.
    fn note_disk_error(&self, why: Option<&str>) {
        let mut known = self
            .disk_error
            .lock()
            .expect("no holder of this lock panics");
        *known = why.map(str::to_owned);
    }

    fn disk_error(&self) -> Option<String> {
        self.disk_error
            .lock()
            .expect("no holder of this lock panics")
            .clone()
    }

    /// How far a guest is that comes from another host, or goes there.
    fn on_the_way(&self, status: &str) -> Option<GuestState> {
        let goes_on = self.dir.has(rundir::TAKEN_OVER) && !self.taking_over.load(Ordering::Relaxed);
        let arrives = self.launch.spec.incoming && !goes_on;
        match status {
            "inmigrate" => Some(GuestState::Incoming),
            "paused" if arrives => Some(GuestState::Arrived),
            // Halted for a moment by who sends it, who sees to it that it goes on.
            "finish-migrate" if self.departing.load(Ordering::Relaxed) => Some(GuestState::Running),
            "postmigrate" => Some(match self.dir.read_json(rundir::DEPARTURE) {
                Ok(Some(generation)) => GuestState::Departed(generation),
                // It must not go on by mistake.
                Ok(None) | Err(_) => GuestState::Unknown,
            }),
            _ => None,
        }
    }

    /// Writes the reason down, then ends the process: politely, so that QEMU closes its images,
    /// and by force if that takes long.
    async fn finish(&self, reason: ExitReason) -> io::Result<()> {
        let Some(process) = self.process.as_ref().filter(|_| !self.has_exited()) else {
            return Ok(());
        };
        let dir = Arc::clone(&self.dir);
        tokio::task::spawn_blocking(move || note_exit(&dir, reason))
            .await
            .map_err(io::Error::other)??;
        let client = self.monitor.borrow().clone();
        if let Some(client) = client.filter(|_| !process.is_stopped()) {
            let mut seen = self.seen.subscribe();
            let quitting = async {
                // Whatever it answers, its end is what counts.
                let _ = client.execute("quit", json!({}), QUIT).await;
                let _ = seen
                    .wait_for(|seen| matches!(seen.state, GuestState::Exited(_)))
                    .await;
            };
            tokio::select! {
                _ = tokio::time::timeout(QUIT, quitting) => {}
                _ = process.gone() => {}
            }
        }
        process.kill()
    }

    fn set(&self, state: GuestState, detail: Option<String>) {
        let changed = self.seen.send_if_modified(|seen| {
            let differs = seen.state != state || seen.detail != detail;
            if differs {
                *seen = Seen {
                    state,
                    detail,
                    since: SystemTime::now(),
                };
            }
            differs
        });
        if changed {
            self.changed.notify_one();
        }
    }
}

enum Meaning {
    State(GuestState, Option<String>),
    Ended(ExitReason),
}

/// What a run state of QEMU's (`RunState` in its `qapi/run-state.json`) means for a guest.
fn meaning(status: &str) -> Meaning {
    match status {
        "running" => Meaning::State(GuestState::Running, None),
        "paused" => Meaning::State(GuestState::Paused, None),
        "shutdown" => Meaning::Ended(ExitReason::Poweroff),
        "guest-panicked" => Meaning::Ended(ExitReason::Panic),
        "internal-error" => Meaning::Ended(ExitReason::Failed(
            "the processor can't run what the guest does".to_owned(),
        )),
        "io-error" => Meaning::State(
            GuestState::Paused,
            Some("the host could not do what it asked of its disk".to_owned()),
        ),
        // Migrations, and whatever a newer QEMU knows: the virtual CPUs are halted.
        other => Meaning::State(GuestState::Paused, Some(other.to_owned())),
    }
}

/// Why the guest with this directory ended, now that its process has; written down if it wasn't.
fn conclude(dir: &RunDir, ending: Ending) -> Exit {
    if let Ok(Some(exit)) = dir.read_json(rundir::EXIT) {
        return exit;
    }
    let said = dir
        .read_text(rundir::HYPERVISOR_LOG, REASON_BYTES_MAX)
        .ok()
        .flatten()
        .unwrap_or_default();
    let reason = reason(ending, dir.has(rundir::ANSWERED), said.trim());
    match note_exit(dir, reason.clone()) {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!(%error, "can't write a guest's end down");
            Exit {
                reason,
                at: SystemTime::now(),
            }
        }
    }
}

/// What an end means. A guest that was ended from outside, or with the host, did not fail to start,
/// however young it was: it may be started again.
fn reason(ending: Ending, answered: bool, said: &str) -> ExitReason {
    match ending {
        Ending::Status(0)
        | Ending::Signal(libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP)
        | Ending::Unknown => ExitReason::Killed,
        Ending::Status(_) if !answered => ExitReason::StartFailed(said.to_owned()),
        Ending::Status(_) => ExitReason::Failed(said.to_owned()),
        Ending::Signal(signal) if !answered && !said.is_empty() => {
            ExitReason::StartFailed(format!("signal {signal}: {said}"))
        }
        Ending::Signal(signal) => ExitReason::Failed(format!("signal {signal}: {said}")),
    }
}

/// Writes the reason down unless one is there, and returns the one that counts.
fn note_exit(dir: &RunDir, reason: ExitReason) -> io::Result<Exit> {
    // One that a power cut has torn counts as none.
    if let Ok(Some(exit)) = dir.read_json(rundir::EXIT) {
        return Ok(exit);
    }
    let exit = Exit {
        reason,
        at: SystemTime::now(),
    };
    dir.write_json(rundir::EXIT, &exit)?;
    match exit.reason {
        ExitReason::Killed => {}
        ExitReason::Poweroff
        | ExitReason::Panic
        | ExitReason::StartFailed(_)
        | ExitReason::Failed(_) => dir.sync()?,
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hypervisor_that_ends_by_itself_has_failed_to_start() {
        for answered in [false, true] {
            for ending in [
                Ending::Signal(libc::SIGKILL),
                Ending::Signal(libc::SIGTERM),
                Ending::Status(0),
                Ending::Unknown,
            ] {
                let reason = reason(ending, answered, "terminating on signal 15");
                assert_eq!(reason, ExitReason::Killed, "{ending:?}, {answered}");
            }
        }
        let said = || "no such machine".to_owned();
        assert_eq!(
            reason(Ending::Status(1), false, &said()),
            ExitReason::StartFailed(said())
        );
        assert_eq!(
            reason(Ending::Status(1), true, &said()),
            ExitReason::Failed(said())
        );
        assert_eq!(
            reason(Ending::Signal(libc::SIGABRT), false, &said()),
            ExitReason::StartFailed("signal 6: no such machine".into())
        );
        assert_eq!(
            reason(Ending::Signal(libc::SIGSEGV), false, ""),
            ExitReason::Failed("signal 11: ".into())
        );
    }
}
