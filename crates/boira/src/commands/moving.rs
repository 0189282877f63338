//! Moving instances between hosts, and waiting for it.

use crate::client::{Client, segment};
use crate::completion;
use crate::output::{self, Format, line_out};
use crate::terminal::Progress;
use anyhow::{Result, bail};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// How often it is asked how far a move has got.
const ASK_EVERY: Duration = Duration::from_millis(500);

#[derive(Args)]
pub struct Migrate {
    #[arg(add = completion::instances())]
    pub instance: String,
    /// The host to go to [default: the one of its zone with the best room]
    #[arg(long, value_name = "HOST", conflicts_with = "cancel", add = completion::hosts())]
    to: Option<String>,
    /// Stop it if it runs, copy its disks, start it there
    #[arg(long, conflicts_with_all = ["live", "cancel"])]
    cold: bool,
    /// While it runs [default where it does]
    #[arg(long, conflicts_with = "cancel")]
    live: bool,
    /// Take a move back, in whatever phase it is; the instance goes on where it was
    #[arg(long)]
    cancel: bool,
    /// Only say where it is and how far its move has got
    #[arg(long, conflicts_with_all = ["to", "cold", "live", "cancel"])]
    status: bool,
    /// Don't wait until it has moved
    #[arg(long, conflicts_with = "cancel")]
    detach: bool,
}

fn path(instance: &str) -> String {
    format!("/instances/{}/move", segment(instance))
}

pub async fn migrate(client: &Client, format: Format, ask: Migrate) -> Result<()> {
    let path = path(&ask.instance);
    if ask.status {
        let told = client.json(Method::GET, &path, None).await?;
        let does = match told["phase"].as_str() {
            Some("none") => "is on".to_owned(),
            phase => format!(
                "goes to {} ({}) from",
                told["to"].as_str().unwrap_or_default(),
                phase.unwrap_or_default()
            ),
        };
        return say(format, &told, &does);
    }
    if ask.cancel {
        let told = client.json(Method::DELETE, &path, None).await?;
        return say(format, &told, "stays on");
    }
    let body = json!({ "to": ask.to, "restart": ask.cold, "live": ask.live });
    let told = client.json(Method::POST, &path, Some(&body)).await?;
    if ask.detach {
        return say(format, &told, "is moving from");
    }
    let progress = Progress::new(format == Format::Json);
    let instance = told["instance"]
        .as_str()
        .unwrap_or(&ask.instance)
        .to_owned();
    // Several hosts may have one name.
    let from = told["host_id"].clone();
    loop {
        let told = client
            .json(Method::GET, &self::path(&instance), None)
            .await?;
        if told["phase"] == "none" {
            drop(progress);
            if told["host_id"] == from {
                bail!("{instance} did not move; `boira instance log {instance}` says why");
            }
            return say(format, &told, "is on");
        }
        show(&progress, &told);
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn say(format: Format, told: &Value, does: &str) -> Result<()> {
    match format {
        Format::Json => output::json(told),
        Format::Table => line_out(&format!(
            "{} {does} {}",
            told["instance"].as_str().unwrap_or_default(),
            told["host"].as_str().unwrap_or("no host")
        )),
    }
    Ok(())
}

fn number(told: &Value, name: &str) -> u64 {
    told[name].as_u64().unwrap_or(0)
}

/// How far one move has got.
fn show(progress: &Progress, told: &Value) {
    let number = |name: &str| number(told, name);
    let word = |name: &str| told[name].as_str().unwrap_or_default();
    match (word("phase"), told["error"].as_str()) {
        (_, Some(error)) => progress.step(format!("trying again: {error}")),
        ("copying", None) => progress.part(
            format!("copying the disk to {}", word("to")),
            number("done_bytes"),
            number("of_bytes"),
        ),
        ("preparing", None) => progress.step(format!("waiting for {}", word("to"))),
        ("sending", None) => progress.part(
            format!("sending it to {} while it runs", word("to")),
            number("done_bytes"),
            number("of_bytes"),
        ),
        ("switching", None) => progress.step(format!("it goes on at {}", word("to"))),
        _ => progress.step("waiting for the guest to end"),
    }
}

/// Waits until nothing is left on a host but what can't leave it, and says what that is.
pub async fn empty(client: &Client, format: Format, name: &str) -> Result<()> {
    let progress = Progress::new(format == Format::Json);
    let mut at_first = None;
    loop {
        let answer = client.json(Method::GET, "/hosts", None).await?;
        let hosts = answer["hosts"].as_array().cloned().unwrap_or_default();
        let is_it = |host: &&Value| {
            let number = host["number"].to_string();
            host["name"] == name || host["id"] == name || number == name
        };
        let Some(host) = hosts.iter().find(is_it) else {
            bail!("there is no host '{name}' any more");
        };
        let list = |name: &str| host[name].as_array().cloned().unwrap_or_default();
        let (moves, kept) = (list("leaving"), list("kept"));
        let placed = host["placed"].as_u64().unwrap_or(0);
        let all = *at_first.get_or_insert(placed);
        if host["evacuating"] != true {
            bail!("{name} is not drained any more");
        }
        if placed == 0 || (moves.is_empty() && kept.len() as u64 >= placed) {
            drop(progress);
            return left(format, name, &kept);
        }
        let gone = all.saturating_sub(placed);
        match moves.first() {
            Some(told) => progress.part(
                format!(
                    "{gone} of {all} instances have left; {} goes to {}",
                    told["instance"].as_str().unwrap_or_default(),
                    told["to"].as_str().unwrap_or_default()
                ),
                // In bytes of the one that goes, as if the others had as many.
                gone * number(told, "of_bytes") + number(told, "done_bytes"),
                all * number(told, "of_bytes"),
            ),
            None => progress.step(format!("{placed} instances are to leave")),
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn left(format: Format, name: &str, kept: &[Value]) -> Result<()> {
    if format == Format::Json {
        output::json(&json!({ "name": name, "kept": kept }));
    } else if kept.is_empty() {
        line_out(&format!("{name} is empty"));
    }
    if kept.is_empty() {
        return Ok(());
    }
    let lines = kept.iter().map(|kept| {
        let word = |name: &str| kept[name].as_str().unwrap_or_default();
        format!("  {}: {}", word("instance"), word("why"))
    });
    let lines: Vec<_> = lines.collect();
    bail!(
        "these stay on {name} until they can leave:\n{}\n`boira host undrain {name}` lets instances start there again",
        lines.join("\n")
    )
}
