//! `boira type`: the table of instance types.

use crate::client::Client;
use crate::home::Home;
use crate::output::{self, Format, bytes, line_out};
use anyhow::Result;
use clap::Subcommand;
use hyper::Method;
use serde::Serialize;
use serde_json::json;

#[derive(Subcommand)]
pub enum Command {
    /// List the instance types
    Ls,
    /// Add a type or change one; running instances keep what they have
    Set {
        /// FAMILY.SIZE
        name: String,
        #[arg(long)]
        vcpus: u32,
        #[arg(long, value_name = "MIB")]
        memory_mib: u64,
        #[arg(long, value_name = "GIB", default_value_t = 8)]
        disk_gib: u64,
    },
    /// Remove a type; instances of it go on, but can't be started again
    Rm { name: String },
}

#[derive(Serialize)]
struct Row {
    name: String,
    vcpus: u32,
    memory_mib: u64,
}

pub async fn run(home: &Home, format: Format, command: Command) -> Result<()> {
    let client = Client::new(home.access()?)?;
    match command {
        Command::Ls => list(&client, format).await?,
        Command::Set {
            name,
            vcpus,
            memory_mib,
            disk_gib,
        } => {
            let row = json!({
                "name": name, "vcpus": vcpus, "memory_mib": memory_mib, "disk_gib": disk_gib,
            });
            client
                .json(Method::PUT, &format!("/types/{name}"), Some(&row))
                .await?;
            line_out(&format!(
                "{name}: {vcpus} vCPUs, {memory_mib} MiB, {disk_gib} GiB"
            ));
        }
        Command::Rm { name } => {
            client
                .json(Method::DELETE, &format!("/types/{name}"), None)
                .await?;
            line_out(&format!("{name} is removed"));
        }
    }
    Ok(())
}

async fn list(client: &Client, format: Format) -> Result<()> {
    let text = client.ec2("DescribeInstanceTypes", &[]).await?;
    let document = roxmltree::Document::parse(&text)?;
    let number = |node: roxmltree::Node<'_, '_>, name: &str| {
        node.descendants()
            .find(|n| n.tag_name().name() == name)
            .and_then(|n| n.text()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let mut rows: Vec<Row> = document
        .descendants()
        .filter(|node| node.tag_name().name() == "instanceType" && node.parent().is_some())
        .filter_map(|node| {
            let item = node.parent()?;
            Some(Row {
                name: node.text()?.to_owned(),
                vcpus: number(item, "defaultVCpus") as u32,
                memory_mib: number(item, "sizeInMiB"),
            })
        })
        .collect();
    rows.sort_by(|a, b| (a.memory_mib, a.vcpus, &a.name).cmp(&(b.memory_mib, b.vcpus, &b.name)));
    output::rows(format, &["TYPE", "VCPUS", "MEMORY"], &rows, |row| {
        vec![
            row.name.clone(),
            row.vcpus.to_string(),
            bytes(row.memory_mib << 20),
        ]
    });
    Ok(())
}
