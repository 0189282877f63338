//! The watchdog: a process that holds fenced guests at the host's deadline, also where the agent is
//! dead or stopped, and lets them go on when the controller has been heard of again.
//!
//! ```text
//!  agent ── one line: until when, which guests ──► watchdog ── SIGSTOP, SIGCONT ──► guests
//!        ◄── one line: what holds now ────────────
//! ```
//! It knows nothing but what it was told, and finds the guests' processes when it is told and not at the
//! deadline: a disk that is full or hangs must not hold a guest, nor free one. It ends when there is no
//! guest left to watch; told to end before, it holds them first. The deadline is on the boot clock, which
//! goes on while a host is suspended.

use anyhow::{Context, Result, bail};
use boira_core::plan::Fence;
use boira_hypervisor::GuestProcess;
use boira_model::{BootTime, InstanceId};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

/// How long the process may take to begin, and to answer.
const BEGIN: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(2);
/// How soon after the deadline guests are found whose process began at the last moment, and how often
/// one is tried again that could not be held.
const AGAIN_MS: u64 = 200;
/// How often processes are looked for that began meanwhile.
const LOOK_MS: u64 = 1_000;
/// How long the agent may take to say its line. It has the whole of it ready.
const HEAR: Duration = Duration::from_millis(300);
/// Some thousand guests.
const LINE_BYTES: u64 = 4 << 20;
const SOCKET: &str = "socket";

/// The agent's side.
pub struct Watchdog {
    home: PathBuf,
    /// Starts [`run`] when the agent's home is appended.
    command: Vec<OsString>,
}

impl Watchdog {
    pub fn new(home: &Path, command: Vec<OsString>) -> Self {
        let home = home.to_owned();
        Self { home, command }
    }

    /// Tells the watchdog, starting it where there is none, and answers what it does from now on: a
    /// deadline is never made earlier. Without guests there need be none, and it ends.
    pub async fn tell(&self, fence: &Fence) -> Result<Fence> {
        match tokio::time::timeout(ANSWER, self.ask(fence)).await {
            Ok(Ok(known)) => return Ok(known),
            Ok(Err(_)) if fence.guests.is_empty() => return Ok(Fence::default()),
            Ok(Err(error)) => tracing::info!("starting the watchdog: {error:#}"),
            Err(_) => self.kill_stuck().await,
        }
        self.start().await?;
        let known = tokio::time::timeout(ANSWER, self.ask(fence)).await;
        known.context("the watchdog doesn't answer")?
    }

    /// Ends it, where it is there; what it holds stays so.
    pub async fn end(&self) -> Result<()> {
        self.tell(&Fence::default()).await.map(drop)
    }

    /// Holds guests that nobody watches.
    pub fn hold_now(&self, fence: &Fence) {
        let mut watched = Watched::new(&self.home.join("guests"));
        watched.take(fence.guests.clone());
        watched.hold();
    }

    /// Lets a guest go on that no watchdog knows any more.
    pub fn let_go(&self, guest: &InstanceId, generation: u64) -> std::io::Result<()> {
        match GuestProcess::find(&self.home.join("guests"), guest.as_str())? {
            Some(process) if process.generation() == generation => process.let_go(),
            _ => Ok(()),
        }
    }

    async fn connect(&self) -> Result<UnixStream> {
        let folder = File::open(folder(&self.home)).context("find the watchdog's folder")?;
        let stream = UnixStream::connect(socket(&folder)).await;
        stream.context("connect to the watchdog")
    }

    async fn ask(&self, fence: &Fence) -> Result<Fence> {
        let mut stream = BufReader::new(self.connect().await?);
        let line = serde_json::to_string(fence).context("write a line")? + "\n";
        stream.write_all(line.as_bytes()).await.context("tell")?;
        read(&mut stream).await
    }

