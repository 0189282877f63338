//! Which figures there are and how they are taken.

mod across;
mod describe;
mod durable;
mod guests;
mod idle;
mod objects;
mod placing;
mod resident;
mod room;

use crate::figure::Figure;
use crate::machine::{self, Machine};
use crate::report::{self, Section};
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Arguments {
    /// One round of tiny sizes: tries the bench, says nothing about Boira
    #[arg(long)]
    quick: bool,
    /// Only these: guests, durable, placing, describe, across, objects, resident, room
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where to write the page; without it, or with --quick or --only, it is just printed
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

/// How much is done.
#[derive(Clone, Copy)]
pub struct Extent {
    pub rounds: usize,
    pub quick: bool,
}

impl Extent {
    /// `full`, or far less in a quick run.
    pub fn size(&self, full: u32, quick: u32) -> u32 {
        if self.quick { quick } else { full }
    }
}

type Take = fn(Extent) -> Result<Vec<Figure>>;

const SECTIONS: [(&str, &str, Take); 8] = [
    ("guests", "From a request to a guest", guests::take),
    ("durable", "Durable launches", durable::take),
    ("placing", "From pending to running", placing::take),
    ("describe", "Answers about what there is", describe::take),
    ("across", "Across hosts", across::take),
    ("objects", "Objects", objects::take),
    ("resident", "Memory, start and idleness", resident::take),
    ("room", "A thousand hosts", room::take),
];

pub fn run(arguments: &Arguments) -> Result<()> {
    for name in &arguments.only {
        let known = SECTIONS.map(|(name, _, _)| name);
        ensure!(
            known.contains(&name.as_str()),
            "{name:?} is none of {}",
            known.join(", ")
        );
    }
    let extent = Extent {
        rounds: if arguments.quick {
            1
        } else {
            arguments.rounds.max(1)
        },
        quick: arguments.quick,
    };
    for folder in [crate::cloud::scratch()?, crate::hosts::memory()] {
        crate::process::sweep(&folder)?;
    }
    let machine = Machine::look()?;
    let fdatasync = machine::fdatasync_per_s(&crate::cloud::scratch()?)?;
    let mut sections = Vec::new();
    for (name, title, take) in SECTIONS {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == name) {
            continue;
        }
        eprintln!("{title} …");
        let (load, figures) = section(title, take, extent)?;
        for figure in &figures {
            eprintln!("  {}", report::line(figure));
        }
        sections.push(Section {
            title,
            load,
            figures,
        });
    }
    let page = report::page(&machine, fdatasync, extent, &sections);
    let missing: Vec<&str> = sections
        .iter()
        .flat_map(|section| &section.figures)
        .filter(|figure| figure.missing.is_some())
        .map(|figure| figure.title.as_str())
        .collect();
    if !missing.is_empty() {
        println!("{page}");
        bail!("not taken, so no page is written: {}", missing.join("; "));
    }
    match &arguments.page {
        Some(path) if !arguments.quick && arguments.only.is_empty() => {
            std::fs::write(path, page).with_context(|| format!("write {}", path.display()))?;
            eprintln!("written: {}", path.display());
        }
        _ => println!("{page}"),
    }
    Ok(())
}

/// The load averages before a section, and its figures.
fn section(title: &str, take: Take, extent: Extent) -> Result<(String, Vec<Figure>)> {
    let quiet = match extent.quick {
        true => Ok(()),
        false => machine::wait_until_idle(),
    };
    let load = machine::load()?;
    let figures = quiet
        .and_then(|()| take(extent))
        .unwrap_or_else(|error| vec![Figure::missing(title, format!("{error:#}"))]);
    Ok((load, figures))
}
