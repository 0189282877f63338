//! `boira host`: the machines that run instances.

use crate::client::Client;
use crate::home::Home;
use crate::output::{self, Format, bytes, line_out};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use hyper::Method;
use serde_json::Value;

#[derive(Subcommand)]
pub enum Command {
    /// List the hosts
    Ls,
    /// Everything about one host
    Show {
        /// Name, number or id
        host: String,
    },
}

pub async fn run(home: &Home, format: Format, command: Command) -> Result<()> {
    let client = Client::new(home.access()?)?;
    let answer = client.json(Method::GET, "/hosts", None).await?;
    let hosts = answer["hosts"]
        .as_array()
        .context("the cloud answered no hosts")?;
    match command {
        Command::Ls => list(format, hosts),
        Command::Show { host } => show(format, hosts, &host)?,
    }
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

/// RVM, TCPU, FCPU, TMEM and FMEM are OpenNebula's names of these columns.
fn list(format: Format, hosts: &[Value]) {
    let header = [
        "#", "NAME", "STATE", "ZONE", "RVM", "TCPU", "FCPU", "TMEM", "FMEM", "FDISK", "SEEN",
    ];
    output::rows(format, &header, hosts, |host| {
        vec![
            text(&host["number"]),
            text(&host["name"]),
            text(&host["state"]),
            text(&host["zone"]),
            text(&host["instances"]),
            text(&host["vcpus_total"]),
            free(host, "vcpus_total", "vcpus_used").to_string(),
            size(&host["memory_total_bytes"]),
            bytes(free(host, "memory_total_bytes", "memory_used_bytes")),
            bytes(free(host, "disk_total_bytes", "disk_used_bytes")),
            format!("{} s ago", host["last_seen_s"]),
        ]
    });
}

fn show(format: Format, hosts: &[Value], wanted: &str) -> Result<()> {
    let found = hosts.iter().find(|host| {
        ["name", "id", "number"]
            .iter()
            .any(|member| text(&host[*member]) == wanted)
    });
    let Some(host) = found else {
        bail!("host '{wanted}' does not exist; see `boira host ls`")
    };
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
    for trouble in host["troubles"].as_array().into_iter().flatten() {
        line("trouble", text(trouble));
    }
    line("guests run by", text(&host["acceleration"]["verdict"]));
    line(
        "machine",
        format!("{}, CPU {}", text(&host["machine"]), text(&host["cpu"])),
    );
    Ok(())
}
