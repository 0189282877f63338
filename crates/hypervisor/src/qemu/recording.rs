//! A guest's recorder as the driver sees it: started with the guest, found again with it, and
//! started anew when it is lost.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use super::landlock::{self, Access};
use super::launch::{self, Confinement};
use super::process::Process;
use super::rundir::{self, RunDir};
use super::start;

/// How a guest's recorder is started.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The program that runs [`crate::guest_console`], and its first arguments.
    pub command: (PathBuf, Vec<OsString>),
    /// The guest's id, which is in the recorder's command line.
    pub guest: String,
    /// The guest's user.
    pub uid: u32,
}

/// What a recorder is handed.
pub struct Connections {
    serial: OwnedFd,
    watch: OwnedFd,
    listener: OwnedFd,
    log: OwnedFd,
    /// What QEMU says on stderr, and where that goes. Only the first recorder of a guest has it.
    errors: Option<[OwnedFd; 2]>,
}

impl Connections {
    /// Connects to a guest's sockets, whose other side may not have come yet.
    pub fn open(dir: &RunDir) -> io::Result<Connections> {
        Ok(Connections {
            serial: dir.connect(rundir::SERIAL_SOCKET)?.into(),
            watch: dir.connect(rundir::WATCH_SOCKET)?.into(),
            listener: dir.listen(rundir::CONSOLE_SOCKET)?.into(),
            log: dir.file(rundir::CONSOLE_LOG)?.into(),
            errors: None,
        })
    }

    /// The same, with a pipe for QEMU's stderr.
    pub fn with_errors(self, dir: &RunDir, errors: OwnedFd) -> io::Result<Connections> {
        let kept = dir.append(rundir::HYPERVISOR_LOG)?.into();
        Ok(Connections {
            errors: Some([errors, kept]),
            ..self
        })
    }
}

impl Recording {
    /// Starts the recorder.
    pub fn start(&self, dir: &RunDir, connections: Connections) -> io::Result<Process> {
        let (program, first) = &self.command;
        let Connections {
            serial,
            watch,
            listener,
            log,
            errors,
        } = &connections;
        let inherited = [serial, watch, listener, log]
            .into_iter()
            .chain(errors.iter().flatten());
        let keep: Vec<_> = inherited.map(AsRawFd::as_raw_fd).collect();
        let mut arguments = first.clone();
        arguments.push(self.guest.clone().into());
        arguments.extend(keep.iter().map(|fd| fd.to_string().into()));
        let mut allowed = vec![(program.as_path(), Access::Execute)];
        allowed.extend(start::libraries());
        let confinement = Confinement {
            uid: self.uid,
            groups: Vec::new(),
            landlock: landlock::ruleset(&allowed)?,
            process: dir.file(rundir::RECORDER)?,
            keep: &keep,
            not_after_ms: None,
            cpu_s: None,
        };
        // What it says itself, it says once, at its end.
        let own_errors = dir.append(rundir::HYPERVISOR_LOG)?;
        Process::of_child(launch::spawn(program, &arguments, own_errors, confinement)?)
    }

    /// Starts another recorder for a guest that runs.
    pub fn restart(&self, dir: &RunDir) -> io::Result<Process> {
        self.start(dir, Connections::open(dir)?)
    }

    /// The recorder that an earlier agent started, if it still runs. May block, as
    /// [`Process::find`].
    pub fn find(&self, dir: &RunDir) -> io::Result<Option<Process>> {
        match dir.read_text(rundir::RECORDER, 4096)? {
            Some(stat) => Process::find(&stat, &self.guest),
            None => Ok(None),
        }
    }
}
