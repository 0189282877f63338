//! What was done to guests while no agent ran, as by a cloud that goes down: written down by who did it, and
//! told to the controller by the next agent, for the instances' histories.

use anyhow::{Context, Result};
use boira_model::wire::StepReport;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

fn file(directory: &Path) -> PathBuf {
    directory.join("absence")
}

/// Adds to what the next agent of `directory` tells.
pub fn note(directory: &Path, steps: &[StepReport]) -> Result<()> {
    let mut lines = Vec::new();
    for step in steps {
        serde_json::to_writer(&mut lines, step).context("write a step")?;
        lines.push(b'\n');
    }
    let mut options = File::options();
    let opened = options.create(true).append(true).mode(0o600);
    let mut file = opened.open(file(directory)).context("note what was done")?;
    file.write_all(&lines).context("note what was done")
}

/// Takes what was noted; a line that was torn is left out.
pub fn take(directory: &Path) -> Result<Vec<StepReport>> {
    let path = file(directory);
    let lines = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        lines => lines.context("read what was done meanwhile")?,
    };
    fs::remove_file(&path).context("forget what was done meanwhile")?;
    let steps = lines.split(|byte| *byte == b'\n');
    Ok(steps
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use boira_model::Wall;

    #[test]
    fn what_is_noted_is_taken_once_without_what_was_torn() {
        let folder = tempfile::tempdir().expect("a folder");
        let step = |what: &str| StepReport {
            instance: "i-0123456789abcdef0".into(),
            at: Wall(7),
            what: what.into(),
            took_ms: 1,
            error: None,
        };
        assert_eq!(take(folder.path()).expect("nothing"), []);
        note(folder.path(), &[step("one"), step("two")]).expect("it is noted");
        note(folder.path(), &[step("drü")]).expect("it is noted");
        let bytes = fs::read(file(folder.path())).expect("it is there");
        // Within a letter.
        let cut = bytes.windows(2).position(|two| two == "ü".as_bytes());
        let cut = cut.expect("it is there") + 1;
        fs::write(file(folder.path()), &bytes[..cut]).expect("it is torn");
        let taken = take(folder.path()).expect("it is taken");
        assert_eq!(taken, [step("one"), step("two")]);
        assert_eq!(take(folder.path()).expect("nothing"), []);
    }
}
