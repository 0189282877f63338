//! Client processes. Each takes jobs as lines of JSON on its standard input and answers each with one
//! line; it holds one kept connection per address.

use crate::by_hand::{self, Recipe};
use crate::client::{Client, Login, element};
use crate::process::{Tied, now_ns};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The longest that anything may take to happen.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    /// The same EC2 request `count` times, one after the other, from `start_ns` on; each login has
    /// its turn.
    Repeat {
        logins: Vec<Login>,
        form: String,
        count: u32,
        start_ns: u64,
    },
    /// Asks until something answers, over new connections.
    UntilAnswered { login: Login, form: String },
    /// Launches, then asks for the account's counts until `total` instances run.
    UntilRunning {
        login: Login,
        form: String,
        total: u64,
    },
    /// Launches one and watches for the first byte in its console's log below `guests`.
    UntilFirstByte {
        login: Login,
        form: String,
        guests: PathBuf,
    },
    /// Starts a hypervisor's command line and waits for the first byte of its serial port.
    ByHand(Recipe),
}

/// Times are [`now_ns`]'s.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub begun_ns: u64,
    /// When a launch was answered.
    pub answered_ns: u64,
    pub ended_ns: u64,
    pub each_ns: Vec<u64>,
    /// Size and text of the last answer; the text only up to 64 KiB.
    pub bytes: u64,
    pub text: String,
}

impl Outcome {
    pub fn seconds(&self) -> f64 {
        self.ended_ns.saturating_sub(self.begun_ns) as f64 / 1e9
    }

    /// The median of the single requests in milliseconds.
    pub fn median_ms(&self) -> f64 {
        let series = self.each_ns.iter().map(|ns| *ns as f64 / 1e6).collect();
        crate::figure::Series(series).median()
    }

    fn keep(&mut self, body: &[u8]) {
        self.bytes = body.len() as u64;
        self.text = String::from_utf8_lossy(&body[..body.len().min(64 << 10)]).into_owned();
    }
}

/// The bench's handle on a client process.
pub struct Worker {
    // Dropped before the process is: it ends by itself when its input does.
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _process: Tied,
}

impl Worker {
    pub fn start() -> Result<Self> {
        let own = std::env::current_exe().context("find this program's own file")?;
        let mut process = Tied::spawn(
            Command::new(own)
                .arg("worker")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        )?;
        let input = process.0.stdin.take().context("the worker has no input")?;
        let output = process
            .0
            .stdout
            .take()
            .context("the worker has no output")?;
        Ok(Self {
            input,
            output: BufReader::new(output),
            _process: process,
        })
    }

    pub fn several(count: usize) -> Result<Vec<Self>> {
        (0..count).map(|_| Self::start()).collect()
    }

    pub fn begin(&mut self, job: &Job) -> Result<()> {
        let mut line = serde_json::to_vec(job).context("write a job")?;
        line.push(b'\n');
        self.input
            .write_all(&line)
            .context("hand a job to a worker")
    }

    pub fn end(&mut self) -> Result<Outcome> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .context("read a worker's outcome")?;
        let outcome: Result<Outcome, String> =
            serde_json::from_str(&line).context("a worker has ended without an outcome")?;
        outcome.map_err(|why| anyhow::anyhow!("a client failed: {why}"))
    }

    pub fn run(&mut self, job: &Job) -> Result<Outcome> {
        self.begin(job)?;
        self.end()
    }
}

/// The process of a worker.
pub fn serve() -> Result<()> {
    let mut clients = Clients::default();
    for line in std::io::stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line.context("read a job")?).context("parse a job")?;
        let outcome = carry_out(&mut clients, job).map_err(|error| format!("{error:#}"));
        let mut answer = serde_json::to_vec(&outcome).context("write an outcome")?;
        answer.push(b'\n');
        let mut output = std::io::stdout().lock();
        output
            .write_all(&answer)
            .and_then(|()| output.flush())
            .context("answer")?;
    }
    Ok(())
}

/// Kept connections by address.
#[derive(Default)]
struct Clients(HashMap<SocketAddr, Client>);

