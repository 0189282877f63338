//! The pages of this repository name commands that there are and files that exist.

use super::*;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Names relative to the repository, and texts.
fn pages() -> Vec<(PathBuf, String)> {
    ["", "docs"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root().join(folder)).expect("it is a folder"))
        .map(|entry| entry.expect("a folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "md"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a page is text");
            (path, text)
        })
        .collect()
}

#[test]
fn links_lead_to_files() {
    let mut count = 0;
    for (page, text) in pages() {
        let targets = text.split("](").skip(1).filter_map(|rest| {
            let target = rest.split_once(')')?.0;
            Some(target.split('#').next().unwrap_or(target))
        });
        for target in targets.filter(|target| !target.is_empty() && !target.contains("://")) {
            let path = page.with_file_name(target);
            assert!(path.exists(), "{} has {target}", page.display());
            count += 1;
        }
    }
    assert!(count > 5, "{count} links");
}

#[test]
fn commands_are_understood() {
    let mut count = 0;
    for (page, text) in pages() {
        let fenced = text.split("```").skip(1).step_by(2);
        for line in fenced.flat_map(str::lines) {
            let Some(words) = command(line) else { continue };
            let outcome = Cli::try_parse_from(&words);
            let why = outcome.err().map(|error| error.to_string());
            assert_eq!(why, None, "{}: {line}", page.display());
            count += 1;
        }
    }
    assert!(count > 10, "{count} commands");
}

/// The words of a line that calls `boira`, without what a shell makes of the rest.
fn command(line: &str) -> Option<Vec<String>> {
    let line = line.strip_prefix("$ ").unwrap_or(line);
    let line = line.strip_prefix("eval \"$(").unwrap_or(line);
    let line = line.strip_prefix("sudo ").unwrap_or(line);
    let line = line.strip_prefix("./").unwrap_or(line);
    if !line.starts_with("boira ") {
        return None;
    }
    let line = line.split(['#', ')', '|', ';', '&', '>']).next()?;
    let mut words = Vec::new();
    for (index, part) in line.split(['\'', '"']).enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    Some(words)
}

#[test]
fn words_in_quotes_are_one() {
    let words = |line| command(line).unwrap_or_default();
    assert_eq!(
        words("$ sudo ./boira ssh web 'uname -r'   # the kernel"),
        ["boira", "ssh", "web", "uname -r"]
    );
    assert_eq!(words("eval \"$(./boira env)\"; aws"), ["boira", "env"]);
    assert_eq!(command("  log in  ./boira ssh demo"), None);
}
