//! `boira zone`, `boira capacity` and `boira explain`: where instances can go.

use crate::client::{Client, segment};
use crate::commands::image;
use crate::completion;
use crate::home::Home;
use crate::output::{self, Format, bytes, line_out};
use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use serde::Serialize;
use serde_json::{Value, json};

/// How a zone's hosts are filled.
#[derive(Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// The fullest host that has room first, so that the others can rest
    Packing,
    /// The emptiest host first
    Striping,
}

#[derive(Subcommand)]
pub enum Command {
    /// Create a zone, with its subnet in every account's default network
    Create {
        /// Lower-case letters, digits and dashes, as us-east-1b
        name: String,
        #[arg(long)]
        packing: Option<Packing>,
    },
    /// List the zones
    Ls,
    /// Give a zone another name; everything in it follows
    Rename {
        #[arg(add = completion::zones())]
        name: String,
        new: String,
    },
    /// Change how a zone's hosts are filled, for launches from now on
    Set {
        #[arg(add = completion::zones())]
        name: String,
        #[arg(long)]
        packing: Packing,
    },
    /// Delete a zone that nothing is in
    #[command(visible_alias = "rm")]
    Delete {
        #[arg(add = completion::zones())]
        name: String,
    },
}

/// Why an instance can go to a host, or can't.
#[derive(Args)]
pub struct Explain {
    /// An instance's id: where it could be placed now
    #[arg(required_unless_present = "kind", conflicts_with_all = ["kind", "zone", "image"], add = completion::instances())]
    instance: Option<String>,
    /// A new instance of this type
    #[arg(long = "type", value_name = "TYPE", add = completion::types())]
    kind: Option<String>,
    /// Only hosts of this zone
    #[arg(long, add = completion::zones())]
    zone: Option<String>,
    /// Made of this image, by id or name, which may ask for more than the type
    #[arg(long, add = completion::images())]
    image: Option<String>,
}

pub async fn run(home: &Home, format: Format, command: Command) -> Result<()> {
    let client = Client::new(home.access()?)?;
    let (method, path, body, done) = match command {
        Command::Ls => return list(&client, format).await,
        Command::Create { name, packing } => (
            Method::POST,
            "/zones".to_owned(),
            Some(json!({ "name": name, "packing": packing })),
            format!("zone {name} is created"),
        ),
        Command::Rename { name, new } => (
            Method::PATCH,
            format!("/zones/{}", segment(&name)),
            Some(json!({ "name": new })),
            format!("zone {name} is called {new} now"),
        ),
        Command::Set { name, packing } => (
            Method::PATCH,
            format!("/zones/{}", segment(&name)),
            Some(json!({ "packing": packing })),
            format!("zone {name} is changed"),
        ),
        Command::Delete { name } => (
            Method::DELETE,
            format!("/zones/{}", segment(&name)),
            None,
            format!("zone {name} is deleted"),
        ),
    };
    let answer = client.json(method, &path, body.as_ref()).await?;
    match format {
        Format::Json => output::json(&answer),
        Format::Table => line_out(&done),
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn items<'a>(answer: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    answer[name]
        .as_array()
        .with_context(|| format!("the cloud answered no {name}"))
}

async fn list(client: &Client, format: Format) -> Result<()> {
    let answer = client.json(Method::GET, "/zones", None).await?;
    let header = ["#", "ZONE", "ID", "PACKING", "HOSTS", "SILENT", "INSTANCES"];
    output::rows(format, &header, items(&answer, "zones")?, |zone| {
        [
            "number",
            "name",
            "id",
            "packing",
            "hosts",
            "silent_hosts",
            "instances",
        ]
        .map(|name| text(&zone[name]))
        .to_vec()
    });
    Ok(())
}

/// The columns of `euca-describe-availability-zones verbose`, and the hosts.
pub async fn capacity(home: &Home, format: Format) -> Result<()> {
    let client = Client::new(home.access()?)?;
    let answer = client.json(Method::GET, "/capacity", None).await?;
    if format == Format::Json {
        output::json(&answer);
        return Ok(());
    }
    for zone in items(&answer, "zones")? {
        let name = text(&zone["name"]);
        line_out(&format!("zone {name}, {}", text(&zone["packing"])));
        let header = ["TYPE", "FREE", "MAX", "CPU", "MEMORY", "DISK"];
        output::rows(format, &header, items(zone, "types")?, |kind| {
            let size = |name: &str, shift: u32| bytes(kind[name].as_u64().unwrap_or(0) << shift);
            vec![
                text(&kind["name"]),
                text(&kind["free"]),
                text(&kind["max"]),
                text(&kind["vcpus"]),
                size("memory_mib", 20),
                size("disk_gib", 30),
            ]
        });
        line_out("");
        let header = ["HOST", "STATE", "RVM", "CPU", "MEMORY", "DISK"];
        output::rows(format, &header, items(zone, "hosts")?, |host| {
            let size = |name: &str| bytes(host[name].as_u64().unwrap_or(0));
            let used = |used: &str, total: &str| format!("{} of {}", size(used), size(total));
            vec![
                text(&host["name"]),
                text(&host["state"]),
                text(&host["instances"]),
                format!("{} of {}", host["vcpus_used"], host["vcpus_total"]),
                used("memory_used_bytes", "memory_total_bytes"),
                used("disk_used_bytes", "disk_total_bytes"),
            ]
        });
        line_out("");
    }
    Ok(())
}

pub async fn explain(home: &Home, format: Format, ask: Explain) -> Result<()> {
    let client = Client::new(home.access()?)?;
    let image = match &ask.image {
        Some(image) => Some(image::find(&client, image).await?.id),
        None => None,
    };
    let asked = [
        ("instance", ask.instance),
        ("type", ask.kind),
        ("zone", ask.zone),
        ("image", image),
    ];
    let query: Vec<String> = asked
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", segment(&value?))))
        .collect();
    let path = format!("/explain?{}", query.join("&"));
    let answer = client.json(Method::GET, &path, None).await?;
    let header = ["HOST", "ZONE", "FITS", "WHY"];
    output::rows(format, &header, items(&answer, "hosts")?, |row| {
        let (fits, why) = match row["memory_left_bytes"].as_u64() {
            Some(left) => ("yes", format!("{} of memory would be left", bytes(left))),
            None => ("no", text(&row["reason"])),
        };
        vec![text(&row["host"]), text(&row["zone"]), fits.to_owned(), why]
    });
    Ok(())
}
