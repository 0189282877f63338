//! `boira host`: the machines that run instances.

use crate::client::{Client, segment};
use crate::commands::moving;
use crate::completion;
use crate::home::Home;
use crate::output::{self, Format, bytes, line_out};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

#[derive(Subcommand)]
pub enum Command {
    /// List the hosts
    Ls,
    /// Everything about one host
    Show(Named),
    /// Let a PC join: prints the one line to run there
    Invite(Invite),
    /// Place nothing new on a host, so that it can be taken away
    Drain {
        #[command(flatten)]
        host: Named,
        /// Move its instances to other hosts too, those that run while they run
        #[arg(long = "move")]
        evacuate: bool,
        /// Why, for who looks at it later
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Use a host again
    Undrain(Named),
    /// Set, replace or remove labels
    Label {
        #[command(flatten)]
        host: Named,
        /// NAME=VALUE sets a label, NAME= removes it
        #[arg(required = true, value_name = "NAME=VALUE")]
        labels: Vec<String>,
    },
    /// Keep a line of words with a host; an empty one removes it
    Note {
        #[command(flatten)]
        host: Named,
        text: String,
    },
    /// Cut a host off at once, such as one that was stolen; what is on it stays placed there
    Revoke {
        #[command(flatten)]
        host: Named,
        /// Also the controller's own machine
        #[arg(long)]
        force: bool,
    },
    /// Forget a host that nothing is on
    Rm {
        #[command(flatten)]
        host: Named,
        /// Also with instances and disks on it: they are terminated and lost
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args)]
pub struct Named {
    /// Name, number or id
    #[arg(add = completion::hosts())]
    host: String,
}

impl Named {
    fn path(&self) -> String {
        format!("/hosts/{}", segment(&self.host))
    }
}

#[derive(Args)]
pub struct Invite {
    /// The zone to join [default: the first]
    #[arg(long, add = completion::zones())]
    zone: Option<String>,
    /// A host that comes back, such as after its system was installed anew
    #[arg(long, value_name = "NAME", add = completion::hosts())]
    host: Option<String>,
    /// How long the invitation lasts, such as 30m, 12h or 2d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = seconds)]
    valid: u64,
}

fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "a time is a number with s, m, h or d, such as 90m".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    match number.checked_mul(factor) {
        Some(0) => Err("it would be over at once".to_owned()),
        Some(seconds) => Ok(seconds),
        None => Err(wrong()),
    }
}

pub async fn run(home: &Home, format: Format, command: Command) -> Result<()> {
    let client = Client::new(home.access()?)?;
    let change = async |host: &Named, body: Value, done: &str| {
        let answer = client
            .json(Method::PATCH, &host.path(), Some(&body))
            .await?;
        say(format, &answer, done);
        Ok(())
    };
    match command {
        Command::Ls => list(format, &hosts(&client).await?),
        Command::Show(named) => show(format, &hosts(&client).await?, &named.host)?,
        Command::Invite(ask) => invite(&client, format, ask).await?,
        Command::Drain {
            host,
            evacuate,
            note,
        } => {
            let body = json!({ "draining": true, "evacuating": evacuate, "note": note });
            if !evacuate {
                return change(&host, body, "takes nothing new").await;
            }
            client
                .json(Method::PATCH, &host.path(), Some(&body))
                .await?;
            return moving::empty(&client, format, &host.host).await;
        }
        Command::Undrain(host) => {
            let body = json!({ "draining": false, "note": "" });
            change(&host, body, "is used again").await?;
            let rows = hosts(&client).await?;
            let leaving = named(&rows, &host.host)?["leaving"].as_array();
            for told in leaving.into_iter().flatten() {
                eprintln!(
                    "{id} goes on moving to {to}; `boira instance migrate {id} --cancel` keeps it",
                    id = text(&told["instance"]),
                    to = text(&told["to"]),
                );
            }
        }
        Command::Label { host, labels } => {
            let body = json!({ "labels": parse_labels(&labels)? });
            return change(&host, body, "has its labels").await;
        }
        Command::Note { host, text } => {
            return change(&host, json!({ "note": text }), "has its note").await;
        }
        Command::Revoke { host, force } => {
            if !force {
                spare_own(&hosts(&client).await?, &host.host)?;
            }
            let path = format!("{}/revoke", host.path());
            let answer = client.json(Method::POST, &path, None).await?;
            say(format, &answer, "is cut off");
        }
        Command::Rm { host, force } => {
            if !force {
                spare_own(&hosts(&client).await?, &host.host)?;
            }
            let path = format!("{}?force={force}", host.path());
            let answer = client.json(Method::DELETE, &path, None).await?;
            say(format, &answer, "is forgotten");
        }
    }
    Ok(())
}

