//! `boira bucket`: what the object store holds, and whether it is still what was written.

use crate::client::{Client, segment};
use crate::completion;
use crate::home::Home;
use crate::output::{self, Format, bytes, line_out};
use crate::terminal::Progress;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

#[derive(Subcommand)]
pub enum Command {
    /// List the buckets: an administrator sees all accounts'
    Ls,
    /// What a bucket holds, older versions and unfinished uploads included
    Du {
        /// The bucket's name
        #[arg(add = completion::buckets())]
        bucket: String,
    },
    /// Bound what a bucket may hold, older versions and unfinished uploads included
    Quota {
        /// The bucket's name
        #[arg(add = completion::buckets())]
        bucket: String,
        #[command(flatten)]
        quota: Bounds,
    },
    /// Read every object's bytes through and compare them with their checksums
    Check,
}

pub async fn run(home: &Home, format: Format, command: Command) -> Result<()> {
    let client = Client::new(home.access()?)?;
    match command {
        Command::Ls => list(&client, format).await,
        Command::Du { bucket } => du(&client, format, &bucket).await,
        Command::Quota { bucket, quota } => {
            let now = named(&client, &bucket).await?;
            let path = format!("/buckets/{}/quota", segment(&bucket));
            let of = format!("bucket {bucket}");
            let place = (path.as_str(), &now["quota"]);
            quota.put(&client, format, place, &of).await
        }
        Command::Check => check(&client, format).await,
    }
}

/// Bounds of a bucket, or of all an account's: none given shows them.
#[derive(Args)]
pub struct Bounds {
    /// Bytes at most: a number, or one with K, M, G or T for powers of 1024
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    /// Objects at most, each version counted
    #[arg(long)]
    objects: Option<u64>,
    /// No bound any more
    #[arg(long, conflicts_with_all = ["size", "objects"])]
    none: bool,
}

impl Bounds {
    /// Sets what is given, and leaves the rest of `now` as it is.
    pub async fn put(
        &self,
        client: &Client,
        format: Format,
        (path, now): (&str, &Value),
        of: &str,
    ) -> Result<()> {
        let kept = |name: &str| now[name].as_u64().filter(|_| !self.none);
        let (bytes, objects) = (
            self.size.or(kept("bytes")),
            self.objects.or(kept("objects")),
        );
        let mut quota = json!({ "bytes": bytes, "objects": objects });
        if self.none || self.size.is_some() || self.objects.is_some() {
            quota = client.json(Method::PUT, path, Some(&quota)).await?["quota"].take();
        }
        match format {
            Format::Json => output::json(&json!({ "quota": quota })),
            Format::Table => line_out(&format!("{of} may hold {}", bounds(&quota))),
        }
        Ok(())
    }
}

/// `10 GiB`, `500 objects`, both, or `anything`.
pub fn bounds(quota: &Value) -> String {
    let bytes_most = quota["bytes"].as_u64().map(bytes);
    let objects = quota["objects"].as_u64();
    let objects = objects.map(|most| format!("{most} objects"));
    let both: Vec<String> = bytes_most.into_iter().chain(objects).collect();
    match both.is_empty() {
        true => "anything".to_owned(),
        false => both.join(", "),
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 1,
        "M" | "MB" | "MIB" => 2,
        "G" | "GB" | "GIB" => 3,
        "T" | "TB" | "TIB" => 4,
        other => return Err(format!("{other} is no unit: K, M, G and T are")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a whole number is needed, as in 10G".to_owned())?;
    let scaled = number.checked_mul(1 << (10 * power));
    scaled.ok_or_else(|| "that is more than can be counted".to_owned())
}

async fn buckets(client: &Client) -> Result<Vec<Value>> {
    let mut answer = client.json(Method::GET, "/buckets", None).await?;
    match answer["buckets"].take() {
        Value::Array(buckets) => Ok(buckets),
        _ => bail!("the cloud answered no buckets"),
    }
}

async fn named(client: &Client, name: &str) -> Result<Value> {
    let buckets = buckets(client).await?;
    let mut buckets = buckets.into_iter();
    let found = buckets.find(|bucket| bucket["name"] == name);
    found.with_context(|| format!("there is no bucket {name}; `boira bucket ls` lists them"))
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
        "QUOTA",
    ];
    output::rows(format, &header, &buckets, |bucket| {
        vec![
            text(&bucket["name"]),
            text(&bucket["account"]),
            text(&bucket["created"]),
            text(&bucket["versioning"]),
            bucket["objects"].to_string(),
            size(&bucket["bytes"]),
            match bucket["quota"].is_null() {
                true => "-".to_owned(),
                false => bounds(&bucket["quota"]),
            },
        ]
    });
    Ok(())
}

async fn du(client: &Client, format: Format, name: &str) -> Result<()> {
    let bucket = named(client, name).await?;
    if format == Format::Json {
        output::json(&bucket);
        return Ok(());
    }
    line_out(&format!(
        "{:>12}  {} object{}",
        size(&bucket["bytes"]),
        bucket["objects"],
        if bucket["objects"] == 1 { "" } else { "s" }
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
    let mut total = 0;
    let mut next = Value::from(0);
    while !next.is_null() {
        let path = format!("/objects/check?after={next}");
        let mut answer = client.json(Method::POST, &path, None).await?;
        contents += answer["contents"].as_u64().unwrap_or(0);
        read += answer["bytes"].as_u64().unwrap_or(0);
        total = answer["total_bytes"].as_u64().unwrap_or(total);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_bounds() {
        assert_eq!(parse_size("10"), Ok(10));
        assert_eq!(parse_size("10k"), Ok(10 << 10));
        assert_eq!(parse_size("3GiB"), Ok(3 << 30));
        for wrong in ["", "G", "-1", "1.5G", "1X", "99999999999T"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bounds(&Value::Null), "anything");
        assert_eq!(
            bounds(&json!({ "bytes": 1 << 30, "objects": 5 })),
            "1 GiB, 5 objects"
        );
    }
}
