//! The long-running processes of one machine and who starts whom.
//!
//! ```text
//!  up ──► supervise ──► controller        restarted when they end, ended with it
//!                  └──► agent ──► guests, their consoles, networks   (outlive all of these)
//! ```
//! `up` is the terminal's end and may go; `supervise` holds the home's lock as long as the cloud is
//! up. A supervisor that is told to end switches the guests off and keeps their state.

mod claim;
mod down;
mod logs;

pub use down::down;
pub use logs::Log;

use crate::home::{Access, Home};
use anyhow::{Context, Result, bail};
use boira_agent::identity::keep_valid;
use boira_agent::simulated::SimulatedHost;
use boira_agent::{Commands, Controller as Line, Identity, Place, RealHost};
use boira_controller::Options;
use boira_model::{Admission, CloudId, Host, HostCapacity};
use claim::Claim;
use down::{closing_marker, switch_off};
use logs::log_file;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// How long controller and agent may take to end.
const END_DEADLINE: Duration = Duration::from_secs(5);

pub fn require_root(what: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "{what} needs root: guests get network namespaces and users of their own. Try `sudo`."
        );
    }
    Ok(())
}

/// This program's file. After a new build took its place, that is the new one: the kernel still tells
/// the old one's name, with a note.
pub fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("find this program's own file")?;
    Ok(without_note(&path).unwrap_or(path))
}

fn without_note(path: &Path) -> Option<PathBuf> {
    let name = path.as_os_str().to_str()?;
    name.strip_suffix(" (deleted)").map(PathBuf::from)
}

/// Whether the running supervisor is another build than this program.
pub fn is_another_build(home: &Home) -> bool {
    use std::os::unix::fs::MetadataExt;
    let file = |process: &str| {
        let meta = std::fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    let Ok(supervisor) = supervisor(home) else {
        return false;
    };
    let theirs = file(&supervisor.to_string());
    theirs.is_some() && theirs != file("self")
}

/// The process that the home's supervisor has noted. One that was killed may have left the number of
/// what is another process by now.
fn supervisor(home: &Home) -> Result<Pid> {
    let text =
        std::fs::read_to_string(home.run("supervisor.pid")).context("find the supervisor")?;
    let pid = text.trim().parse().context("read the supervisor's pid")?;
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).context("find the supervisor")?;
    let is_it = words
        .split(|byte| *byte == 0)
        .any(|word| word == b"supervise");
    anyhow::ensure!(is_it, "find the supervisor: {pid} is another process");
    Ok(Pid::from_raw(pid))
}

/// The name of this machine.
pub fn host_name() -> String {
    nix::unistd::gethostname().map_or("localhost".into(), |n| n.to_string_lossy().into_owned())
}

/// Where a cloud is served, and under which names.
#[derive(Clone, Debug, PartialEq)]
pub struct Serving {
    pub listen: SocketAddr,
    pub agents: SocketAddr,
    /// In place of the setting.
    pub s3_domain: Option<String>,
}

impl Serving {
    /// As another process of this program is told.
    fn arguments(&self) -> Vec<OsString> {
        let addresses = [("--listen", self.listen), ("--agents", self.agents)];
        let addresses = addresses.map(|(name, address)| (name, address.to_string()));
        let domain = self.s3_domain.clone().map(|domain| ("--s3-domain", domain));
        let all = addresses.into_iter().chain(domain);
        all.flat_map(|(name, value)| [name.into(), value.into()])
            .collect()
    }
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.listen, self.agents)?;
        match &self.s3_domain {
            Some(domain) => write!(f, " {domain}"),
            None => Ok(()),
        }
    }
}

/// The controller's process. With `local` it enrolls this machine as the cloud's host.
pub async fn controller(home: &Home, serving: Serving, local: bool) -> Result<()> {
    home.create()?;
    let options = Options {
        home: home.path().to_owned(),
        listen: serving.listen,
        agents: serving.agents,
        s3_domain: serving.s3_domain,
    };
    let controller = boira_controller::open(options).await?;
    if local {
        enroll_local(home, &controller).await?;
    }
    controller
        .run({
            let home = home.clone();
            move |controller| hand_out(&home, controller)
        })
        .await
}

/// Writes the administrator's access, and where agents are served.
fn hand_out(home: &Home, controller: &boira_controller::Controller) -> Result<()> {
    let snapshot = controller.cluster.snapshot();
    let state = &snapshot.state;
    let administrator = state
        .accounts
        .values()
        .find(|row| row.admin)
        .context("the cloud has no administrator")?;
    let key = state
        .access_keys
        .values()
        .find(|key| key.owner == administrator.id)
        .context("the administrator has no access key")?;
    let endpoint = controller.facts.endpoint.clone();
    let access = Access {
        access_key_id: key.id.clone(),
        secret_access_key: key.secret.clone(),
        region: state.settings.region.clone(),
        authority: endpoint
            .starts_with("https")
            .then(|| controller.pki.authority_path()),
        endpoint,
    };
    let agents = controller.options.agents.to_string();
    let text = serde_json::to_vec_pretty(&access).context("write the access file")?;
    home.write_private(&home.access_path(), &text)?;
    note(home, "agents", &agents)
}

