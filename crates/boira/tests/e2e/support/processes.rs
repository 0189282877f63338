//! Processes, namespaces and control groups of one cloud, found in /proc and not in its own books.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::{Duration, Instant};

/// A process and the moment it started, which a reused id doesn't share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub started: String,
    pub arguments: Vec<String>,
}

impl Process {
    pub fn is_alive(&self) -> bool {
        read(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// `kill -9`. The process may have ended by itself meanwhile. On return it is gone, unless the
    /// kernel takes long.
    pub fn kill(&self) {
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
        let begun = Instant::now();
        while self.is_alive() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The guest that this is QEMU for.
    pub fn guest(&self) -> Option<&str> {
        if !self.arguments.first()?.contains("qemu-system") {
            return None;
        }
        self.arguments
            .iter()
            .find_map(|word| word.strip_prefix("guest="))
    }

    /// Whether it is `boira WORD …`.
    pub fn is_boira(&self, word: &str) -> bool {
        self.arguments
            .first()
            .is_some_and(|program| program.ends_with("/boira"))
            && self.arguments.get(1).is_some_and(|first| first == word)
    }
}

/// Everything that runs for the cloud whose files and binary are below `folder` and whose namespaces
/// and control groups have `tag` in their names.
pub fn of(folder: &Path, tag: Option<&str>) -> Vec<Process> {
    let folder = folder.display().to_string();
    let tag = tag.map(|tag| format!("boira-{tag}"));
    let own = std::process::id() as i32;
    std::fs::read_dir("/proc")
        .expect("/proc is there")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter_map(read)
        .filter(|process| {
            let mentions = |text: &str| {
                text.contains(&folder) || tag.as_ref().is_some_and(|tag| text.contains(tag))
            };
            let of_process = |name: &str| format!("/proc/{}/{name}", process.pid);
            let program = std::fs::read_link(of_process("exe")).unwrap_or_default();
            let groups = std::fs::read_to_string(of_process("cgroup")).unwrap_or_default();
            process.arguments.iter().any(|word| mentions(word))
                || mentions(&program.display().to_string())
                || mentions(&groups)
        })
        .collect()
}

fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may have spaces; the fields begin after its closing parenthesis.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    let started = fields.get(19)?.to_string();
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = arguments
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    Some(Process {
        pid,
        started,
        arguments,
    })
}

/// Named network namespaces of the cloud with this tag.
pub fn namespaces(tag: &str) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    folder
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.contains(&format!("boira-{tag}")))
        .collect()
}

/// Control groups of the cloud with this tag, in any hierarchy.
pub fn control_groups(tag: &str) -> Vec<String> {
    let root = Path::new("/sys/fs/cgroup");
    let name = format!("boira-{tag}");
    let hierarchies = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            path.is_dir().then_some(path)
        });
    std::iter::once(root.to_owned())
        .chain(hierarchies)
        .map(|folder| folder.join(&name))
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect()
}
