//! A guest that goes over to another host while it runs, with its disks.
//!
//! ```text
//!  source                                             target: started with `-incoming defer -S`
//!  blockdev-add nbd ───────── channel "disk0" ──────► nbd-server-start, block-export-add
//!  blockdev-mirror, until it is ready
//!  migrate ────────────────── channel "memory" ─────► migrate-incoming
//!  pre-switchover: halted; the mirrors are let go
//!  migrate-continue, completed: departed              complete: arrived
//!                                                     resume: nbd-server-stop, cont
//! ```
//! Until the target is told to resume, the guest can go on at the source, whatever happened. QEMU
//! speaks over descriptors that it is given; what carries the channels is the caller's.
//!
//! Commands: <https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html>.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::broadcast;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::guest::{COMMAND, Guest};
use super::qmp::{Client, Event, QmpError};
use super::rundir;
use crate::{AsyncReadWrite, Dial, Error, GuestState, Passed, Result};

/// Nothing came further for so long: the way is blocked, though nobody has closed it.
const STALLED: Duration = Duration::from_secs(30);
/// How long what is told of a halted guest may take.
const LAST_WORDS: Duration = Duration::from_millis(1500);
/// How long the guest may be halted before it goes on here.
const HALTED: Duration = Duration::from_secs(10);
/// How often it is asked how far things are, besides whenever QEMU says that something happened.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// For how long QEMU may halt the guest to send the rest of its memory, as it estimates.
const DOWNTIME_MS: u64 = 300;
/// Nobody is to be slowed down but by the wire.
const BANDWIDTH_BYTES: u64 = 1 << 40;
/// Bytes that a channel passes on at a time.
const PIECE: usize = 256 << 10;
const MEMORY: &str = "memory";

/// The QEMU of a guest that departs, and what has been begun of it.
struct Departure<'a> {
    guest: &'a Guest,
    client: Client,
    events: broadcast::Receiver<Event>,
    /// What carries bytes between QEMU and the channels. They end with these, and so with QEMU's attempt.
    carriers: Vec<AbortHandle>,
}

/// Sends a guest to the host that `way` leads to, unless it is called back. On failure it goes on here.
pub async fn hand_over(guest: &Guest, generation: u64, way: &dyn Dial) -> Result<()> {
    let mut departure = Departure::new(guest).await?;
    departure.settle().await?;
    let _departing = guest.departs();
    let outcome = tokio::select! {
        outcome = departure.run(generation, way) => outcome,
        () = way.called_back() => Err(guest.error(QmpError::Refused("it is to stay".to_owned()))),
    };
    match &outcome {
        Ok(()) => departure.forget_targets().await,
        Err(_) => departure.settle().await?,
    }
    guest.refresh().await;
    outcome
}

/// Ends whatever an attempt has left, so that the guest goes on here.
pub async fn stay(guest: &Guest) -> Result<()> {
    Departure::new(guest).await?.settle().await
}

