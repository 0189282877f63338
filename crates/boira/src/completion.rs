//! Completion for shells: the program's own words by clap, and the cloud's names, which are asked for at
//! the moment of the key press. Where there is no answer there are no names.

use crate::client::Client;
use crate::commands::{image, instance};
use crate::home::Home;
use crate::node;
use anyhow::{Context, Result};
use clap::Command;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::Shells;
use hyper::Method;
use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// The variable in which a shell says that it asks for completions.
const VARIABLE: &str = "BOIRA_COMPLETE";
/// How long a key press may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers a shell that asks for completions, and ends the process then.
pub fn answer(command: fn() -> Command) {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// What a shell has to read so that it asks.
pub fn script(shell: clap_complete::Shell) -> Result<String> {
    let own = node::this_program()?;
    let shells = Shells::builtins();
    let shell = shells
        .completer(&shell.to_string())
        .context("nothing is known of this shell")?;
    let mut script = Vec::new();
    shell
        .write_registration(
            VARIABLE,
            "boira",
            "boira",
            &own.to_string_lossy(),
            &mut script,
        )
        .context("write the script")?;
    String::from_utf8(script).context("the script isn't UTF-8")
}

pub fn instances() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(async |client| {
            let rows = instance::list(&client, &[]).await?;
            let rows = rows.into_iter().filter(|row| row.state != "terminated");
            Ok(rows
                .map(|row| match row.name.is_empty() {
                    true => CompletionCandidate::new(row.id).help(Some(row.state.into())),
                    false => CompletionCandidate::new(row.name)
                        .help(Some(format!("{} {}", row.id, row.state).into())),
                })
                .collect())
        })
    })
}

pub fn images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(async |client| {
            let rows = image::list(&client).await?.into_iter();
            Ok(rows
                .map(|row| CompletionCandidate::new(row.name).help(Some(row.id.into())))
                .collect())
        })
    })
}

pub fn hosts() -> ArgValueCandidates {
    listed("hosts")
}

pub fn zones() -> ArgValueCandidates {
    listed("zones")
}

pub fn accounts() -> ArgValueCandidates {
    listed("accounts")
}

pub fn types() -> ArgValueCandidates {
    listed("types")
}

pub fn buckets() -> ArgValueCandidates {
    listed("buckets")
}

/// The names in one of the lists of Boira's own API.
fn listed(list: &'static str) -> ArgValueCandidates {
    ArgValueCandidates::new(move || {
        ask(async |client| {
            let path = format!("/{list}");
            let answer = client.json(Method::GET, &path, None).await?;
            let rows = answer[list].as_array().into_iter().flatten();
            Ok(rows
                .filter_map(|row| row["name"].as_str())
                .map(CompletionCandidate::new)
                .collect())
        })
    })
}

/// What went wrong would only get into the line that is being typed.
fn ask<F: Future<Output = Result<Vec<CompletionCandidate>>>>(
    names: impl FnOnce(Client) -> F,
) -> Vec<CompletionCandidate> {
    let home = Home::find(home_in(std::env::args_os().skip(1)).as_deref());
    let asked = || {
        let client = Client::new(home.access()?)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { tokio::time::timeout(PATIENCE, names(client)).await? })
    };
    asked().unwrap_or_default()
}

/// The home that the line names so far.
fn home_in(words: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let mut words = words;
    while let Some(word) = words.next() {
        if word == "--home" {
            return words.next().map(PathBuf::from);
        }
        if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--home=")) {
            return Some(path.into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_of_the_line_that_is_typed_counts() {
        let home = |line: &str| home_in(line.split(' ').map(OsString::from));
        assert_eq!(home("-- boira --home /a ssh "), Some("/a".into()));
        assert_eq!(home("-- boira ssh --home=/b "), Some("/b".into()));
        assert_eq!(home("-- boira ssh "), None);
    }
}