fn say(format: Format, answer: &Value, done: &str) {
    match format {
        Format::Json => output::json(answer),
        Format::Table => line_out(&format!("{} {done}", text(&answer["name"]))),
    }
}

async fn hosts(client: &Client) -> Result<Vec<Value>> {
    let answer = client.json(Method::GET, "/hosts", None).await?;
    let rows = answer["hosts"].as_array().cloned();
    rows.context("the cloud answered no hosts")
}

fn parse_labels(labels: &[String]) -> Result<serde_json::Map<String, Value>> {
    let parse = |label: &String| match label.split_once('=') {
        Some((name, "")) => Ok((name.to_owned(), Value::Null)),
        Some((name, value)) => Ok((name.to_owned(), value.into())),
        None => bail!("'{label}' is no label; write NAME=VALUE, or NAME= to remove it"),
    };
    labels.iter().map(parse).collect()
}

async fn invite(client: &Client, format: Format, ask: Invite) -> Result<()> {
    let body = json!({ "zone": ask.zone, "host": ask.host, "valid_s": ask.valid });
    let answer = client
        .json(Method::POST, "/invitations", Some(&body))
        .await?;
    if format == Format::Json {
        output::json(&answer);
        return Ok(());
    }
    let whose = match answer["host"].as_str() {
        Some(host) => format!("to come back as {host}"),
        None => format!("to join zone {}", text(&answer["zone"])),
    };
    line_out(&format!(
        "Run this as root on the PC {whose}. It works once, until {}:\n\n    {}\n",
        text(&answer["expires"]),
        text(&answer["command"])
    ));
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn size(value: &Value) -> String {
    bytes(value.as_u64().unwrap_or(0))
}

fn free(host: &Value, total: &str, used: &str) -> u64 {
    let number = |name: &str| host[name].as_u64().unwrap_or(0);
    number(total).saturating_sub(number(used))
}

/// One core's speed in MiB/s of SHA-256: enough to tell the slow PCs from the fast ones.
fn speed(host: &Value) -> String {
    match host["intake"]["speed"]["integer_mib_s"].as_u64() {
        Some(speed) => speed.to_string(),
        None => "-".into(),
    }
}

/// RVM, TCPU, FCPU, ACPU, TMEM, FMEM and AMEM are OpenNebula's names of these columns: running
/// instances, and total, free and allocated CPU and memory.
fn list(format: Format, hosts: &[Value]) {
    let header = [
        "#", "NAME", "STATE", "ZONE", "SPEED", "RVM", "TCPU", "FCPU", "ACPU", "TMEM", "FMEM",
        "AMEM", "FDISK", "SEEN",
    ];
    output::rows(format, &header, hosts, |host| {
        vec![
            text(&host["number"]),
            text(&host["name"]),
            text(&host["state"]),
            text(&host["zone"]),
            speed(host),
            text(&host["instances"]),
            text(&host["vcpus_total"]),
            free(host, "vcpus_total", "vcpus_used").to_string(),
            text(&host["vcpus_used"]),
            size(&host["memory_total_bytes"]),
            bytes(free(host, "memory_total_bytes", "memory_used_bytes")),
            size(&host["memory_used_bytes"]),
            bytes(free(host, "disk_total_bytes", "disk_used_bytes")),
            format!("{} s ago", host["last_seen_s"]),
        ]
    });
}

fn named<'a>(hosts: &'a [Value], wanted: &str) -> Result<&'a Value> {
    let found = hosts.iter().find(|host| {
        ["name", "id", "number"]
            .iter()
            .any(|member| text(&host[*member]) == wanted)
    });
    found.with_context(|| format!("host '{wanted}' does not exist; see `boira host ls`"))
}

/// The machine of the controller is no PC that was stolen.
fn spare_own(hosts: &[Value], wanted: &str) -> Result<()> {
    let host = named(hosts, wanted)?;
    if host["beside_controller"] != json!(true) {
        return Ok(());
    }
    bail!(
        "{} is the controller's own machine: without it, what runs on it can't be reached, stopped or moved. \
         `--force` does it all the same; `boira host drain` only keeps new instances off",
        text(&host["name"])
    )
}

