//! `docs/performance.md`: what was measured, on what, what was to be reached, and why not where not.

use crate::figure::{Figure, Target};
use crate::figures::Extent;
use crate::machine::Machine;
use std::fmt::Write;

pub struct Section {
    pub title: &'static str,
    /// Load averages before it began.
    pub load: String,
    pub figures: Vec<Figure>,
}

const TEMPLATE: &str = include_str!("performance.md.in");

pub fn page(machine: &Machine, fdatasync: f64, extent: Extent, sections: &[Section]) -> String {
    let mut body = String::new();
    for section in sections {
        // Writing into a string can't fail.
        let _ = section_text(&mut body, section);
    }
    let date = jiff::Timestamp::now().to_string();
    let rounds = match extent.quick {
        true => "1 round of tiny sizes: these figures say nothing".to_owned(),
        false => format!("{} rounds", extent.rounds),
    };
    let built = if cfg!(debug_assertions) {
        "debug build: these figures say nothing"
    } else {
        "release build"
    };
    let memory = format!("{:.0}", machine.memory_gib);
    let cores = machine.cores.to_string();
    let fdatasync = format!("{fdatasync:.0}");
    let rounds_s = (machine.rounds_s / 1_000_000).to_string();
    [
        ("{date}", date.split('T').next().unwrap_or_default()),
        ("{cpu}", &machine.cpu),
        ("{cores}", &cores),
        ("{memory}", &memory),
        ("{kernel}", &machine.kernel),
        ("{load}", &machine.load),
        ("{fdatasync}", &fdatasync),
        ("{rounds_s}", &rounds_s),
        ("{rounds}", &rounds),
        ("{built}", built),
        ("{figures}", body.trim_end()),
    ]
    .into_iter()
    .fold(TEMPLATE.to_owned(), |page, (name, value)| {
        page.replace(name, value)
    })
}

/// One figure in one line.
pub fn line(figure: &Figure) -> String {
    match &figure.missing {
        Some(why) => format!("{}: not taken: {why}", figure.title),
        None => format!(
            "{}: {} {} (target {})",
            figure.title,
            number(figure.series.median()),
            figure.unit,
            target(figure)
        ),
    }
}

fn section_text(out: &mut String, section: &Section) -> std::fmt::Result {
    writeln!(out, "## {}\n", section.title)?;
    writeln!(out, "Load averages before it: {}.\n", section.load)?;
    writeln!(
        out,
        "| figure | target | median (least to most) | reference | ratio | reached |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for figure in &section.figures {
        row(out, figure)?;
    }
    writeln!(out)?;
    for figure in section
        .figures
        .iter()
        .filter(|figure| !figure.notes.is_empty())
    {
        notes(out, figure)?;
    }
    Ok(())
}

fn row(out: &mut String, figure: &Figure) -> std::fmt::Result {
    let title = figure.title.replace('|', "\\|");
    if let Some(why) = &figure.missing {
        return writeln!(
            out,
            "| {title} | | not taken: {} | | | |",
            why.replace(['|', '\n'], " ")
        );
    }
    let measured = spread(&figure.series);
    let reference = match &figure.reference {
        Some((what, series)) => format!("{}: {what}", spread(series)),
        None => String::new(),
    };
    let ratio = figure
        .ratio()
        .map_or(String::new(), |ratio| format!("{ratio:.2}"));
    let reached = match figure.reached() {
        Some(true) => "yes".to_owned(),
        Some(false) => format!("**no**: {}", figure.reason.unwrap_or("no reason given")),
        None => String::new(),
    };
    writeln!(
        out,
        "| {title} | {} | {measured} {} | {reference} | {ratio} | {reached} |",
        target(figure),
        figure.unit
    )
}

/// Prose stays prose; indented notes are a table of their own.
fn notes(out: &mut String, figure: &Figure) -> std::fmt::Result {
    writeln!(out, "**{}.**", figure.title)?;
    let mut in_block = false;
    for note in &figure.notes {
        let is_block = note.starts_with("  ");
        if is_block != in_block {
            writeln!(out, "{}", if is_block { "\n```text" } else { "```\n" })?;
            in_block = is_block;
        }
        writeln!(out, "{}", if is_block { &note[2..] } else { note })?;
    }
    if in_block {
        writeln!(out, "```")?;
    }
    writeln!(out)
}

fn target(figure: &Figure) -> String {
    match figure.target {
        Target::AtMost(limit) => format!("≤ {} {}", number(limit), figure.unit),
        Target::AtLeast(limit) => format!("≥ {} {}", number(limit), figure.unit),
        Target::None => String::new(),
    }
}

fn spread(series: &crate::figure::Series) -> String {
    match series.0.len() {
        0 => "nothing".to_owned(),
        1 => number(series.median()),
        _ => format!(
            "{} ({} to {})",
            number(series.median()),
            number(series.least()),
            number(series.most())
        ),
    }
}

/// Three digits that count, as people read them.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Series;

    #[test]
    fn a_page_says_what_was_reached_and_what_was_not() {
        let machine = Machine {
            cpu: "Test CPU".into(),
            cores: 2,
            memory_gib: 23.4,
            kernel: "6.1".into(),
            load: "0.1 0.2 0.3".into(),
            rounds_s: 160_000_000,
        };
        let mut slow = Figure::new("login", "ms", Target::AtMost(8000.0));
        slow.series = Series(vec![9000.0, 9500.0, 9100.0]);
        slow.reference = Some(("by hand".into(), Series(vec![4550.0])));
        slow.note("Where:");
        slow.note("  5 ms here");
        let mut unexplained = Figure::new("rate", "per s", Target::AtLeast(10.0));
        unexplained.series = Series(vec![9.0]);
        let sections = [Section {
            title: "Guests",
            load: "0.1 0.2 0.3".into(),
            figures: vec![
                slow.because("its processor is slow"),
                unexplained,
                Figure::missing("agent", "no root".into()),
            ],
        }];
        let extent = Extent {
            rounds: 3,
            quick: false,
        };
        let page = page(&machine, 284.4, extent, &sections);
        assert!(
            page.contains(
                "| login | ≤ 8000 ms | 9100 (9000 to 9500) ms | 4550: by hand | 2.00 | **no**: its processor is slow |"
            ),
            "{page}"
        );
        assert!(
            page.contains("| rate | ≥ 10 per s | 9 per s |  |  | **no**: no reason given |"),
            "{page}"
        );
        assert!(
            page.contains("| agent | | not taken: no root | | | |"),
            "{page}"
        );
        assert!(page.contains("Where:\n\n```text\n5 ms here\n```"), "{page}");
        assert!(
            page.contains("284") && page.contains("Test CPU") && !page.contains("{load}"),
            "{page}"
        );
    }
}
