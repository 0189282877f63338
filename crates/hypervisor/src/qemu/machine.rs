//! Which machine type guests get that are launched on this host, and keep for life.

use std::process::{Command, Stdio};

use super::PROGRAM;

/// `docs/tcg.md` says why this one. It is as old as the oldest QEMU that Boira is tried with, so that
/// guests can go between hosts with it and newer ones.
const FAMILY: &str = "pc-i440fx-";
const NEWEST: (u32, u32) = (7, 2);

/// The newest type up to Boira's that this host's QEMU has.
///
/// # Errors
/// What is wrong with the QEMU that is here, in words.
pub fn newest() -> Result<String, String> {
    let listed = Command::new(PROGRAM)
        .args(["-machine", "help"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("{PROGRAM}: {error}"))?;
    let (major, minor) = NEWEST;
    newest_of(&String::from_utf8_lossy(&listed.stdout))
        .ok_or_else(|| format!("it has no machine type {FAMILY}{major}.{minor} and none before it"))
}

/// Lines begin with a type's name.
fn newest_of(list: &str) -> Option<String> {
    let version = |line: &str| -> Option<(u32, u32)> {
        let name = line.split_ascii_whitespace().next()?;
        let (major, minor) = name.strip_prefix(FAMILY)?.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let versions = list.lines().filter_map(version);
    let (major, minor) = versions.filter(|version| *version <= NEWEST).max()?;
    Some(format!("{FAMILY}{major}.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(versions: &[&str]) -> String {
        let lines = versions.iter();
        let lines = lines.map(|version| format!("pc-i440fx-{version}  Standard PC (i440FX)\n"));
        format!(
            "Supported machines are:\npc  Standard PC (alias of pc-i440fx-{})\nq35  Standard PC\n{}",
            versions[0],
            lines.collect::<String>()
        )
    }

    #[test]
    fn guests_get_the_newest_type_that_this_qemu_and_boira_know() {
        let newest = |versions: &[&str]| newest_of(&list(versions));
        assert_eq!(
            newest(&["6.2", "6.1", "2.12"]).as_deref(),
            Some("pc-i440fx-6.2")
        );
        assert_eq!(
            newest(&["10.0", "9.2", "7.2", "7.1"]).as_deref(),
            Some("pc-i440fx-7.2")
        );
        assert_eq!(newest(&["10.0", "8.0"]), None);
        assert_eq!(newest_of(""), None);
    }
}
