//! Real guests: how much later than by hand one starts, how long it takes to a login and where the
//! time goes, and the agent beside it.

use super::{Extent, idle};
use crate::by_hand::Recipe;
use crate::client::{Client, Login};
use crate::cloud::{admin_login, free_address, run_form, scratch};
use crate::debian::{boira, open_ssh};
use crate::figure::{Figure, Series, Target};
use crate::process::{end_detached, ms_between, note_detached, now_ns, resident_mb};
use crate::worker::{Job, Worker};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub fn take(extent: Extent) -> Result<Vec<Figure>> {
    ensure!(nix::unistd::geteuid().is_root(), "real guests need root");
    let mut cloud = RealCloud::start()?;
    let mut figures = vec![first_byte(&mut cloud, extent)?];
    figures.push(login(&mut cloud, extent)?);
    figures.extend(beside_a_guest(&mut cloud, extent)?);
    if let Some(first) = figures.first_mut() {
        first.note(format!("How guests run here: {}.", cloud.acceleration()?));
    }
    Ok(figures)
}

/// A whole cloud on this machine, taken down when it is dropped.
struct RealCloud {
    home: PathBuf,
    login: Login,
    client: Client,
    image: String,
}

impl Drop for RealCloud {
    fn drop(&mut self) {
        end_detached(&self.home);
    }
}

impl RealCloud {
    fn start() -> Result<Self> {
        let home = tempfile::Builder::new()
            .prefix("boira-bench-")
            // Guests run as users of their own, which may pass through here.
            .tempdir_in("/var/tmp")
            .context("make a home")?
            .keep();
        note_detached(&home);
        let outcome = Self::start_in(&home);
        if outcome.is_err() {
            end_detached(&home);
        }
        outcome
    }

