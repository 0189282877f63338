//! `boira ssh` and `boira forward`: the way in, over a stream that the instance's agent opens.

use crate::client::{Client, segment};
use crate::commands::image::Xml;
use crate::commands::{env::quote, image, instance};
use crate::completion;
use crate::home::{Home, give_to_caller};
use crate::output::{self, Format, line_out};
use anyhow::{Context, Result, bail};
use base64::Engine;
use clap::Args;
use hyper::Method;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// How long `boira ssh` waits for a machine that is booting.
const BOOT: Duration = Duration::from_secs(60);
/// ssh's exit code for its own failures.
const SSH_FAILED: i32 = 255;
/// How often it is looked whether the machine still runs.
const LOOK: Duration = Duration::from_secs(2);
/// The key pair of this home.
const KEY: &str = "boira";

#[derive(Args)]
pub struct Ssh {
    /// Instance id or name, with or without USER@
    #[arg(add = completion::instances())]
    name: String,
    /// A command to run there instead of a shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Private key [default: this home's own]
    #[arg(short, long)]
    identity: Option<std::path::PathBuf>,
}

#[derive(Args)]
pub struct Forward {
    /// Instance id or name
    #[arg(add = completion::instances())]
    name: String,
    /// [LOCAL:]REMOTE
    ports: String,
}

/// Runs the system's ssh with this cloud's ProxyCommand, and answers its exit code. An own failure has
/// the code of ssh's.
pub async fn ssh(home: &Home, ask: Ssh) -> ExitCode {
    run_ssh(home, ask).await.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(255)
    })
}

async fn run_ssh(home: &Home, ask: Ssh) -> Result<ExitCode> {
    let client = Client::new(home.access()?)?;
    let (user, name) = match ask.name.split_once('@') {
        Some((user, name)) => (Some(user.to_owned()), name),
        None => (None, ask.name.as_str()),
    };
    let row = instance::find(&client, name).await?;
    if row.state == "pending" {
        let progress = crate::terminal::Progress::new(false);
        progress.step(format!("waiting until {} runs", row.id));
        instance::wait(&client, std::slice::from_ref(&row.id), "running").await?;
    } else {
        must_run(&row)?;
    }
    let user = match user {
        Some(user) => user,
        None => image::find(&client, &row.image)
            .await
            .map_or("root".into(), |image| image.user),
    };
    wait_while_booting(&client, &row).await?;
    let alias = host_key_alias(&client, &row.id).await?;
    let mut command = tokio::process::Command::new("ssh");
    command.args(["-F", "none", "-l", &user]);
    if let Some(identity) = &ask.identity {
        command.arg("-i").arg(identity);
    }
    // The way in speaks as this command does: ssh hands the variables on.
    for (name, value) in options(home, home.is_named())? {
        command.arg("-o").arg(format!("{name} {value}"));
    }
    command.arg("-o").arg(format!("HostKeyAlias {alias}"));
    command.arg(&row.id).arg("--").args(&ask.command);
    let status = command
        .status()
        .await
        .context("run ssh; is the package openssh-client there?")?;
    let another = !row.key.is_empty() && row.key.split('-').next() != Some(KEY);
    if status.code() == Some(SSH_FAILED) && ask.identity.is_none() && another {
        eprintln!(
            "{} was launched with the key pair {}; `boira ssh -i FILE` takes its private key",
            row.id, row.key
        );
    }
    Ok(ExitCode::from(
        status.code().unwrap_or(255).clamp(0, 255) as u8
    ))
}

/// An error that says what to do where it doesn't.
fn must_run(row: &instance::Row) -> Result<()> {
    match row.state.as_str() {
        "running" => Ok(()),
        "stopped" => bail!(
            "{0} is stopped; start it with `boira instance start {0}`",
            row.id
        ),
        other => bail!("{} is {other}", row.id),
    }
}

/// One whose disks were made anew on another host has other keys, and rightly so.
async fn host_key_alias(client: &Client, id: &str) -> Result<String> {
    let path = format!("/instances/{}/recovery", segment(id));
    let answer = client.json(Method::GET, &path, None).await?;
    Ok(match answer["reimaged"].as_u64() {
        Some(0) | None => id.to_owned(),
        Some(times) => format!("{id}.{times}"),
    })
}

/// A machine that was launched a moment ago is worth waiting for, unless nothing gets in.
async fn wait_while_booting(client: &Client, row: &instance::Row) -> Result<()> {
    let id = &row.id;
    if matches!(greeting(client, id).await, Ok(true)) {
        return Ok(());
    }
    if let Some(group) = closed_group(client, row).await? {
        bail!(
            "no security group of {id} lets SSH in; this does:\n  aws ec2 \
             authorize-security-group-ingress --group-id {group} --protocol tcp --port 22 --cidr \
             0.0.0.0/0"
        );
    }
    let progress = crate::terminal::Progress::new(false);
    progress.step(format!("waiting until {id} answers on SSH"));
    wait_for_ssh(client, id, BOOT).await
}