    /// One that listens and doesn't answer is stopped, or worse.
    async fn kill_stuck(&self) {
        let Ok(stream) = self.connect().await else {
            return;
        };
        // The kernel says who listens there, which is root's own folder.
        if let Ok(peer) = stream.peer_cred()
            && let Some(pid) = peer.pid()
        {
            tracing::warn!("the watchdog {pid} doesn't answer; another takes its place");
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    async fn start(&self) -> Result<()> {
        let folder = folder(&self.home);
        std::fs::create_dir_all(&folder).context("make the watchdog's folder")?;
        let log = File::create(folder.join("log")).context("make the watchdog's log")?;
        let (program, arguments) = self.command.split_first().context("no command")?;
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .arg(&self.home)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
        }
        let mut child = command.spawn().context("start the watchdog")?;
        let mut said = BufReader::new(child.stdout.take().context("it has a standard output")?);
        let mut line = String::new();
        let begun = tokio::time::timeout(BEGIN, said.read_line(&mut line)).await;
        tokio::spawn(async move { child.wait().await });
        match begun {
            Ok(Ok(bytes)) if bytes > 0 => Ok(()),
            _ => bail!(
                "the watchdog did not start: {}",
                std::fs::read_to_string(folder.join("log")).unwrap_or_default()
            ),
        }
    }
}

fn folder(home: &Path) -> PathBuf {
    home.join("watchdog")
}

/// By the folder's descriptor, because a socket's path may be 107 bytes long only.
fn socket(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))
}

async fn read(stream: &mut BufReader<UnixStream>) -> Result<Fence> {
    let mut line = String::new();
    let bytes = stream.take(LINE_BYTES).read_line(&mut line).await;
    bytes.context("read a line")?;
    serde_json::from_str(&line).context("parse a line")
}

/// The watchdog's process. Says on its standard output when it listens, and returns when there is no
/// guest left to watch.
///
/// # Errors
/// Where another one is there, or the socket can't be made.
pub async fn run(home: &Path) -> Result<()> {
    let folder = folder(home);
    let lock = File::create(folder.join("lock")).context("make the lock")?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        bail!("another watchdog is there");
    };
    // The last to go where memory runs out: without it guests might run twice.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-900") {
        tracing::warn!("the watchdog may be ended where memory runs out: {error}");
    }
    stay_in_memory();
    let opened = File::open(&folder).context("open the folder")?;
    let _ = std::fs::remove_file(folder.join(SOCKET));
    let listener = UnixListener::bind(socket(&opened)).context("listen")?;
    let ending = Ending::listen()?;
    println!("listening");
    watch(Watched::new(&home.join("guests")), &listener, ending).await
}

/// What it needs at the deadline must not have to be read from a disk then. Pages count as they are
/// used, so that the program's other parts take no memory.
fn stay_in_memory() {
    // SAFETY: plain values.
    let outcome =
        unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if outcome != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!("the watchdog may be swapped out: {error}");
    }
}

/// Signals that would end it: whoever stops all of Boira's processes must not set its guests free.
struct Ending {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Ending {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Whatever ends it, guests that its agent may no longer keep don't go on unwatched.
async fn watch(mut watched: Watched, listener: &UnixListener, ending: Ending) -> Result<()> {
    let outcome = watch_until_told(&mut watched, listener, ending).await;
    if outcome.is_err() {
        watched.look();
        watched.hold();
    }
    outcome
}

async fn watch_until_told(
    watched: &mut Watched,
    listener: &UnixListener,
    mut ending: Ending,
) -> Result<()> {
    let mut until = BootTime::default();
    let mut timer = Timer::new()?;
    loop {
        let told = tokio::select! {
            accepted = listener.accept() => Some(accepted.context("accept")?.0),
            fired = timer.fired() => fired.map(|()| None)?,
            () = ending.told() => {
                watched.look();
                watched.hold();
                return Ok(());
            }
        };
        if let Some(stream) = told {
            // Who says nothing, or nonsense, is no agent.
            let listening = hear(&mut until, watched, stream);
            if let Ok(Err(error)) = tokio::time::timeout(HEAR, listening).await {
                tracing::warn!("{error:#}");
            }
            if watched.guests.is_empty() {
                return Ok(());
            }
        }
        let now = boot_now();
        let over = now >= until;
        match over {
            // Those that are known first.
            true => watched.hold(),
            false => watched.let_go(),
        }
        watched.look();
        if over {
            watched.hold();
        }
        timer.set(match over {
            true => BootTime(now.0 + AGAIN_MS),
            false => until.min(BootTime(now.0 + LOOK_MS)),
        })?;
    }
}

/// Takes what the agent says, and answers what holds then.
async fn hear(until: &mut BootTime, watched: &mut Watched, stream: UnixStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let told = read(&mut stream).await?;
    *until = told.until.max(*until);
    watched.take(told.guests);
    let fence = Fence {
        until: *until,
        guests: watched.wanted(),
    };
    let line = serde_json::to_string(&fence).context("write a line")? + "\n";
    stream.write_all(line.as_bytes()).await.context("answer")
}

/// The guests that are watched, each with its process where it was found.
struct Watched {
    folder: PathBuf,
    guests: BTreeMap<InstanceId, (u64, Option<GuestProcess>)>,
}

impl Watched {
    fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            guests: BTreeMap::new(),
        }
    }