impl Departure<'_> {
    async fn new(guest: &Guest) -> Result<Departure<'_>> {
        let client = guest.client().await?;
        Ok(Departure {
            guest,
            events: client.subscribe(),
            client,
            carriers: Vec::new(),
        })
    }

    async fn run(&mut self, generation: u64, way: &dyn Dial) -> Result<()> {
        let disks: Vec<_> = writable_disks(self.guest).collect();
        for disk in &disks {
            self.mirror(disk, way).await?;
        }
        self.until_mirrored(&disks, way).await?;
        self.set_up().await?;
        let noted = self.guest.dir.write_json(rundir::DEPARTURE, &generation);
        noted.map_err(|why| self.io("noting where it goes", why))?;
        self.connect(MEMORY, way).await?;
        self.execute("migrate", json!({"uri": format!("fd:{MEMORY}")}))
            .await?;
        self.until_migrated(&disks, way).await
    }

    /// Begins to copy a disk. What its overlay doesn't have comes from the image, which is there too.
    async fn mirror(&mut self, disk: &str, way: &dyn Dial) -> Result<()> {
        self.connect(disk, way).await?;
        let target = target(disk);
        let node = json!({
            "driver": "nbd",
            "node-name": target,
            "server": {"type": "fd", "str": disk},
            "export": disk,
        });
        self.execute("blockdev-add", node).await?;
        let job = json!({
            "job-id": job(disk),
            "device": disk,
            "target": target,
            "sync": "top",
            "copy-mode": "write-blocking",
            // How it ended is looked at before it is forgotten.
            "auto-dismiss": false,
        });
        self.execute("blockdev-mirror", job).await.map(drop)
    }

    async fn until_mirrored(&mut self, disks: &[String], way: &dyn Dial) -> Result<()> {
        let mut patience = Patience::new();
        loop {
            let jobs = self.mirrors(disks).await?;
            let number = |job: &Value, name: &str| job[name].as_u64().unwrap_or_default();
            let passed = Passed {
                disk_bytes: jobs.iter().map(|job| number(job, "offset")).sum(),
                of_disk_bytes: jobs.iter().map(|job| number(job, "len")).sum(),
                ..Passed::default()
            };
            way.passed(passed);
            if jobs.iter().all(|job| job["ready"] == json!(true)) {
                return Ok(());
            }
            if !patience.lasts(passed.disk_bytes) {
                return Err(self.failed("its disks come no further"));
            }
            self.event_or(ASK_EVERY).await;
        }
    }

    async fn set_up(&self) -> Result<()> {
        let capabilities = ["events", "pause-before-switchover", "auto-converge"];
        let capabilities = capabilities.map(|name| json!({"capability": name, "state": true}));
        let capabilities = json!({"capabilities": capabilities});
        self.execute("migrate-set-capabilities", capabilities)
            .await?;
        let parameters = json!({
            "max-bandwidth": BANDWIDTH_BYTES,
            "downtime-limit": DOWNTIME_MS,
        });
        self.execute("migrate-set-parameters", parameters)
            .await
            .map(drop)
    }

    async fn until_migrated(&mut self, disks: &[String], way: &dyn Dial) -> Result<()> {
        let mut patience = Patience::new();
        loop {
            let state = self.execute("query-migrate", json!({})).await?;
            match state["status"].as_str().unwrap_or_default() {
                "pre-switchover" => {
                    let switching = self.switch(disks, way);
                    return match tokio::time::timeout(HALTED, switching).await {
                        Ok(outcome) => outcome,
                        Err(_) => Err(self.failed("it was halted for too long")),
                    };
                }
                _ => self.not_failed(&state)?,
            }
            let memory = &state["ram"];
            let passed = Passed {
                memory_bytes: memory["transferred"].as_u64().unwrap_or_default(),
                memory_left_bytes: memory["remaining"].as_u64().unwrap_or_default(),
                ..Passed::default()
            };
            way.passed(passed);
            self.mirrors(disks).await?;
            if !patience.lasts(passed.memory_bytes) {
                return Err(self.failed("its memory comes no further"));
            }
            self.event_or(ASK_EVERY).await;
        }
    }

    /// The guest is halted: its disks are the same on both sides from here on.
    async fn switch(&mut self, disks: &[String], way: &dyn Dial) -> Result<()> {
        // What it tells is of use, and not worth a longer halt.
        let _ = tokio::time::timeout(LAST_WORDS, way.halted()).await;
        for disk in disks {
            let cancel = json!({"device": job(disk)});
            self.execute("block-job-cancel", cancel).await?;
        }
        while self.jobs().await?.iter().any(|job| !has_concluded(job)) {
            self.event_or(ASK_EVERY).await;
        }
        for mirror in self.jobs().await? {
            if let Some(why) = mirror["error"].as_str() {
                return Err(self.failed(&format!("a disk could not be copied: {why}")));
            }
            self.execute("job-dismiss", json!({"id": mirror["device"]}))
                .await?;
        }
        self.execute("migrate-continue", json!({"state": "pre-switchover"}))
            .await?;
        loop {
            let state = self.execute("query-migrate", json!({})).await?;
            match state["status"].as_str().unwrap_or_default() {
                "completed" => return Ok(()),
                _ => self.not_failed(&state)?,
            }
            self.event_or(ASK_EVERY).await;
        }
    }

    /// Ends jobs and nodes of an attempt, and lets the guest go on if that has halted it.
    async fn settle(&mut self) -> Result<()> {
        // First of all: a job that waits for a host that is gone can't be cancelled.
        self.carriers.drain(..).for_each(|carrier| carrier.abort());
        let begun = Instant::now();
        loop {
            let state = self.execute("query-migrate", json!({})).await?;
            let jobs = self.jobs().await?;
            let status = state["status"].as_str().unwrap_or("none");
            let over = ["none", "completed", "failed", "cancelled"].contains(&status);
            if over && jobs.is_empty() {
                break;
            }
            if begun.elapsed() > STALLED {
                return Err(self.failed("an earlier attempt doesn't end"));
            }
            if !over {
                // Ended meanwhile is as good, here and below.
                let _ = self.execute("migrate_cancel", json!({})).await;
            }
            for job in jobs {
                let (command, ends) = match has_concluded(&job) {
                    true => ("job-dismiss", json!({"id": job["device"]})),
                    false => (
                        "block-job-cancel",
                        json!({"device": job["device"], "force": true}),
                    ),
                };
                let _ = self.execute(command, ends).await;
            }
            self.event_or(ASK_EVERY / 5).await;
        }
        self.forget_targets().await;
        Ok(())
    }

    async fn forget_targets(&self) {
        for disk in writable_disks(self.guest) {
            // There is none where nothing was begun.
            let node = json!({"node-name": target(&disk)});
            let _ = self.execute("blockdev-del", node).await;
        }
    }

    /// The jobs that copy disks, none of which has ended.
    async fn mirrors(&self, disks: &[String]) -> Result<Vec<Value>> {
        let jobs = self.jobs().await?;
        let ended = jobs.iter().find(|job| has_concluded(job));
        if ended.is_none() && jobs.len() == disks.len() {
            return Ok(jobs);
        }
        let why = ended.and_then(|job| job["error"].as_str());
        let why = why.unwrap_or("the connection was lost");
        Err(self.failed(&format!("a disk could not be copied: {why}")))
    }

    fn not_failed(&self, state: &Value) -> Result<()> {
        match state["status"].as_str().unwrap_or_default() {
            "failed" | "cancelled" | "cancelling" => {
                let why = state["error-desc"].as_str();
                Err(self.failed(why.unwrap_or("its memory could not be sent")))
            }
            _ => Ok(()),
        }
    }

    async fn jobs(&self) -> Result<Vec<Value>> {
        let jobs = self.execute("query-block-jobs", json!({})).await?;
        Ok(jobs.as_array().cloned().unwrap_or_default())
    }

    /// Opens a channel and gives QEMU its end of it, under the channel's name.
    async fn connect(&mut self, channel: &str, way: &dyn Dial) -> Result<()> {
        let far = way.dial(channel).await;
        let far = far.map_err(|why| self.io(&format!("opening its way for {channel}"), why))?;
        let (near, theirs) = pair().map_err(|why| self.io("making a socket", why))?;
        let given = self.client.give(channel, theirs, COMMAND).await;
        given.map_err(|error| self.guest.error(error))?;
        self.carriers.push(carry(near, far));
        Ok(())
    }

    async fn event_or(&mut self, patience: Duration) {
        // An event that is lost, or a monitor that is, shows in the next answer.
        let _ = tokio::time::timeout(patience, self.events.recv()).await;
    }

    async fn execute(&self, command: &'static str, arguments: Value) -> Result<Value> {
        let answer = self.client.execute(command, arguments, COMMAND).await;
        answer.map_err(|error| self.guest.error(error))
    }

    fn failed(&self, reason: &str) -> Error {
        self.guest.error(QmpError::Refused(reason.to_owned()))
    }

    fn io(&self, what: &str, why: io::Error) -> Error {
        Error::Io {
            context: format!("{what}, guest {}", self.guest.launch.spec.guest),
            why,
        }
    }
}