/// The first of an instance's groups, where none of them has a rule that lets SSH in.
async fn closed_group(client: &Client, row: &instance::Row) -> Result<Option<String>> {
    let names: Vec<_> = (1..=row.groups.len())
        .map(|n| format!("GroupId.{n}"))
        .collect();
    let names = names.iter().map(String::as_str);
    let parameters: Vec<_> = names.zip(row.groups.iter().map(String::as_str)).collect();
    let text = client.ec2("DescribeSecurityGroups", &parameters).await?;
    let document = roxmltree::Document::parse(&text).context("read the security groups")?;
    let groups = document
        .descendants()
        .filter(|node| node.has_tag_name_local("securityGroupInfo"))
        .flat_map(|set| set.children().filter(|node| node.is_element()));
    let lets_in = |group: &roxmltree::Node<'_, '_>| {
        let rules = group
            .children()
            .filter(|node| node.has_tag_name_local("ipPermissions"))
            .flat_map(|set| set.children().filter(|node| node.is_element()));
        rules.into_iter().any(|rule| {
            let port = |name| rule.child_text(name).and_then(|text| text.parse().ok());
            let ports = port("fromPort").unwrap_or(0)..=port("toPort").unwrap_or(u16::MAX);
            let protocol = rule.child_text("ipProtocol").unwrap_or_default();
            matches!(protocol.as_str(), "tcp" | "-1") && ports.contains(&22)
        })
    };
    let groups: Vec<_> = groups.collect();
    Ok(match groups.iter().any(lets_in) {
        true => None,
        false => row.groups.first().cloned(),
    })
}

/// What the way in needs of a home: `ssh_config` for `ssh -F`, scp, rsync and editors, and the key and
/// the list of known hosts of who called sudo.
pub async fn prepare(home: &Home) -> Result<()> {
    let options: String = options(home, true)?
        .iter()
        .map(|(name, value)| format!("\t{name} {value}\n"))
        .collect();
    let path = home.path().join("ssh_config");
    let text = format!(
        "# Written by boira: ssh -F {} NAME\nHost *\n\tUser root\n{options}",
        quote(&path.display().to_string()),
    );
    boira_controller::config::replace(&path, text.as_bytes(), 0o644)?;
    if !home.key().exists() {
        make_key(&home.key()).await?;
    }
    let hosts = known_hosts(home);
    std::fs::File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&hosts)
        .with_context(|| format!("make {}", hosts.display()))?;
    for path in [home.key(), home.key().with_extension("pub"), hosts] {
        give_to_caller(&path)?;
    }
    Ok(())
}

fn known_hosts(home: &Home) -> PathBuf {
    home.path().join("keys/known_hosts")
}

/// Whether the home is named to the way in decides whose keys it uses, see [`Home::access`].
fn options(home: &Home, named: bool) -> Result<Vec<(&'static str, String)>> {
    // ssh has uses of its own for the percent sign.
    let text = |path: &Path| path.display().to_string().replace('%', "%%");
    let word = |path: &Path| quote(&text(path));
    let program = crate::node::this_program()?;
    let chosen = match named {
        true => format!(" --home {}", word(home.path())),
        false => String::new(),
    };
    Ok(vec![
        (
            "ProxyCommand",
            format!("{} proxy{chosen} %h %p", word(&program)),
        ),
        ("IdentityFile", format!("\"{}\"", text(&home.key()))),
        (
            "UserKnownHostsFile",
            format!("\"{}\"", text(&known_hosts(home))),
        ),
        ("StrictHostKeyChecking", "accept-new".into()),
        ("HashKnownHosts", "no".into()),
        ("ServerAliveInterval", "30".into()),
        ("LogLevel", "ERROR".into()),
    ])
}

/// How long a guest may take to end a connection that ssh has ended.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What ssh talks through: standard input and output joined with a port of the instance.
pub async fn proxy(home: &Home, name: &str, port: u16) -> Result<()> {
    let client = Client::new(home.access()?)?;
    let far = client
        .stream(&format!("/instances/{}/dial/{port}", segment(name)))
        .await?;
    let (mut far_reader, mut far_writer) = tokio::io::split(far);
    let outward = async {
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut far_writer).await;
        let _ = far_writer.shutdown().await;
        // ssh has ended; a guest that is still there closes its end too.
        tokio::time::sleep(LAST_WORDS).await;
    };
    let mut out = tokio::io::stdout();
    // ssh reports what a broken connection means, as soon as this end of it is closed.
    tokio::select! {
        _ = tokio::io::copy(&mut far_reader, &mut out) => {}
        () = outward => {}
    }
    Ok(())
}

