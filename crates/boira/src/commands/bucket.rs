//! `boira bucket`: what the object store holds, and whether it is still what was written.

use crate::client::Client;
use crate::home::Home;
use crate::output::{self, Format, bytes, line_out};
use crate::terminal::Progress;
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

#[derive(Subcommand)]
pub enum Command {
    /// List the buckets: an administrator sees all accounts'
    Ls,
    /// What a bucket holds, older versions and unfinished uploads included
    Du {
        /// The bucket's name
        bucket: String,
    },
    /// Read every object's bytes through and compare them with their checksums
    Check,
}

pub async fn run(home: &Home, format: Format, command: Command) -> Result<()> {
    let client = Client::new(home.access()?)?;
    match command {
        Command::Ls => list(&client, format).await,
        Command::Du { bucket } => du(&client, format, &bucket).await,
        Command::Check => check(&client, format).await,
    }
}

async fn buckets(client: &Client) -> Result<Vec<Value>> {
    let mut answer = client.json(Method::GET, "/buckets", None).await?;
    match answer["buckets"].take() {
        Value::Array(buckets) => Ok(buckets),
        _ => bail!("the cloud answered no buckets"),
    }
}

fn size(value: &Value) -> String {
    bytes(value.as_u64().unwrap_or(0))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

async fn list(client: &Client, format: Format) -> Result<()> {
    let buckets = buckets(client).await?;
    let header = [
        "BUCKET",
        "ACCOUNT",
        "CREATED",
        "VERSIONING",
        "OBJECTS",
        "SIZE",
    ];
    output::rows(format, &header, &buckets, |bucket| {
        vec![
            text(&bucket["name"]),
            text(&bucket["account"]),
            text(&bucket["created"]),
            text(&bucket["versioning"]),
            bucket["objects"].to_string(),
            size(&bucket["bytes"]),
        ]
    });
    Ok(())
}

async fn du(client: &Client, format: Format, name: &str) -> Result<()> {
    let buckets = buckets(client).await?;
    let bucket = buckets
        .iter()
        .find(|bucket| bucket["name"] == name)
        .with_context(|| format!("there is no bucket {name}; `boira bucket ls` lists them"))?;
    if format == Format::Json {
        output::json(bucket);
        return Ok(());
    }
    line_out(&format!(
        "{:>12}  {} objects",
        size(&bucket["bytes"]),
        bucket["objects"]
    ));
    let (older, uploads) = (&bucket["older_versions"], &bucket["upload_bytes"]);
    line_out(&format!(
        "{:>12}  {older} older versions",
        size(&bucket["older_bytes"])
    ));
    line_out(&format!("{:>12}  unfinished uploads", size(uploads)));
    Ok(())
}

async fn check(client: &Client, format: Format) -> Result<()> {
    let progress = Progress::new(format == Format::Json);
    let (mut contents, mut read, mut damaged) = (0, 0, Vec::new());
    let mut next = Value::from(0);
    while !next.is_null() {
        let path = format!("/objects/check?after={next}");
        let mut answer = client.json(Method::POST, &path, None).await?;
        contents += answer["contents"].as_u64().unwrap_or(0);
        read += answer["bytes"].as_u64().unwrap_or(0);
        let total = answer["total_bytes"].as_u64().unwrap_or(0);
        progress.part("reading all objects through", read, total);
        if let Value::Array(found) = answer["damaged"].take() {
            damaged.extend(found);
        }
        next = answer["next"].take();
    }
    drop(progress);
    if format == Format::Json {
        output::json(&json!({ "contents": contents, "bytes": read, "damaged": damaged }));
    } else {
        line_out(&format!("{} in {contents} contents were read", bytes(read)));
    }
    if damaged.is_empty() {
        return Ok(());
    }
    if format == Format::Table {
        for one in &damaged {
            let users = one["belongs_to"].as_array().into_iter().flatten();
            let users: Vec<String> = users.map(text).collect();
            line_out(&format!(
                "damaged: {} ({})",
                users.join(", "),
                text(&one["content"])
            ));
        }
    }
    bail!(
        "{} of them are damaged: their objects can't be read. Put these objects again, and look at the disk",
        damaged.len()
    )
}
