//! Tables for people, JSON for programs.

use crate::client::ServiceError;
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

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

/// [`json`] with the named members, wherever they are, as times that people and programs read: the
/// administrator's API counts milliseconds since 1970.
pub fn json_with_times(value: &Value, members: &[&str]) {
    let mut value = value.clone();
    spell_times(&mut value, members);
    json(&value);
}

fn spell_times(value: &mut Value, members: &[&str]) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| spell_times(item, members)),
        Value::Object(object) => {
            for (name, member) in object {
                match member.as_i64() {
                    Some(ms) if members.contains(&name.as_str()) => {
                        *member = Value::String(boira_api::time::format_ms(ms));
                    }
                    _ => spell_times(member, members),
                }
            }
        }
        _ => {}
    }
}

/// Says on standard error why a command failed: a line for people, an object with `error` and, where
/// the service gave one, its `code` for programs.
pub fn failed(format: Format, error: &anyhow::Error) {
    match format {
        Format::Table => eprintln!("error: {error:#}"),
        Format::Json => {
            let code = error.downcast_ref::<ServiceError>().map(|e| &e.code);
            let object = match code {
                Some(code) => json!({ "error": format!("{error:#}"), "code": code }),
                None => json!({ "error": format!("{error:#}") }),
            };
            eprintln!("{object}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spelt_wherever_they_are() {
        let mut value = json!({ "events": [{ "at": 0, "took_ms": 3 }], "at": "soon" });
        spell_times(&mut value, &["at"]);
        let at = "1970-01-01T00:00:00.000Z";
        let wanted = json!({ "events": [{ "at": at, "took_ms": 3 }], "at": "soon" });
        assert_eq!(value, wanted);
    }
}