    fn start_in(home: &Path) -> Result<Self> {
        keep_downloads(&home.join("work"), &kept()?, Direction::In)?;
        let listen = free_address()?.to_string();
        boira(home, &["up", "--detach", "--listen", &listen])?;
        boira(home, &["image", "build", "tiny"])?;
        // Hardware virtualization is tried with the image's kernel, which a first start hasn't got.
        boira(home, &["down"])?;
        boira(home, &["up", "--detach", "--listen", &listen])?;
        keep_downloads(&home.join("work"), &kept()?, Direction::Out)?;
        let login = admin_login(home)?;
        let client = Client::connect(login.address)?;
        open_ssh(home)?;
        // Also makes the key pair that later launches name, the network and the cached image.
        let rows = boira(
            home,
            &["--output", "json", "instance", "run", "--name", "first"],
        )?;
        let rows: Value = serde_json::from_str(&rows).context("read the first instance")?;
        let field = |name: &str| {
            rows[0][name]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("no {name}"))
        };
        let (image, id) = (field("image")?, field("id")?);
        let mut cloud = Self {
            home: home.to_owned(),
            login,
            client,
            image,
        };
        cloud.ssh(&id, &mut Marks::since(now_ns()))?;
        cloud.terminate(&id)?;
        Ok(cloud)
    }

    fn run_form(&self) -> String {
        format!("{}&KeyName=boira", run_form(&self.image, 1))
    }

    /// What the host has found out about hardware virtualization, as `boira doctor` would.
    fn acceleration(&self) -> Result<String> {
        let hosts = boira(&self.home, &["--output", "json", "host", "ls"])?;
        let hosts: Value = serde_json::from_str(&hosts).context("read the hosts")?;
        hosts[0]["acceleration"]["verdict"]
            .as_str()
            .map(str::to_owned)
            .context("the host has no verdict")
    }

    fn guests(&self) -> PathBuf {
        self.home.join("agent/guests")
    }

    /// The hypervisor's process.
    fn pid(&self, id: &str) -> Result<u32> {
        let text = std::fs::read_to_string(self.guests().join(id).join("process"))
            .context("read the guest's process")?;
        text.split(' ')
            .next()
            .and_then(|word| word.parse().ok())
            .context("no process id")
    }

    /// Hard off and gone, so that the next round has the machine for itself.
    fn terminate(&mut self, id: &str) -> Result<()> {
        let pid = self.pid(id).ok();
        let form = format!("Action=TerminateInstances&Version=2016-11-15&InstanceId.1={id}");
        self.client.ec2(&self.login, &form)?;
        let begun = Instant::now();
        let there = |pid: Option<u32>| {
            pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}/stat")).exists())
        };
        while self.guests().join(id).exists() || there(pid) {
            ensure!(
                begun.elapsed() < Duration::from_secs(120),
                "{id} does not end"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Tries until `ssh … true` succeeds, and notes what ssh says about the attempt that did.
    fn ssh(&self, id: &str, marks: &mut Marks) -> Result<()> {
        let begun = Instant::now();
        let config = self.home.join("ssh_config");
        if !config.exists() {
            // Any login writes it; this one may fail.
            let _ = boira(&self.home, &["ssh", id, "true"]);
        }
        loop {
            let attempt = attempt(&config, id)?;
            if let Some(lines) = attempt {
                marks.ssh(&lines);
                return Ok(());
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(240),
                "{id} does not answer on SSH"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn first_byte(cloud: &mut RealCloud, extent: Extent) -> Result<Figure> {
    let mut worker = Worker::start()?;
    let folder = tempfile::tempdir_in(scratch()?).context("make a folder")?;
    let recipe = take_recipe(cloud, folder.path())?;
    let (mut ours, mut answered, mut by_hand) = (Vec::new(), Vec::new(), Vec::new());
    // One round more: the first warms caches up and is not counted.
    for round in 0..=extent.rounds {
        let outcome = worker.run(&Job::UntilFirstByte {
            login: cloud.login.clone(),
            form: cloud.run_form(),
            guests: cloud.guests(),
        })?;
        cloud.terminate(&outcome.text)?;
        let reference = worker.run(&Job::ByHand(recipe.clone()))?;
        if round > 0 {
            ours.push(ms_between(outcome.begun_ns, outcome.ended_ns));
            answered.push(ms_between(outcome.begun_ns, outcome.answered_ns));
            by_hand.push(ms_between(reference.begun_ns, reference.ended_ns));
        }
    }
    let (ours, by_hand) = (Series(ours), Series(by_hand));
    let mut figure = Figure::new(
        "RunInstances to the first serial byte",
        "ms",
        Target::AtMost((by_hand.median() + 100.0).round()),
    )
    .because(
        "the instance is the first of its VPC on the host, whose namespace is made before the guest starts (below); by hand there is none",
    );
    figure.note(format!(
        "The target is 100 ms over by hand; it is {:.0} ms over, of which the API's durable answer takes {:.0} ms.",
        ours.median() - by_hand.median(),
        Series(answered).median(),
    ));
    figure.series = ours;
    figure.reference = Some(("the same QEMU command line, by hand".into(), by_hand));
    Ok(figure)
}

/// The command line of a guest that has just been started: QEMU soon closes what it was handed.
fn take_recipe(cloud: &mut RealCloud, folder: &Path) -> Result<Recipe> {
    let form = cloud.run_form();
    let id = crate::cloud::first_instance(cloud.client.ec2(&cloud.login, &form)?)?;
    let begun = Instant::now();
    let recipe = loop {
        match cloud.pid(&id).and_then(|pid| Recipe::of(pid, folder)) {
            Ok(recipe) => break recipe,
            Err(error) => ensure!(begun.elapsed() < Duration::from_secs(5), "{error:#}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    cloud.terminate(&id)?;
    Ok(recipe)
}

fn login(cloud: &mut RealCloud, extent: Extent) -> Result<Figure> {
    let mut figure = Figure::new(
        "RunInstances to `ssh … true`, image tiny",
        "ms",
        Target::AtMost(8000.0),
    );
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..extent.rounds {
        let begun_ns = now_ns();
        let form = cloud.run_form();
        let answer = cloud.client.ec2(&cloud.login, &form)?;
        let id = crate::cloud::first_instance(answer)?;
        let mut marks = Marks::since(begun_ns);
        marks.add("the API has answered", now_ns());
        let console = Console::watch(cloud.guests().join(&id).join("console.log"));
        cloud.ssh(&id, &mut marks)?;
        figure.series.0.push(ms_between(begun_ns, now_ns()));
        for (line, at_ns) in console.stop() {
            marks.add(&format!("console: {line}"), at_ns);
        }
        marks.history(&mut cloud.client, &cloud.login, &id)?;
        for (what, ms) in marks.found {
            all.entry(what).or_default().push(ms);
        }
        cloud.terminate(&id)?;
    }
    let mut timeline: Vec<(f64, String)> = all
        .into_iter()
        // What happens by chance is no part of the boot.
        .filter(|(_, times)| times.len() * 2 > extent.rounds)
        .map(|(what, times)| (Series(times).median(), what))
        .collect();
    timeline.sort_by(|a, b| a.0.total_cmp(&b.0));
    figure.note(phases(&timeline));
    figure.note("Where the time goes, in ms after the request (medians):".to_owned());
    let mut before = 0.0;
    for (ms, what) in timeline {
        figure.note(format!("  {ms:>6.0}  +{:<5.0} {what}", ms - before));
        before = ms;
    }
    Ok(figure)
}

/// The marks that end each part of a launch, and what the time before them went into.
const PHASES: [(&str, &str); 5] = [
    (
        "host: guest started",
        "the API, the disk and starting the hypervisor",
    ),
    (
        "console: boira: network eth0",
        "the firmware, the kernel and tiny's init until DHCP has answered",
    ),
    (
        "console: boira: ssh ready",
        "asking the metadata service for keys and starting SSH's server",
    ),
    (
        "ssh: keys are exchanged",
        "the next attempt to log in and the key exchange, a guest's heaviest arithmetic",
    ),
    (
        "ssh: the command has ended",
        "the login and the command, processes that a guest starts",
    ),
];

/// The timeline in one sentence.
fn phases(timeline: &[(f64, String)]) -> String {
    let mut before = 0.0;
    let parts = PHASES.iter().filter_map(|(mark, what)| {
        let (at, _) = timeline.iter().find(|(_, name)| name == mark)?;
        let part = format!("{:.0} ms {what}", at - before);
        before = *at;
        Some(part)
    });
    format!("In parts: {}.", parts.collect::<Vec<_>>().join("; "))
}

/// The agent's memory, and what it and the controller do while nothing is wanted of them.
fn beside_a_guest(cloud: &mut RealCloud, extent: Extent) -> Result<Vec<Figure>> {
    let mut figure = Figure::new("Agent with one guest, resident", "MB", Target::AtMost(40.0));
    let form = cloud.run_form();
    let id = crate::cloud::first_instance(cloud.client.ec2(&cloud.login, &form)?)?;
    cloud.ssh(&id, &mut Marks::since(now_ns()))?;
    let [agent, controller] = ["agent", "controller"].map(|word| supervised(&cloud.home, word));
    let (agent, controller) = (agent?, controller?);
    // A guest that was just started is asked twice before all is quiet.
    std::thread::sleep(Duration::from_secs(extent.size(35, 3).into()));
    for _ in 0..extent.rounds {
        figure.series.0.push(resident_mb(agent)?);
        std::thread::sleep(Duration::from_secs(1));
    }
    let mut figures = vec![figure];
    figures.extend(idle::figures(
        "with one guest",
        &[("controller", controller), ("agent", agent)],
        &cloud.home,
        extent,
    )?);
    cloud.terminate(&id)?;
    Ok(figures)
}

/// The child of the home's supervisor with this word on its command line.
fn supervised(home: &Path, word: &str) -> Result<u32> {
    let supervisor =
        std::fs::read_to_string(home.join("run/supervisor.pid")).context("find the supervisor")?;
    let supervisor = supervisor.trim();
    let children =
        std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))
            .context("list the supervisor's children")?;
    children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .find(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0)
                .any(|other| other == word.as_bytes())
        })
        .with_context(|| format!("the supervisor has no {word}"))
}

/// Packages and images that an earlier bench downloaded and built.
fn kept() -> Result<PathBuf> {
    Ok(scratch()?.join("work"))
}

enum Direction {
    In,
    Out,
}

fn keep_downloads(work: &Path, kept: &Path, direction: Direction) -> Result<()> {
    let (from, to) = match direction {
        Direction::In => (kept, work),
        Direction::Out => (work, kept),
    };
    if !from.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    let copied = Command::new("cp")
        .args(["-a", "--no-clobber"])
        .arg(from.join("."))
        .arg(to)
        .status()
        .context("copy what was downloaded")?;
    ensure!(copied.success(), "copying {} failed", from.display());
    Ok(())
}

/// What happened when, in milliseconds after the request.
struct Marks {
    begun_ns: u64,
    /// The same moment on the wall clock, in which histories are kept.
    begun_wall_ms: f64,
    found: Vec<(String, f64)>,
}

impl Marks {
    fn since(begun_ns: u64) -> Self {
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64() * 1e3);
        let begun_wall_ms = wall - ms_between(begun_ns, now_ns());
        Self {
            begun_ns,
            begun_wall_ms,
            found: Vec::new(),
        }
    }

    fn add(&mut self, what: &str, at_ns: u64) {
        if !self.found.iter().any(|(known, _)| known == what) {
            self.found
                .push((what.to_owned(), ms_between(self.begun_ns, at_ns)));
        }
    }

    /// The lines of `ssh -v` that tell one phase from the next.
    fn ssh(&mut self, lines: &[(u64, String)]) {
        if let Some((at, _)) = lines.first() {
            self.add("ssh: the attempt that succeeds begins", *at);
        }
        for (needle, what) in [
            (
                "Remote protocol version",
                "ssh: the guest's server says its version",
            ),
            ("SSH2_MSG_NEWKEYS received", "ssh: keys are exchanged"),
            ("Authenticated to", "ssh: logged in"),
            ("Sending command", "ssh: asks for the command"),
        ] {
            if let Some((at, _)) = lines.iter().find(|(_, line)| line.contains(needle)) {
                self.add(what, *at);
            }
        }
        if let Some((at, _)) = lines.last() {
            self.add("ssh: the command has ended", *at);
        }
    }

    /// What the host did for the instance, as `boira instance log` tells it.
    fn history(&mut self, client: &mut Client, login: &Login, id: &str) -> Result<()> {
        let path = format!("/instances/{id}/history");
        let answer = client.json(login, "GET", &path, &Value::Null)?;
        for event in answer["events"].as_array().into_iter().flatten() {
            let at = event["at"]
                .as_str()
                .and_then(boira_api::time::parse_iso8601);
            let Some(at_ms) = at else { continue };
            let what = event["what"].as_str().unwrap_or_default();
            // Ids differ from round to round.
            let what = what.split(" vol-").next().unwrap_or_default();
            let took = event["took_ms"].as_f64().unwrap_or_default();
            let at = at_ms as f64 - self.begun_wall_ms + took;
            if at > -50.0 && !what.is_empty() {
                let cause = event["cause"].as_str().unwrap_or_default();
                self.found.push((format!("{cause}: {what}"), at.max(0.0)));
            }
        }
        Ok(())
    }
}

/// Times every line of a console's log.
struct Console {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<(String, u64)>>,
}

impl Console {
    fn watch(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut lines = Vec::new();
            let mut known = 0;
            while !stopped.load(Ordering::Relaxed) {
                let text = crate::console::bytes(&path);
                let now = now_ns();
                if known == 0 && !text.is_empty() {
                    lines.push(("the first byte".to_owned(), now));
                }
                let whole = text
                    .iter()
                    .rposition(|byte| *byte == b'\n')
                    .map_or(0, |at| at + 1);
                if whole > known {
                    let new = String::from_utf8_lossy(&text[known..whole]).into_owned();
                    lines.extend(new.lines().filter_map(telling).map(|line| (line, now)));
                    known = whole;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            lines
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<(String, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        // A watcher that panicked has seen nothing.
        self.thread.join().unwrap_or_default()
    }
}

/// A line of the console without what differs from boot to boot; only Boira's own scripts speak.
fn telling(line: &str) -> Option<String> {
    let at = line.find("boira:")?;
    let line = line[at..].trim();
    // Ids and addresses come after what was done.
    Some(line.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// One `ssh -v … true`: its lines with their times where it succeeded.
fn attempt(config: &Path, id: &str) -> Result<Option<Vec<(u64, String)>>> {
    let begun = now_ns();
    let mut process = crate::process::Tied::spawn(
        Command::new("ssh")
            .arg("-v")
            .arg("-F")
            .arg(config)
            .args([
                "-o",
                "LogLevel=DEBUG1",
                "-o",
                "ConnectTimeout=5",
                "-o",
                "BatchMode=yes",
            ])
            .args([id, "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped()),
    )?;
    let errors = process.0.stderr.take().context("ssh has no errors")?;
    let mut lines = vec![(begun, "begun".to_owned())];
    for line in BufReader::new(errors).lines() {
        let Ok(line) = line else { break };
        lines.push((now_ns(), line));
    }
    let status = process.0.wait().context("wait for ssh")?;
    lines.push((now_ns(), "ended".to_owned()));
    Ok(status.success().then_some(lines))
}