/// Whether something comes further.
struct Patience {
    seen: u64,
    since: Instant,
}

impl Patience {
    fn new() -> Patience {
        Patience {
            seen: 0,
            since: Instant::now(),
        }
    }

    fn lasts(&mut self, seen: u64) -> bool {
        if seen != self.seen {
            *self = Patience {
                seen,
                ..Patience::new()
            };
        }
        self.since.elapsed() < STALLED
    }
}

/// The nodes of the disks that change.
fn writable_disks(guest: &Guest) -> impl Iterator<Item = String> {
    let disks = guest.launch.spec.disks.iter().enumerate();
    let changing = disks.filter(|(_, disk)| !disk.read_only);
    changing.map(|(index, _)| format!("disk{index}"))
}

/// Whether a job has ended and waits to be forgotten.
fn has_concluded(job: &Value) -> bool {
    job["status"] == "concluded"
}

fn target(disk: &str) -> String {
    format!("{disk}-there")
}

fn job(disk: &str) -> String {
    format!("{disk}-mirror")
}

/// The near end of a channel of a guest that arrives: QEMU's socket for disks, or for the memory.
pub async fn receive(guest: &Guest, channel: &str) -> Result<Box<dyn AsyncReadWrite>> {
    let expected = channel == MEMORY || writable_disks(guest).any(|disk| disk == channel);
    if !expected || guest.observe().state != GuestState::Incoming {
        let why = format!("it takes nothing for {channel}");
        return Err(guest.error(QmpError::Refused(why)));
    }
    let client = guest.client().await?;
    let context = |what: &str, why: io::Error| Error::Io {
        context: format!("{what}, guest {}", guest.launch.spec.guest),
        why,
    };
    let execute = async |command, arguments| {
        let answer = client.execute(command, arguments, COMMAND).await;
        answer.map_err(|error| guest.error(error))
    };
    if channel == MEMORY {
        // It is to say when all of it is here.
        let events = json!({"capabilities": [{"capability": "events", "state": true}]});
        execute("migrate-set-capabilities", events).await?;
        let (near, theirs) = pair().map_err(|why| context("making a socket", why))?;
        let given = client.give(MEMORY, theirs, COMMAND).await;
        given.map_err(|error| guest.error(error))?;
        execute("migrate-incoming", json!({"uri": format!("fd:{MEMORY}")})).await?;
        return Ok(Box::new(near));
    }
    if !guest.dir.has(rundir::NBD_SERVES) {
        let listener = guest.dir.listen(rundir::NBD_SOCKET);
        let listener = listener.map_err(|why| context("making a socket", why))?;
        let given = client.give("nbd", listener.into(), COMMAND).await;
        given.map_err(|error| guest.error(error))?;
        let address = json!({"addr": {"type": "fd", "data": {"str": "nbd"}}});
        execute("nbd-server-start", address).await?;
        let noted = guest.dir.append(rundir::NBD_SERVES);
        noted.map_err(|why| context("noting that disks are served", why))?;
    }
    // What an earlier attempt has sent and is still on its way must not come after this one's.
    let begun = Instant::now();
    loop {
        let exports = execute("query-block-exports", json!({})).await?;
        let exports = exports.as_array().cloned().unwrap_or_default();
        if !exports.iter().any(|export| export["id"] == json!(channel)) {
            break;
        }
        if begun.elapsed() > COMMAND {
            let why = "an earlier attempt doesn't end".to_owned();
            return Err(guest.error(QmpError::Refused(why)));
        }
        // It may be about to go, which is refused.
        let cut = json!({"id": channel, "mode": "hard"});
        let _ = client.execute("block-export-del", cut, COMMAND).await;
        tokio::time::sleep(ASK_EVERY / 10).await;
    }
    let export = json!({
        "type": "nbd",
        "id": channel,
        "node-name": channel,
        "name": channel,
        "writable": true,
    });
    execute("block-export-add", export).await?;
    let near = UnixStream::connect(guest.dir.at(rundir::NBD_SOCKET)).await;
    Ok(Box::new(near.map_err(|why| context("connecting", why))?))
}

/// Lets a guest that has arrived go on here.
pub async fn take_over(guest: &Guest) -> Result<()> {
    let _taking_over = guest.takes_over();
    let client = guest.client().await?;
    match client.execute("nbd-server-stop", json!({}), COMMAND).await {
        // Without disks that change there is none.
        Ok(_) | Err(QmpError::Refused(_)) => {}
        Err(error) => return Err(guest.error(error)),
    }
    let noted = guest.dir.append(rundir::TAKEN_OVER);
    noted.map_err(|why| Error::Io {
        context: format!("noting that guest {} goes on", guest.launch.spec.guest),
        why,
    })?;
    guest.command("cont").await.map(drop)
}

fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (near, theirs) = std::os::unix::net::UnixStream::pair()?;
    near.set_nonblocking(true)?;
    Ok((UnixStream::from_std(near)?, theirs.into()))
}

fn carry(mut near: UnixStream, mut far: Box<dyn AsyncReadWrite>) -> AbortHandle {
    let carrying = tokio::spawn(async move {
        // How a channel ends is for QEMU to say, at either side.
        let _ = tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, PIECE, PIECE).await;
    });
    carrying.abort_handle()
}