impl Clients {
    fn of(&mut self, address: SocketAddr) -> Result<&mut Client> {
        // Connections don't outlive a job: the server may be another by the next one.
        match self.0.entry(address) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                Ok(entry.insert(Client::connect(address)?))
            }
        }
    }
}

fn carry_out(clients: &mut Clients, job: Job) -> Result<Outcome> {
    clients.0.clear();
    match job {
        Job::Repeat {
            logins,
            form,
            count,
            start_ns,
        } => repeat(clients, &logins, &form, count, start_ns),
        Job::UntilAnswered { login, form } => until_answered(&login, &form),
        Job::UntilRunning { login, form, total } => until_running(clients, &login, &form, total),
        Job::UntilFirstByte {
            login,
            form,
            guests,
        } => until_first_byte(clients, &login, &form, &guests),
        Job::ByHand(recipe) => {
            let (begun_ns, ended_ns) = by_hand::start(&recipe)?;
            Ok(Outcome {
                begun_ns,
                ended_ns,
                ..Outcome::default()
            })
        }
    }
}

fn repeat(
    clients: &mut Clients,
    logins: &[Login],
    form: &str,
    count: u32,
    start_ns: u64,
) -> Result<Outcome> {
    let first = logins.first().context("a job without a login")?;
    let client = clients.of(first.address)?;
    std::thread::sleep(Duration::from_nanos(start_ns.saturating_sub(now_ns())));
    let mut outcome = Outcome {
        begun_ns: now_ns(),
        ..Outcome::default()
    };
    let mut before = outcome.begun_ns;
    for index in 0..count as usize {
        let login = &logins[index % logins.len()];
        let body = client.ec2(login, form)?;
        let now = now_ns();
        outcome.each_ns.push(now - before);
        before = now;
        if index + 1 == count as usize {
            outcome.keep(body);
        }
    }
    outcome.ended_ns = before;
    Ok(outcome)
}

fn until_answered(login: &Login, form: &str) -> Result<Outcome> {
    let begun_ns = now_ns();
    loop {
        let last = match Client::connect(login.address) {
            Ok(mut client) => match client.ec2(login, form) {
                Ok(_) => break,
                Err(error) => error,
            },
            Err(error) => error,
        };
        ensure_in_time(begun_ns).with_context(|| format!("{last:#}"))?;
        // A port that nobody listens to refuses at once.
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(Outcome {
        begun_ns,
        ended_ns: now_ns(),
        ..Outcome::default()
    })
}

fn until_running(clients: &mut Clients, login: &Login, form: &str, total: u64) -> Result<Outcome> {
    let client = clients.of(login.address)?;
    let begun_ns = now_ns();
    client.ec2(login, form)?;
    let answered_ns = now_ns();
    loop {
        let status = client.json(login, "GET", "/status", &serde_json::Value::Null)?;
        let ended_ns = now_ns();
        if status["running"].as_u64() >= Some(total) {
            return Ok(Outcome {
                begun_ns,
                answered_ns,
                ended_ns,
                ..Outcome::default()
            });
        }
        ensure_in_time(begun_ns).with_context(|| format!("not all run: {status}"))?;
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn until_first_byte(
    clients: &mut Clients,
    login: &Login,
    form: &str,
    guests: &std::path::Path,
) -> Result<Outcome> {
    let client = clients.of(login.address)?;
    let mut outcome = Outcome {
        begun_ns: now_ns(),
        ..Outcome::default()
    };
    let answer = client.ec2(login, form)?;
    outcome.answered_ns = now_ns();
    outcome.text = element(answer, "instanceId").context("nothing was launched")?;
    let log = guests.join(&outcome.text).join("console.log");
    while !crate::console::has_spoken(&log) {
        ensure_in_time(outcome.begun_ns).with_context(|| format!("{} is empty", log.display()))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    outcome.ended_ns = now_ns();
    Ok(outcome)
}

fn ensure_in_time(begun_ns: u64) -> Result<()> {
    let elapsed = Duration::from_nanos(now_ns().saturating_sub(begun_ns));
    if elapsed > LIMIT {
        bail!("nothing after {} s", LIMIT.as_secs());
    }
    Ok(())
}