/// The agent's process. Where controller and API are is the identity's word unless it is said here.
pub async fn agent(
    directory: &Path,
    controller: Option<SocketAddr>,
    api: Option<SocketAddr>,
) -> Result<()> {
    require_root("An agent")?;
    end_on_panic();
    let path = directory.join("identity.json");
    let identity = Identity::read(&path)?;
    let address = controller
        .or(identity.controller)
        .context("say where the controller serves agents, with --controller ADDRESS:PORT")?;
    let line = Arc::new(Line::new(&identity, address)?);
    let _claim = Claim::take(&cloud_tag(&identity.cloud))?;
    let place = Place {
        home: directory,
        name: host_name(),
        cloud: cloud_tag(&identity.cloud),
        api: api.or(identity.api),
    };
    let acceleration = crate::commands::doctor::acceleration(directory).await?;
    let host = RealHost::open(&place, commands()?, acceleration, line.clone())?;
    let renewing = line.clone();
    tokio::spawn(async move { keep_valid(identity, renewing, &path).await });
    boira_agent::run(Arc::new(host), line, directory).await
}

/// The protocol, TLS and the engine of an agent, around a host that has nothing behind it.
pub async fn simulated_agent(directory: &Path) -> Result<()> {
    end_on_panic();
    let identity = Identity::read(&directory.join("identity.json"))?;
    let address = identity
        .controller
        .context("this machine has not joined a cloud")?;
    let line = Arc::new(Line::new(&identity, address)?);
    let capacity = HostCapacity {
        cpus: 1,
        memory_bytes: 1 << 30,
        disk_bytes: 10 << 30,
    };
    let host = SimulatedHost::new(&host_name(), capacity, Duration::from_millis(100));
    boira_agent::run(Arc::new(host), line, directory).await
}

/// An agent that has lost one of its tasks, or a relay one of its threads, would look alive and do half
/// its work. Guests don't mind a new one, which the supervisor or the agent starts.
pub fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Whether no agent of the cloud runs on this machine.
///
/// # Errors
/// What runs, in words.
pub fn is_free_for(cloud: &CloudId) -> Result<()> {
    Claim::take(&cloud_tag(cloud)).map(drop)
}

/// A short word for namespaces and control groups, different for every cloud of a machine.
fn cloud_tag(cloud: &CloudId) -> String {
    let id = cloud.as_str();
    id[id.len().saturating_sub(8)..].to_owned()
}

fn commands() -> Result<Commands> {
    // The program may be replaced while guests run; what is started later is the new one.
    let program = this_program()?;
    Ok(Commands {
        console: (program.clone(), vec!["guest-console".into()]),
        services: vec![program.clone().into(), "vpc-services".into()],
        relay: vec![program.clone().into(), "underlay-relay".into()],
        watchdog: vec![program.into(), "agent-watchdog".into()],
    })
}

/// Holds the home as long as the cloud is up.
pub struct Lock(
    #[allow(dead_code, reason = "the lock lasts as long as the file is open")] Flock<File>,
);

/// `None` when another supervisor has it.
fn lock(home: &Home) -> Result<Option<Lock>> {
    let path = home.run("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Lock(lock))),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).context("lock the home"),
    }
}

/// Who asks whether a supervisor is there holds the lock for a moment, so one refusal means nothing.
async fn lock_soon(home: &Home) -> Result<Lock> {
    for _ in 0..20 {
        if let Some(lock) = lock(home)? {
            return Ok(lock);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("another supervisor holds {}", home.path().display());
}

/// Whether a supervisor holds this home.
pub fn is_up(home: &Home) -> Result<bool> {
    if !home.run("lock").exists() {
        return Ok(false);
    }
    Ok(lock(home)?.is_none())
}

/// Whether guests of this home may be running, also while nothing else of it does.
pub fn has_guests(home: &Home) -> bool {
    let entries = std::fs::read_dir(home.agent().join("guests"));
    let mut entries = entries.into_iter().flatten().flatten();
    entries.any(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
}

/// What would keep a cloud from starting, found before anything is started.
pub async fn check(home: &Home, serving: &Serving) -> Result<()> {
    let lacking = crate::commands::doctor::lacking_for_a_controller();
    if !lacking.is_empty() {
        bail!("no guest would run here:\n{}", lacking.join("\n"));
    }
    let files = boira_controller::config::Files::of(home.path());
    files.create_missing()?;
    files.check()?;
    port_is_free(serving.listen, "--listen").await?;
    port_is_free(serving.agents, "--agents").await
}

async fn port_is_free(address: SocketAddr, option: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        match std::net::TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            // The controller of a supervisor that was killed may be about to end.
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse
                    && begun.elapsed() < Duration::from_secs(1) =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("listen on {address}; choose another address with {option}")
                });
            }
        }
    }
}

