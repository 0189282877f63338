//! `boira type`: the table of instance types.

use crate::client::{Client, segment};
use crate::completion;
use crate::home::Home;
use crate::output::{self, Format, bytes, line_out};
use anyhow::{Context, Result, bail};
use boira_model::{InstanceType, Recovery};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;

#[derive(Subcommand)]
pub enum Command {
    /// List the instance types
    Ls,
    /// Add a type or change one; running instances keep what they have
    Set {
        /// FAMILY.SIZE
        #[arg(add = completion::types())]
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// Remove a type; instances of it go on, but can't be started again
    Rm {
        #[arg(add = completion::types())]
        name: String,
    },
}

/// What isn't given stays as it is; a new type needs CPUs and memory.
#[derive(Args)]
pub struct Change {
    #[arg(long)]
    vcpus: Option<u32>,
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<u64>,
    /// Root disk where neither the image nor the launch asks for more [default for a new type: 8]
    #[arg(long, value_name = "GIB")]
    disk_gib: Option<u64>,
    /// Whether EC2's CPU credits are recorded for it [default for a new type: false]
    #[arg(long, value_name = "BOOL")]
    burstable: Option<bool>,
    /// Level of x86-64 of its instances' CPUs, 1 to 3; 0 for what each host takes
    #[arg(long, value_name = "LEVEL")]
    cpu_level: Option<u8>,
    /// What becomes of its instances when their host is lost [default for a new type: wait]
    #[arg(long, value_name = "wait|reimage", value_parser = recovery)]
    recover: Option<Recovery>,
}

fn recovery(text: &str) -> Result<Recovery, String> {
    Recovery::parse(text).ok_or_else(|| "it is wait or reimage".into())
}

pub async fn run(home: &Home, format: Format, command: Command) -> Result<()> {
    let client = Client::new(home.access()?)?;
    match command {
        Command::Ls => show(format, &list(&client).await?),
        Command::Set { name, change } => {
            let old = list(&client).await?.into_iter().find(|t| t.name == name);
            let row = changed(name, old, &change)?;
            let body = serde_json::to_value(&row).context("write the type")?;
            let path = format!("/types/{}", segment(&row.name));
            client.json(Method::PUT, &path, Some(&body)).await?;
            match format {
                Format::Json => output::json(&row),
                Format::Table => line_out(&format!(
                    "{}: {} vCPUs, {} MiB, {} GiB",
                    row.name, row.vcpus, row.memory_mib, row.disk_gib
                )),
            }
        }
        Command::Rm { name } => {
            let path = format!("/types/{}", segment(&name));
            client.json(Method::DELETE, &path, None).await?;
            match format {
                Format::Json => output::json(&json!({ "name": name })),
                Format::Table => line_out(&format!("{name} is removed")),
            }
        }
    }
    Ok(())
}

fn changed(name: String, old: Option<InstanceType>, change: &Change) -> Result<InstanceType> {
    let base = match (old, change.vcpus, change.memory_mib) {
        (Some(old), ..) => old,
        (None, Some(vcpus), Some(memory_mib)) => InstanceType {
            name,
            vcpus,
            memory_mib,
            disk_gib: 8,
            burstable: false,
            unlimited: false,
            cpu_level: 0,
            recover: Default::default(),
        },
        (None, ..) => bail!("{name} is a new type and needs --vcpus and --memory-mib"),
    };
    Ok(InstanceType {
        vcpus: change.vcpus.unwrap_or(base.vcpus),
        memory_mib: change.memory_mib.unwrap_or(base.memory_mib),
        disk_gib: change.disk_gib.unwrap_or(base.disk_gib),
        burstable: change.burstable.unwrap_or(base.burstable),
        cpu_level: change.cpu_level.unwrap_or(base.cpu_level),
        recover: change.recover.unwrap_or(base.recover),
        ..base
    })
}

async fn list(client: &Client) -> Result<Vec<InstanceType>> {
    let mut answer = client.json(Method::GET, "/types", None).await?;
    serde_json::from_value(answer["types"].take()).context("read the table of types")
}

fn show(format: Format, types: &[InstanceType]) {
    let mut rows: Vec<_> = types.iter().collect();
    rows.sort_by_key(|t| (t.memory_mib, t.vcpus, &t.name));
    let header = ["TYPE", "VCPUS", "MEMORY", "DISK"];
    output::rows(format, &header, &rows, |row| {
        vec![
            row.name.clone(),
            row.vcpus.to_string(),
            bytes(row.memory_mib << 20),
            bytes(row.disk_gib << 30),
        ]
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays_as_it_is() {
        let old = InstanceType {
            name: "t3.micro".into(),
            vcpus: 2,
            memory_mib: 1024,
            disk_gib: 30,
            burstable: true,
            unlimited: true,
            cpu_level: 0,
            recover: Default::default(),
        };
        let change = Change {
            vcpus: None,
            memory_mib: Some(2048),
            disk_gib: None,
            burstable: None,
            cpu_level: None,
            recover: None,
        };
        let row = changed("t3.micro".into(), Some(old.clone()), &change).expect("a type");
        assert_eq!(
            row,
            InstanceType {
                memory_mib: 2048,
                ..old
            }
        );
        let error = changed("x1.new".into(), None, &change).expect_err("CPUs are missing");
        assert!(error.to_string().contains("--vcpus"), "{error}");
    }
}