pub async fn forward(home: &Home, format: Format, ask: Forward) -> Result<()> {
    let access = home.access()?;
    let client = Client::new(access.clone())?;
    let row = instance::find(&client, &ask.name).await?;
    if row.state != "pending" {
        must_run(&row)?;
    }
    let parse = |text: &str| {
        text.parse::<u16>()
            .with_context(|| format!("{text} is no port"))
    };
    let (local, remote) = match ask.ports.split_once(':') {
        Some((local, remote)) => (parse(local)?, parse(remote)?),
        None => (parse(&ask.ports)?, parse(&ask.ports)?),
    };
    let listener = TcpListener::bind(("127.0.0.1", local))
        .await
        .with_context(|| format!("listen on port {local}"))?;
    let address = listener.local_addr().context("ask for the port")?;
    match format {
        Format::Json => {
            output::json(&json!({ "listen": address, "instance": row.id, "port": remote }));
        }
        Format::Table => line_out(&format!(
            "{address} leads to port {remote} of {}; ctrl-c ends it",
            row.id
        )),
    }
    loop {
        let (mut near, _) = listener.accept().await.context("accept a connection")?;
        let client = Client::new(access.clone())?;
        let path = format!("/instances/{}/dial/{remote}", row.id);
        tokio::spawn(async move {
            match client.stream(&path).await {
                Ok(mut far) => drop(tokio::io::copy_bidirectional(&mut near, &mut far).await),
                Err(error) => eprintln!("error: {error:#}"),
            }
        });
    }
}

/// Imports this home's SSH key, which `up` made, under the caller's account. Where the account has another
/// home's by that name, this one gets a name of its own.
pub async fn import_key(home: &Home, client: &Client) -> Result<String> {
    let path = home.key();
    let public = std::fs::read_to_string(path.with_extension("pub"))
        .context("read this home's public key; name another with --key")?;
    let digest = Sha256::digest(public.trim());
    for name in [
        KEY.to_owned(),
        format!("{KEY}-{}", hex::encode(&digest[..4])),
    ] {
        let material = base64::engine::general_purpose::STANDARD.encode(&public);
        let parameters = [("KeyName", name.as_str()), ("PublicKeyMaterial", &material)];
        match client.ec2("ImportKeyPair", &parameters).await {
            Ok(_) => return Ok(name),
            Err(error) => match error.downcast_ref::<crate::client::ServiceError>() {
                Some(known) if known.code == "InvalidKeyPair.Duplicate" => {}
                _ => return Err(error),
            },
        }
        if is_key(client, &name, &public).await? {
            return Ok(name);
        }
    }
    bail!("this account has other keys called {KEY}; name one with --key")
}

/// Whether the account's key pair of this name is this key.
async fn is_key(client: &Client, name: &str, public: &str) -> Result<bool> {
    let parameters = [("KeyName.1", name), ("IncludePublicKey", "true")];
    let text = client.ec2("DescribeKeyPairs", &parameters).await?;
    let document = roxmltree::Document::parse(&text).context("read the key pair")?;
    let theirs = document
        .descendants()
        .find(|node| node.has_tag_name_local("publicKey"))
        .and_then(|node| node.text());
    // The comment behind it is none of the key.
    let key = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    Ok(theirs.and_then(key) == key(public))
}

async fn make_key(path: &Path) -> Result<()> {
    let output = tokio::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "boira", "-f"])
        .arg(path)
        .output()
        .await
        .context("run ssh-keygen; is the package openssh-client there?")?;
    if !output.status.success() {
        bail!(
            "ssh-keygen failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Waits until the instance's SSH server says who it is.
pub async fn wait_for_ssh(client: &Client, id: &str, limit: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut looked = begun;
    let mut last = String::from("no answer yet");
    while begun.elapsed() < limit {
        if looked.elapsed() > LOOK {
            looked = Instant::now();
            must_run(&instance::find(client, id).await?)?;
        }
        match greeting(client, id).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => last = format!("{error:#}"),
        }
        // A refused connection is answered at once; the guest is still booting.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!(
        "{id} does not answer on SSH after {} s: {last}. It may still boot: try again, or see `boira instance console {id}`",
        limit.as_secs()
    )
}

async fn greeting(client: &Client, id: &str) -> Result<bool> {
    let mut stream = client.stream(&format!("/instances/{id}/dial/22")).await?;
    let mut first = [0; 4];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut first)).await;
    Ok(matches!(read, Ok(Ok(_)) if first == *b"SSH-"))
}

/// A terminal that hands every key on, until it is dropped.
pub struct RawTerminal(Option<nix::sys::termios::Termios>);

impl RawTerminal {
    /// Does nothing where standard input is no terminal.
    pub fn enter() -> Self {
        use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        match tcsetattr(&stdin, SetArg::TCSANOW, &raw) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        use nix::sys::termios::{SetArg, tcsetattr};
        if let Some(before) = &self.0 {
            // There is nobody left to tell when this fails.
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}
