//! Making a namespace what a spec says: rules and links, each by the difference to what is there.
//!
//! What was put in force is noted, so that the next time, also of another agent, costs little more
//! than a look.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::namespace::{Namespace, run_tool};
use crate::ruleset::Table;
use crate::serving::digest;
use crate::spec::VpcSpec;
use crate::{host, links, netfilter, rules, tap};

const APPLIED_FILE: &str = "applied.json";

/// What was put in force, also on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// The namespace's identity.
    pub namespace: u64,
    /// The kernel's number of the rules as we left them.
    generation: u32,
    rules: Rules,
    /// The digest of the settings of taps.
    settings: String,
    /// What is lacking, where the kernel has no rules for ARP.
    pub arp_filter: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Rules {
    inet: Table,
    arp: Table,
}

impl Applied {
    /// What was noted, if anything was.
    pub fn read(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(directory.join(APPLIED_FILE)).ok()?).ok()
    }

    pub fn forget(directory: &Path) -> io::Result<()> {
        match fs::remove_file(directory.join(APPLIED_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        let path = directory.join(APPLIED_FILE);
        boira_files::swap(&path, 0o644, |file| io::Write::write_all(file, &bytes))
    }
}

/// What was found while applying.
pub struct Seen {
    /// A device, an address or a route had to change.
    pub links_changed: bool,
    /// The connector to the outside has its device.
    pub way_out: bool,
}

/// Makes devices and rules what they should be. `below` is the underlay's namespace. Returns what is in
/// force now.
pub async fn apply(
    namespace: &Namespace,
    below: &Namespace,
    spec: &VpcSpec,
    before: Option<Applied>,
) -> io::Result<(Applied, Seen)> {
    let host = host::addresses()?;
    let identity = namespace
        .identity()
        .ok_or_else(|| io::Error::other("the namespace is gone"))?;
    let spec = spec.clone();
    let names = (namespace.name().to_owned(), below.name().to_owned());
    namespace
        .run(move || {
            let before = before.filter(|before| before.namespace == identity);
            if before.is_none() {
                links::set_namespace()?;
            }
            // Rules first: a tap that no rule names reaches nothing.
            let rules = Rules {
                inet: rules::inet_table(&spec, &host),
                arp: rules::arp_table(&spec),
            };
            // Rules that somebody else touched are not those that we know.
            let known = before
                .as_ref()
                .filter(|before| netfilter::generation().is_ok_and(|now| now == before.generation));
            let (generation, arp_filter) = match known {
                Some(known) if known.rules == rules => (known.generation, known.arp_filter.clone()),
                known => {
                    let lacks = apply_rules(known.map(|known| &known.rules), &rules)?;
                    (netfilter::generation()?, lacks)
                }
            };
            let settings = digest(format!("{:?}", links::tap_settings(&spec)).as_bytes());
            let same_settings = before.is_some_and(|before| before.settings == settings);
            let seen = apply_links(&spec, same_settings, (&names.0, &names.1))?;
            let applied = Applied {
                namespace: identity,
                generation,
                rules,
                settings,
                arp_filter,
            };
            Ok((applied, seen))
        })
        .await
}

/// Makes `before` `wanted`, or whatever there is. Says what is lacking where the kernel has no rules
/// for ARP.
fn apply_rules(before: Option<&Rules>, wanted: &Rules) -> io::Result<Option<String>> {
    let text = match before {
        Some(before) => {
            wanted.inet.change_from(&before.inet) + &wanted.arp.change_from(&before.arp)
        }
        None => wanted.inet.replacement() + &wanted.arp.replacement(),
    };
    let Err(error) = netfilter::apply(&text) else {
        return Ok(None);
    };
    tracing::debug!(%error, "the rules don't apply as a whole; replacing each table");
    netfilter::apply(&wanted.inet.replacement())?;
    match netfilter::apply(&wanted.arp.replacement()) {
        Ok(()) => Ok(None),
        Err(error) => Ok(Some(format!(
            "no ARP filter, permanent neighbours alone keep guests from posing as others: {error}"
        ))),
    }
}

fn apply_links(spec: &VpcSpec, same_settings: bool, names: (&str, &str)) -> io::Result<Seen> {
    let mut observed = links::Observed::look()?;
    let made = spec
        .overlay
        .as_ref()
        .filter(|_| !links::has_overlay(spec, &observed));
    if let Some(overlay) = made {
        links::create_overlay(overlay, names.0, names.1)?;
        observed.overlay = None;
    }
    let missing = links::missing_taps(spec, &observed);
    for name in &missing {
        tap::create(name)?;
    }
    for (name, source_check) in links::tap_settings(spec) {
        if !same_settings || missing.contains(&name) {
            links::set_tap(&name, source_check)?;
        }
    }
    let plan = links::plan(spec, &observed);
    for (tool, lines) in [
        ("bridge", &plan.reached),
        ("ip", &plan.lines),
        ("bridge", &plan.left),
    ] {
        if !lines.is_empty() {
            run_tool(tool, &["-batch", "-"], &(lines.join("\n") + "\n"))?;
        }
    }
    Ok(Seen {
        links_changed: !plan.is_empty(),
        way_out: observed.way_out,
    })
}

/// Removes all taps of the calling thread's namespace, as may somebody else at the same time: a tool
/// of an agent that was killed.
pub fn remove_taps() -> io::Result<()> {
    let lines: Vec<String> = look_beside_others()?
        .taps
        .keys()
        .map(|tap| format!("link del dev {tap}\n"))
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    match run_tool("ip", &["-force", "-batch", "-"], &lines.concat()) {
        Err(error) if !look_beside_others()?.taps.is_empty() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What is there while somebody else removes the same: a device that goes while it is looked at says so.
fn look_beside_others() -> io::Result<links::Observed> {
    loop {
        match links::Observed::look() {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            seen => return seen,
        }
    }
}