fn show(format: Format, hosts: &[Value], wanted: &str) -> Result<()> {
    let host = named(hosts, wanted)?;
    if format == Format::Json {
        output::json(host);
        return Ok(());
    }
    let line = |name: &str, value: String| line_out(&format!("{name:<14}{value}"));
    line(
        "host",
        format!("{} ({})", text(&host["name"]), text(&host["id"])),
    );
    line(
        "state",
        format!(
            "{}, heard of {} s ago",
            text(&host["state"]),
            host["last_seen_s"]
        ),
    );
    line("zone", text(&host["zone"]));
    if let Some(why) = host["quarantine"].as_str() {
        line("quarantine", why.to_owned());
    }
    if let Some(note) = host["note"].as_str().filter(|note| !note.is_empty()) {
        line("note", note.to_owned());
    }
    for (label, value) in host["labels"].as_object().into_iter().flatten() {
        line("label", format!("{label}={}", text(value)));
    }
    line("instances", text(&host["instances"]));
    line(
        "CPUs",
        format!(
            "{}, {} of {} virtual ones given out",
            host["cpus"], host["vcpus_used"], host["vcpus_total"]
        ),
    );
    line(
        "memory",
        format!(
            "{} of {} given out, the hypervisor's own counted in",
            size(&host["memory_used_bytes"]),
            size(&host["memory_total_bytes"]),
        ),
    );
    line(
        "disk",
        format!(
            "{} of {} given out",
            size(&host["disk_used_bytes"]),
            size(&host["disk_total_bytes"])
        ),
    );
    for told in host["leaving"].as_array().into_iter().flatten() {
        let words = format!("{} goes to {}", text(&told["instance"]), text(&told["to"]));
        line("leaving", words);
    }
    for kept in host["kept"].as_array().into_iter().flatten() {
        let words = format!("{}: {}", text(&kept["instance"]), text(&kept["why"]));
        line("can't leave", words);
    }
    for trouble in host["troubles"].as_array().into_iter().flatten() {
        line("trouble", text(trouble));
    }
    let intake = &host["intake"];
    let level = match intake["cpu_level"].as_u64() {
        Some(level @ 1..) => format!(", x86-64-v{level}"),
        _ => String::new(),
    };
    line("CPU", text(&intake["cpu"]) + &level);
    line(
        "system",
        format!(
            "{}, Linux {}",
            text(&intake["system"]),
            text(&intake["kernel"])
        ),
    );
    for disk in intake["disks"].as_array().into_iter().flatten() {
        line("drive", text(disk));
    }
    for link in intake["links"].as_array().into_iter().flatten() {
        line("link", text(link));
    }
    line("other hosts", reach(&host["network"]));
    if intake["speed"].is_object() {
        let figure = |name: &str| text(&intake["speed"][name]);
        line(
            "speed",
            format!(
                "{} MiB/s of SHA-256 on one core, {} MiB/s copied in memory; the disk {} syncs/s and {} MiB/s",
                figure("integer_mib_s"),
                figure("memory_mib_s"),
                figure("disk_syncs_s"),
                figure("disk_mib_s")
            ),
        );
        let rounds = |name: &str| intake["speed"][name].as_u64().unwrap_or(0);
        if let (own @ 1.., guest @ 1..) = (rounds("own_rounds_s"), rounds("guest_rounds_s")) {
            let percent = guest * 100 / own;
            line(
                "guests",
                format!(
                    "compute at {percent} % of its speed where their instructions are translated"
                ),
            );
        }
    }
    line("acceleration", text(&host["acceleration"]["verdict"]));
    line(
        "machine",
        format!("{}, CPU {}", text(&host["machine"]), text(&host["cpu"])),
    );
    line("agent", format!("protocol {}", host["protocol"]));
    Ok(())
}

/// Whether guests of one VPC reach each other across this host and others.
fn reach(network: &Value) -> String {
    match network["state"].as_str() {
        Some("direct") => format!("reach its guests at UDP {}", text(&network["endpoint"])),
        Some("beside-controller") => format!(
            "reach its guests at the controller's address, UDP port {}",
            text(&network["port"])
        ),
        Some("behind-nat") => {
            "don't reach its guests, nor its guests theirs: it is behind address \
             translation (NAT)"
                .into()
        }
        _ => "have not been told how to reach its guests".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("90m"), Ok(5400));
        assert_eq!(seconds("2d"), Ok(172_800));
        for wrong in ["", "m", "90", "1.5h", "-1h", "99999999999999999999d", "1µ"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_are_set_and_removed() {
        let parsed = parse_labels(&["room=2.14".into(), "gpu=".into()]).expect("labels");
        assert_eq!(Value::from(parsed), json!({ "room": "2.14", "gpu": null }));
        assert!(parse_labels(&["room".into()]).is_err());
    }
}