/// Where the running cloud was told to be served.
pub fn serving(home: &Home) -> Option<Serving> {
    let text = std::fs::read_to_string(home.run("listen")).ok()?;
    let mut words = text.split_ascii_whitespace();
    Some(Serving {
        listen: words.next()?.parse().ok()?,
        agents: words.next()?.parse().ok()?,
        s3_domain: words.next().map(str::to_owned),
    })
}

/// A supervisor that is being started. Whoever stops waiting for it doesn't want it.
struct Beginning(Option<std::process::Child>);

impl Drop for Beginning {
    fn drop(&mut self) {
        if let Some(supervisor) = &self.0 {
            let _ = kill(Pid::from_raw(supervisor.id() as i32), Signal::SIGTERM);
        }
    }
}

/// Starts a supervisor of its own session, with its log in the home. On return it holds the home.
pub async fn start_supervisor(home: &Home, serving: &Serving) -> Result<()> {
    let mut command = std::process::Command::new(this_program()?);
    command
        .args([
            "supervise".into(),
            "--home".into(),
            home.path().as_os_str().to_owned(),
        ])
        .args(serving.arguments())
        .stdin(Stdio::null())
        .stdout(log_file(home, "supervisor")?)
        .stderr(log_file(home, "supervisor")?)
        .current_dir("/");
    // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
    let supervisor = command.spawn().context("start the supervisor")?;
    let mut beginning = Beginning(Some(supervisor));
    while !is_up(home)? {
        let supervisor = beginning.0.as_mut().expect("it is taken at the end");
        let ended = supervisor.try_wait().context("wait for the supervisor")?;
        if let Some(status) = ended {
            beginning.0 = None;
            bail!(
                "the supervisor ended: {status}; see {}",
                home.run("supervisor.log").display()
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    beginning.0 = None;
    Ok(())
}

/// The supervisor's process.
pub async fn supervise(home: &Home, serving: Serving) -> Result<()> {
    require_root("A cloud")?;
    home.create()?;
    let _lock = lock_soon(home).await?;
    note(home, "supervisor.pid", &std::process::id().to_string())?;
    note(home, "listen", &serving.to_string())?;
    // The controller writes it when it is ready; an older one's isn't worth anything.
    let _ = std::fs::remove_file(home.run("agents"));
    if closing_marker(home).exists() {
        tracing::info!("the last going down was interrupted; finishing it");
        switch_off(home, &|_| ()).await?;
    }
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut controller = Some(spawn_controller(home, &serving)?);
    let mut agent: Option<Child> = None;
    let mut restarts = Restarts::default();
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    loop {
        // A machine that is short of processes or memory, or whose program is being replaced, is so for
        // a while only.
        if controller.is_none() {
            let spawned = spawn_controller(home, &serving).map(Some);
            controller = restarts.unless_failed(spawned).await;
        }
        if agent.is_none() && home.agent().join("identity.json").exists() {
            let spawned = spawn_agent(home, serving.listen);
            agent = restarts.unless_failed(spawned).await;
        }
        tokio::select! {
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
            _ = minutes.tick() => logs::turn_over(home),
            status = ended(&mut controller) => {
                if never_was_ready(home, &status) {
                    stop(agent).await;
                    bail!("the controller did not start");
                }
                let status = words(status);
                tracing::error!("the controller ended: {status}; starting it again");
                controller = None;
                restarts.pause().await;
            }
            status = ended(&mut agent) => {
                let status = words(status);
                tracing::error!("the agent ended: {status}; starting it again");
                agent = None;
                restarts.pause().await;
            }
            () = tokio::time::sleep(Duration::from_millis(50)), if agent.is_none() || controller.is_none() => {}
        }
    }
    stop(agent).await;
    let off = switch_off(home, &|_| ()).await;
    stop(controller).await;
    // The file names a process that is about to be gone.
    let _ = std::fs::remove_file(home.run("supervisor.pid"));
    off.map(drop)
}

fn note(home: &Home, name: &str, text: &str) -> Result<()> {
    boira_controller::config::replace(&home.run(name), text.as_bytes(), 0o600)
}

/// A controller that gave up before it was ready for the first time would do so again, and `up` waits
/// for its reason. One that was killed is another matter.
fn never_was_ready(home: &Home, status: &std::io::Result<ExitStatus>) -> bool {
    let gave_up = status.as_ref().is_ok_and(|status| status.code().is_some());
    gave_up && !home.run("agents").exists()
}

/// Keeps a process that can't start from being started in a tight loop.
#[derive(Default)]
struct Restarts {
    recent: Vec<Instant>,
}

impl Restarts {
    /// What was started, or nothing for now.
    async fn unless_failed(&mut self, spawned: Result<Option<Child>>) -> Option<Child> {
        match spawned {
            Ok(child) => child,
            Err(error) => {
                tracing::error!("{error:#}; trying again");
                self.pause().await;
                None
            }
        }
    }

    async fn pause(&mut self) {
        self.recent
            .retain(|at| at.elapsed() < Duration::from_secs(30));
        self.recent.push(Instant::now());
        let wait_ms = match self.recent.len() {
            0..=3 => 0,
            4..=10 => 500,
            _ => 5_000,
        };
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

/// Waits for a child; for ever where there is none.
async fn ended(child: &mut Option<Child>) -> std::io::Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

fn words(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

async fn stop(child: Option<Child>) {
    let Some(mut child) = child else { return };
    if let Some(pid) = child.id() {
        // The child may have ended just now.
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
    }
    if tokio::time::timeout(END_DEADLINE, child.wait())
        .await
        .is_err()
    {
        let _ = child.kill().await;
    }
}

fn spawn(home: &Home, name: &str, arguments: &[OsString]) -> Result<Child> {
    let mut command = Command::new(this_program()?);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log_file(home, name)?)
        .stderr(log_file(home, name)?)
        .current_dir("/");
    // SAFETY: prctl is async-signal-safe. The supervisor's only thread is the one that forks, so the
    // child ends with the supervisor and not before.
    unsafe {
        command
            .pre_exec(|| nix::sys::prctl::set_pdeathsig(Some(Signal::SIGTERM)).map_err(Into::into));
    }
    command.spawn().with_context(|| format!("start the {name}"))
}

fn spawn_controller(home: &Home, serving: &Serving) -> Result<Child> {
    let mut arguments = vec![
        "controller".into(),
        "--local-host".into(),
        "--home".into(),
        home.path().as_os_str().to_owned(),
    ];
    arguments.extend(serving.arguments());
    spawn(home, "controller", &arguments)
}

/// `None` while the controller hasn't said where it serves agents.
fn spawn_agent(home: &Home, listen: SocketAddr) -> Result<Option<Child>> {
    let Ok(address) = std::fs::read_to_string(home.run("agents")) else {
        return Ok(None);
    };
    let mut address: SocketAddr = address.trim().parse().context("read the agents' address")?;
    let mut api = listen;
    for one in [&mut address, &mut api] {
        if one.ip().is_unspecified() {
            one.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
    }
    let arguments = [
        "agent".into(),
        "--directory".into(),
        home.agent().into_os_string(),
        "--controller".into(),
        address.to_string().into(),
        "--api".into(),
        api.to_string().into(),
    ];
    spawn(home, "agent", &arguments).map(Some)
}

/// Enrolls this machine, unless it has joined already.
pub async fn enroll_local(home: &Home, controller: &boira_controller::Controller) -> Result<()> {
    let path = home.agent().join("identity.json");
    let name = host_name();
    let mut known = None;
    if let Ok(identity) = Identity::read(&path) {
        let certificate = boira_controller::pki::certificates(&identity.certificate)?;
        let key = certificate
            .first()
            .and_then(|one| boira_controller::pki::key_of(one));
        let snapshot = controller.cluster.snapshot();
        let row = snapshot.state.hosts.get(&identity.host);
        // One that was revoked stays out until it is invited again.
        let fits =
            |row: &Host| row.admission == Admission::Revoked || Some(&row.key) == key.as_ref();
        if row.is_some_and(|row| fits(row)) {
            return Ok(());
        }
        known = row.cloned();
    }
    let made = controller.enroll(&name, known).await?;
    Identity {
        host: made.host,
        cloud: controller.cluster.cloud.clone(),
        certificate: made.certificate.pem,
        renew_after: made.certificate.renew_after,
        key: made.key,
        request: made.request,
        authority: controller.pki.authority()?,
        // The supervisor says where they are: they may be others at every start.
        controller: None,
        api: None,
    }
    .write(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_found_under_its_own_name() {
        let found = |path: &str| without_note(Path::new(path));
        assert_eq!(found("/x/boira (deleted)"), Some("/x/boira".into()));
        assert_eq!(found("/x/boira"), None);
    }
}
