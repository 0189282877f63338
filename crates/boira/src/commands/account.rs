//! `boira account`: accounts, each with its keys, its network and its own view.

use crate::client::{Client, segment};
use crate::commands::{bucket, env};
use crate::completion;
use crate::home::{Access, Home};
use crate::output::{self, Format, line_out};
use anyhow::{Context, Result};
use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

#[derive(Subcommand)]
pub enum Command {
    /// Create an account and print its key; the secret is shown only now
    Create { name: String },
    /// List the accounts
    Ls,
    /// Replace an account's keys; the old ones stop working at once
    RotateKeys {
        /// Name, id or number
        #[arg(add = completion::accounts())]
        name: String,
    },
    /// Bound what all of an account's buckets may hold together
    Quota {
        /// Name, id or number
        #[arg(add = completion::accounts())]
        name: String,
        #[command(flatten)]
        quota: bucket::Bounds,
    },
    /// Remove an account that has nothing left
    Rm {
        /// Name, id or number
        #[arg(add = completion::accounts())]
        name: String,
    },
}

pub async fn run(home: &Home, format: Format, command: Command) -> Result<()> {
    let client = Client::new(home.access()?)?;
    match command {
        Command::Create { name } => {
            let body = json!({ "name": name });
            let issued = client.json(Method::POST, "/accounts", Some(&body)).await?;
            show_key(format, &client, &issued);
        }
        Command::RotateKeys { name } => {
            let path = format!("/accounts/{}/keys", segment(&name));
            let issued = client.json(Method::POST, &path, None).await?;
            show_key(format, &client, &issued);
        }
        Command::Quota { name, quota } => {
            let answer = client.json(Method::GET, "/accounts", None).await?;
            let accounts = answer["accounts"].as_array().into_iter().flatten();
            let mut fitting = accounts.filter(|account| {
                account["name"] == name
                    || account["id"] == name
                    || account["number"]
                        .as_u64()
                        .is_some_and(|number| number.to_string() == name)
            });
            let now = fitting.next().with_context(|| {
                format!("there is no account {name}; `boira account ls` lists them")
            })?;
            let path = format!("/accounts/{}/quota", segment(&name));
            let of = format!("the buckets of {name}");
            let place = (path.as_str(), &now["quota"]);
            quota.put(&client, format, place, &of).await?;
        }
        Command::Rm { name } => {
            let path = format!("/accounts/{}", segment(&name));
            let removed = client.json(Method::DELETE, &path, None).await?;
            match format {
                Format::Json => output::json(&removed),
                Format::Table => line_out(&format!("account {name} is removed")),
            }
        }
        Command::Ls => {
            let answer = client.json(Method::GET, "/accounts", None).await?;
            let accounts = answer["accounts"]
                .as_array()
                .context("the cloud answered no accounts")?;
            let header = [
                "#",
                "ACCOUNT",
                "NAME",
                "ACCESS KEY",
                "INSTANCES",
                "S3 QUOTA",
                "ADMIN",
            ];
            output::rows(format, &header, accounts, |account| {
                let text = |name: &str| account[name].as_str().unwrap_or_default().to_owned();
                let keys: Vec<_> = account["access_keys"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                vec![
                    account["number"].to_string(),
                    text("id"),
                    text("name"),
                    keys.join(" "),
                    account["instances"].to_string(),
                    match account["quota"].is_null() {
                        true => "-".to_owned(),
                        false => bucket::bounds(&account["quota"]),
                    },
                    if account["admin"] == true { "yes" } else { "" }.to_owned(),
                ]
            });
        }
    }
    Ok(())
}

fn show_key(format: Format, client: &Client, issued: &Value) {
    if format == Format::Json {
        return output::json(issued);
    }
    let text = |name: &str| issued[name].as_str().unwrap_or_default().to_owned();
    line_out(&format!(
        "# account {}; keep the secret, it is not shown again",
        text("account")
    ));
    env::show(&env::variables(&Access {
        access_key_id: text("access_key_id"),
        secret_access_key: text("secret_access_key"),
        // The caller's own variable means nothing to a cloud without TLS.
        authority: client
            .access
            .authority
            .clone()
            .filter(|_| client.access.endpoint.starts_with("https")),
        ..client.access.clone()
    }));
}
