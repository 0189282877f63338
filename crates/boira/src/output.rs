//! Tables for people, JSON for programs.

use crate::client::ServiceError;
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::json;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// Prints a table, or the values that it shows.
pub fn rows<T: Serialize>(
    format: Format,
    header: &[&str],
    values: &[T],
    cells: impl Fn(&T) -> Vec<String>,
) {
    match format {
        Format::Json => json(&values),
        Format::Table => {
            let mut table = Table::new();
            table.load_preset(presets::NOTHING);
            table.set_content_arrangement(ContentArrangement::Disabled);
            table.set_header(header);
            for value in values {
                table.add_row(cells(value));
            }
            let text = table.to_string();
            for line in text.lines() {
                line_out(line.trim());
            }
        }
    }
}

pub fn json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).expect("values have string keys only");
    line_out(&text);
}

/// Says on standard error why a command failed: a line for people, an object with `error` and
/// EC2's `code`, null where EC2 wasn't asked, for programs.
pub fn failed(format: Format, error: &anyhow::Error) {
    match format {
        Format::Table => eprintln!("error: {error:#}"),
        Format::Json => {
            let code = error.downcast_ref::<ServiceError>().map(|e| &e.code);
            let message = format!("{error:#}");
            eprintln!("{}", json!({ "error": message, "code": code }));
        }
    }
}

/// Like `println!`, but a reader that went away ends the program quietly, as in any pipeline.
pub fn line_out(text: &str) {
    use std::io::Write;
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// `1.5 GiB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    match scaled.fract() < 0.05 || unit == 0 {
        true => format!("{scaled:.0} {}", UNITS[unit]),
        false => format!("{scaled:.1} {}", UNITS[unit]),
    }
}