    fn wanted(&self) -> BTreeMap<InstanceId, u64> {
        let guests = self.guests.iter();
        guests
            .map(|(id, (generation, _))| (id.clone(), *generation))
            .collect()
    }

    /// Watches these from now on.
    fn take(&mut self, wanted: BTreeMap<InstanceId, u64>) {
        let mut known = std::mem::take(&mut self.guests);
        for (id, generation) in wanted {
            let process = known.remove(&id).and_then(|(_, process)| process);
            self.guests.insert(id, (generation, process));
        }
        self.look();
    }

    /// Finds processes that began since.
    fn look(&mut self) {
        for (id, (_, process)) in &mut self.guests {
            if process.as_ref().is_some_and(|process| !process.has_ended()) {
                continue;
            }
            match GuestProcess::find(&self.folder, id.as_str()) {
                Ok(found) => *process = found,
                Err(error) => tracing::error!("{id} can't be looked at: {error}"),
            }
        }
    }

    /// Whichever generation of them it is.
    fn hold(&self) {
        for (id, (_, process)) in &self.guests {
            if let Some(Err(error)) = process.as_ref().map(GuestProcess::hold) {
                tracing::error!("{id} can't be held: {error}");
            }
        }
    }

    /// An older generation is about to be ended.
    fn let_go(&self) {
        for (id, (generation, process)) in &self.guests {
            let process = process.as_ref();
            let process = process.filter(|process| process.generation() == *generation);
            if let Some(Err(error)) = process.map(GuestProcess::let_go) {
                tracing::error!("{id} can't be let go on: {error}");
            }
        }
    }
}

/// A timer on the boot clock.
struct Timer {
    timer: TimerFd,
    /// Another descriptor of the same timer.
    ready: AsyncFd<OwnedFd>,
}

impl Timer {
    fn new() -> Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).context("make a timer")?;
        let copy = timer.as_fd().try_clone_to_owned().context("copy a timer")?;
        // SAFETY: an OwnedFd names the same open descriptor for as long as it lives.
        let ready = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) };
        let ready = ready
            .map_err(std::io::Error::from)
            .context("watch a timer")?;
        Ok(Self { timer, ready })
    }

    fn set(&mut self, at: BootTime) -> Result<()> {
        // All zeros would mean never.
        let at = TimeSpec::from_duration(Duration::from_millis(at.0.max(1)));
        let expiration = Expiration::OneShot(at);
        self.timer
            .set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .context("set a timer")
    }

    async fn fired(&self) -> Result<()> {
        let mut ready = self.ready.readable().await.context("wait for a timer")?;
        // Setting it takes the expiration away.
        ready.clear_ready();
        Ok(())
    }
}

pub fn boot_now() -> BootTime {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("Linux has a boot clock");
    BootTime(now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000)
}
