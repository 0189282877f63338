//! `boira instance`: launch, look, stop, start, and the serial console.

use crate::client::{Client, segment};
use crate::commands::image::{self, Xml};
use crate::commands::moving::{Migrate, migrate};
use crate::commands::ssh;
use crate::completion;
use crate::home::Home;
use crate::output::{self, Format, line_out};
use crate::terminal::Progress;
use anyhow::{Context, Result, bail};
use base64::Engine;
use clap::{Args, Subcommand};
use hyper::Method;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(Args)]
pub struct Run {
    /// Image id or name [default: the one tagged boira:default]
    #[arg(long, default_value = "", hide_default_value = true, add = completion::images())]
    image: String,
    /// Instance type; see `boira type ls`
    #[arg(long = "type", default_value = "m1.small", add = completion::types())]
    kind: String,
    /// The Name tag
    #[arg(long)]
    name: Option<String>,
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Key pair [default: this home's own]
    #[arg(long)]
    key: Option<String>,
    /// Security group id; may be repeated
    #[arg(long = "group")]
    groups: Vec<String>,
    /// Zone
    #[arg(long, add = completion::zones())]
    zone: Option<String>,
    /// Size of the root disk
    #[arg(long, value_name = "GIB")]
    disk_gib: Option<u64>,
    /// A file with user data
    #[arg(long)]
    user_data: Option<PathBuf>,
    /// A tag; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    tags: Vec<(String, String)>,
    /// Return at once instead of waiting until it runs
    #[arg(long)]
    no_wait: bool,
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a tag is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[derive(Subcommand)]
pub enum Command {
    /// Launch instances
    Run(Run),
    /// List instances
    Ls {
        /// Terminated ones too
        #[arg(long)]
        all: bool,
    },
    /// Everything about one instance
    Show {
        #[arg(add = completion::instances())]
        instance: String,
    },
    /// Start stopped instances
    Start {
        #[arg(required = true, add = completion::instances())]
        instances: Vec<String>,
    },
    /// Switch instances off and keep their disks
    Stop {
        #[arg(required = true, add = completion::instances())]
        instances: Vec<String>,
        /// At once, without asking the guest
        #[arg(long)]
        force: bool,
    },
    /// Boot instances again
    Reboot {
        #[arg(required = true, add = completion::instances())]
        instances: Vec<String>,
    },
    /// End instances for good, their disks included
    #[command(visible_alias = "rm")]
    Terminate {
        #[arg(required = true, add = completion::instances())]
        instances: Vec<String>,
    },
    /// Move an instance to another host (administrators)
    Migrate(Migrate),
    /// The serial console, live and two-way; ctrl-] leaves it
    Console {
        #[arg(add = completion::instances())]
        instance: String,
    },
    /// The instance's history: every state, every step of its host, and why
    Log {
        #[arg(add = completion::instances())]
        instance: String,
    },
}

pub async fn run(home: &Home, format: Format, command: Command) -> Result<()> {
    let client = Client::new(home.access()?)?;
    match command {
        Command::Run(ask) => launch(home, &client, format, ask).await,
        Command::Ls { all } => {
            let mut rows = list(&client, &[]).await?;
            rows.retain(|row| all || row.state != "terminated");
            show_rows(format, &rows);
            Ok(())
        }
        Command::Show { instance } => show(&client, format, &instance).await,
        Command::Start { instances } => {
            change(
                &client,
                format,
                "StartInstances",
                &instances,
                &[],
                "running",
            )
            .await
        }
        Command::Stop { instances, force } => {
            let extra: &[_] = if force { &[("Force", "true")] } else { &[] };
            change(
                &client,
                format,
                "StopInstances",
                &instances,
                extra,
                "stopped",
            )
            .await
        }
        Command::Reboot { instances } => {
            change(
                &client,
                format,
                "RebootInstances",
                &instances,
                &[],
                "running",
            )
            .await
        }
        Command::Terminate { instances } => {
            change(
                &client,
                format,
                "TerminateInstances",
                &instances,
                &[],
                "terminated",
            )
            .await
        }
        Command::Migrate(ask) => migrate(&client, format, ask).await,
        Command::Console { instance } => console(&client, &instance).await,
        Command::Log { instance } => log(&client, format, &instance).await,
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub id: String,
    pub name: String,
    pub state: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub image: String,
    pub private_ip: String,
    pub zone: String,
    pub key: String,
    pub launched: String,
    pub reason: String,
    /// Ids of its security groups.
    pub groups: Vec<String>,
}

pub async fn list(client: &Client, parameters: &[(&str, &str)]) -> Result<Vec<Row>> {
    let text = client.ec2("DescribeInstances", parameters).await?;
    let document = roxmltree::Document::parse(&text).context("read the list of instances")?;
    let mut rows: Vec<Row> = document
        .descendants()
        .filter(|node| node.has_tag_name_local("instancesSet"))
        .flat_map(|set| set.children().filter(|n| n.is_element()))
        .map(row)
        .collect();
    rows.sort_by(|a, b| a.launched.cmp(&b.launched));
    Ok(rows)
}

fn row(item: roxmltree::Node<'_, '_>) -> Row {
    let text = |path: &str| item.child_text(path).unwrap_or_default();
    Row {
        id: text("instanceId"),
        name: item
            .tags()
            .into_iter()
            .find(|(key, _)| key == "Name")
            .map_or(String::new(), |t| t.1),
        state: text("instanceState/name"),
        kind: text("instanceType"),
        image: text("imageId"),
        private_ip: text("privateIpAddress"),
        zone: text("placement/availabilityZone"),
        key: text("keyName"),
        launched: text("launchTime"),
        reason: text("stateReason/message"),
        groups: item
            .children()
            .filter(|node| node.has_tag_name_local("groupSet"))
            .flat_map(|set| set.children())
            .filter_map(|group| group.child_text("groupId"))
            .collect(),
    }
}

fn show_rows(format: Format, rows: &[Row]) {
    let header = [
        "INSTANCE", "NAME", "STATE", "TYPE", "ADDRESS", "ZONE", "LAUNCHED",
    ];
    output::rows(format, &header, rows, |row| {
        vec![
            row.id.clone(),
            row.name.clone(),
            row.state.clone(),
            row.kind.clone(),
            row.private_ip.clone(),
            row.zone.clone(),
            row.launched.replace('T', " ").chars().take(19).collect(),
        ]
    });
}

/// The instance of this id or `Name`; where all of that name are terminated, the last one.
pub async fn find(client: &Client, wanted: &str) -> Result<Row> {
    let rows = list(client, &[]).await?;
    if let Some(row) = rows.iter().find(|row| row.id == wanted) {
        return Ok(row.clone());
    }
    let named: Vec<_> = rows
        .iter()
        .filter(|row| row.name == wanted && row.state != "terminated")
        .collect();
    let ended = rows.iter().filter(|row| row.name == wanted);
    let last = ended.max_by(|a, b| a.launched.cmp(&b.launched));
    match (&named[..], last) {
        ([row], _) => Ok((*row).clone()),
        // Of those that are gone, the last one is meant.
        ([], Some(row)) => Ok(row.clone()),
        ([], None) => bail!("instance '{wanted}' does not exist; see `boira instance ls`"),
        (named, _) => {
            let ids: Vec<&str> = named.iter().map(|row| row.id.as_str()).collect();
            bail!(
                "{} instances are called '{wanted}'; give the id of one: {}",
                named.len(),
                ids.join(", ")
            )
        }
    }
}

async fn launch(home: &Home, client: &Client, format: Format, ask: Run) -> Result<()> {
    let rows = launch_rows(home, client, &ask).await?;
    let rows = match ask.no_wait {
        true => rows,
        false => {
            let progress = Progress::new(format == Format::Json);
            progress.step("waiting until it runs");
            let ids: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
            wait(client, &ids, "running").await?
        }
    };
    show_rows(format, &rows);
    Ok(())
}

async fn launch_rows(home: &Home, client: &Client, ask: &Run) -> Result<Vec<Row>> {
    let image = image::find(client, &ask.image).await?;
    let key = match &ask.key {
        Some(key) => key.clone(),
        None => ssh::import_key(home, client).await?,
    };
    let count = ask.count.to_string();
    let mut parameters = vec![
        ("ImageId", image.id.clone()),
        ("InstanceType", ask.kind.clone()),
        ("MinCount", count.clone()),
        ("MaxCount", count),
        ("KeyName", key),
    ];
    let names: Vec<String> = (1..=ask.groups.len())
        .map(|index| format!("SecurityGroupId.{index}"))
        .collect();
    parameters.extend(
        names
            .iter()
            .map(String::as_str)
            .zip(ask.groups.iter().cloned()),
    );
    if let Some(zone) = &ask.zone {
        parameters.push(("Placement.AvailabilityZone", zone.clone()));
    }
    if let Some(gib) = ask.disk_gib {
        parameters.push(("BlockDeviceMapping.1.DeviceName", "/dev/vda".into()));
        parameters.push(("BlockDeviceMapping.1.Ebs.VolumeSize", gib.to_string()));
    }
    if let Some(path) = &ask.user_data {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        parameters.push(("UserData", text));
    }
    let mut tags = ask.tags.clone();
    tags.extend(ask.name.iter().map(|name| ("Name".into(), name.clone())));
    if !tags.is_empty() {
        parameters.push(("TagSpecification.1.ResourceType", "instance".into()));
    }
    let tags: Vec<_> = (1..).zip(tags).flat_map(tag_members).collect();
    parameters.extend(
        tags.iter()
            .map(|(name, value)| (name.as_str(), value.clone())),
    );
    let parameters: Vec<_> = parameters
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let text = client.ec2("RunInstances", &parameters).await?;
    let document = roxmltree::Document::parse(&text).context("read the launched instances")?;
    Ok(document
        .descendants()
        .filter(|node| node.has_tag_name_local("instancesSet"))
        .flat_map(|set| set.children().filter(|n| n.is_element()))
        .map(row)
        .collect())
}

fn tag_members((index, (key, value)): (usize, (String, String))) -> [(String, String); 2] {
    let member = |name| format!("TagSpecification.1.Tag.{index}.{name}");
    [(member("Key"), key), (member("Value"), value)]
}

/// Launches the demo: one tiny instance of this name.
pub async fn launch_demo(home: &Home, client: &Client, name: &str) -> Result<Row> {
    let ask = Run {
        image: String::new(),
        kind: "m1.small".into(),
        name: Some(name.into()),
        count: 1,
        key: None,
        groups: Vec::new(),
        zone: None,
        disk_gib: None,
        user_data: None,
        tags: Vec::new(),
        no_wait: true,
    };
    launch_rows(home, client, &ask)
        .await?
        .into_iter()
        .next()
        .context("nothing was launched")
}

/// Waits until all of these are in a state; an end that makes it impossible is an error.
pub async fn wait(client: &Client, ids: &[String], state: &str) -> Result<Vec<Row>> {
    let begun = Instant::now();
    let mut looked = begun;
    let names: Vec<String> = (1..=ids.len())
        .map(|index| format!("InstanceId.{index}"))
        .collect();
    let parameters: Vec<_> = names
        .iter()
        .map(String::as_str)
        .zip(ids.iter().map(String::as_str))
        .collect();
    loop {
        let rows = list(client, &parameters).await?;
        if rows.iter().all(|row| row.state == state) {
            return Ok(rows);
        }
        let impossible = |row: &&Row| {
            row.state == "terminated"
                || (state == "running" && matches!(row.state.as_str(), "stopped" | "shutting-down"))
        };
        if let Some(row) = rows.iter().find(impossible) {
            bail!(
                "{} is {}: {}; see `boira instance log {}`",
                row.id,
                row.state,
                row.reason,
                row.id
            );
        }
        if state != "running" && looked.elapsed() > LOOK_AT_HOST {
            looked = Instant::now();
            for row in rows.iter().filter(|row| row.state != state) {
                host_is_heard_of(client, row, state).await?;
            }
        }
        if begun.elapsed() > Duration::from_secs(300) {
            bail!(
                "not {state} after 5 minutes; see `boira instance log {}`",
                ids.join(" ")
            );
        }
        // EC2's API has no way to wait but asking again.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a host is to end, it ends when it is there: nobody waits for one that may never come back.
async fn host_is_heard_of(client: &Client, row: &Row, state: &str) -> Result<()> {
    let path = format!("/instances/{}/recovery", segment(&row.id));
    let recovery = client.json(Method::GET, &path, None).await?;
    if recovery["host_is_silent"].as_bool() != Some(true) {
        return Ok(());
    }
    let host = recovery["host"].as_str().unwrap_or_default();
    let host = ["its host", host].join(" ");
    bail!(
        "{} is {}: {} is not heard of. It will be {state} when its host is back; see `boira host ls`",
        row.id,
        row.state,
        host.trim_end()
    );
}

/// Tells EC2 and waits for the state that follows. A reboot leaves the state as it is.
async fn change(
    client: &Client,
    format: Format,
    action: &str,
    instances: &[String],
    extra: &[(&str, &str)],
    state: &str,
) -> Result<()> {
    let mut ids = Vec::new();
    for instance in instances {
        ids.push(find(client, instance).await?.id);
    }
    let names: Vec<String> = (1..=ids.len())
        .map(|index| format!("InstanceId.{index}"))
        .collect();
    let mut parameters: Vec<_> = names
        .iter()
        .map(String::as_str)
        .zip(ids.iter().map(String::as_str))
        .collect();
    parameters.extend(extra);
    client.ec2(action, &parameters).await?;
    let progress = Progress::new(format == Format::Json);
    if action != "RebootInstances" {
        progress.step(format!("waiting until {} {state}", ids.join(", ")));
    }
    let rows = wait(client, &ids, state).await?;
    drop(progress);
    let word = |row: &Row| match action {
        "RebootInstances" => "is told to reboot".to_owned(),
        _ => row.state.clone(),
    };
    match format {
        Format::Json => output::json(&rows),
        Format::Table => rows
            .iter()
            .for_each(|row| line_out(&format!("{} {}", row.id, word(row)))),
    }
    Ok(())
}

async fn show(client: &Client, format: Format, wanted: &str) -> Result<()> {
    let row = find(client, wanted).await?;
    let path = format!("/instances/{}/recovery", segment(&row.id));
    // A terminated one has no host to lose.
    let recovery = match row.state.as_str() {
        "terminated" => Value::Null,
        _ => client.json(Method::GET, &path, None).await?,
    };
    if format == Format::Json {
        let mut row = serde_json::to_value(&row).context("write the instance")?;
        row["recovery"] = recovery;
        output::json(&row);
        return Ok(());
    }
    let host = recovery["host"].as_str().unwrap_or_default().to_owned();
    let recovery = in_words(&recovery);
    for (name, value) in [
        ("instance", &row.id),
        ("name", &row.name),
        ("state", &row.state),
        ("reason", &row.reason),
        ("type", &row.kind),
        ("image", &row.image),
        ("address", &row.private_ip),
        ("zone", &row.zone),
        ("host", &host),
        ("key", &row.key),
        ("launched", &row.launched),
        ("recovery", &recovery),
    ] {
        if !value.is_empty() {
            line_out(&format!("{name:<10}{value}"));
        }
    }
    Ok(())
}

/// What would happen if its host were lost.
fn in_words(recovery: &Value) -> String {
    let after = recovery["after_s"].as_u64().unwrap_or_default();
    let text = match (recovery["recovery"].as_str(), recovery["fenced"].as_bool()) {
        (Some("reimage"), Some(true)) => format!(
            "if its host is lost, started on another one after {after} s, with disks made anew"
        ),
        (Some("reimage"), _) => {
            "waits for its host, which has yet to say that it holds it at its deadline".into()
        }
        (Some(_), _) => {
            let why = recovery["why"].as_str().unwrap_or_default();
            format!("if its host is lost, waits for it: {why}")
        }
        (None, _) => return String::new(),
    };
    match recovery["host_is_silent"].as_bool() {
        Some(true) => format!("its host is not heard of; {text}"),
        _ => text,
    }
}

async fn log(client: &Client, format: Format, wanted: &str) -> Result<()> {
    let path = format!("/instances/{}/history", segment(wanted));
    let answer = client.json(Method::GET, &path, None).await?;
    if format == Format::Json {
        output::json(&answer);
        return Ok(());
    }
    for event in answer["events"].as_array().into_iter().flatten() {
        let took = match event["took_ms"].as_u64() {
            Some(ms) => format!("  ({ms} ms)"),
            None => String::new(),
        };
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        line_out(&format!(
            "{}  {:<6} {}{took}",
            text("at"),
            text("cause"),
            text("what")
        ));
    }
    Ok(())
}

/// How often who waits looks whether the host is there.
const LOOK_AT_HOST: Duration = Duration::from_secs(5);
/// The key that leaves a console, as in telnet: ctrl-].
const LEAVE: u8 = 0x1d;
/// How long after its end a console is asked for again.
const CONSOLE_AGAIN: Duration = Duration::from_millis(500);

async fn console(client: &Client, wanted: &str) -> Result<()> {
    let row = find(client, wanted).await?;
    let path = format!("/instances/{}/console", row.id);
    let mut stream = client.stream(&path).await?;
    eprintln!("connected to {}; ctrl-] leaves", row.id);
    let _raw = ssh::RawTerminal::enter();
    let (mut stdin, mut stdout) = (tokio::io::stdin(), tokio::io::stdout());
    let (mut typed, mut shown) = ([0; 1024], [0; 16 << 10]);
    let mut open = true;
    loop {
        tokio::select! {
            count = stdin.read(&mut typed), if open => {
                let count = count.context("read the keyboard")?;
                if count == 0 {
                    open = false;
                    continue;
                }
                if typed[..count].contains(&LEAVE) {
                    return Ok(());
                }
                // One that takes nothing more has an end, which is read next.
                let _ = stream.write_all(&typed[..count]).await;
            }
            count = stream.read(&mut shown) => {
                let count = count.context("read the console")?;
                if count == 0 {
                    // It may have gone to another host, where its console begins anew.
                    tokio::time::sleep(CONSOLE_AGAIN).await;
                    match find(client, &row.id).await?.state.as_str() {
                        "running" => stream = client.stream(&path).await?,
                        _ => return Ok(()),
                    }
                    continue;
                }
                stdout.write_all(&shown[..count]).await.context("show the console")?;
                stdout.flush().await.context("show the console")?;
            }
        }
    }
}
