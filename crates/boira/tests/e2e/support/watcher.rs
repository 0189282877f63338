//! Clears up after a test that was killed: then its end of the pipe closes, and the shell goes on.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub struct Watcher(Child);

impl Watcher {
    /// Runs a shell's words, with `$0`, `$1` and so on, when this process ends or says so.
    pub fn start(words: &str, arguments: &[&Path]) -> Self {
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(format!("trap '' INT TERM HUP; read -r _; {words}"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
        }
        Self(command.spawn().expect("a shell can be started"))
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Lets it do its work now, and waits.
    pub fn end(&mut self) {
        drop(self.0.stdin.take());
        // Nobody is left who could do something about a failure.
        let _ = self.0.wait();
    }
}
